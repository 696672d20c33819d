"""The summed cross-entropy of a linear layer, which never stores all its logits.

A softmax over many classes is bound by memory: logits, probabilities, and the gradient of
both are as large as each other, and larger than all the rest. Here the rows are taken in
pieces that stay in cache, two buffers serve for all of these, and the gradient is made on the
way, so that nothing of that size is kept for the backward pass. Under autocast the
matrices are multiplied in half precision; probabilities and sums are in single.

Shapes: N rows, H hidden units, V classes, R rows of a piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CPU_PIECE = 2**22
"""Most logits in a piece on a CPU: 16 MiB, so that they stay in its cache."""

GPU_PIECE = 2**27
"""The same on another device, 512 MiB: there pieces save memory and no time, and what fits
into one is left to torch."""

IGNORED = -100
"""A target that does not count: torch's own sign for it."""


def summed_loss(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """Return the cross-entropy of ``softmax(hidden @ weight.T + bias)``, summed over rows.

    Args:
        hidden_NH: rows of shape (N, H).
        weight_VH: weights of shape (V, H).
        bias_V: biases of shape (V,).
        targets_N: classes, int64 of shape (N,); `IGNORED` does not count.
    """
    kind = hidden_NH.device.type
    if kind != "cpu" and len(targets_N) * len(weight_VH) <= GPU_PIECE:
        return _plain_loss(hidden_NH, weight_VH, bias_V, targets_N)
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _SummedLoss.apply(
            hidden_NH, weight_VH, bias_V, targets_N, low, torch.is_grad_enabled()
        )
        return loss


def _plain_loss(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = functional.linear(hidden_NH, weight_VH, bias_V)
    return functional.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")


class _SummedLoss(torch.autograd.Function):
    """The loss, and its gradient from the same pass over the logits."""

    @staticmethod
    def forward(  # noqa: PLR0917 (positional, as torch calls it)
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        low: torch.dtype | None,
        wanted: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N)
        exact, product = weight_VH.dtype, low or weight_VH.dtype
        hidden, weight, bias = (t.to(product) for t in (hidden_NH, weight_VH, bias_V))
        counted_N = targets_N != IGNORED
        classes_N1 = targets_N.masked_fill(~counted_N, 0)[:, None]
        hidden_slope_NH = torch.empty_like(hidden_NH)
        weight_slope_VH, bias_slope_V = torch.zeros_like(weight_VH), torch.zeros_like(bias_V)
        loss = weight_VH.new_zeros(())
        limit = CPU_PIECE if weight.device.type == "cpu" else GPU_PIECE
        pieces = max(-(-len(targets_N) * len(weight) // limit), 1)
        rows = (hidden, classes_N1, counted_N, hidden_slope_NH)
        for hidden_RH, classes_R1, counted_R, hidden_slope_RH in zip(
            *(each.tensor_split(pieces) for each in rows), strict=True
        ):
            logits_RV = torch.addmm(bias, hidden_RH, weight.t())
            logs_RV = torch.log_softmax(logits_RV, 1, dtype=exact)
            own_R1 = logs_RV.gather(1, classes_R1)
            loss -= own_R1[:, 0].masked_fill(~counted_R, 0).sum()
            if not wanted:
                continue
            # The logits' slope is the probability, less 1 at the target; rows that do not
            # count are left out of the products, which is cheaper than to erase them.
            slope_RV = logs_RV.exp_().scatter_(1, classes_R1, own_R1.expm1())
            bias_slope_V.addmv_(slope_RV.t(), counted_R.to(exact))
            slope_RV, counted_R1 = slope_RV.to(product), counted_R[:, None].to(product)
            hidden_slope_RH.copy_(slope_RV @ weight).mul_(counted_R1)
            if low is None:
                weight_slope_VH.addmm_(slope_RV.t(), hidden_RH * counted_R1)
            else:  # summed up in full precision
                weight_slope_VH.add_(slope_RV.t() @ (hidden_RH * counted_R1))
        ctx.slopes = hidden_slope_NH, weight_slope_VH, bias_slope_V
        return loss

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.slopes
        if torch.is_grad_enabled():  # the gradient is itself to be differentiated
            *inputs, targets_N = ctx.saved_tensors
            hidden, weight, bias = (each.to(inputs[1].dtype) for each in inputs)
            loss = _plain_loss(hidden, weight, bias, targets_N)
            slopes = torch.autograd.grad(loss, inputs, create_graph=True)
        return *(slope * factor for slope in slopes), None, None, None
