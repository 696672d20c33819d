"""TensorBoard: a run's metrics as scalars, on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from legw.errors import RunError, setting
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.train import scalars
from legw.train.task import Observer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Observer):
    """Writes loss, learning rate, gradient norm and metric under ``FOLDER/tensorboard``.

    The step of every scalar is the number of updates made.

    Args:
        folder: the run folder.

    Raises:
        RunError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunError(
                f"{setting('tensorboard')}: tensorboard is not installed; pip install "
                f"'legw[tensorboard]'"
            ) from None
        self._make = SummaryWriter
        self._folder = folder / "tensorboard"
        self._metric = "metric"
        self._writer: SummaryWriter | None = None

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._metric = manifest.metric
        self._writer = self._make(str(self._folder), purge_step=updates_done)

    def on_update(self, row: Update) -> None:
        self._write(scalars.of_update(row), row.update + 1)

    def on_evaluation(self, row: Evaluation) -> None:
        self._write(scalars.of_evaluation(row, self._metric), row.update)

    def on_end(self, summary: Summary) -> None:
        if self._writer:
            self._writer.close()

    def _write(self, values: dict[str, float], step: int) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
