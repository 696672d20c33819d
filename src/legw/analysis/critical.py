"""Critical batch size by branching: the largest batch whose loss keeps up over equal examples.

From a checkpoint of a base run of batch B, a branch trains at k times the batch, over the examples
that the base's own continuation trains on. Both losses are compared over the second half of these
examples, where the branch has warmed up again. Where branches cool down, one of the base's own
batch does too, and they are compared where their rates come to 0: at the end of a straight line
through the second half of the cooldown. With d the losses of a branch less those of the base

    excess(k) = sum(d) / sum(base)        critical batch = B * k where excess(k) is the tolerance

An update of the branch covers k updates of the base, and so each difference is one over the same
examples. The branch's loss is that of its weights before these examples; the base's changes
meanwhile, by ``change * (k - 1) / 2`` in the mean, which is taken out. Between two measured k the
excess is a straight line in log k. The interval of an excess is a block jackknife's; that of the
critical batch lies where the lines through the ends of these intervals cross the tolerance.

Streams read other text in an update at another batch size. Of them the weights at the ends of both
are compared, by their losses over the same text, which both read in the same number of streams.
With one seed the blocks are of text, and the interval is that of these weights alone: another
training may lie outside of it. With two seeds and more each seed is a block.

These functions take and return plain values and need no torch.

Reference: Merrill et al. 2025, arXiv 2505.23971: branches from checkpoints, compared at equal data
within a tolerance, which there is in the loss's unit. The comparison over the same examples, and
its interval, are ours.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from legw.analysis.noise import jackknife_ratio
from legw.analysis.stats import LEVEL, t_quantile
from legw.errors import MAX_NUMBER, LegwError, check_range, number, setting
from legw.recipe.branch_rate import compared_from

TOLERANCE = 0.01
"""Default tolerance: share of the base's loss by which a branch's may be higher."""

BLOCKS = 5
"""Most blocks of a comparison. The losses of neighbouring updates depend on each other through the
weights, for many updates: only long blocks hardly do."""

END_FREEDOM = 2
"""Degrees of freedom of the end of a line: the last of the blocks weigh most in it."""

MIN_BRANCH_UPDATES = 20
"""Fewest updates that a branch makes after it has warmed up again."""

Pairs = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One batch size of a ladder of branches: how much its loss is above the base's."""

    k: float
    """Batch size over the base's, above 1."""
    batch_size: int
    """In examples."""
    excess: float | None
    """Share of the base's loss by which it is higher, below 0 if it is lower, or in the loss's
    unit; None where the branch diverged."""
    half_width: float | None
    """Half the width of the interval of `excess`; None where there are too few updates, or the
    branch diverged."""
    updates: int
    """Updates of one branch."""
    seeds: int
    """Number of branches, one a seed."""

    @property
    def low(self) -> float:
        """Lower end of the interval; infinite where the branch diverged."""
        return math.inf if self.excess is None else self.excess - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; infinite where it is not known."""
        if self.excess is None or self.half_width is None:
            return math.inf
        return self.excess + self.half_width


@dataclass(frozen=True, kw_only=True)
class CriticalBatch:
    """The critical batch size at one point of a run."""

    value: float | None
    """In examples; None where no branch's loss was above the tolerance."""
    low: float
    """Lower end of its interval, in examples: at least the base's batch size."""
    high: float | None
    """Upper end; None where no branch is surely above the tolerance."""
    largest: int
    """Largest batch size, of those tried, whose loss is within the tolerance, as are all below."""


def check_tolerance(tolerance: float, *, absolute: bool = False) -> None:
    """Raise unless a tolerance is above 0, and below 1 where it is a share.

    Raises:
        LegwError: it is not.
    """
    most = MAX_NUMBER if absolute else 1
    check_range("critical", "tolerance", tolerance, 0, most, above=True, error=LegwError)


def pairs(base: Sequence[float], branch: Sequence[float], cooldown: float = 0.0) -> Pairs:
    """Return (difference, base's loss) for each update of a branch that counts.

    Args:
        base: losses of the base's updates over some examples, at least as many as the branch's.
        branch: those of the branch's updates over the same examples.
        cooldown: share of both over which their rates fall to 0, in [0, 1). The second half of it
            counts, and both are values whose mean is that at rate 0; without any the second half
            of the branch counts.

    >>> pairs([4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], [4.0, 2.5, 2.5, 2.5])
    [(0.5, 2.0), (0.5, 2.0)]
    """
    cuts = [round(i * len(base) / len(branch)) for i in range(len(branch) + 1)]
    first = compared_from(len(branch), cooldown)
    change = _change(base[cuts[first] :])
    found = []
    for loss, (begin, end) in list(zip(branch, itertools.pairwise(cuts), strict=True))[first:]:
        expected = statistics.fmean(base[begin:end]) - change * (end - begin - 1) / 2
        found.append((loss - expected, expected))
    if not cooldown:
        return found
    differences, losses = (at_rate_0(each) for each in zip(*found, strict=True))
    return list(zip(differences, losses, strict=True))


def end_pairs(base: Sequence[float], branch: Sequence[float]) -> Pairs:
    """Return (difference, base's loss) for each window of a text that both have read at their ends.

    Args:
        base: losses of the base's last weights, one a window.
        branch: those of the branch's, of the same windows.

    >>> end_pairs([2.0, 4.0], [2.5, 4.25])
    [(0.5, 2.0), (0.25, 4.0)]
    """
    return [(theirs - loss, loss) for loss, theirs in zip(base, branch, strict=True)]


def at_rate_0(values: Sequence[float]) -> list[float]:
    """Return values of a cooldown's end as ones whose mean is that where the rate is 0.

    A straight line, by least squares, is followed to the end. Each value is that of its end, and
    what the error of its update adds to that: so their spread is the end's.

    Args:
        values: one an update, at least one, up to the end of a rate that falls linearly to 0.

    >>> [round(each, 6) for each in at_rate_0([5.0, 4.0, 3.0, 2.0])]
    [1.0, 1.0, 1.0, 1.0]
    """
    count = len(values)
    if count == 1:
        return list(values)
    left = range(count, 0, -1)  # updates, in proportion to the rate
    rise, end = statistics.linear_regression(left, values)
    middle = (count + 1) / 2
    squares = sum((each - middle) ** 2 for each in left)
    return [
        end + (1 - count * middle * (each - middle) / squares) * (value - end - rise * each)
        for value, each in zip(values, left, strict=True)
    ]


def _change(losses: Sequence[float]) -> float:
    """Return the change of the loss in one update: a straight line's, by least squares."""
    if len(losses) < 2:
        return 0.0
    return statistics.linear_regression(range(len(losses)), losses)[0]


def rung(
    k: float,
    batch_size: int,
    runs: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    absolute: bool = False,
    cooldown: float = 0.0,
    ends: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> Rung:
    """Return the excess of the branches of one batch size.

    Args:
        k: batch size over the base's, above 1.
        batch_size: in examples.
        runs: for each seed the losses of the base and of the branch over the same examples; a loss
            that is not a number ends a branch that diverged.
        absolute: True gives the excess in the loss's unit.
        cooldown: as for `pairs`.
        ends: of streams for each seed the losses of the base's and of the branch's last weights
            over the same text; these are then compared.

    Raises:
        LegwError: the base's loss is not above 0.

    >>> rung(2, 32, [([2.0] * 80, [2.1] * 40)])
    Rung(k=2, batch_size=32, excess=0.05, half_width=0.0, updates=40, seeds=1)
    """
    updates = max(len(branch) for _, branch in runs)
    if any(not all(map(math.isfinite, branch)) for _, branch in [*runs, *ends]):
        return Rung(k=k, batch_size=batch_size, excess=None, half_width=None, updates=updates,
                    seeds=len(runs))  # fmt: skip
    if ends:
        each = [end_pairs(base, branch) for base, branch in ends]
    else:
        each = [pairs(base, branch, cooldown) for base, branch in runs]
    together = [(d, 1.0 if absolute else loss) for found in each for d, loss in found]
    few = 2 if ends else BLOCKS  # from so many seeds on, each is a block
    blocks = len(each) if len(each) >= few else BLOCKS
    excess, half = jackknife_ratio(together, blocks=blocks)
    if cooldown and not ends and half is not None and len(each) < BLOCKS:
        half *= t_quantile(LEVEL, END_FREEDOM) / t_quantile(LEVEL, BLOCKS - 1)
    if excess is None:
        raise LegwError(
            "critical: the base's loss is not above 0, and an excess is a share of it; give "
            f"{setting('absolute')}, and the tolerance in the loss's unit"
        )
    return Rung(k=k, batch_size=batch_size, excess=round(excess, 12), half_width=half,
                updates=updates, seeds=len(runs))  # fmt: skip


def passed(one: Rung, tolerance: float) -> bool:
    """Whether a branch's loss is surely above the tolerance, by its interval's lower end."""
    return one.low > tolerance


def critical_batch(
    rungs: Sequence[Rung], batch_size: int, tolerance: float = TOLERANCE
) -> CriticalBatch:
    """Return the critical batch size of a ladder of branches.

    Args:
        rungs: by ascending batch size, at least one.
        batch_size: the base's, in examples.
        tolerance: of the excess, in its unit, above 0.

    >>> ladder = [Rung(k=k, batch_size=16 * k, excess=e, half_width=0.002, updates=40, seeds=1)
    ...           for k, e in [(2, 0.0), (4, 0.004), (8, 0.02)]]
    >>> found = critical_batch(ladder, 16, tolerance=0.01)
    >>> round(found.value), round(found.low), round(found.high), found.largest
    (83, 76, 91, 64)
    """
    ks = [1.0, *(one.k for one in rungs)]
    middle = [math.inf if one.excess is None else one.excess for one in rungs]
    value = _crossing(ks, [0.0, *middle], tolerance)
    low = _crossing(ks, [0.0, *(one.high for one in rungs)], tolerance)
    high = _crossing(ks, [0.0, *(one.low for one in rungs)], tolerance)
    within = list(itertools.takewhile(lambda e: e <= tolerance, middle))
    return CriticalBatch(
        value=None if value is None else batch_size * value,
        low=batch_size * (ks[-1] if low is None else low),
        high=None if high is None else batch_size * high,
        largest=rungs[len(within) - 1].batch_size if within else batch_size,
    )


def _crossing(ks: Sequence[float], excesses: Sequence[float], tolerance: float) -> float | None:
    """Return the first k at which a line through points is above the tolerance; None for none."""
    for (k, below), (next_k, above) in itertools.pairwise(zip(ks, excesses, strict=True)):
        if above > tolerance:
            if math.isinf(above):
                return k
            return float(k * (next_k / k) ** ((tolerance - below) / (above - below)))
    return None


def excess_at(rungs: Sequence[Rung], k: float) -> float | None:
    """Return the excess of a multiple of the batch, on the lines between those measured.

    Args:
        rungs: by ascending batch size.
        k: batch size over the base's, at least 1.

    Returns:
        None past the largest that was measured, or where a branch diverged.

    >>> excess_at([Rung(k=4, batch_size=64, excess=0.02, half_width=None, updates=9, seeds=1)], 2)
    0.01
    """
    points = [(1.0, 0.0), *((one.k, one.excess) for one in rungs)]
    for (low, below), (high, above) in itertools.pairwise(points):
        if low <= k <= high:
            if below is None or above is None:
                return None
            return below + (above - below) * math.log(k / low) / math.log(high / low)
    return None


# As plain values and as lines ----------------------------------------------------------


def over_points(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the smallest critical batch of a run's points, as plain values.

    Args:
        points: at least one, each with its ``critical_batch`` as plain values and its ``epoch``.

    Returns:
        ``critical_batch``, the ``epoch`` of its point, and ``largest_batch``: the largest of
            those tried that is within the tolerance at every point.
    """
    smallest = min(points, key=_order)
    return {
        "critical_batch": dict(smallest["critical_batch"]),
        "epoch": smallest["epoch"],
        "largest_batch": min(point["critical_batch"]["largest"] for point in points),
    }


def _order(point: Mapping[str, Any]) -> tuple[float, float]:
    found = point["critical_batch"]
    return (math.inf if found["value"] is None else found["value"], found["low"])


def critical_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the critical batch size as a line, the advice as another, and the noise batch.

    Args:
        found: the values that `legw.probes.measure_critical` returns.
    """
    smallest, largest = found["critical_batch"], found["largest_batch"]
    size = f"at least {largest}" if smallest["value"] is None else number(smallest["value"], 3)
    return [
        f"critical batch size {size} examples ({interval(smallest)}) at epoch "
        f"{number(found['epoch'], 3)}, the smallest of {len(found['points'])} points; tolerance "
        f"{_tolerance(found)}",
        _advice(found),
        *_held_back(found),
        *_noise_batch(found.get("noise_batch")),
        *_one_seed(found.get("plan", {})),
    ]


def _held_back(found: Mapping[str, Any]) -> list[str]:
    """Return a line where a branch ends surely below the base, by more than the tolerance.

    A larger batch makes fewer updates of the same examples: where it ends lower all the same, a
    setting of the base is poor at the base's own batch.
    """
    below = [
        (one["excess"], one["batch_size"], point["epoch"])
        for point in found["points"]
        for one in point["branches"]
        if one["half_width"] is not None and one["excess"] + one["half_width"] < -found["tolerance"]
    ]
    if not below:
        return []
    excess, batch_size, epoch = min(below)
    by = number(-excess, 3) if found["absolute"] else f"{-excess:.3g} of it"
    return [
        f"batch {batch_size} ends below the base's loss, by {by}, at epoch {number(epoch, 3)}: the "
        "base is held back at its own batch, for example by its rate or by a beta2 too small for "
        "rare words; tune these at its batch first"
    ]


def _one_seed(plan: Mapping[str, Any]) -> list[str]:
    """Return what the intervals of streams leave out where there is one seed."""
    if not plan.get("streams") or len(plan["seeds"]) > 1:
        return []
    return ["these intervals leave out how much another training would differ: give more "
            f"{setting('seeds')}"]  # fmt: skip


def _noise_batch(found: Mapping[str, Any] | None) -> list[str]:
    """Return the noise batch as a line, and what it is for; nothing where none was fitted."""
    if found is None:
        return []
    if found["value"] is None:
        what = f"no noise batch: no branch is behind the base ({interval(found)})"
    else:
        what = f"noise batch {number(found['value'], 3)} examples ({interval(found)})"
    given = f"{setting('keep_quality', '1%')} with {setting('critical', 'DIR')}"
    return [f"{what}, fitted to all branches: how much longer a larger batch trains; {given} "
            "takes both numbers"]  # fmt: skip


def _advice(found: Mapping[str, Any]) -> str:
    smallest, largest, base = found["critical_batch"], found["largest_batch"], found["base"]
    k = largest // base["batch_size"]
    widths = [one["half_width"] for each in found["points"] for one in each["branches"]]
    if any(width is not None and width > 2 * found["tolerance"] for width in widths):
        return (
            "some intervals are wider than the tolerance: give more "
            f"{setting('seeds')}, a larger {setting('budget')} or a larger {setting('tolerance')}"
        )
    if smallest["value"] is None:
        return (
            f"batch {largest} (k = {k}) is within the tolerance at every point; give a larger "
            f"{setting('window')} and {setting('budget')} to look further"
        )
    if k == 1:
        return (
            "no larger batch is within the tolerance at every point: expect to need more epochs "
            f"at any, or give a larger {setting('tolerance')}"
        )
    later = max(point["critical_batch"]["largest"] for point in found["points"])
    grows = f"; elsewhere in the run batch {later} is, too" if later > largest else ""
    return (
        f"batch {largest} (k = {k}) is within the tolerance at every point{grows}; a larger one "
        "needs more epochs for the same loss"
    )


def _tolerance(found: Mapping[str, Any]) -> str:
    """Return the tolerance as text."""
    if found["absolute"]:
        return f"{number(found['tolerance'], 3)} above the base's loss"
    return f"{found['tolerance']:.3g} of the base's loss"


def interval(part: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a critical batch, or of a noise batch, as text.

    >>> interval({"low": 120.0, "high": None})
    '95 % interval from 120'
    """
    if part["high"] is None:
        return f"95 % interval from {number(part['low'], 3)}"
    return f"95 % interval {number(part['low'], 3)} to {number(part['high'], 3)}"
