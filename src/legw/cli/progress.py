"""What a person sees of a run while it goes on: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.train import Observer
from legw.units import in_unit

REDRAW_SECONDS = 0.1
"""Least time between two redraws of the bar: a small run makes thousands of updates a second."""

LINE_SECONDS = 5.0
"""Least time between two lines where there is no terminal to draw in."""


def figure(value: float | None) -> str:
    """Return a loss or metric in few digits; a dash where there is none.

    >>> figure(0.98765), figure(None), figure(math.nan)
    ('0.9877', '-', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


class Display(Observer):
    """Shows one run: epoch, loss, metric and learning rate.

    Args:
        console: where to; a bar if it is a terminal, else a line every few seconds.
        title: what the run is called.
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
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task(
            self._title,
            total=min(self._updates or manifest.updates, manifest.updates),
            completed=updates_done,
            figures="",
        )
        self._progress.start()

    def _say_micro_batch(self, manifest: Manifest) -> None:
        """Show what was measured, and what was chosen; nothing where nothing was measured."""
        table = manifest.extra.get("micro_batch_table", {})
        if not table or not manifest.extra.get("micro_batch_measured"):
            return
        rates = ", ".join(f"{way}: {rate:,.0f}" for way, rate in table.items())
        at_once = f", {manifest.lanes} at once," if manifest.lanes > 1 else ""
        self._console.print(
            f"{self._title}: micro-batch {manifest.micro_batch_size}{at_once} is fastest here "
            f"(examples/s at {rates})",
            highlight=False,
            markup=False,
            soft_wrap=True,
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
            f"{self._title}: epoch {row.epoch:.4g} of {length:g}, "
            f"loss {figure(row.loss)}, {self._manifest.metric} {figure(row.metric)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def on_end(self, summary: Summary) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _figures(self, row: Update) -> str:
        metric = "" if self._metric is None else f" {self._manifest.metric} {figure(self._metric)}"
        return f"loss {figure(row.loss)}{metric} lr {row.lr:.3g}"
