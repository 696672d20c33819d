"""Run a study: what is pending, one after the other, into one folder.

    FOLDER/runs/NAME/     one run folder a run
    FOLDER/table.json     one row a run, as far as they are
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from legw import records, study
from legw.records import Summary
from legw.study import Plan, Planned, Row
from legw.train import Observer, Settings, Task, fit


def run_pending(
    plan: Plan,
    task: Task,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    watch: Callable[[Planned], Sequence[Observer]] = lambda run: (),
) -> list[Row]:
    """Run what is pending; a run that was stopped goes on from its checkpoint.

    Args:
        plan: all runs of the study.
        task: what is trained.
        folder: the study's folder; made if it is not there.
        settings: how the runs are made.
        watch: returns the observers of a run, for progress.

    Returns:
        The table's rows, all runs of the plan; an interruption ends the study early.

    Raises:
        RunError: a folder cannot be written, or holds a run of another recipe.
    """
    folder = records.create(folder)
    settings = replace(settings or Settings(), resume=True)
    study.rows(plan.runs, folder)  # refuses a folder with other recipes before anything runs
    for run in study.pending(plan.runs, folder):
        summary = run_one(run, task, folder, settings=settings, observers=watch(run))
        write_table(plan, folder)
        if summary.status == "interrupted":
            break
    return write_table(plan, folder)


def run_one(
    run: Planned, task: Task, folder: Path, *, settings: Settings, observers: Sequence[Observer]
) -> Summary:
    """Run one run of a study, or go on with it."""
    return fit(
        task,
        run.recipe,
        out=folder / "runs" / run.name,
        seed=run.seed,
        base=run.base,
        rule=run.rule,
        settings=settings,
        observers=observers,
    )


def write_table(plan: Plan, folder: Path) -> list[Row]:
    """Write table.json from what the run folders hold, and return its rows."""
    rows = study.rows(plan.runs, folder)
    records.write_json(folder / "table.json", [asdict(row) for row in rows])
    return rows
