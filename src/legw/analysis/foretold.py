"""Predicted against measured: what branches foretold of a batch, and what whole runs came to.

    Evidence of a study, MeasuredCritical of its base --foretold--> [Foretold], one a batch size

Two predictions are held against the runs of a study, which all have the base's epochs. The loss: a
branch's excess at the last point against that of the last epoch. And the epochs: those that a batch
took to the lowest training loss that it and the base both reach, over the base's own, against the
stretch of this part of the run, by the noise batch of each point and the longer warmup. An epoch's
mean loss counts as that of its middle; in between it lies on a straight line.

What is measured holds more than what was predicted: the decay, of which the base has seen less at
the same loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from legw.analysis.evidence import Evidence
from legw.analysis.measured_critical import MeasuredCritical, check_base
from legw.analysis.targets import MAIN_RULE
from legw.runs.records import Run
from legw.study.plan import BASE, Row


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """One batch size of a study under LEGW, beside what branches of the base foretold."""

    batch_size: int
    """In examples."""
    within: bool
    """Whether branches showed it within the tolerance at equal examples."""
    excess: float | None
    """Predicted loss above the base's, a share of it or in its unit; None past the largest
    branch."""
    measured_excess: float | None
    """That of the last epoch, means over seeds; None where no run told its loss."""
    stretch: float | None
    """Predicted epochs over the base's, to the loss of `measured_stretch`, or over the whole run
    where that is not known; None where no noise batch is known."""
    stretch_range: tuple[float, float] | None
    """The stretch at the ends of the noise batch's interval, ascending."""
    measured_stretch: float | None
    """Epochs to the lowest training loss that this batch and the base both reach, over the base's;
    losses are means over seeds. None where no run told its losses."""
    at_least: bool
    """Whether it may be more: the base was there in its first epoch."""
    runs: tuple[int, int]
    """Finished runs of the base, and of this batch."""

    @property
    def error(self) -> float | None:
        """Predicted over measured stretch, less 1; None where either is not known."""
        if self.stretch is None or self.measured_stretch is None or self.at_least:
            return None
        return self.stretch / self.measured_stretch - 1


def foretold(evidence: Evidence, critical: MeasuredCritical) -> list[Foretold]:
    """Return each batch of a study above the base's, beside what branches of the base foretold.

    Args:
        evidence: of one study; runs of the base and under LEGW count.
        critical: measured on the study's base.

    Raises:
        LegwError: another base was measured.
    """
    groups: dict[int, list[tuple[Row, Run]]] = {}
    for row, run in evidence.runs:
        if row.rule in (BASE, MAIN_RULE) and row.status == "finished" and not row.variant:
            check_base(critical, run.manifest.base)
            groups.setdefault(row.batch_size, []).append((row, run))
    size = critical.base.batch_size
    if size not in groups:
        return []
    large = sorted(each for each in groups if each > size)
    return [_foretold(critical, groups[size], groups[each]) for each in large]


def _foretold(
    critical: MeasuredCritical,
    base: Sequence[tuple[Row, Run]],
    own: Sequence[tuple[Row, Run]],
) -> Foretold:
    size = own[0][0].batch_size
    before, after, at_least = _to_common([run for _, run in base], [run for _, run in own])
    whole = critical.points[-1].until_epoch
    said = critical.epochs_to(before or whole, size)
    stretch = [each / (before or whole) for each in said or ()]
    return Foretold(
        batch_size=size,
        within=size <= critical.largest_batch(critical.tolerance),
        excess=critical.excess(size),
        measured_excess=_above(base, own, share=critical.tolerance.relative),
        stretch=stretch[0] if stretch else None,
        stretch_range=(stretch[1], stretch[2]) if stretch else None,
        measured_stretch=after / before if before and after else None,
        at_least=at_least,
        runs=(len(base), len(own)),
    )  # fmt: skip


def _above(
    base: Sequence[tuple[Row, Run]], own: Sequence[tuple[Row, Run]], *, share: bool
) -> float | None:
    """Return how much the last epoch's loss is above the base's."""
    small, large = (
        [row.final_loss for row, _ in each if row.final_loss is not None] for each in (base, own)
    )
    if not small or not large:
        return None
    before = statistics.fmean(small)
    return (statistics.fmean(large) - before) / (before if share else 1.0)


def _to_common(base: Sequence[Run], own: Sequence[Run]) -> tuple[float | None, float | None, bool]:
    """Return the base's epochs and a batch's to the lowest common loss, and whether it is earlier.

    It may be earlier where the base is there in its first epoch.
    """
    curves = [_mean_curve(runs) for runs in (base, own)]
    if not all(curves):
        return None, None, False
    target = max(min(loss for _, loss in curve) for curve in curves)
    before, after = (_reached(curve, target) for curve in curves)
    return before, after, before == curves[0][0][0]


Curve = list[tuple[float, float]]
"""Positions in epochs, ascending, and the mean loss there."""


def _mean_curve(runs: Sequence[Run]) -> Curve:
    """Return the mean over runs of the loss of each epoch that all of them have."""
    each = [dict(_curve(run)) for run in runs]
    shared = sorted(set.intersection(*(set(curve) for curve in each)))
    return [(epoch - 0.5, statistics.fmean(curve[epoch] for curve in each)) for epoch in shared]


def _curve(run: Run) -> Curve:
    """Return the mean training loss of each epoch, from its evaluation or else from its updates."""
    found: Curve = [(round(row.epoch), row.loss) for row in run.evaluations if row.loss is not None]
    if len(found) > 1:
        return found
    epochs: dict[float, list[float]] = {}
    for row in run.updates:
        if row.loss is not None:
            epochs.setdefault(math.ceil(row.epoch), []).append(row.loss)
    return [(epoch, statistics.fmean(losses)) for epoch, losses in epochs.items()]


def _reached(curve: Curve, target: float) -> float:
    """Return where a curve first is as low as a loss that it reaches."""
    before = curve[0]
    for epoch, loss in curve:
        if loss <= target:
            share = 1.0 if before[1] == loss else (before[1] - target) / (before[1] - loss)
            return before[0] + (epoch - before[0]) * max(share, 0.0)
        before = epoch, loss
    raise AssertionError("a curve reaches its own lowest loss")


def median_error(rows: Iterable[Foretold]) -> float | None:
    """Return the median of the errors of the stretch, without their signs; None without any."""
    found = [abs(row.error) for row in rows if row.error is not None]
    return statistics.median(found) if found else None
