"""Checkpoints: what survives a restart, and the few numbers a run keeps.

A checkpoint holds tensors and plain values only and is loaded with
``weights_only=True``, so one from somewhere else runs no code. It is written to
a temporary file, synced and renamed; the last two are kept. Random draws and
the order of examples need no place in it: both are functions of the seed and
of the position.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from legw.errors import RunError, one_line
from legw.runs.files import write_atomically
from legw.train.divergence import Divergence
from legw.train.hardware import out_of_memory

KEPT = 2
"""How many checkpoints stay in a run folder."""


@dataclass
class Mean:
    """A running mean of losses.

    >>> mean = Mean()
    >>> mean.add(1.0); mean.add(3.0)
    >>> mean.value
    2.0
    """

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take one more value."""
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        """The mean so far; None of no values."""
        return self.total / self.count if self.count else None


@dataclass
class Position:
    """How far a run is, and what it has summed up on the way."""

    updates: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    since_evaluation: Mean = field(default_factory=Mean)
    evaluated: Mean = field(default_factory=Mean)
    """Of the updates up to the last evaluation."""
    last_epoch: Mean = field(default_factory=Mean)
    divergence: Divergence = field(default_factory=Divergence)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "updates": self.updates,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "since_evaluation": vars(self.since_evaluation).copy(),
            "evaluated": vars(self.evaluated).copy(),
            "last_epoch": vars(self.last_epoch).copy(),
            "divergence": self.divergence.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Position:
        """Return what `to_dict` wrote."""
        return cls(
            updates=data["updates"],
            seconds=data["seconds"],
            wall_seconds=data["wall_seconds"],
            since_evaluation=Mean(**data["since_evaluation"]),
            evaluated=Mean(**data.get("evaluated", {})),
            last_epoch=Mean(**data["last_epoch"]),
            divergence=Divergence.from_dict(data["divergence"]),
        )


def save(folder: Path, updates: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint, then drop all but the last two up to it.

    Later ones are dropped too: a run that makes this one could not read them.

    Raises:
        RunError: the disk is full or the folder cannot be written; the checkpoints
            written before stay.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = folder / f"checkpoint-{updates:09d}.pt"
    write_atomically(path, buffer.getvalue())
    found = paths(folder)
    place = found.index(path) + 1
    for old in found[: max(place - KEPT, 0)] + found[place:]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a run folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def load_newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that can be read; None where there is none at all.

    Args:
        folder: the run folder.
        warn: takes a line for each checkpoint that is damaged and passed over.

    Raises:
        RunError: there are checkpoints, and all of them are damaged.
    """
    found = paths(folder)
    for before, path in reversed(list(enumerate(found))):
        try:
            _verify(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(content, dict) or "position" not in content:
                raise ValueError("not a checkpoint of legw")
            return content
        except Exception as error:  # a damaged file fails in many ways
            instead = "; taking the one before" if before else ""
            warn(f"{path.name}: is damaged ({type(error).__name__}){instead}")
    if found:
        raise RunError(
            f"{folder}: no checkpoint can be read; train it again with another --out, "
            "or give another run"
        )
    return None


def load_into(
    model: nn.Module, optimizer: Optimizer, content: dict[str, Any], folder: Path
) -> None:
    """Put a checkpoint's weights and optimizer state in place.

    Raises:
        RunError: they are those of another model.
    """
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        if out_of_memory(error):
            raise
        said = one_line(" ".join(str(error).split()), limit=120)
        raise RunError(
            f"{folder}: its checkpoint is of another model ({said}); "
            "go on with the model of its start, or choose another --out"
        ) from None


def _verify(path: Path) -> None:
    """Raise unless every part of the file has its checksum; torch.load itself does not look."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} has a wrong checksum")
