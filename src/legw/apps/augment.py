"""Augmentation: random crops and flips of a whole batch, as tensor operations on its device.

Every example has a seed of its own, and its random numbers are hashes of the seed. So an image is
altered in the same way in any batch, process or device. This needs no random generator, no loop
over examples and no exchange with the host.

Shapes: B examples, H and W pixels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""The generator's stride, the odd number nearest to 2**64 over the golden ratio."""

MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))
"""Shifts and factors of the finaliser; factors as int64."""


def splitmix64(seeds: Tensor, draw: int) -> Tensor:
    """Return number `draw`, from 0, of the generator that each seed starts.

    Args:
        seeds: int64 of any shape.
        draw: position among the seed's numbers, at least 0.

    Returns:
        64 random bits each, as int64 of the same shape.

    Reference: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators", figure 16 (mix64variant13).

    >>> splitmix64(torch.tensor([1234567]), draw=0).item()
    6457827717110365317
    """
    step = (GAMMA * (draw + 1) + 2**63) % 2**64 - 2**63  # int64 wraps around
    bits = seeds + step
    for shift, factor in MIXERS:
        bits = (bits ^ _shifted(bits, shift)) * factor
    return bits


def below(seeds: Tensor, draw: int, limit: int) -> Tensor:
    """Return a whole number in [0, limit) for each seed, all about equally likely.

    Args:
        seeds: int64 of any shape.
        draw: position among the seed's numbers, at least 0.
        limit: 1 to 2**31.

    >>> below(torch.arange(6), draw=0, limit=1).tolist()
    [0, 0, 0, 0, 0, 0]
    """
    return (_shifted(splitmix64(seeds, draw), 32) * limit) >> 32


def crop_and_flip(pixels_BHWC: Tensor, draws_B: Tensor, pad: int) -> Tensor:
    """Shift each image by up to `pad` pixels both ways, and mirror half of them.

    Pixels from outside of an edge are the image mirrored there, without its outermost row.

    Args:
        pixels_BHWC: images, any type.
        draws_B: int64 seeds, on the same device.
        pad: pixels, at least 0 and below H and W.

    Returns:
        Images of the same shape and type.
    """
    images, height, width, colours = pixels_BHWC.shape
    down_B1 = below(draws_B, 0, 2 * pad + 1)[:, None] - pad
    right_B1 = below(draws_B, 1, 2 * pad + 1)[:, None] - pad
    mirrored_B1 = below(draws_B, 2, 2)[:, None].bool()
    device = pixels_BHWC.device
    columns_W = torch.arange(width, device=device)
    columns_BW = torch.where(mirrored_B1, columns_W.flip(0), columns_W) + right_B1
    rows_BH = _reflected(torch.arange(height, device=device) + down_B1, height)
    # Whole rows, then columns of each: a quarter of the time of one look-up for every pixel.
    rows_BH = rows_BH + height * torch.arange(images, device=device)[:, None]
    moved = pixels_BHWC.reshape(images * height, width * colours).index_select(0, rows_BH.flatten())
    places_BWC = colours * _reflected(columns_BW, width)[:, :, None]
    places_BWC = places_BWC + torch.arange(colours, device=device)
    places = places_BWC.view(images, 1, width * colours).expand(-1, height, -1)
    return moved.view(images, height, width * colours).gather(2, places).view_as(pixels_BHWC)


def shifted(images_BHW: Tensor, draws_B: Tensor, most: int) -> Tensor:
    """Shift each image by up to `most` pixels both ways; zeros come in at the edges.

    Args:
        images_BHW: images of one channel, any type.
        draws_B: int64 seeds, on the same device.
        most: pixels, at least 0.

    Returns:
        Images of the same shape and type.

    >>> shifted(torch.eye(3)[None], torch.tensor([5]), most=0)[0, 1].tolist()
    [0.0, 1.0, 0.0]
    """
    images, height, width = images_BHW.shape
    padded = functional.pad(images_BHW, (most, most, most, most))
    down_B1 = below(draws_B, 0, 2 * most + 1)[:, None]
    right_B1 = below(draws_B, 1, 2 * most + 1)[:, None]
    rows_BH = down_B1 + torch.arange(height, device=draws_B.device)
    columns_BW = right_B1 + torch.arange(width, device=draws_B.device)
    wide = width + 2 * most
    moved_BHP = padded.gather(1, rows_BH[:, :, None].expand(images, height, wide))
    return moved_BHP.gather(2, columns_BW[:, None, :].expand(images, height, width))


def _reflected(at: Tensor, size: int) -> Tensor:
    """Fold positions outside of [0, size) back at its ends."""
    last = size - 1
    return last - (last - at.abs()).abs()


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right as if the bits had no sign."""
    return torch.bitwise_and(bits >> by, 2 ** (64 - by) - 1)
