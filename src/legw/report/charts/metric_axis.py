"""Axis of the metric's chart: the values that it covers, and those that it only names.

One rule that failed would set the scale for all others, and what a reader wants to compare would
be one line. The axis covers the base and what came near it; a cell further away is an arrow at
the axis's worse end, with its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from legw.analysis.table import Cell, Table
from legw.study.plan import BASE

MARGIN = 0.07
"""Empty room at both ends, and the height of a line of text, as shares of the covered values."""

MAX_LOSSES = 6.0
"""Largest loss that the axis covers, in multiples of the rule's that lost least."""

MAX_TOLERANCES = 3.0
"""Tolerances that the axis covers in any case."""

MAX_SPREADS = 2.0
"""Spreads of the seeds that the axis covers in any case."""


class Axis(NamedTuple):
    """The ends of the metric's axis, and what is written at its worse end."""

    low: float
    high: float
    diverged: float
    """Position of the crosses of diverged runs."""
    outside: dict[tuple[str, str, int], float]
    """Cells whose mean the axis does not cover, as (variant, rule, batch size): the position of
    their text."""


def axis_of(table: Table) -> Axis:
    """Return the axis that shows best how near the cells are to their base."""
    beyond = _outside(table)
    inside = [m for cell in table.cells if cell not in beyond for m in cell.metrics] or [0.0, 1.0]
    low, high = min(inside), max(inside)
    step = (high - low or abs(high) or 1.0) * MARGIN
    sign = -1 if table.higher_is_better else 1  # of the way towards the worse end
    end = low if table.higher_is_better else high
    if any(cell.diverged for cell in table.cells):
        end += sign * 1.3 * step
    diverged = end
    places: dict[tuple[str, str, int], float] = {}
    for size in table.batch_sizes:
        there = sorted(
            (c for c in beyond if c.batch_size == size), key=lambda c: -sign * fmean(c.metrics)
        )
        for line, cell in enumerate(reversed(there), start=1):
            places[cell.variant, cell.rule, size] = end + sign * 1.1 * step * line
    end = sign * max(sign * value for value in (end, *places.values()))
    low, high = min(low, end), max(high, end)
    return Axis(low - step, high + step, diverged, places)


def _outside(table: Table) -> Sequence[Cell]:
    """Return the cells that lie further from their base than the axis reaches."""
    losses = {
        (cell.variant, cell.rule, cell.batch_size): _loss(table, cell)
        for cell in table.cells
        if cell.rule != BASE and cell.metrics and table.base_of(cell.variant)
    }
    worst: dict[tuple[str, str], float] = {}
    for (variant, rule, _), loss in losses.items():
        worst[variant, rule] = max(loss, worst.get((variant, rule), 0.0))
    bases = [cell for cell in table.cells if cell.rule == BASE and cell.metrics]
    if len(worst) < 2 or not bases:
        return []
    best = min(worst, key=lambda line: worst[line])
    near = [cell for cell in table.cells if cell.rule == BASE or (cell.variant, cell.rule) == best]
    spread = max(max(cell.metrics) - min(cell.metrics) for cell in near if cell.metrics)
    allowed = max(table.tolerance.absolute(fmean(cell.metrics)) for cell in bases)
    limit = max(MAX_LOSSES * worst[best], MAX_SPREADS * spread, MAX_TOLERANCES * allowed)
    return [c for c in table.cells if losses.get((c.variant, c.rule, c.batch_size), 0.0) > limit]


def _loss(table: Table, cell: Cell) -> float:
    """Return how much worse than its base a cell is; below 0 where it is better."""
    base = table.base_of(cell.variant)
    if base is None or not base.metrics:
        return 0.0
    change = fmean(cell.metrics) - fmean(base.metrics)
    return -change if table.higher_is_better else change
