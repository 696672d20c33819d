"""Gradient noise scale, measured during a run from pieces of each global batch.

With S the trace of the covariance of one example's gradient, and G the true gradient, the
gradient of B examples has ``E|G_B|**2 = |G|**2 + S / B``. The simple noise scale is

    B_simple = S / |G|**2        S and |G|**2 averaged over updates before the division

The norm of the whole batch's gradient is known in every run. Two small pieces of the batch,
of b examples each, give S by the distance of their gradients:

    S = b / 2 * |g_1 - g_2|**2        |G|**2 = |G_B|**2 - S / B

Both estimates are unbiased, because the pieces are drawn at random from the whole batch. Neighbours
in a batch may be alike, as in sentences sorted by length. Only the first process measures; each
piece has an eighth of the examples in its share. For streams, whose states stay on their process,
the pieces come from its own share.

Variation between whole batches that does not appear within them counts as signal. An example is the
length of sentences where a batch holds sentences of equal length.

Reference: McCandlish et al. 2018, arXiv 1812.06162, section 2.2 and appendix A.1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legw.errors import RunError, check_count
from legw.probes.readings import Readings
from legw.runs.measurements import Noise
from legw.runs.records import Manifest, Summary
from legw.train.batches import derive
from legw.train.probe import Moment, Probe, gradient_of, seed_passes

EVERY = 100
"""Default number of updates between two samples."""


def piece_size(share: int, group: int = 1) -> int:
    """Return the examples of each of the two pieces: an eighth of the share, in whole groups.

    Args:
        share: examples that the process has of a batch.
        group: examples that must stay together, at least 1.

    Raises:
        RunError: the share is less than two groups.

    >>> piece_size(128), piece_size(20), piece_size(2), piece_size(1024, group=128)
    (16, 2, 1, 128)
    """
    if share < 2 * group:
        raise RunError(
            f"noise: a process has {share} examples of the batch: two pieces of at least {group} "
            "are needed; choose a larger batch, fewer processes or a smaller norm_batch_size"
        )
    return max(share // 8 // group, 1) * group


class NoiseProbe(Probe):
    """Samples the noise of the gradient every `every` updates.

    A sample costs a quarter of a gradient.

    Args:
        folder: the run folder, into which `noise.jsonl` is written; None keeps the rows
            in memory alone.
        every: updates between two samples, at least 1.
    """

    def __init__(self, folder: Path | None = None, *, every: int = EVERY) -> None:
        check_count("noise", "every", every, error=RunError)
        self.folder, self.every = folder, every
        self.options = {"every": every}
        self._readings = Readings(Noise, folder)

    @property
    def rows(self) -> list[Noise]:
        """Samples that have been read back from the device."""
        return self._readings.rows

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._readings.begin(updates_done)

    def wants(self, update: int) -> bool:
        return update % self.every == 0

    def measure(self, moment: Moment) -> None:
        pieces = _pieces(moment)
        one, other = (_gradient(moment, slots) for slots in pieces)
        size = len(pieces[0])
        distance = torch.nn.utils.get_total_norm(torch._foreach_sub(one, other)).double()
        trace = distance**2 * (size / 2)
        squared_norm = moment.gradient.norm.double() ** 2 - trace / moment.batch_size
        update, epoch = moment.update, moment.epoch

        def row(pair: list[float]) -> Noise:
            found = pair if all(map(math.isfinite, pair)) else (None, None)
            return Noise(
                update=update, epoch=epoch, trace=found[0], squared_norm=found[1],
                examples=2 * size,
            )  # fmt: skip

        self._readings.add(torch.stack([trace, squared_norm]), row)

    def on_end(self, summary: Summary) -> None:
        self._readings.read_back()


def _pieces(moment: Moment) -> tuple[Tensor, Tensor]:
    """Return the slots of two pieces of the batch, drawn at random, in whole groups."""
    group, start = moment.group, moment.readable.start
    count = piece_size(moment.share.stop - moment.share.start, group) // group
    generator = torch.Generator().manual_seed(derive(moment.seed, "pieces", moment.update))
    whole = (moment.readable.stop - start) // group
    drawn = torch.randperm(whole, generator=generator)[: 2 * count]
    one, other = (
        start + (part.sort().values[:, None] * group + torch.arange(group)).flatten()
        for part in torch.split(drawn, count)
    )
    return one, other


def _gradient(moment: Moment, slots: Tensor) -> list[Tensor]:
    """Return the gradient of the mean loss of some slots, in micro-batches of the run's size."""
    size = max(moment.micro_batch_size // moment.group, 1) * moment.group
    total: list[Tensor] = []
    weights: Any = 0
    for part in torch.split(slots, size):
        batch, state = moment.load(part)
        seed_passes(moment, "noise", moment.update, int(part[0]))
        gradients, weight = gradient_of(moment.task, moment.model, batch, state, moment.parameters)
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else list(gradients)
        weights = weights + weight
    return [each / weights for each in total]
