"""Recorder: the metrics that a run writes, and its check for divergence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from legw.errors import LegwWarning
from legw.recipe import Recipe
from legw.runs import records
from legw.runs.records import Evaluation, Update
from legw.schedule import Progress, in_unit
from legw.train.accumulation import Gradient
from legw.train.checkpoint import Mean, Position
from legw.train.task import Observer

READ_BACK = 50
"""Updates between two reads of the losses from an accelerator: reading waits for it."""


@dataclass(frozen=True)
class _Unread:
    """An update whose loss may not have been read from the accelerator yet."""

    update: int
    gradient: Gradient
    lr: float


class Recorder:
    """Writes the rows of a run's metrics, detects divergence, and calls the observers.

    Args:
        folder: the run folder; None on all processes but the first, which write nothing.
        recipe: batch size and clip norm of the run.
        steered: True where the rule decides the run's length during the run.
        num_examples: examples in one epoch.
        progress: batch sizes and positions of the updates.
        position: of the run, in updates; the recorder adds up its losses.
        clock: returns the training time so far, in seconds.
        observers: called at each update and evaluation.
        keep_bytes: length of metrics.jsonl to keep, in bytes; later rows are dropped.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        recipe: Recipe,
        steered: bool = False,
        num_examples: int,
        progress: Progress,
        position: Position,
        clock: Callable[[], float],
        observers: Sequence[Observer],
        keep_bytes: int = 0,
    ) -> None:
        self._steered = steered
        self._progress = progress
        self._epochs = in_unit(recipe, "epochs", num_examples).length
        self._position, self._clock = position, clock
        self._observers = observers if folder else ()
        self._unread: list[_Unread] = []
        self._metrics = records.MetricsWriter(folder, keep_bytes) if folder else None
        if self._metrics and self._metrics.lacking:
            warnings.warn(self._metrics.lacking, LegwWarning, stacklevel=2)
        self.diverged = ""
        """Reason of divergence; empty while the run has not diverged."""

    def add(self, update: int, gradient: Gradient, lr: float) -> None:
        """Take one update; on an accelerator its loss is read some updates later."""
        self._unread.append(_Unread(update, gradient, lr))
        if gradient.loss.device.type == "cpu" or len(self._unread) >= READ_BACK:
            self.read_back()

    def read_back(self) -> None:
        """Write the rows of all updates taken, up to the one at which the run diverges.

        An accelerator computes the updates asynchronously. Their total time is known once all are
        finished, and each row gets an equal part of it.
        """
        if not self._unread:
            return
        pairs = [t for each in self._unread for t in (each.gradient.loss, each.gradient.norm)]
        numbers = torch.stack(pairs).tolist()  # waits for the last of them
        began, count = self._position.seconds, len(self._unread)
        share = (self._clock() - began) / count
        for index, unread in enumerate(self._unread):
            if self.diverged:
                break
            loss, grad_norm = numbers[2 * index : 2 * index + 2]
            self._write(self._row(unread, loss, grad_norm, began + (index + 1) * share))
        self._unread.clear()

    def _row(self, unread: _Unread, loss: float, grad_norm: float, seconds: float) -> Update:
        position, progress = self._position, self._progress
        batch_size = progress.batch_size(unread.update)
        spent = seconds - position.seconds
        position.seconds = seconds
        position.since_evaluation.add(loss)
        self._add_to_last_epoch(unread.update, loss)
        self.diverged = position.divergence.add(loss)
        if self.diverged:
            position.updates = unread.update + 1
        return Update(
            update=unread.update,
            epoch=progress.epochs(unread.update + 1),
            loss=loss,
            lr=unread.lr,
            grad_norm=grad_norm,
            examples_per_second=round(batch_size / spent, 1) if spent > 0 else None,
            seconds=round(seconds, 6),
        )

    def _add_to_last_epoch(self, update: int, loss: float) -> None:
        """Add to the mean of the last epoch; where the end is unknown, of the latest one."""
        position, (begin, epoch) = self._position, self._progress.begin(update)
        if self._steered:
            if begin % epoch < self._progress.batch_size(update):
                position.last_epoch = Mean()
            position.last_epoch.add(loss)
        elif begin >= (self._epochs - 1) * epoch:
            position.last_epoch.add(loss)

    def _write(self, row: Update) -> None:
        if self._metrics:
            self._metrics.write([row])
        for observer in self._observers:
            observer.on_update(row)

    def evaluated(self, metric: float | None) -> None:
        """Write an evaluation at the present position."""
        position = self._position
        row = Evaluation(
            update=position.updates,
            epoch=self._progress.epochs(position.updates),
            metric=metric,
            loss=position.since_evaluation.value,
            seconds=round(position.seconds, 6),
        )
        position.evaluated, position.since_evaluation = position.since_evaluation, Mean()
        if self._metrics:
            self._metrics.write([row])
            self._metrics.flush()
        for observer in self._observers:
            observer.on_evaluation(row)

    def final_loss(self, *, finished: bool) -> float | None:
        """Return the mean of the last epoch; of a run that ended early, of the last updates.

        These are those since the last evaluation, or up to it if there are none.
        """
        if finished:
            return self._position.last_epoch.value
        since = self._position.since_evaluation
        return since.value if since.count else self._position.evaluated.value

    def sync(self) -> int:
        """Bring every row to the disk; return the length of the file in bytes."""
        return self._metrics.flush(sync=True) if self._metrics else 0

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._metrics:
            self._metrics.close()
