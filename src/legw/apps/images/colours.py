"""Pixel values: from bytes to normalised numbers, on the device that has them.

Shapes: B examples, H and W pixels, C colours.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

Colours = tuple[float, float, float]
"""A number for red, green and blue, as a share of full brightness."""


def normalised(pixels_BHWC: Tensor, mean: Colours, deviation: Colours) -> Tensor:
    """Return colours with mean 0 and deviation 1, shape (B, C, H, W), channels-last.

    Args:
        pixels_BHWC: colours as uint8, 0 to 255.
        mean: mean of each color over the data set's images, of colors from 0 to 1.
        deviation: standard deviation of each color, likewise; above 0.
    """
    dtype = torch.get_default_dtype()
    mean_C11 = _of_a_byte(mean, pixels_BHWC.device, dtype)
    deviation_C11 = _of_a_byte(deviation, pixels_BHWC.device, dtype)
    return pixels_BHWC.permute(0, 3, 1, 2).to(dtype).sub_(mean_C11).div_(deviation_C11)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device, without waiting for the device's work."""
    if device.type != "cuda" or numbers.device.type == "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


@functools.cache
def _of_a_byte(colours: Colours, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the colours in units of a byte; sent once, as sending waits for the device."""
    return torch.tensor(colours, dtype=dtype, device=device).mul_(255)[:, None, None]
