"""Progress of a run or a study: bars in a terminal, lines elsewhere. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from legw.cli.output import cut, figure
from legw.errors import clean, duration, number
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.schedule import in_unit
from legw.study.plan import Planned
from legw.study.pool import Failed, Onlooker
from legw.train import Observer

REDRAW_SECONDS = 0.1
"""Shortest time between two redraws of the bar: a small run makes thousands of updates a second."""

BAR_FROM = 110
"""Columns of a terminal from which on there is room for a bar beside a run's figures."""

LINE_SECONDS = 5.0
"""Shortest time between two lines outside of a terminal."""


class Display(Observer):
    """Shows one run: epoch, loss, metric and learning rate.

    Args:
        console: the output; a bar if it is a terminal, else a line every few seconds.
        title: the run's name.
        clock: seconds, ascending; tests bring their own.
        updates: the run's, where it is to stop before its end.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        updates: int | None = None,
    ) -> None:
        self._console, self._title, self._clock = console, title, clock
        self._updates = updates
        self._metric: float | None = None
        self._shown_at = -LINE_SECONDS
        self._progress: Progress | None = None

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._manifest = manifest
        self._say_micro_batch(manifest)
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            *((BarColumn(bar_width=None),) if self._console.width >= BAR_FROM else ()),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._began, self._before = self._clock(), updates_done
        self._planned = min(self._updates or manifest.updates, manifest.updates)
        self._bar = self._progress.add_task(
            self._title,
            total=self._planned,
            completed=updates_done,
            figures="",
        )
        self._progress.start()

    def _say_micro_batch(self, manifest: Manifest) -> None:
        """Show the measured candidates and the chosen one; nothing without a measurement."""
        table = manifest.extra.get("micro_batch_table", {})
        if not table or not manifest.extra.get("micro_batch_measured"):
            return
        rates = ", ".join(f"{candidate}: {rate:,.0f}" for candidate, rate in table.items())
        at_once = f", {manifest.lanes} at once," if manifest.lanes > 1 else ""
        self._console.print(
            clean(
                f"{self._title}: micro-batch {manifest.micro_batch_size}{at_once} is fastest here "
                f"(examples/s at {rates})"
            ),
            highlight=False,
            markup=False,
            soft_wrap=not self._console.is_terminal,
        )

    def on_update(self, row: Update) -> None:
        now = self._clock()
        if self._progress is None or now - self._shown_at < REDRAW_SECONDS:
            return
        self._shown_at = now
        self._progress.update(self._bar, completed=row.update + 1, figures=self._figures(row))
        self._progress.refresh()

    def on_evaluation(self, row: Evaluation) -> None:
        self._metric = row.metric
        now = self._clock()
        if self._progress is not None or now - self._shown_at < LINE_SECONDS:
            return
        self._shown_at = now
        length = in_unit(self._manifest.recipe, "epochs", self._manifest.num_examples).length
        self._console.print(
            clean(
                f"{self._title}: epoch {row.epoch:.4g} of {length:g}, "
                f"loss {figure(row.loss)}, {self._manifest.metric} {figure(row.metric)}"
            ),
            highlight=False,
            markup=False,
            soft_wrap=not self._console.is_terminal,
        )

    def on_end(self, summary: Summary) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _figures(self, row: Update) -> str:
        """Return epoch, update, loss, rate, throughput and time left, as the columns allow.

        Of what does not fit, the title goes first, then the metric.
        """
        made = row.update + 1
        length = in_unit(self._manifest.recipe, "epochs", self._manifest.num_examples).length
        metric = "" if self._metric is None else f"{self._manifest.metric} {figure(self._metric)}"
        speed = row.examples_per_second
        left = self._left(made)
        parts = [
            cut(self._title, 20),
            f"epoch {row.epoch:.3g}/{length:.4g}",
            f"update {made}/{self._planned}",
            f"loss {figure(row.loss)}",
            clean(metric),
            f"lr {row.lr:.3g}",
            "" if speed is None else f"{number(speed, 3)} ex/s",
            "" if left is None else f"left {duration(left)}",
        ]
        for dropped in (0, 4):
            if len(" ".join(filter(None, parts))) >= self._console.width:
                parts[dropped] = ""
        return " ".join(filter(None, parts))

    def _left(self, made: int) -> float | None:
        """Return the seconds to the end, evaluations among them, at the speed since the start."""
        done = made - self._before
        took = self._clock() - self._began
        return took / done * (self._planned - made) if done > 0 and took > 0 else None


# A study ---------------------------------------------------------------------------


class Board:
    """Shows the finished runs of a study, and the progress of the running ones.

    Args:
        console: the output; bars if it is a terminal, else a line now and then.
        runs: all runs of the study, in their order.
        done: number of runs that were done before, at least 0.
        clock: seconds, ascending; tests bring their own.
    """

    def __init__(
        self,
        console: Console,
        runs: Sequence[Planned],
        done: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.clock = console, clock
        self.closed = False
        self.shown_at = clock()
        self._numbers = {run.name: number for number, run in enumerate(runs, start=1)}
        self.progress: Progress | None = None
        if console.is_terminal:
            line = Column(no_wrap=True, overflow="ellipsis")
            self.progress = Progress(
                TextColumn("{task.description}", table_column=line),
                *((BarColumn(),) if console.width >= BAR_FROM else ()),
                TextColumn("{task.fields[said]}", table_column=Column(no_wrap=True)),
                TextColumn("for"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
                auto_refresh=False,
            )
            self._all = self.progress.add_task("runs", total=len(runs), completed=done, said="")

    def __enter__(self) -> Board:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.progress:
            self.progress.stop()

    def watch(self, run: Planned) -> list[Observer]:
        """Return the observers of a run."""
        where = f"run {self._numbers[run.name]} of {len(self._numbers)}, {run.name}"
        return [_Line(self, where)]

    def say(self, line: str) -> None:
        """Print a line above the bars.

        Raises:
            BrokenPipeError: the output was closed, and the study is to stop.
        """
        try:
            self.console.print(clean(line), soft_wrap=not self.console.is_terminal)
        except BrokenPipeError:
            self.closed = True
            raise

    def refresh(self, *, force: bool = False) -> None:
        """Redraw the bars, unless they were redrawn a moment ago."""
        now = self.clock()
        if self.progress and (force or now - self.shown_at >= REDRAW_SECONDS):
            self.shown_at = now
            self.progress.refresh()

    def advance(self) -> None:
        """Count one more run as done."""
        if self.progress:
            self.progress.advance(self._all)
            self.refresh(force=True)


class _Line(Onlooker):
    """One run on the board."""

    def __init__(self, board: Board, where: str) -> None:
        self._board, self._where = board, where
        self._metric = ""
        self._bar: TaskID | None = None
        self._drawn_at = board.clock()

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._manifest = manifest
        if self._board.progress:
            self._bar = self._board.progress.add_task(
                self._where, total=manifest.updates, completed=updates_done, said=""
            )

    def on_update(self, row: Update) -> None:
        now = self._board.clock()
        if not self._board.progress or self._bar is None or now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        done = row.update + 1
        said = f"update {done}/{self._manifest.updates} loss {figure(row.loss)}{self._metric}"
        self._board.progress.update(self._bar, completed=done, said=said)
        self._board.refresh()

    def on_evaluation(self, row: Evaluation) -> None:
        self._metric = f" {self._manifest.metric} {figure(row.metric)}"
        now = self._board.clock()
        if self._board.progress or now - self._board.shown_at < LINE_SECONDS:
            return
        self._board.shown_at = now
        length = in_unit(self._manifest.recipe, "epochs", self._manifest.num_examples).length
        self._board.say(
            f"{self._where}: epoch {row.epoch:.4g} of {length:g}, "
            f"loss {figure(row.loss)},{self._metric}"
        )

    def on_failure(self, failed: Failed, again: bool) -> None:
        self._remove_bar()
        if again:
            self._board.say(f"{self._where}: memory ran out; tried again with fewer at a time")
        else:
            self._board.say(f"{self._where}: failed: {failed.reason}")
            self._board.advance()

    def _remove_bar(self) -> None:
        if self._board.progress and self._bar is not None:
            self._board.progress.remove_task(self._bar)
            self._bar = None

    def on_end(self, summary: Summary) -> None:
        self._remove_bar()
        self._board.shown_at = self._board.clock()
        self._board.say(f"{self._where}: {outcome(summary)}")
        if summary.status != "interrupted":
            self._board.advance()


def outcome(summary: Summary) -> str:
    """Return the end of a run, in a few words."""
    if summary.status == "diverged":
        return f"diverged at update {summary.updates}: {summary.reason}"
    if summary.status == "interrupted":
        return f"stopped after update {summary.updates}"
    metric = f"{summary.metric['name']} {figure(summary.metric['value'])}"
    return f"{metric}, {summary.updates} updates in {summary.seconds:.1f} s"
