"""What a person sees of a study while it runs: bars in a terminal, a line a run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from legw.cli.progress import LINE_SECONDS, REDRAW_SECONDS, figure
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.study.plan import Planned
from legw.study.pool import Failed, Onlooker
from legw.train import Observer
from legw.units import in_unit


class Board:
    """Shows which runs of a study are done, and how those that are going on fare.

    Args:
        console: where to; bars if it is a terminal, else a line now and then.
        runs: all runs of the study, in their order.
        done: how many of them were done before.
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
        self.shown_at = clock()
        self._numbers = {run.name: number for number, run in enumerate(runs, start=1)}
        self.progress: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self.progress = Progress(
                *columns, TimeElapsedColumn(), console=console, transient=True, auto_refresh=False
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
        """Return who looks on while a run goes on."""
        where = f"run {self._numbers[run.name]} of {len(self._numbers)}, {run.name}"
        return [_Line(self, where)]

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, soft_wrap=True)

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
        said = f"loss {figure(row.loss)}{self._metric}"
        self._board.progress.update(self._bar, completed=row.update + 1, said=said)
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
    """Return how a run ended, in a few words."""
    if summary.status == "diverged":
        return f"diverged at update {summary.updates}: {summary.reason}"
    if summary.status == "interrupted":
        return f"stopped after update {summary.updates}"
    metric = f"{summary.metric['name']} {figure(summary.metric['value'])}"
    return f"{metric}, {summary.updates} updates in {summary.seconds:.1f} s"
