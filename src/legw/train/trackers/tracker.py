"""Tracker protocol: all that legw asks of a dashboard, in three calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Ending = Literal["finished", "diverged", "interrupted", "failed"]
"""A run's end: as in its summary, or failed where an error ended it."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run that begins, or goes on after a restart."""

    project: str
    """Name of the task: runs of one task belong together."""
    name: str
    """Name of the run folder."""
    folder: Path
    """The run folder."""
    config: Mapping[str, Any]
    """Recipe, base, rule, seed and versions, as plain values by their names."""
    id: str = ""
    """Id of the tracker's own run to go on with; empty for a new one."""


class Point(NamedTuple):
    """Scalars at one moment of a run."""

    update: int
    """Updates made so far; it never falls."""
    values: Mapping[str, float]
    """The scalars by name; they may be NaN or infinite where a run diverges."""
    time: float
    """Seconds since 1970 at which the row was handed over."""


@dataclass(frozen=True, kw_only=True)
class End:
    """The end of a run, or of its part up to a stop."""

    status: Ending
    """As in the run's summary, or failed."""
    reason: str
    """Reason of divergence or stop; empty where it finished."""
    update: int
    """Updates made."""
    values: Mapping[str, float]
    """The scalars of the summary, by name."""


class Tracker(Protocol):
    """Destination of a run's numbers; each call is made by one thread, in this order.

    An exception from any call ends the tracker's part in the run; the run itself goes on.
    A class with these methods needs no base class: ``log_to=("my_module:MyTracker",)``.
    """

    def start(self, start: Start) -> str:
        """Begin a run, or go on with that of `start.id`; return the id of the tracker's run."""
        ...

    def log(self, points: Sequence[Point]) -> None:
        """Take points in the order of updates: those of about a second, at least one."""
        ...

    def finish(self, end: End) -> None:
        """Take the end; no call comes after it."""
        ...
