"""Recipe to use after a study: the largest batch whose quality the study has shown.

Of the cells that keep the base's metric within the tolerance, the largest batch is taken; where
none is shown to keep it, the largest that may; and where all lose, the base itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from legw.analysis.evidence import Evidence
from legw.analysis.table import Cell, Table
from legw.analysis.trials import best_trials, shown_as
from legw.analysis.verdict import Outcome
from legw.recipe import Recipe
from legw.rules import LEGW, STEERING
from legw.study.plan import BASE


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The recipe that a study speaks for, and why."""

    recipe: Recipe
    """The recipe as its runs trained it."""
    rule: str
    """Name of the rule that made it, or `base`."""
    reason: str
    """The finding of the study, in one or two sentences."""


def advice(evidence: Evidence) -> Advice | None:
    """Return the recipe that a study speaks for; None where it compares nothing with a base.

    Among rules that keep the metric at the same batch LEGW comes first, as nothing of it was
    chosen there; then the best mean. AdaScale, which changes its rates while the run
    goes on, is left out: its recipe alone does not say what was trained.

    Args:
        evidence: of one study, or of runs of one task.
    """
    table = best_trials(evidence.table)
    recipes = _recipes(evidence)
    judged = [
        (cell, verdict.outcome)
        for cell in table.cells
        if (cell.variant, cell.rule, cell.batch_size) in recipes
        and cell.batch_size > _base_batch(table, cell)
        and (verdict := table.verdict(cell)) is not None
    ]
    if not judged:
        return None
    outcomes: tuple[Outcome, ...] = ("keeps", "cannot tell")
    for outcome in outcomes:
        found = [cell for cell, theirs in judged if theirs == outcome]
        if found:
            cell = _largest(table, found)
            recipe = recipes[cell.variant, cell.rule, cell.batch_size]
            return Advice(recipe=recipe, rule=cell.rule, reason=_reason(table, cell, outcome))
    variant = _largest(table, [cell for cell, _ in judged]).variant
    base = table.base_of(variant)
    if base is None or (variant, BASE, base.batch_size) not in recipes:
        return None
    reason = f"Every larger batch loses more than {_tolerance(table)}: this is the base's own."
    return Advice(recipe=recipes[variant, BASE, base.batch_size], rule=BASE, reason=reason)


def _recipes(evidence: Evidence) -> dict[tuple[str, str, int], Recipe]:
    """Return the recipe of each cell that has a finished run, as the table names the cell."""
    found: dict[tuple[str, str, int], Recipe] = {}
    for row, run in evidence.runs:
        name = shown_as(evidence.table, row.rule, row.batch_size, row.variant)
        if row.status == "finished" and name is not None and row.rule not in STEERING:
            found.setdefault((row.variant, name, row.batch_size), run.manifest.recipe)
    return found


def _base_batch(table: Table, cell: Cell) -> int:
    base = table.base_of(cell.variant)
    return base.batch_size if base else 0


def _largest(table: Table, cells: list[Cell]) -> Cell:
    """Return the cell of the largest batch; there LEGW's, or else the one with the best mean."""
    size = max(cell.batch_size for cell in cells)
    there = [cell for cell in cells if cell.batch_size == size]
    ours = [cell for cell in there if cell.rule == LEGW.name]
    sign = 1 if table.higher_is_better else -1
    return max(ours or there, key=lambda cell: sign * fmean(cell.metrics or (0.0,)))


def _reason(table: Table, cell: Cell, outcome: Outcome) -> str:
    what = f"batch {cell.batch_size} under {cell.rule}"
    kept = f"the base's {table.metric} within {_tolerance(table)}"
    if outcome == "keeps":
        return f"The largest batch that is shown to keep {kept}: {what}."
    return (
        f"No larger batch is shown to keep {kept}. The largest that may is {what}: "
        "more seeds decide."
    )


def _tolerance(table: Table) -> str:
    return table.tolerance.of(table.metric)
