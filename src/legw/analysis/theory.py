"""What measurements along a run say: where the curvature peaks, how it moves, how noisy it is.

Values in, values out: no torch here, so that a folder of runs is read anywhere.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from legw.analysis.stats import LEVEL, t_quantile
from legw.runs.measurements import Curvature, Noise

SMOOTH = 5
"""Neighbouring measurements whose median stands for the one in their middle."""

BLOCKS = 20
"""Most blocks of a jackknife: samples close in time are not independent, blocks nearly are."""

STAYS = 1.5
"""For good: until the run is so many times as old."""

LEAST = 5
"""Fewest samples from which an interval is given."""


# The curvature's peak -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Where the curvature along the gradient is highest in a run."""

    update: int
    """Which update, from 0."""
    epoch: float
    """Where that is, in epochs: ``(update + 1) * batch_size / num_examples``."""
    curvature: float
    """The smoothed curvature there."""


def smoothed(rows: Sequence[Curvature], width: int = SMOOTH) -> list[tuple[int, float]]:
    """Return (update, median of the `width` measurements around it); lost ones are left out.

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
    """A power law ``y = factor * x**exponent`` through points, and how well it is known."""

    exponent: float
    """Slope in logarithms."""
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

    The interval is Student's, of a slope: the points count as independent.

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
    """Return how many updates of warmup a run asks for.

    The warmup may end where the smoothed curvature has fallen below the rate's inverse for
    good: after the last update with ``L > 1 / lr``, if it stays below for half as long again.
    A lost measurement, whose L was not finite, counts as above.

    Args:
        rows: of one run, in the order of updates.
        lr: the peak rate, above 0.

    Returns:
        The number of updates; 0 where L never exceeds 1 / lr, None where it still does in
        the last third of what was measured.

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
    if update is None or STAYS * update > rows[-1].update:
        return None
    return update


# The noise scale ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """The simple noise scale of a stretch of a run: ``B_simple = S / |G|**2``."""

    value: float | None
    """In examples; None where the gradient is lost in noise (``|G|**2`` not above 0)."""
    low: float | None
    """Lower end of its interval, at least 0; None for too few samples."""
    high: float | None
    """Upper end of it; None for too few samples."""
    from_epoch: float
    """Position of the first sample."""
    to_epoch: float
    """Position of the last sample."""
    n: int
    """Number of samples."""


def stated(value: float) -> NoiseScale:
    """Return a noise scale that somebody states, in examples: nothing of it was measured here.

    >>> stated(250).value
    250
    """
    return NoiseScale(value=value, low=None, high=None, from_epoch=0.0, to_epoch=0.0, n=0)


def noise_scale(rows: Sequence[Noise], level: float = LEVEL) -> NoiseScale:
    """Return the noise scale of a stretch: both means taken apart, then divided.

    The interval is a block jackknife's on the ratio, with Student's quantile.

    Args:
        rows: in the order of updates, at least one; lost samples are left out.
        level: confidence level, in (0, 1).

    >>> rows = [Noise(update=i, epoch=i / 10, trace=100.0, squared_norm=0.5, examples=8)
    ...         for i in range(10)]
    >>> found = noise_scale(rows)
    >>> found.value, found.low, found.high
    (200.0, 200.0, 200.0)
    """
    pairs = [
        (row.trace, row.squared_norm)
        for row in rows
        if row.trace is not None and row.squared_norm is not None
    ]
    value, half = jackknife_ratio(pairs, level)
    return NoiseScale(
        value=value,
        low=None if half is None or value is None else max(value - half, 0.0),
        high=None if half is None or value is None else value + half,
        from_epoch=min(row.epoch for row in rows),
        to_epoch=max(row.epoch for row in rows),
        n=len(pairs),
    )


def jackknife_ratio(
    pairs: Sequence[tuple[float, float]], level: float = LEVEL, blocks: int = BLOCKS
) -> tuple[float | None, float | None]:
    """Return ``sum(a) / sum(b)`` and half the width of its interval, by a block jackknife.

    With ``r_i`` the ratio without block i of m, the variance is ``(m - 1)**2 / m`` times
    the sample variance of the ``r_i``.

    Args:
        pairs: (a, b), in the order in time.
        level: confidence level, in (0, 1).
        blocks: most blocks; two samples at least go into each where there are enough.

    Returns:
        None for the ratio where ``sum(b)`` is not above 0; None for the half-width where
        there are too few samples, or where b without some block is not above 0.

    Reference: Kuensch 1989, "The jackknife and the bootstrap for general stationary
    observations".

    >>> jackknife_ratio([(2.0, 1.0)] * 8)
    (2.0, 0.0)
    """
    total_a, total_b = math.fsum(a for a, _ in pairs), math.fsum(b for _, b in pairs)
    if not total_b > 0:
        return None, None
    count = min(blocks, max(len(pairs) // 2, LEAST))
    if len(pairs) < LEAST:
        return total_a / total_b, None
    cuts = [round(i * len(pairs) / count) for i in range(count + 1)]
    ratios = []
    for begin, end in itertools.pairwise(cuts):
        rest_a = total_a - math.fsum(a for a, _ in pairs[begin:end])
        rest_b = total_b - math.fsum(b for _, b in pairs[begin:end])
        if not rest_b > 0:
            return total_a / total_b, None
        ratios.append(rest_a / rest_b)
    deviation = (count - 1) * math.sqrt(statistics.variance(ratios) / count)
    return total_a / total_b, t_quantile(level, count - 1) * deviation


def stretches(rows: Sequence[Noise], count: int) -> list[list[Noise]]:
    """Cut samples into at most `count` stretches of equal length in epochs, none empty.

    >>> rows = [Noise(update=i, epoch=e, trace=1.0, squared_norm=1.0, examples=2)
    ...         for i, e in enumerate([0.1, 0.2, 0.9, 1.0])]
    >>> [len(stretch) for stretch in stretches(rows, 2)]
    [2, 2]
    """
    if not rows:
        return []
    first, last = min(row.epoch for row in rows), max(row.epoch for row in rows)
    ends = [first + (last - first) * i / count for i in range(1, count)]
    found: list[list[Noise]] = [[] for _ in range(count)]
    for row in rows:
        found[bisect.bisect_left(ends, row.epoch)].append(row)
    return [stretch for stretch in found if stretch]


def examples_factor(batch_size: int, noise: float) -> float:
    """Return by how much more examples a batch needs than a small one: ``1 + B / B_noise``.

    From ``(steps / least_steps - 1) * (examples / least_examples - 1) = 1``.

    Args:
        batch_size: B, in examples, at least 1.
        noise: the noise scale, in examples, above 0.

    Reference: McCandlish et al. 2018, arXiv 1812.06162, section 2.3, equations 2.7, 2.11.

    >>> examples_factor(200, noise=200.0)
    2.0
    """
    return 1.0 + batch_size / noise


def examples_against(batch_size: int, base: int, noise: float | None) -> float | None:
    """Return the examples that a batch needs over those of the base, to the same loss.

    Args:
        batch_size: in examples, at least 1.
        base: likewise.
        noise: the noise scale, in examples, above 0; None is not known.

    >>> examples_against(400, base=100, noise=200.0)
    2.0
    """
    if noise is None:
        return None
    return examples_factor(batch_size, noise) / examples_factor(base, noise)


def late(rows: Sequence[Noise]) -> list[Noise]:
    """Return the samples of the last half of the run, in epochs: the noise grows meanwhile."""
    middle = max(row.epoch for row in rows) / 2
    return [row for row in rows if row.epoch > middle]
