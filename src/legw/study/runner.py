"""Study runner: trains pending runs in one folder, and keeps the table up to date.

What it writes:

    FOLDER/study.json     what is compared
    FOLDER/runs/NAME/     one run folder a run
    FOLDER/table.json     one row a run, as far as they are
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from legw.errors import RunError, setting
from legw.runs import files, locks, records
from legw.runs.records import Summary
from legw.study import plan as study
from legw.study.plan import Planned, Row, Study
from legw.study.shards import WHOLE, Shard

if TYPE_CHECKING:
    from legw.study.pool import MakeTask, Watch
    from legw.train import Settings, Task


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Progress of a study."""

    left: tuple[str, ...] = ()
    """Names of the runs that have not ended."""
    failed: dict[str, str] = field(default_factory=dict)
    """The runs among them that failed, with the reasons."""


def run_study(
    asked: Study,
    make_task: MakeTask,
    folder: str | Path,
    *,
    settings: Settings | None = None,
    jobs: int = 1,
    watch: Watch = lambda run: (),
    shard: Shard = WHOLE,
) -> Outcome:
    """Train the pending runs; an interrupted run resumes from its checkpoint.

    Only one process at a time works on a study's folder, or one for each shard.

    Args:
        asked: the study.
        make_task: returns the task; called once a process, and only if there
            is something to run. With several jobs it must be picklable.
        folder: the study's folder; made if it is not there.
        settings: device, precision and micro-batch size of the runs.
        jobs: number of runs at a time, at least 1; each has a process of its own.
        watch: returns the observers of a run, for progress.
        shard: the part of the study that this process makes.

    Returns:
        What is left: nothing, unless it was stopped or runs have failed.

    Raises:
        RecipeError: the study cannot be planned.
        RunError: a folder cannot be written, holds another study or a run of another
            recipe, another process works on it, or a process was lost at its start.
    """
    plan = study.plan(asked)
    folder = records.create(folder)
    with _alone(folder, shard):
        return _run(asked, plan.runs, make_task, folder, settings, jobs, watch, shard)


def _run(  # noqa: PLR0917 (the arguments of `run_study`)
    asked: Study,
    runs: Sequence[Planned],
    make_task: MakeTask,
    folder: Path,
    settings: Settings | None,
    jobs: int,
    watch: Watch,
    shard: Shard,
) -> Outcome:
    study.check_same(asked, folder)
    rows = {run.name: row for run, row in zip(runs, study.rows(runs, folder), strict=True)}
    others = study.other_rows(asked, runs, folder)
    study.write(asked, folder)
    write_table([*rows.values(), *others], folder)
    pending = study.pending(shard.of(runs), folder)
    if not pending:
        return Outcome()
    from legw.study import pool
    from legw.train import Settings

    settings = replace(settings or Settings(), resume=True)
    make_same = functools.partial(_same_data, make_task, folder, _known_data(folder))
    train = pool.in_turn if jobs == 1 else functools.partial(pool.at_a_time, jobs=jobs)
    left, failed = {run.name: None for run in pending}, {}
    for run, end in train(pending, make_same, folder, settings=settings, watch=watch):
        if shard != WHOLE:  # other processes have gone on meanwhile
            rows = {r.name: row for r, row in zip(runs, study.rows(runs, folder), strict=True)}
        if not isinstance(end, Summary):
            failed[run.name] = end.reason
            continue
        rows[run.name] = study.ended(rows[run.name], end)
        write_table([*rows.values(), *others], folder)
        if end.status != "interrupted":
            del left[run.name]
    return Outcome(left=tuple(left), failed=failed)


@contextlib.contextmanager
def _alone(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold the lock of a study's folder; shards share it, and have one each."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(locks.held(folder, shared=shard != WHOLE))
        if shard != WHOLE:
            name = f"{locks.LOCK}-{shard.number}-of-{shard.count}"
            stack.enter_context(locks.held(folder, name=name))
        else:
            files.clear_half_written(folder)
        yield


def _known_data(folder: Path) -> str:
    """Return the fingerprint of the data of a study's runs; empty if unknown."""
    for place in records.find_runs(folder / "runs"):
        found = records.read_manifest(place).data
        if found:
            return found
    return ""


def _same_data(make_task: MakeTask, folder: Path, known: str) -> Task:
    """Make the task, and check that its data are those of the existing runs.

    Raises:
        RunError: they are not.
    """
    task = make_task()
    fingerprint = getattr(task, "fingerprint", None)
    found = fingerprint() if known and fingerprint else ""
    if found and found != known:
        raise RunError(
            f"{folder}: holds a study of other data ({known}, not {found}); "
            f"give the {setting('data')} of its first run, or choose another {setting('out')}"
        )
    return task


def write_table(rows: Iterable[Row], folder: Path) -> None:
    """Write table.json, one object a run."""
    files.write_json(folder / "table.json", [asdict(row) for row in rows])
