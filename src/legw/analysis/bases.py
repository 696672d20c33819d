"""Base recipes that tuning cannot tell apart, and their ranking by what predicts carrying.

Table of a grid at the base batch --contenders--> cells within seed noise of the best
Predictors of each contender --ranked--> Ranking, by `ORDER`
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legw.analysis.carrying import Predictors
from legw.analysis.check import FAST
from legw.analysis.stats import welch
from legw.analysis.table import Cell, Table
from legw.analysis.verdict import Tolerance
from legw.errors import number, setting

NEAR = 0.02
"""Relative difference up to which values of single runs are said to be open: a convention, as the
noise of a single run is not known."""


@dataclass(frozen=True)
class Criterion:
    """One predictor, in its place of the ranking."""

    predictor: str
    """Name of an attribute of `Predictors`."""
    more: bool
    """True where the larger value comes first."""
    words: str
    """The predictor in words."""
    same_optimizer: bool = False
    """Whether it compares bases of one kind of optimizer alone."""
    single_run: bool = False
    """Whether one run of each base measures it, so that a small difference may be chance."""

    def value(self, found: Predictors) -> float | None:
        """Return the value that is compared; None where it is not known."""
        value: float | None = getattr(found, self.predictor)
        return value

    def said(self, found: Predictors) -> str:
        """Return the value in words."""
        return number(self.value(found), 3)


ORDER = (
    Criterion(
        "fast_loss_ratio",
        True,
        f"loss at {FAST:g} times the rate over that at the rate",
        same_optimizer=True,
        single_run=True,
    ),
    Criterion("early_loss", False, "training loss of the first tenth"),
    Criterion("lr", True, "learning rate", True),
)
"""Predictors in the order in which they rank: each one decides among bases that are equal in those
before it. A predictor that is not known of every contender ranks none of them.

At a large batch it is updates that are missing, and a rate that could be larger makes too little of
each. The first is the one measurement that was seen to predict, over 30 bases of three optimizers;
the second is a hint, and alone compares optimizers. Headroom, clipped updates, the gap and the
noise scale were not seen to (`results/predictors`): they are shown and rank nothing."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Contenders, ranked."""

    order: tuple[str, ...]
    """Their combinations of the grid; the recommended one first."""
    why: str
    """Reason for the first place, in one line."""
    notes: tuple[str, ...] = ()
    """Predictors that are not known, that one seed leaves open, or that would choose another base,
    one line each."""


def contenders(table: Table, batch_size: int, tolerance: Tolerance) -> list[Cell]:
    """Return the cells whose difference to the best is within seed noise, the best among them.

    With two seeds or more these are the cells for which Welch's 95 % interval of the difference
    includes 0. With a single seed the noise is not known, and these are the cells within the
    tolerance. A cell with a diverged or missing run is none.

    Args:
        table: of a grid.
        batch_size: the base's own.
        tolerance: largest difference from the best, for single seeds.

    >>> cells = [Cell(variant=f"lr={lr}", rule="base", batch_size=16, metrics=metrics)
    ...          for lr, metrics in ((1, (0.90, 0.91)), (2, (0.91, 0.92)), (3, (0.5, 0.51)))]
    >>> table = Table(cells=tuple(cells))
    >>> [cell.variant for cell in contenders(table, 16, Tolerance(0.01, relative=True))]
    ['lr=1', 'lr=2']
    """
    whole = _by_mean(table, batch_size)
    return [cell for cell in table.cells if cell in whole and _equal(cell, whole[0], tolerance)]


def _by_mean(table: Table, batch_size: int) -> list[Cell]:
    """Return the cells at a batch size without diverged or missing runs, the best first."""
    whole = [
        cell for cell in table.cells
        if cell.batch_size == batch_size and cell.metrics and len(cell.metrics) == cell.total
    ]  # fmt: skip
    sign = -1 if table.higher_is_better else 1
    return sorted(whole, key=lambda cell: sign * statistics.fmean(cell.metrics))


def _equal(cell: Cell, best: Cell, tolerance: Tolerance) -> bool:
    """Whether seeds cannot tell a cell from the best."""
    if cell is best:
        return True
    difference = welch(cell.metrics, best.metrics)
    if difference is not None:
        return difference.low <= 0 <= difference.high
    mean, highest = statistics.fmean(cell.metrics), statistics.fmean(best.metrics)
    return abs(mean - highest) <= tolerance.absolute(highest)


def best_of(table: Table, batch_size: int) -> Cell:
    """Return the best cell of a grid without diverged or missing runs; there must be one.

    Args:
        table: of a grid.
        batch_size: the base's own.
    """
    return _by_mean(table, batch_size)[0]


def below_best(table: Table, batch_size: int, name: str, seeds: int, tolerance: Tolerance) -> str:
    """Return a line on a chosen base that is further below the best than the tolerance.

    Few seeds have wide intervals, which may include 0 for a base that is far worse. Empty where
    the base is near enough.

    Args:
        table: of a grid.
        batch_size: the base's own.
        name: the chosen base's combination of the grid.
        seeds: of every combination.
        tolerance: largest difference from the best that needs no word.
    """
    best = best_of(table, batch_size)
    chosen = next(cell for cell in table.cells if cell.variant == name)
    highest, mean = statistics.fmean(best.metrics), statistics.fmean(chosen.metrics)
    if abs(highest - mean) <= tolerance.absolute(highest):
        return ""
    return (
        f"{name} has {table.metric} {table.number(mean)}, {best.variant} the best with "
        f"{table.number(highest)}: {seeds} seeds do not tell them apart; give more "
        f"{setting('seeds')}"
    )


def ranked(found: Mapping[str, Predictors], order: Sequence[Criterion] = ORDER) -> Ranking:
    """Return contenders ranked by predictors.

    Args:
        found: combination of the grid -> predictors, at least one.
        order: predictors, the first to decide first.

    >>> def base(lr, early_loss):
    ...     return Predictors(lr=lr, optimizer="sgd", early_loss=early_loss)
    >>> ranked({"lr=2": base(2.0, 1.9), "lr=1": base(1.0, 1.4)}).why
    'it has the smallest training loss of the first tenth (1.4; lr=2: 1.9)'
    """
    known = [each for each in order if _is_known(each, found)]
    places = {name: _place(known, each) for name, each in found.items()}
    names = sorted(found, key=lambda name: places[name])
    return Ranking(
        order=tuple(names),
        why=_why(names, found, known),
        notes=(
            *_unknown(found, order, known),
            *_open(names, found, known),
            *_against(names, found, known),
        ),
    )


def _is_known(criterion: Criterion, found: Mapping[str, Predictors]) -> bool:
    """Whether a predictor can be compared: known of all, and of one optimizer if it has to be."""
    if criterion.same_optimizer and len({each.optimizer for each in found.values()}) > 1:
        return False
    return all(criterion.value(each) is not None for each in found.values())


def _place(known: Sequence[Criterion], found: Predictors) -> tuple[float, ...]:
    values = ((each, each.value(found)) for each in known)
    return tuple(-value if each.more else value for each, value in values if value is not None)


def _why(names: Sequence[str], found: Mapping[str, Predictors], known: Sequence[Criterion]) -> str:
    if len(names) == 1:
        return "no other is within seed noise of it"
    first, second = names[0], names[1]
    for each in known:
        if each.value(found[first]) != each.value(found[second]):
            extreme = "largest" if each.more else "smallest"
            equal = "" if each is known[0] else "among equals "
            return f"{equal}it has the {extreme} {each.words} ({_both(each, found, first, second)})"
    return "the predictors tell no difference; it comes first in the grid"


def _unknown(
    found: Mapping[str, Predictors], order: Sequence[Criterion], known: Sequence[Criterion]
) -> list[str]:
    """Return a line on the predictors that rank nothing, and why."""
    left = [each.words for each in order if each not in known]
    if len(found) == 1 or not left:
        return []
    differ = len({each.optimizer for each in found.values()}) > 1
    why = "optimizers differ, or it is not known of all" if differ else "it is not known of all"
    return [f"not compared, as {why}: {', '.join(left)}"]


def _open(
    names: Sequence[str], found: Mapping[str, Predictors], known: Sequence[Criterion]
) -> list[str]:
    """Return a line on bases that single runs do not tell from the first, which stays the first."""
    if not known or not known[0].single_run:
        return []
    values = {name: known[0].value(found[name]) for name in names}
    near = [name for name in names if _is_near(values[name], values[names[0]])]
    if len(near) < 2:
        return []
    said = ", ".join(f"{name}: {known[0].said(found[name])}" for name in near)
    return [
        f"the {known[0].words} is nearly the same ({said}): one seed does not tell them apart, and "
        "the choice between them is open"
    ]


def _is_near(one: float | None, other: float | None) -> bool:
    """Whether two values are finite, and differ by at most `NEAR`."""
    if one is None or other is None or not math.isfinite(one):
        return False
    return math.isclose(one, other, rel_tol=NEAR)


def _against(
    names: Sequence[str], found: Mapping[str, Predictors], known: Sequence[Criterion]
) -> list[str]:
    """Return a line for each predictor that alone would choose another base."""
    lines = []
    for each in known:
        places = {name: _place([each], found[name]) for name in names}
        first = min(names, key=lambda name: places[name])
        if places[first] < places[names[0]]:
            values = _both(each, found, first, names[0])
            lines.append(f"the {each.words} alone would choose {first} ({values})")
    return lines


def _both(criterion: Criterion, found: Mapping[str, Predictors], one: str, other: str) -> str:
    """Return a predictor's values of two bases, the second with its name."""
    return f"{criterion.said(found[one])}; {other}: {criterion.said(found[other])}"
