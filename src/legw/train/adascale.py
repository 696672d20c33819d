"""AdaScale: an update counts for as many base updates as its measured gain.

With k times the base's batch, an update is worth between 1 update of the base (a gradient without
noise) and k of them (a gradient of noise alone). The gain r is measured at every update:

    r = (sigma2 + mu2) / (sigma2/k + mu2)          1 <= r <= k
    lr = r * schedule(floor(tau)),   tau = tau + r

with the base's schedule in its own updates, until ``tau`` has come to the base's number
of updates. `sigma2` is the variance of a gradient of the base's batch, `mu2` the squared
norm of the true gradient; both come from the spread of the micro-gradients whose sum is the global
batch's gradient. The learning rate depends on the gradient, so the host waits for the GPU at every
update. AdaScale alone does that.

Reference: Johnson, Agrawal, Gu and Guestrin 2020, arXiv 2007.05105, algorithm 1 and
appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from legw.errors import RunError
from legw.recipe import Recipe
from legw.train.accumulation import Accumulation, GlobalBatch, Gradient
from legw.train.batches import split

MIN_VARIANCE = 1e-6
"""`sigma2` is taken as at least this, so that the gain stays defined."""


def variances(
    mean_square: float, square: float, *, count: int, scale: float
) -> tuple[float, float]:
    """Return ``(sigma2, mu2)`` from one update's micro-gradients, each limited to its range.

    With n micro-gradients g_i of shares p_i of the batch, and their mean g::

        sigma2 = k/(n - 1) * (sum p_i*|g_i|**2 - |g|**2),   mu2 = |g|**2 - sigma2/k

    which for equal shares is the paper's ``k/n/(n-1) * sum |g_i|**2 - k/(n-1) * |g|**2``.

    Args:
        mean_square: the sum of ``p_i*|g_i|**2``, at least `square`.
        square: ``|g|**2``, at least 0.
        count: n, at least 2.
        scale: k, the batch over the base's, above 1.

    >>> variances(3.0, 1.0, count=4, scale=4.0)
    (2.6666666666666665, 0.33333333333333337)
    """
    sigma2 = scale / (count - 1) * (mean_square - square)
    return max(sigma2, MIN_VARIANCE), max(square - sigma2 / scale, 0.0)


@dataclass
class AdaScale:
    """Updates of the base gained so far, and the running averages behind the gain."""

    scale: float
    """k: the batch over the base's, above 1."""
    count: int
    """Micro-gradients of an update, at least 2."""
    base_updates: int
    """Updates of the base's run: the gain at which the run ends."""
    sigma2: float | None = None
    """Running average of the variance; None before the first update."""
    mu2: float | None = None
    """Running average of the true gradient's squared norm."""
    gained: float = 0.0
    """tau: updates of the base gained so far."""

    @property
    def done(self) -> bool:
        """Whether the gain has reached the length of the base's run."""
        return self.gained >= self.base_updates

    def gain(self, mean_square: float, square: float) -> float:
        """Take an update's micro-gradients; return how many updates it is worth.

        Args:
            mean_square: weighted mean of the micro-gradients' squared norms, at least `square`.
            square: squared norm of the global batch's gradient, at least 0.
        """
        if not (math.isfinite(mean_square) and math.isfinite(square)):
            return 1.0  # diverged, which the loop is about to detect
        sigma2, mu2 = variances(mean_square, square, count=self.count, scale=self.scale)
        keep = max(1 - self.scale / 1000, 0.0)
        if self.sigma2 is not None and self.mu2 is not None:
            sigma2 = keep * self.sigma2 + (1 - keep) * sigma2
            mu2 = keep * self.mu2 + (1 - keep) * mu2
        self.sigma2, self.mu2 = sigma2, mu2
        return (sigma2 + mu2) / (sigma2 / self.scale + mu2)

    def rate(self, gradient: Gradient, lr: Callable[[int], float]) -> float:
        """Return the learning rate of an update whose gradient is formed, and count its gain.

        Args:
            gradient: of a global batch with `MicroGradients`.
            lr: the base's schedule.
        """
        spread, norm = torch.stack([gradient.extra[0], gradient.norm.double()]).tolist()
        worth = self.gain(spread, norm**2)
        rate = worth * lr(math.floor(self.gained))
        self.gained += worth
        return rate

    def said(self, epochs: float, base_epochs: float) -> str:
        """Return how the run ended, in one line."""
        length = f"in {epochs:.4g} epochs, the base's run has {base_epochs:g}"
        if self.done:
            return f"adascale gained all {self.base_updates} updates of the base {length}"
        return (
            f"adascale gained {self.gained:.0f} of {self.base_updates} updates of the base "
            f"{length}; ended there"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)


class MicroGradients(Accumulation):
    """Gradient accumulation from gradients of the base's batch, whose norms are measured.

    `Gradient.extra` holds the mean of their squared norms, weighted by their shares of the
    batch's weight. Micro-batches never straddle two of them.

    Args:
        each: examples in a micro-gradient, at least 1.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._ends: set[int] = set()

    def parts(self, batch: GlobalBatch) -> list[slice]:
        """Cut this process's micro-gradients into micro-batches; note where each ends."""
        world, size = batch.world, batch.recipe.batch_size
        step = min(batch.micro_batch_size, self._each)
        parts: list[slice] = []
        self._ends = set()
        for whole in split(
            size, self._each, rank=world.rank, world_size=world.size, group=self._each
        ):
            length = whole.stop - whole.start
            pieces = split(length, step, group=min(batch.group, length))
            parts += [slice(whole.start + p.start, whole.start + p.stop) for p in pieces]
            self._ends.add(len(parts) - 1)
        return parts

    def wrap(self, batch: GlobalBatch) -> nn.Module:
        """Leave the model as it is: each process's own gradients are measured."""
        return batch.model

    def accumulate(self, batch: GlobalBatch, update: int) -> Tensor:
        """Leave the gradients' sum in ``p.grad``; return sums of loss, weight and squares."""
        total: list[Tensor | None] = [None] * len(batch.parameters)
        weight_sum = torch.zeros((), dtype=torch.float64, device=batch.world.device)
        squares = torch.zeros_like(weight_sum)

        def after(index: int, weight: Any) -> None:
            weight_sum.add_(weight)
            if index in self._ends:
                squares.add_(_move(batch.parameters, total) / weight_sum)
                weight_sum.zero_()

        sums = batch.one_by_one(update, after)
        for parameter, grad in zip(batch.parameters, total, strict=True):
            parameter.grad = torch.zeros_like(parameter) if grad is None else grad
            batch.world.sum(parameter.grad)
            parameter.grad /= batch.world.size  # as DistributedDataParallel leaves it
        return torch.cat([sums, squares[None]])

    def extra(self, totals: Tensor) -> Tensor:
        return totals[2:3] / totals[1]


def _move(parameters: list[nn.Parameter], total: list[Tensor | None]) -> Tensor:
    """Add the gradients to the total and drop them; return their squared norm, 0-dim."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads)).double()
    for place, parameter in enumerate(parameters):
        grad, before = parameter.grad, total[place]
        if grad is not None:
            total[place] = grad if before is None else before.add_(grad)
        parameter.grad = None
    return norms.square().sum()


def micro_gradient(base: Recipe, recipe: Recipe, group: int) -> int:
    """Return how many examples a micro-gradient has: the base's batch, in whole groups.

    Raises:
        RunError: batch-norm's groups leave fewer than two of them.
    """
    each = -(-base.batch_size // group) * group
    if each >= recipe.batch_size:
        raise RunError(
            f"{base.name}: batch_size={recipe.batch_size}: adascale needs at least 2 "
            f"micro-gradients of {each} examples; choose a larger batch"
        )
    return each
