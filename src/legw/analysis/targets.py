"""Targets: the updates, examples and seconds that a run needs to reach a metric.

The metric is measured at the end of each epoch, so the figures are exact to one epoch. A cell
counts only if all its runs reach the target. A run that diverges later does not count as reaching
it.

Reference: Shallue et al. 2019, arXiv 1811.03600, section 4 (steps to result against batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from legw.analysis.evidence import Evidence
from legw.analysis.table import Cell, Table
from legw.analysis.trials import best_trials, shown_as
from legw.runs.records import Evaluation, Manifest, Run
from legw.schedule import Progress
from legw.study.plan import BASE

MAIN_RULE = "legw"
"""The rule whose runs, with the base's, set the usual target."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The cost of reaching the target for the runs of one rule at one batch size."""

    name: str
    """Name of the line in charts."""
    rule: str
    """The rule's name, or `base`."""
    batch_size: int
    """Examples per update."""
    reached: int
    """Number of runs that reached the target."""
    total: int
    """Runs that have ended."""
    updates: float | None
    """Mean over runs; None unless all have reached it."""
    examples: float | None
    """Mean over runs, passes over the same example counted again."""
    seconds: float | None
    """Mean training time over runs, evaluations left out."""

    @property
    def costs(self) -> dict[str, float | None]:
        """The costs by unit."""
        return {"updates": self.updates, "examples": self.examples, "seconds": self.seconds}


def usual(table: Table) -> float | None:
    """Return the default target: the last metric of the worst run of base and LEGW.

    It is chosen from the results, so that both reach it and their costs can be compared;
    runs that diverged do not count. None where no base has finished, or a grid varies it.
    """
    base = table.base_of("") if len(table.variants) == 1 else None
    if base is None or not base.metrics:
        return None
    ended = [
        metric for cell in table.cells if cell.rule in (BASE, MAIN_RULE) for metric in cell.metrics
    ]
    return min(ended) if table.higher_is_better else max(ended)


def first(run: Run, target: float, *, higher_is_better: bool) -> Evaluation | None:
    """Return the first evaluation of a run that is as good as the target; None if there is none."""
    for row in run.evaluations:
        if row.metric is not None and (
            row.metric >= target if higher_is_better else row.metric <= target
        ):
            return row
    return None


def reached(evidence: Evidence, target: float) -> list[Reach]:
    """Return the cost of each cell, in the table's order; of a tuned optimizer its best trial.

    Args:
        evidence: of one study.
        target: in the metric's unit.
    """
    table, shown = evidence.table, best_trials(evidence.table)
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for row, run in evidence.runs:
        rule = shown_as(table, row.rule, row.batch_size, row.variant)
        if rule is not None and row.status in ("finished", "diverged"):
            groups.setdefault((row.variant, rule, row.batch_size), []).append(run)
    found = []
    for cell in shown.cells:
        runs = groups.get((cell.variant, cell.rule, cell.batch_size))
        if runs:
            name = shown.name(cell.variant, cell.rule)
            found.append(_reach(name, cell, runs, target, table.higher_is_better))
    return found


def _reach(
    name: str, cell: Cell, runs: Sequence[Run], target: float, higher_is_better: bool
) -> Reach:
    rows = [
        first(run, target, higher_is_better=higher_is_better) if run.status == "finished" else None
        for run in runs
    ]
    there = [row for row in rows if row is not None]
    whole = len(there) == len(runs)
    return Reach(
        name=name,
        rule=cell.rule,
        batch_size=cell.batch_size,
        reached=len(there),
        total=len(runs),
        updates=fmean(row.update for row in there) if whole else None,
        examples=_examples(cell, runs, there) if whole else None,
        seconds=fmean(row.seconds for row in there) if whole else None,
    )


def _examples(cell: Cell, runs: Sequence[Run], there: Sequence[Evaluation]) -> float:
    """Return the mean examples that runs had seen at an evaluation, one of each run."""
    if all(run.manifest.recipe.batch_schedule is None for run in runs):
        return fmean(row.update for row in there) * cell.batch_size
    return fmean(_seen(run.manifest, row.update) for run, row in zip(runs, there, strict=True))


def _seen(manifest: Manifest, updates: int) -> int:
    """Return the examples that so many updates of a run saw."""
    streams = manifest.recipe.num_tokens is not None  # whose epochs depend on the batch
    return Progress(manifest.recipe, None if streams else manifest.num_examples).seen(updates)
