"""Curvature of the loss along the gradient: ``L(x, g) = |g'Hg| / |g|**2``.

One step ``x - lr*g`` changes the loss by ``-lr*g'f + lr**2/2 * g'Hg``, so the rate that can be
used is about ``1 / L``. Here g is the gradient of an update's own batch, and H the Hessian
of the loss on a fixed probe batch. With the unit vector ``u = g / |g|``:

    g'Hg / |g|**2 = u'Hu ~ u'(f(x + e*u) - f(x - e*u)) / (2*e)       f: gradient of the loss

Reference: You et al. 2019, arXiv 1901.08256, the explanation of the rule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from legw.errors import RunError, check_count
from legw.probes.readings import Readings
from legw.runs.measurements import Curvature
from legw.runs.records import Manifest, Summary
from legw.schedule import in_steps
from legw.train.probe import Moment, Probe, gradient_of, seed_passes

Method = Literal["difference", "exact"]

DENSE = 100
"""Number of first updates that are all measured; then as many for each doubling."""

EXAMPLES = 512
"""Default number of examples in the probe batch."""

STEP = 0.01
"""Factor of the difference's step, found by measurement: over the first 200 updates of
digits-lstm and mnist-lstm a step of 0.01 is within 1e-4 of the exact value in single
precision, save where that value is near 0; 0.002 and 0.05 are not."""

PROBE_SEED = 2**31 - 1
"""Seed of the order from which the probe batch is taken, the same for every run."""


def spaced(update: int, dense: int = DENSE) -> bool:
    """Say whether an update is measured: all of the first `dense`, then `dense` for each doubling.

    Args:
        update: number of the update, from 0.
        dense: at least 1.

    >>> [update for update in range(40) if spaced(update, dense=4)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32]
    """
    return update % (1 << max((update // dense).bit_length() - 1, 0)) == 0


def step_length(parameters: Sequence[Tensor]) -> Tensor:
    """Return the length of the difference's step, 0-dim: a share of the weights' norm.

    The share is ``STEP * cbrt(r)`` with r the rounding unit of the weights' type: the error of
    rounding falls as 1/e and that of truncation grows as e**2, so that their sum is smallest
    at a cube root.

    Args:
        parameters: the weights, of one type; a norm below 1 counts as 1.
    """
    share: float = STEP * torch.finfo(parameters[0].dtype).eps ** (1 / 3)
    return torch.nn.utils.get_total_norm(parameters).clamp(min=1.0) * share


class Batch:
    """The loss of a fixed batch of examples, and its gradient at any weights.

    Args:
        moment: whose model and task.
        ids: example ids, int64 of shape (examples,).
    """

    def __init__(self, moment: Moment, ids: Tensor) -> None:
        self.moment = moment
        size = max(moment.micro_batch_size // moment.group, 1) * moment.group
        self.pieces = [moment.task.batch(part, moment.device) for part in torch.split(ids, size)]

    def gradient(self, *, create_graph: bool = False) -> list[Tensor]:
        """Return the gradient of the mean loss, one tensor a weight; dropout draws alike."""
        moment = self.moment
        total: list[Tensor] = []
        weights: Any = 0
        for number, piece in enumerate(self.pieces):
            seed_passes(moment, "curvature", number)
            gradients, weight = gradient_of(
                moment.task, moment.model, piece, None, moment.parameters,
                create_graph=create_graph,
            )  # fmt: skip
            total = (
                [a + b for a, b in zip(total, gradients, strict=True)] if total else list(gradients)
            )
            weights = weights + weight
        return [each / weights for each in total]


def by_difference(batch: Batch, direction: Sequence[Tensor]) -> Tensor:
    """Return ``u'Hu`` by a central difference of two gradients; the weights are restored bitwise.

    The divisor is the actual step, after the rounding of the weights.

    Args:
        batch: whose loss.
        direction: u, of any length above 0, one tensor for each weight.

    Returns:
        0-dim, in float64.
    """
    weights = [parameter.detach() for parameter in batch.moment.parameters]
    length = step_length(weights) / torch.nn.utils.get_total_norm(direction)
    kept = [weight.clone() for weight in weights]
    try:
        torch._foreach_add_(weights, [each * length.to(each.dtype) for each in direction])
        ahead, slopes_ahead = [w.clone() for w in weights], batch.gradient()
        torch._foreach_copy_(weights, kept)
        torch._foreach_sub_(weights, [each * length.to(each.dtype) for each in direction])
        made = torch._foreach_sub(ahead, weights)
        change = torch._foreach_sub(slopes_ahead, batch.gradient())
    finally:
        torch._foreach_copy_(weights, kept)
    return _dot(made, change) / _dot(made, made)


def by_product(batch: Batch, direction: Sequence[Tensor]) -> Tensor:
    """Return ``u'Hu`` exactly, by a Hessian-vector product, without fused kernels.

    Args and Returns as for `by_difference`.
    """
    with _plain_kernels():
        gradients = batch.gradient(create_graph=True)
        along = torch.stack(
            [(a * b).sum() for a, b in zip(gradients, direction, strict=True)]
        ).sum()
        product = torch.autograd.grad(
            along, batch.moment.parameters, allow_unused=True, materialize_grads=True
        )
    return _dot(direction, product) / _dot(direction, direction)


METHODS = {"difference": by_difference, "exact": by_product}


class CurvatureProbe(Probe):
    """Measures the curvature along the gradient: often at first, then ever more rarely.

    A measurement costs two gradients of the probe batch (by difference).

    Args:
        folder: the run folder, into which `curvature.jsonl` is written; None keeps the
            rows in memory alone.
        examples: in the probe batch, at least 1 and at most those of an epoch. They are not
            augmented, as `augment` would change the loss from one measurement to the next.
        dense: as for `spaced`, at least 1.
        method: "difference", or "exact", which is slower and needs more memory.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        examples: int = EXAMPLES,
        dense: int = DENSE,
        method: Method = "difference",
    ) -> None:
        for name, value in (("examples", examples), ("dense", dense)):
            check_count("curvature", name, value, error=RunError)
        self.folder, self.examples, self.dense = folder, examples, dense
        self.options = {"examples": examples, "dense": dense, "method": method}
        self._readings = Readings(Curvature, folder)
        self._measure = METHODS[method]
        self._batch: Batch | None = None

    @property
    def rows(self) -> list[Curvature]:
        """Measurements that have been read back from the device."""
        return self._readings.rows

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._lr = in_steps(manifest.recipe, manifest.num_examples)
        self._readings.begin(updates_done)

    def wants(self, update: int) -> bool:
        return spaced(update, self.dense)

    def measure(self, moment: Moment) -> None:
        batch = Batch(moment, self._ids(moment)) if self._batch is None else self._batch
        batch.moment, self._batch = moment, batch
        with full_precision():
            value = self._measure(batch, [gradient.detach() for gradient in moment.gradients])
        update, epoch, lr = moment.update, moment.epoch, self._lr(moment.update)

        def row(value: float) -> Curvature:
            return Curvature(
                update=update,
                epoch=epoch,
                curvature=abs(value) if abs(value) < float("inf") else None,
                negative=value < 0,
                lr=lr,
            )

        self._readings.add(value, row)

    def on_end(self, summary: Summary) -> None:
        self._readings.read_back()

    def _ids(self, moment: Moment) -> Tensor:
        """Return the probe batch: examples evenly spaced over an order that no run has."""
        order = moment.task.order(PROBE_SEED, 0, moment.recipe.batch_size)
        count = min(self.examples, len(order))
        return order[torch.arange(count) * len(order) // count]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply matrices in full precision: TF32 rounds off a difference of gradients."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Turn off the fused LSTMs of cuDNN and oneDNN, and fused attention: these kernels have no
    second derivative."""
    onednn = torch.backends.mkldnn
    enabled = onednn.enabled
    flags = torch.backends.cudnn.flags(enabled=False, allow_tf32=False)
    with flags, sdpa_kernel(SDPBackend.MATH):
        onednn.set_flags(_enabled=False, _fp32_precision=None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            onednn.set_flags(_enabled=enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the inner product, summed in double precision."""
    products = [(a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)]
    return torch.stack(products).sum()
