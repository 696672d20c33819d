"""Signals: Ctrl-C and SIGTERM stop a run after the current update."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, keeps the name of the received signal; a second Ctrl-C acts at once.

    A second SIGTERM does not: Slurm and torchrun both send one, to end the same run.
    Outside the main thread, where no handler can be set, nothing is caught.

    >>> with StopSignals() as asked:
    ...     signal.raise_signal(signal.SIGTERM)
    >>> asked.name
    'SIGTERM'
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {int(each): signal.signal(each, self._ask) for each in STOPPING}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
