"""Curvature along the gradient: its peak, the peak's movement, and the warmup it asks for.

These functions take and return plain values and need no torch, so that a folder of runs can be read
on any machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from legw.analysis.stats import LEVEL, t_quantile
from legw.runs.measurements import Curvature

SMOOTH = 5
"""Number of neighbouring measurements whose median replaces the middle one."""

LASTING_RATIO = 1.5
"""The curvature counts as low for good if it stays low until this multiple of the update."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Peak of the curvature along the gradient in a run."""

    update: int
    """Number of the update, from 0."""
    epoch: float
    """Position of the peak in epochs: ``(update + 1) * batch_size / num_examples``."""
    curvature: float
    """The smoothed curvature there."""


def smoothed(rows: Sequence[Curvature], width: int = SMOOTH) -> list[tuple[int, float]]:
    """Return (update, median of the `width` measurements around it), without those not finite.

    Args:
        rows: in the order of updates.
        width: odd, at least 1; fewer at both ends.

    >>> rows = [Curvature(update=i, epoch=0.0, curvature=c, negative=False, lr=0.1)
    ...         for i, c in enumerate([1.0, 9.0, 2.0, 3.0])]
    >>> smoothed(rows, width=3)
    [(0, 5.0), (1, 2.0), (2, 3.0), (3, 2.5)]
    """
    found = [(row.update, row.curvature) for row in rows if row.curvature is not None]
    half = width // 2
    return [
        (update, statistics.median(c for _, c in found[max(i - half, 0) : i + half + 1]))
        for i, (update, _) in enumerate(found)
    ]


def peak(rows: Sequence[Curvature], batch_size: int, num_examples: int) -> Peak | None:
    """Return where the smoothed curvature is highest; None without measurements.

    Of several equal highest ones, as a median has them, it is the middle one.

    Args:
        rows: of one run, in the order of updates.
        batch_size: examples per update.
        num_examples: examples in one epoch.
    """
    curve = smoothed(rows)
    if not curve:
        return None
    value = max(value for _, value in curve)
    highest = [update for update, each in curve if each == value]
    update = highest[len(highest) // 2]
    return Peak(update=update, epoch=(update + 1) * batch_size / num_examples, curvature=value)


@dataclass(frozen=True, kw_only=True)
class Power:
    """A power law ``y = factor * x**exponent`` through points, with the exponent's interval."""

    exponent: float
    """Exponent of x: the slope of the line through the logarithms."""
    low: float | None
    """Lower end of the exponent's interval; None for fewer than three points."""
    high: float | None
    """Upper end of it."""
    factor: float
    """y at x = 1."""
    n: int
    """Number of points."""


def power_law(points: Sequence[tuple[float, float]], level: float = LEVEL) -> Power | None:
    """Return the power law through points by least squares in logarithms.

    The interval is Student's for a least-squares line; the points count as independent.

    Args:
        points: (x, y), all above 0.
        level: confidence level, in (0, 1).

    Returns:
        None where there are fewer than two different x.

    >>> found = power_law([(1, 3.0), (2, 6.0), (4, 12.0)])
    >>> round(found.exponent, 9), round(found.factor, 9), found.n
    (1.0, 3.0, 3)
    """
    logs = [(math.log(x), math.log(y)) for x, y in points]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (statistics.fmean(column) for column in zip(*logs, strict=True))
    spread = math.fsum((x - mean_x) ** 2 for x, _ in logs)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in logs) / spread
    freedom, half = len(logs) - 2, None
    if freedom > 0:
        rest = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in logs)
        half = t_quantile(level, freedom) * math.sqrt(rest / freedom / spread)
    return Power(
        exponent=slope,
        low=None if half is None else slope - half,
        high=None if half is None else slope + half,
        factor=math.exp(mean_y - slope * mean_x),
        n=len(logs),
    )


def suggested_warmup(rows: Sequence[Curvature], lr: float) -> int | None:
    """Return the number of warmup updates that a run's curvature suggests.

    The warmup may end when the smoothed curvature L has fallen below ``1 / lr`` for good: after the
    last update with ``L > 1 / lr``, if L stays below for half as many updates again.
    A measurement that is not finite counts as above 1 / lr.

    Args:
        rows: of one run, in the order of updates.
        lr: the peak rate, above 0.

    Returns:
        The number of updates; 0 where L never exceeds 1 / lr, None where it still does so in the
        last third of the measurements.

    >>> rows = [Curvature(update=i, epoch=0.0, curvature=c, negative=False, lr=0.1)
    ...         for i, c in enumerate([20.0] * 4 + [1.0] * 6)]
    >>> suggested_warmup(rows, lr=0.1)
    4
    """
    high = {update for update, value in smoothed(rows) if value > 1 / lr}
    high |= {row.update for row in rows if row.curvature is None}
    if not high:
        return 0
    last = max(high)
    update = next((row.update for row in rows if row.update > last), None)
    if update is None or LASTING_RATIO * update > rows[-1].update:
        return None
    return update
