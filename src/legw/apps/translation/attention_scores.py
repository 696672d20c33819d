"""Attention scores: additive attention without storing the tanh's input.

A score needs a sum and a tanh for every unit of every pair of a source and a target token: by far
the largest tensor of a translation model. On a CPU it is computed in pieces that stay in the cache,
a few target tokens at a time, and computed again in the backward pass. So its memory does not grow
with the target's length. The tanh comes
from the logistic function, ``tanh x = 1 - 2 sigmoid(-2x)``, which torch computes several
times as fast, and is in single precision at the least, under autocast too.

Shapes: B sentence pairs, S source tokens, T target tokens, H units, R target tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from legw.train.second_derivative import differentiable_gradient

THREAD_PIECE = 2**20
"""Bytes of a piece for each thread, 1 MiB, so that they stay in a core's cache; one target token
at the least."""


def additive_scores(query_TBH: Tensor, keys_BSH: Tensor, direction_H: Tensor) -> Tensor:
    """Return ``direction . tanh(query + key)`` for each pair of tokens, shape (T, B, S).

    Args:
        query_TBH: of the target tokens, shape (T, B, H).
        keys_BSH: of the source tokens, shape (B, S, H).
        direction_H: weights of the units, shape (H,).

    Reference: Bahdanau, Cho, Bengio 2014, arXiv 1409.0473, appendix A.1.2.
    """
    kind = query_TBH.device.type
    if kind != "cpu" or torch.compiler.is_compiling():  # the compiler makes pieces of its own
        return _plain_scores(query_TBH, keys_BSH, direction_H)
    with torch.autocast(kind, enabled=False):
        scores: Tensor = _Scores.apply(query_TBH, keys_BSH, direction_H)
        return scores


def _plain_scores(query_TBH: Tensor, keys_BSH: Tensor, direction_H: Tensor) -> Tensor:
    mixed_TBSH = torch.tanh_(query_TBH[:, :, None] + keys_BSH)
    return torch.matmul(mixed_TBSH, direction_H.to(mixed_TBSH.dtype))


class _Scores(torch.autograd.Function):
    """The scores and their gradient, piece by piece."""

    @staticmethod
    def forward(ctx: Any, query_TBH: Tensor, keys_BSH: Tensor, direction_H: Tensor) -> Tensor:
        ctx.save_for_backward(query_TBH, keys_BSH, direction_H)
        direction = direction_H.to(_exact(query_TBH))
        shares_TBS = direction.new_empty(*query_TBH.shape[:2], keys_BSH.shape[1])
        for piece, sigmoid_RBSH in _sigmoids(query_TBH, keys_BSH):
            torch.matmul(sigmoid_RBSH, direction, out=shares_TBS[piece])
        return shares_TBS.mul_(-2).add_(direction.sum())

    @staticmethod
    def backward(ctx: Any, slope_TBS: Tensor) -> tuple[Tensor | None, ...]:
        query_TBH, keys_BSH, direction_H = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd make it
            return _differentiable((query_TBH, keys_BSH, direction_H), slope_TBS)
        with torch.autocast("cpu", enabled=False):
            return _gradients(query_TBH, keys_BSH, direction_H, slope_TBS)


def _gradients(
    query_TBH: Tensor, keys_BSH: Tensor, direction_H: Tensor, slope_TBS: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, keys and direction, from that of the scores."""
    direction = direction_H.to(slope_TBS.dtype)
    query_gradient_TBH = slope_TBS.new_empty(query_TBH.shape)
    keys_gradient_BSH = slope_TBS.new_zeros(keys_BSH.shape)
    share_H = torch.zeros_like(direction)
    for piece, sigmoid_RBSH in _sigmoids(query_TBH, keys_BSH):
        slope_RBS = slope_TBS[piece]
        share_H.addmv_(sigmoid_RBSH.flatten(0, 2).t(), slope_RBS.flatten())
        # The gradient of 1 - 2 sigmoid(-2x) is 4 sigmoid (1 - sigmoid); the 4 comes last.
        bend_RBSH = torch.addcmul(
            sigmoid_RBSH, sigmoid_RBSH, sigmoid_RBSH, value=-1, out=sigmoid_RBSH
        )
        query_gradient_TBH[piece] = torch.matmul(slope_RBS[:, :, None], bend_RBSH)[:, :, 0]
        keys_gradient_BSH += bend_RBSH.mul_(slope_RBS[..., None]).sum(0)
    return (
        query_gradient_TBH.mul_(4 * direction).to(query_TBH.dtype),
        keys_gradient_BSH.mul_(4 * direction).to(keys_BSH.dtype),
        (slope_TBS.sum() - 2 * share_H).to(direction_H.dtype),
    )


def _differentiable(inputs: Sequence[Tensor], slope_TBS: Tensor) -> tuple[Tensor | None, ...]:
    """Return the result of `_gradients`, by torch's own functions, which have derivatives."""
    scores_TBS = _plain_scores(*(each.to(_exact(each)) for each in inputs))
    return differentiable_gradient(scores_TBS, inputs, slope_TBS)


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _sigmoids(query_TBH: Tensor, keys_BSH: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield pieces of the target tokens, and ``sigmoid(-2 (query + key))`` of each, of shape
    (R, B, S, H): in memory that the next piece takes again.
    """
    exact = _exact(query_TBH)
    query_TBH, keys_BSH = -2 * query_TBH.to(exact), keys_BSH.to(exact)
    num_tokens, most = len(query_TBH), THREAD_PIECE * torch.get_num_threads()
    rows = min(max(most // max(keys_BSH.nbytes, 1), 1), num_tokens)
    memory_RBSH = keys_BSH.new_empty(rows, *keys_BSH.shape)
    for begin in range(0, num_tokens, rows or 1):
        piece = slice(begin, min(begin + rows, num_tokens))
        part_RBSH = memory_RBSH[: piece.stop - begin]
        torch.add(query_TBH[piece, :, None], keys_BSH, alpha=-2, out=part_RBSH)
        yield piece, part_RBSH.sigmoid_()
