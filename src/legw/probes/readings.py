"""Readings: measurements of a run on their way from the device to the run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor

from legw.runs import measurements
from legw.runs.measurements import Row

READ_BACK = 50
"""Measurements between two reads from an accelerator: reading waits for it."""


class Readings(Generic[Row]):
    """The rows of one measurement; on an accelerator they are read back several at a time.

    Args:
        kind: the rows' class, which determines their file.
        folder: the run folder; None keeps the rows in memory alone.
    """

    def __init__(self, kind: type[Row], folder: Path | None) -> None:
        self._kind: type[Row] = kind
        self._folder = folder
        self.rows: list[Row] = []
        self._unread: list[tuple[Tensor, Callable[[Any], Row]]] = []

    def begin(self, updates_done: int) -> None:
        """Begin or resume a run after a number of updates; later rows are dropped."""
        self.rows = []
        if self._folder is not None:
            self.rows = measurements.keep_before(self._folder, self._kind, updates_done)

    def add(self, values: Tensor, row: Callable[[Any], Row]) -> None:
        """Take a measurement.

        Args:
            values: on the device, of the same shape and type every time.
            row: makes the row from the values, a number or a list of numbers.
        """
        self._unread.append((values, row))
        if values.device.type == "cpu" or len(self._unread) >= READ_BACK:
            self.read_back()

    def read_back(self) -> None:
        """Read what is still on the device, and write it to the folder."""
        if not self._unread:
            return
        found = torch.stack([values for values, _ in self._unread]).tolist()
        rows = [row(value) for (_, row), value in zip(self._unread, found, strict=True)]
        self._unread.clear()
        self.rows += rows
        if self._folder is not None:
            measurements.append(self._folder, rows)
