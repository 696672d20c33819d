"""Orthogonal matrices near given ones, by Newton-Schulz iterations, many matrices at once.

Shapes: N matrices, R rows, C columns.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from legw.optimizers import NEWTON_SCHULZ

TINY = 1e-7
"""Smallest norm by which a matrix is divided, so that a matrix of zeros stays zero."""

CPU_BF16_SIDE = 96
"""A CPU multiplies matrices whose smaller side is at least this long faster in bf16, others
in fp32: each product in bf16 takes some 30 microseconds before it begins."""


def orthogonal(matrices_NRC: Tensor, steps: int = 5, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return matrices with the same singular vectors, whose singular values are near 1.

    Args:
        matrices_NRC: any real matrices of one shape.
        steps: iterations, at least 1; 5 are the usual number.
        dtype: type to compute in; None is the faster one of bf16 and fp32 on the device (see
            `fast_dtype`) for matrices of this shape, and fp64 for fp64.

    Returns:
        The same shape and type.

    Reference: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

    >>> turned = orthogonal(torch.tensor([[[0.0, 3.0], [-2.0, 0.0]]]), dtype=torch.float64)
    >>> turned[0, 0, 0].abs().item() < 1e-6, 0.6 < turned[0, 0, 1].item() < 1.3
    (True, True)
    """
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = (matrices_NRC.mT if tall else matrices_NRC).to(dtype or _computed_in(matrices_NRC))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=TINY)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def _computed_in(matrices: Tensor) -> torch.dtype:
    if matrices.dtype == torch.float64:
        return torch.float64
    if matrices.device.type == "cpu" and min(matrices.shape[1:]) < CPU_BF16_SIDE:
        return torch.float32
    return fast_dtype(matrices.device)


@functools.cache
def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bf16 where the device multiplies matrices in it with units of its own, else fp32.

    Five iterations bear the rounding of bf16: singular values end only near 1 anyway.
    """
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = device.type == "cpu" and _cpu_has_bf16_units()
    return torch.bfloat16 if has_units else torch.float32


def _cpu_has_bf16_units() -> bool:
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return all(getattr(torch.cpu, name, bool)() for name in names)
