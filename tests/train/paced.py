"""Tasks that can be held back, so that a test can step in while a run goes on.

Their functions are tasks for `legw train train.paced:NAME`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legw import DataError
from legw.train import Task
from train.tasks import Lines, Streams


def held_back(task: Any, hurry: Path, seconds: float = 0.1) -> Any:
    """Return the task with so many seconds added to each micro-batch until `hurry` exists."""
    batch = task.batch

    def slow_batch(ids: Tensor, device: torch.device) -> Any:
        if not hurry.exists():
            time.sleep(seconds)
        return batch(ids, device)

    task.batch = slow_batch
    return task


def stopped_in_mid_write(stop: Path) -> None:
    """Let each checkpoint that is brought to the disk wait half-way, as long as `stop` exists."""
    sync = os.fsync

    def slow_sync(descriptor: int) -> None:
        half_way = ".checkpoint-" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        while half_way and stop.exists():
            time.sleep(0.05)
        sync(descriptor)

    os.fsync = slow_sync


def streams() -> Task:
    """Streams, slowed by $LEGW_TEST_SECONDS until there is a file at $LEGW_TEST_HURRY.

    While there is a file at $LEGW_TEST_STOP, writing stops in the middle.
    """
    if os.environ.get("LEGW_TEST_STOP"):
        stopped_in_mid_write(Path(os.environ["LEGW_TEST_STOP"]))
    seconds = float(os.environ.get("LEGW_TEST_SECONDS", "0.1"))
    task: Task = held_back(Streams(), Path(os.environ["LEGW_TEST_HURRY"]), seconds)
    return task


def lacking() -> Task:
    """A task whose data the second process does not find."""
    if os.environ.get("RANK") == "1":
        raise DataError("lines: there are no data here; bring them")
    return Lines()


class Failing(Lines):
    """A task whose data the second process no longer finds after some batches."""

    left = 10

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        self.left -= 1
        if self.left < 0 and os.environ.get("RANK") == "1":
            raise DataError("lines: the data are gone; bring them back")
        return super().batch(ids, device)


def failing() -> Task:
    return Failing()
