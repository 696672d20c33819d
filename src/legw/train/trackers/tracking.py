"""Tracking of a run: an observer that hands each row to a tracker, in a thread of its own.

    fit --on_update--> waiting rows --once a second--> Tracker.log

A tracker may be slow, wait for a network that is not there, or fail: the run neither waits nor
ends. FOLDER/tracker-NAME.json keeps the id of the tracker's run and how far it has been served, so
that a run that resumes goes on with the same one, and hands over what is missing there.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from legw.errors import LegwError, LegwWarning, RunError, given, one_line
from legw.runs import files, reading, records
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.train import scalars
from legw.train.task import Observer
from legw.train.trackers.tracker import End, Point, Start, Tracker

EVERY_SECONDS = 1.0
"""Time between two calls of a tracker: rows are handed over together."""

MAX_SECONDS_AT_END = 20.0
"""Longest wait for a tracker at the end of a run; then it is left to itself."""

MAX_WAITING = 200_000
"""Most rows that wait for a tracker; with more it counts as failed."""

MAX_ID = 256
"""Longest id of a tracker's run, in characters."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """Content of tracker-NAME.json: how far a tracker has been served."""

    id: str = ""
    """Id of the tracker's run; empty where there is none yet."""
    updates: int = 0
    """Updates up to which it has all rows of updates."""
    evaluations: int = -1
    """Updates up to which it has all evaluations; -1 where it has none."""


class Tracking(Observer):
    """Hands a run over to one tracker.

    Warns with one line (`LegwWarning`) where the tracker fails; the run goes on.

    Args:
        name: the tracker's, for messages and the file in the run folder.
        tracker: the one to call.
        folder: the run folder.
    """

    def __init__(self, name: str, tracker: Tracker, folder: Path) -> None:
        self._name, self._tracker, self._folder = name, tracker, folder
        self._path = folder / f"tracker-{scalars.name_of(name)}.json"
        self._metric = "metric"
        self._served = self._kept = Served()
        self._id = ""
        self._changed = threading.Condition()
        self._waiting: list[tuple[Point, bool]] = []
        self._end: End | None = None
        self._failure = ""
        self._told = False
        self._thread: threading.Thread | None = None

    # In the run's thread --------------------------------------------------------------

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._metric = manifest.metric
        self._served = self._kept = self._read()
        start = Start(
            project=scalars.name_of(manifest.task),
            name=scalars.name_of(self._folder.absolute().name),
            folder=self._folder,
            config=scalars.configuration(manifest),
            id=self._served.id,
        )
        for row in self._earlier() if updates_done else ():
            self._add(row)
        self._thread = threading.Thread(
            target=self._work, args=(start,), name=f"legw-{self._name}", daemon=True
        )
        self._thread.start()

    def on_update(self, row: Update) -> None:
        self._add(row)

    def on_evaluation(self, row: Evaluation) -> None:
        self._add(row)

    def on_end(self, summary: Summary) -> None:
        assert summary.status != "running"
        self._finish(
            End(
                status=summary.status,
                reason=summary.reason,
                update=summary.updates,
                values=scalars.of_summary(summary),
            )
        )

    def close(self) -> None:
        """Tell the tracker that an error has ended the run, unless the end has been told."""
        if self._thread is not None and self._end is None:
            self._finish(End(status="failed", reason="an error", update=0, values={}))

    def _add(self, row: Update | Evaluation) -> None:
        """Let a row wait for the tracker, unless the tracker had it before a restart."""
        self._tell()
        update = isinstance(row, Update)
        step = row.update + 1 if isinstance(row, Update) else row.update
        had = self._served.updates if update else self._served.evaluations
        if step <= had or self._failure:
            return
        values = (
            scalars.of_update(row)
            if isinstance(row, Update)
            else scalars.of_evaluation(row, self._metric)
        )
        point = Point(step, {**values, "epoch": row.epoch}, time.time())
        with self._changed:
            self._waiting.append((point, update))
            if len(self._waiting) > MAX_WAITING:
                self._failure = f"{MAX_WAITING} rows wait for it"
                self._waiting.clear()

    def _finish(self, end: End) -> None:
        if self._thread is None:
            return
        with self._changed:
            self._end = end
            self._changed.notify()
        self._thread.join(MAX_SECONDS_AT_END)
        if self._thread.is_alive() and not self._failure:
            self._failure = f"it is not done {MAX_SECONDS_AT_END:g} s after the run"
        self._tell()

    def _tell(self) -> None:
        """Warn of a failure, once, and from the run's own thread."""
        if self._failure and not self._told:
            self._told = True
            line = (
                f"{given('log_to', self._name)}: {self._failure}; the run goes on without it, "
                f"its numbers are in {self._folder}"
            )
            warnings.warn(line, LegwWarning, stacklevel=2)

    # In the tracker's thread ------------------------------------------------------------

    def _work(self, start: Start) -> None:
        """Serve the tracker until the run ends, or the tracker fails."""
        try:
            self._id = self._tracker.start(start)
            points: list[tuple[Point, bool]] = []
            while True:
                self._keep(points)
                points, end = self._take()
                if points:
                    self._tracker.log([point for point, _ in points])
                if end is not None:
                    self._keep(points)
                    self._tracker.finish(end)
                    return
        except Exception as error:  # whatever a library of others may raise
            kind = type(error).__name__
            said = one_line(" ".join(str(error).split()) or kind, 200)
            self._failure = self._failure or said
            self._waiting.clear()

    def _take(self) -> tuple[list[tuple[Point, bool]], End | None]:
        """Wait a moment, or for the end; return the rows that wait, and the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None, timeout=EVERY_SECONDS)
            points, self._waiting = self._waiting, []
            return points, self._end

    # The file in the run folder -----------------------------------------------------------

    def _keep(self, points: list[tuple[Point, bool]]) -> None:
        """Write down how far the tracker has been served."""
        updates = [point.update for point, update in points if update]
        evaluations = [point.update for point, update in points if not update]
        found = Served(
            id=self._id,
            updates=max([self._kept.updates, *updates]),
            evaluations=max([self._kept.evaluations, *evaluations]),
        )
        if found != self._kept:
            files.write_json(self._path, asdict(found))
            self._kept = found

    def _read(self) -> Served:
        """Return how far an earlier part of the run served the tracker."""
        nothing = Served()
        if not reading.there(self._path):
            return nothing
        try:
            found = reading.typed(Served, reading.json_object(self._path))
            reading.at_least(found, updates=0, evaluations=-1)
            if not (found.id.isprintable() and len(found.id) <= MAX_ID):
                raise RunError("cannot be read: its id is none")
        except RunError as error:
            line = f"{self._path}: {error}; a new run begins at {self._name}"
            warnings.warn(line, LegwWarning, stacklevel=2)
            return nothing
        return found

    def _earlier(self) -> Iterator[Update | Evaluation]:
        """Yield the rows before a restart, in the order of updates."""
        try:
            run = records.load(self._folder)
        except LegwError:  # the manifest has just been written: its metrics alone can be damaged
            return
        rows: list[Update | Evaluation] = [*run.updates, *run.evaluations]
        yield from sorted(rows, key=_place)


def _place(row: Update | Evaluation) -> tuple[int, bool]:
    update = isinstance(row, Update)
    return row.update + update, not update
