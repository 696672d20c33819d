"""Run a study: what is pending goes into one folder, and the table is kept up to date.

What it writes:

    FOLDER/study.json     what is compared
    FOLDER/runs/NAME/     one run folder a run
    FOLDER/table.json     one row a run, as far as they are
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from legw import records, study
from legw.study import Row, Study

if TYPE_CHECKING:
    from legw.pool import MakeTask, Watch
    from legw.train import Settings


def run_study(
    asked: Study,
    make_task: MakeTask,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    jobs: int = 1,
    watch: Watch = lambda run: (),
) -> bool:
    """Run what is pending; a run that was stopped goes on from its checkpoint.

    Args:
        asked: the study.
        make_task: returns what is trained; called once a process, and only if there
            is something to run. With several jobs it must be picklable.
        folder: the study's folder; made if it is not there.
        settings: how the runs are made.
        jobs: how many runs at a time, each in a process of its own; at least 1.
        watch: returns the observers of a run, for progress.

    Returns:
        Whether all runs have ended; False after Ctrl-C or SIGTERM.

    Raises:
        RecipeError: the study cannot be planned.
        RunError: a folder cannot be written, holds another study or a run of another
            recipe, or a process was lost.
    """
    plan = study.plan(asked)
    folder = records.create(folder)
    study.check_same(asked, folder)
    rows = {
        run.name: row for run, row in zip(plan.runs, study.rows(plan.runs, folder), strict=True)
    }
    others = study.other_rows(asked, plan.runs, folder)
    study.write(asked, folder)
    write_table([*rows.values(), *others], folder)
    pending = study.pending(plan.runs, folder)
    if not pending:
        return True
    from legw import pool  # needs torch, which a finished study does not
    from legw.train import Settings

    settings = replace(settings or Settings(), resume=True)
    train = pool.in_turn if jobs == 1 else functools.partial(pool.at_a_time, jobs=jobs)
    ended = train(pending, make_task, folder, settings=settings, watch=watch)
    left = {run.name for run in pending}
    for run, summary in ended:
        rows[run.name] = study.ended(rows[run.name], summary)
        write_table([*rows.values(), *others], folder)
        if summary.status != "interrupted":
            left.remove(run.name)
    return not left


def write_table(rows: Iterable[Row], folder: Path) -> None:
    """Write table.json, one object a run."""
    records.write_json(folder / "table.json", [asdict(row) for row in rows])
