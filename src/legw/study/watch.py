"""Watching a folder: the progress, loss so far and expected end of each run below it.

Only the ends of the files are read, so that watching does not slow the runs. A folder's lock shows
whether its run goes on: the system drops it when the process dies.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from legw.errors import LegwError, RunError
from legw.runs import locks, reading, records
from legw.runs.records import Evaluation, Manifest, Update
from legw.schedule import in_unit
from legw.study import durations
from legw.study import plan as study
from legw.study.plan import Planned, Row

TAIL_BYTES = 16_384
"""Bytes at the end of metrics.jsonl that are read."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One run, as far as it is."""

    name: str
    """Its folder's name."""
    status: str
    """running, stopped (begun, and no process works on it), finished, diverged, interrupted,
    or missing (planned, and not begun)."""
    updates: int = 0
    """Updates made, as far as they are written."""
    planned: int | None = None
    """Updates of the whole run; at most, where a rule steers."""
    epoch: float = 0.0
    """Position in epochs."""
    epochs: float | None = None
    """Length of the run."""
    loss: float | None = None
    """Loss of the last update that is written."""
    metric_name: str = ""
    """Name of the metric."""
    metric: float | None = None
    """As measured last."""
    seconds_left: float | None = None
    """Training time that is left at the run's mean speed; None where nothing is known."""
    problem: str = ""
    """A file that could not be read, as one line."""

    @property
    def share(self) -> float:
        """Share of the run that is finished, in [0, 1]."""
        if self.status == "finished":
            return 1.0
        return min(self.updates / self.planned, 1.0) if self.planned else 0.0


@dataclass(frozen=True, kw_only=True)
class View:
    """All runs below a folder at one moment."""

    runs: tuple[Progress, ...]
    """Those that are planned, in their order, and others after them."""
    seconds_left: float | None = None
    """Time until the last ends, if as many go on at a time as now; None if unknown."""
    problems: tuple[str, ...] = ()
    """Studies that could not be read, one line each."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(run.status in ("finished", "diverged") for run in self.runs)


def look(folder: str | Path) -> View:
    """Return the progress of the runs below a folder.

    A run or a study that cannot be read is shown with its problem.
    """
    folder = Path(folder)
    planned, problems = _planned(folder)
    places = dict.fromkeys([*planned, *records.find_runs(folder)])
    several = len({place.parent for place in places}) > 1
    runs = []
    for place in places:
        run = progress(place, folder)
        name = str(place.relative_to(folder)) if several and place != folder else place.name
        runs.append(replace(run, name=name))
    waiting = [
        planned.get(place)
        for place, run in zip(places, runs, strict=True)
        if run.status in ("missing", "stopped", "interrupted")
    ]
    left = _time_left(list(places), runs, waiting)
    return View(runs=tuple(runs), seconds_left=left, problems=tuple(problems))


ALIKE = ("finished", "diverged", "missing")
"""States in which one line for all seeds of a group says enough."""


def grouped(runs: Sequence[Progress]) -> list[Progress]:
    """Return the runs in their order, with one line for the seeds of a group that have ended.

    Seeds are told by the end of the name, as in ``legw-b64-s0``. Loss and metric of a group are
    means over its seeds; seeds that differ in state stay apart.

    >>> runs = [Progress(name=f"legw-b64-s{seed}", status="missing") for seed in range(3)]
    >>> [run.name for run in grouped(runs)]
    ['legw-b64, 3 seeds']
    """
    groups: dict[tuple[str, ...], list[Progress]] = {}
    for run in runs:
        stem = re.sub(r"-s\d+$", "", run.name)
        apart = run.status not in ALIKE or bool(run.problem) or stem == run.name
        key = (run.name,) if apart else (stem, run.status, run.metric_name)
        groups.setdefault(key, []).append(run)
    return [_mean(key[0], group) for key, group in groups.items()]


def _mean(stem: str, group: Sequence[Progress]) -> Progress:
    if len(group) == 1:
        return group[0]
    losses = [run.loss for run in group if run.loss is not None]
    metrics = [run.metric for run in group if run.metric is not None]
    return replace(
        group[0],
        name=f"{stem}, {len(group)} seeds",
        loss=fmean(losses) if losses else None,
        metric=fmean(metrics) if metrics else None,
    )


def _planned(folder: Path) -> tuple[dict[Path, Planned], list[str]]:
    """Return the planned runs below a folder, by their folders; and the problems."""
    found: dict[Path, Planned] = {}
    problems = []
    for place in reading.find(folder, "study.json"):
        try:
            asked = study.read(place)
            runs = study.plan(asked).runs if asked else ()
        except LegwError as error:
            problems.append(str(error))
            continue
        found |= {place / "runs" / run.name: run for run in runs}
    return found, problems


def progress(place: Path, folder: Path | None = None) -> Progress:
    """Return the progress of one run.

    Args:
        place: the run's folder.
        folder: links in `place` must not lead out of it; None allows any link.
    """
    if not records.begun(place):
        return Progress(name=place.name, status="missing")
    try:
        if folder is not None and reading.leads_out(place, folder):
            raise RunError(f"{place}: is a link that leads out of {folder}, and is not followed")
        manifest, summary = records.read_manifest(place), records.read_summary(place)
    except LegwError as error:
        return Progress(name=place.name, status="stopped", problem=str(error))
    try:
        update, evaluation = last_rows(place / "metrics.jsonl")
        problem = ""
    except RunError as error:
        update = evaluation = None
        problem = f"{place / 'metrics.jsonl'}: {error}"
    status = summary.status if summary else "running" if locks.is_held(place) else "stopped"
    made = summary.updates if summary else update.update + 1 if update else 0
    return Progress(
        name=place.name,
        status="running" if locks.is_held(place) else status,
        updates=made,
        planned=manifest.updates,
        epoch=_made_epochs(manifest, made, update),
        epochs=_all_epochs(manifest),
        loss=update.loss if update else None,
        metric_name=manifest.metric,
        metric=evaluation.metric if evaluation else None,
        seconds_left=_seconds_left(update, made, manifest) if summary is None else None,
        problem=problem,
    )


def _made_epochs(manifest: Manifest, made: int, update: Update | None) -> float:
    """Return the passes over the data that so many updates made."""
    if manifest.recipe.batch_schedule is not None:  # the row knows best what was a pass
        return update.epoch if update else 0.0
    return made * manifest.recipe.batch_size / manifest.num_examples


def _all_epochs(manifest: Manifest) -> float:
    """Return the passes over the data of the whole run."""
    if manifest.recipe.batch_schedule is not None:
        return in_unit(manifest.recipe, "epochs", manifest.num_examples).length
    return manifest.updates * manifest.recipe.batch_size / manifest.num_examples


def _seconds_left(update: Update | None, made: int, manifest: Manifest) -> float | None:
    if update is None or not update.seconds or not made:
        return None
    return update.seconds / made * max(manifest.updates - made, 0)


def last_rows(path: Path) -> tuple[Update | None, Evaluation | None]:
    """Return the last update and the last evaluation at a file's end; None if there is none.

    Raises:
        RunError: it is no plain file, is too large, cannot be read, or its end has bytes and
            no row.
    """
    found: dict[str, Update | Evaluation] = {}
    if not reading.there(path):
        return None, None
    try:
        with reading.open_plain(path, reading.MAX_METRICS_BYTES) as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            lines = file.read(TAIL_BYTES).splitlines()
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror}; check the path") from None
    for line in lines:  # the first may be cut off at its beginning, the last half-written
        row = records.row_of_line(line)
        if row is not None:
            found[type(row).__name__] = row
    if not found and len(lines) > 1:  # a single one may be half-written
        raise RunError("its end has no row that can be read")
    update, evaluation = found.get("Update"), found.get("Evaluation")
    assert update is None or isinstance(update, Update)
    assert evaluation is None or isinstance(evaluation, Evaluation)
    return update, evaluation


def _time_left(
    places: Sequence[Path], runs: Sequence[Progress], waiting: Sequence[Planned | None]
) -> float | None:
    """Return the time until all ends, with as many at a time as are running now."""
    going = [run.seconds_left for run in runs if run.status == "running"]
    known = [seconds for seconds in going if seconds is not None]
    if not going or len(known) < len(going):
        return None
    left = sum(known)
    if waiting:
        rates = durations.measured("", _rows(places), cache=places[0])
        times = [durations.seconds(run, rates) for run in waiting if run and rates]
        if len(times) < len(waiting) or None in times:
            return None
        left += sum(time or 0.0 for time in times)
    return max(left / len(going), *known)


def _rows(places: Sequence[Path]) -> list[Row]:
    found = []
    for place in places:
        with contextlib.suppress(LegwError):
            found.append(study.row_of(records.read_manifest(place), records.read_summary(place)))
    return found
