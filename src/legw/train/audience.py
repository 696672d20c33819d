"""Audience: the observers of a run, each of which may disconnect during the run.

An observer's output may be closed, as by `legw train ... | head -1`. The run then stops as at a
signal and ends with a checkpoint. An observer that disconnected is not called again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.train.task import Observer

READER_GONE = "its output was closed"
"""Reason in the summary of a run that stopped because an observer's output was closed."""


class Audience(Observer):
    """Calls several observers; `gone` is called when one finds its output closed.

    >>> class Deaf(Observer):
    ...     def on_update(self, row): raise BrokenPipeError
    >>> audience = Audience([Deaf()], lambda: print("gone"))
    >>> audience.on_update(None); audience.on_update(None)
    gone
    """

    def __init__(self, observers: Sequence[Observer], gone: Callable[[], object]) -> None:
        self._observers, self._gone = list(observers), gone

    def tell(self, event: str, *values: Any) -> None:
        """Call one method of every connected observer that has it."""
        for observer in list(self._observers):
            try:
                getattr(observer, event, _nothing)(*values)
            except BrokenPipeError:
                self._observers.remove(observer)
                self._gone()

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self.tell("on_start", manifest, updates_done)

    def on_update(self, row: Update) -> None:
        self.tell("on_update", row)

    def on_evaluation(self, row: Evaluation) -> None:
        self.tell("on_evaluation", row)

    def on_end(self, summary: Summary) -> None:
        self.tell("on_end", summary)


def _nothing(*values: Any) -> None:
    """Take a call that an observer does not handle."""
