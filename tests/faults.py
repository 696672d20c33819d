"""Tasks that go wrong in a worker process, which finds them by their names."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from legw.apps.row_lstm import RowTask
from legw.errors import DataError
from legw.train import Task


def lost() -> Task:
    """End the process at once, as the system does when memory is out."""
    os._exit(7)


def without_data() -> Task:
    """Find no data."""
    raise DataError("digits: are gone")


def without_data_once(mark: Path) -> Task:
    """Find no data the first time, as where a disk comes late."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return failing("")
    raise DataError("digits: are gone")


class Fails(RowTask):
    """A digit reader whose run at batch 64 fails, in the way that a file says."""

    how = ""

    def order(self, seed: int, epoch: int, batch_size: int) -> Any:
        if batch_size == 64 and epoch == 0:
            _fail(self.how)
        return super().order(seed, epoch, batch_size)


def _fail(how: str) -> None:
    if how == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if how == "memory once":
        mark = Path("tried")
        if not mark.exists():
            mark.touch()
            raise torch.OutOfMemoryError("CUDA out of memory")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(1)
    if how == "mistake":
        raise DataError("digits: one image is damaged")


def failing(how: str) -> Task:
    """Return digits that fail at batch 64; as a function of `how`, so that it can be sent."""
    images = torch.zeros(128, 8, 8, dtype=torch.uint8)
    labels = torch.arange(128) % 10
    task = Fails("digits", (images, labels), (images, labels), scale=16, hidden_size=2)
    task.how = how
    return task
