"""Softmax loss: the cross-entropy of a linear layer, without storing all its logits.

A softmax over many classes is bound by memory: logits, probabilities and their gradients have the
same size, and are the largest tensors of the model. Here the rows are computed in pieces that stay
in the cache, and the gradient is computed in the forward pass, so that no tensor of that size is
kept for the backward pass. Under autocast logits and probabilities are stored in half
precision, and everything is summed up in single.

Label smoothing takes a share of the probability from the target and spreads it evenly over
all V classes. That part of the loss is linear in the logits but for their normaliser, so
it and its gradient come from sums over the weights and over the rows, without another
pass over the logits.

Shapes: N rows, H hidden units, V classes, R rows of a piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from legw.train.second_derivative import differentiable_gradient

CPU_PIECE = 2**24
"""Most bytes of logits in a piece on a CPU, 16 MiB, so that they stay in its cache."""

THREAD_PIECE = 2**23
"""The same for each of several threads with pieces of their own, as they share a cache."""

GPU_PIECE = 2**29
"""The same on another device, 512 MiB: there pieces save memory but no time, and torch computes
what fits into one."""

_FUSED = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    else None
)
"""oneDNN's linear layer with its bias in the same pass, which torch's compiler uses: in
single precision 1.1 to 1.4 times as fast as torch's own product. None where there is none."""

IGNORED = -100
"""A target that does not count: torch's own sign for it."""


def summed_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of ``softmax(hidden @ weight.T + bias)``, summed over rows.

    Args:
        hidden_NH: rows of shape (N, H).
        weight_VH: weights of shape (V, H).
        bias_V: biases of shape (V,).
        targets_N: classes, int64 of shape (N,); `IGNORED` does not count.
        smoothing: share of the probability that is spread evenly over all classes, in [0, 1].
    """
    kind = hidden_NH.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind != "cpu" and _pieces(len(targets_N), weight_VH, low or weight_VH.dtype) == 1:
        return _plain_loss(hidden_NH, weight_VH, bias_V, targets_N, smoothing)
    with torch.autocast(kind, enabled=False):
        loss: Tensor = _SummedLoss.apply(
            hidden_NH, weight_VH, bias_V, targets_N, smoothing, low, torch.is_grad_enabled()
        )
        return loss


def _plain_loss(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, smoothing: float
) -> Tensor:
    logits_NV = functional.linear(hidden_NH, weight_VH, bias_V)
    return functional.cross_entropy(
        logits_NV, targets_N, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )


def _pieces(num_rows: int, weight_VH: Tensor, dtype: torch.dtype) -> int:
    """Return the number of pieces for a number of rows of logits."""
    limit = GPU_PIECE
    if weight_VH.device.type == "cpu":
        limit = min(CPU_PIECE, THREAD_PIECE * torch.get_num_threads())
    return max(-(-num_rows * len(weight_VH) * dtype.itemsize // limit), 1)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows @ weight.T + bias``, by the fastest available product."""
    if _FUSED is not None and rows.device.type == "cpu" and rows.dtype == torch.float32:
        fused: Tensor = _FUSED(rows, weight, bias, "none", [], "")
        return fused
    return functional.linear(rows, weight, bias)


def _softmax_(logits_RV: Tensor) -> Tensor:
    """Return the probabilities; on a CPU in the logits' memory, which is in its cache."""
    if logits_RV.device.type != "cpu":
        return torch.softmax(logits_RV, 1)
    probs_RV: Tensor = torch.ops.aten._softmax.out(logits_RV, 1, False, out=logits_RV)
    return probs_RV


def _log_probability(
    probs_RV: Tensor, classes_R1: Tensor, hidden_RH: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Return the log-probability of each row's class, in single precision at the least.

    Where the probability itself is too small for its format, as in a run that diverges, it
    comes from the row's logits, which are made once more.
    """
    prob_R = probs_RV.gather(1, classes_R1)[:, 0]
    exact = torch.promote_types(prob_R.dtype, torch.float32)
    own_R = prob_R.to(exact).log()
    small_R = prob_R < torch.finfo(prob_R.dtype).tiny
    if small_R.any():
        logs_SV = _linear(hidden_RH[small_R], weight, bias).to(exact).log_softmax(1)
        own_R[small_R] = logs_SV.gather(1, classes_R1[small_R])[:, 0]
    return own_R


class _SummedLoss(torch.autograd.Function):
    """The loss, and its gradient from the same pass over the logits."""

    @staticmethod
    def forward(  # noqa: PLR0917 (positional, as torch calls it)
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        smoothing: float,
        low: torch.dtype | None,
        wanted: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N)
        ctx.smoothing = smoothing
        exact, product = weight_VH.dtype, low or weight_VH.dtype
        hidden, weight, bias = (t.to(product) for t in (hidden_NH, weight_VH, bias_V))
        counted_N = targets_N != IGNORED
        classes_N1 = targets_N.masked_fill(~counted_N, 0)[:, None]
        hidden_gradient_NH = torch.empty_like(hidden_NH)
        weight_gradient_VH, bias_gradient_V = torch.zeros_like(weight_VH), torch.zeros_like(bias_V)
        loss = weight_VH.new_zeros(())
        pieces = _pieces(len(targets_N), weight_VH, product)
        rows = (hidden, classes_N1, counted_N, hidden_gradient_NH)
        for hidden_RH, classes_R1, counted_R, hidden_gradient_RH in zip(
            *(each.tensor_split(pieces) for each in rows), strict=True
        ):
            logits_RV = _linear(hidden_RH, weight, bias)
            if smoothing:  # with c the normaliser, own = logit - c: from the target's share to c
                logit_R = logits_RV.gather(1, classes_R1)[:, 0].to(exact)
                loss += smoothing * logit_R.masked_fill(~counted_R, 0).sum()
            probs_RV = _softmax_(logits_RV)
            own_R = _log_probability(probs_RV, classes_R1, hidden_RH, weight, bias)
            loss -= own_R.masked_fill(~counted_R, 0).sum()
            if not wanted:
                continue
            # The logits' gradient is the probability, less 1 at the target; rows that do not
            # count are left out of the products, which is cheaper than to erase them.
            row_R = torch.arange(len(own_R), device=own_R.device)
            slope_RV = probs_RV  # by index: to scatter in half precision takes copies of it all
            slope_RV[row_R, classes_R1[:, 0]] = own_R.expm1().add_(smoothing).to(product)
            share_R = counted_R.to(product)
            hidden_gradient_RH.copy_(_linear(slope_RV, weight.t())).mul_(share_R[:, None])
            if low is None:
                bias_gradient_V.addmv_(slope_RV.t(), share_R)
                weight_gradient_VH.addmm_(slope_RV.t(), hidden_RH * share_R[:, None])
            else:  # summed up in full precision
                bias_gradient_V.add_(share_R @ slope_RV)
                weight_gradient_VH.add_(slope_RV.t() @ (hidden_RH * share_R[:, None]))
        if smoothing:
            share = smoothing / len(weight_VH)
            counts_N = counted_N.to(exact)
            weight_sum_H, hidden_sum_H = weight_VH.sum(0), counts_N @ hidden_NH.to(exact)
            count = counts_N.sum()
            loss -= share * (hidden_sum_H @ weight_sum_H + count * bias_V.sum())
            if wanted:
                hidden_gradient_NH -= (share * counts_N)[:, None] * weight_sum_H
                weight_gradient_VH -= share * hidden_sum_H
                bias_gradient_V -= share * count
        ctx.gradients = hidden_gradient_NH, weight_gradient_VH, bias_gradient_V
        return loss

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd make it
            *inputs, targets_N = ctx.saved_tensors
            # Of views, since rows may be made with the same weights: that path is not ours.
            views = [each.view_as(each) for each in inputs]
            hidden, weight, bias = (each.to(inputs[1].dtype) for each in views)
            loss = _plain_loss(hidden, weight, bias, targets_N, ctx.smoothing)
            found = differentiable_gradient(loss, views, factor)
            return *found, None, None, None, None
        if factor.device.type == "cpu" and factor.item() == 1.0:  # no copy of the weights' gradient
            return *gradients, None, None, None, None
        return *(gradient * factor for gradient in gradients), None, None, None, None
