"""Checkpoints: the files from which a run resumes, and the few numbers a run keeps.

A checkpoint holds tensors and plain values only and is loaded with ``weights_only=True``, so a
foreign one runs no code. Its content is then checked against the run
(`legw.train.checkpoint_content`). It is written to a temporary file, synced and renamed; the last
two are kept. It holds no random state and no order of examples: both are functions of the seed and
of the position.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from legw.errors import RunError, one_line, setting
from legw.runs.files import write_atomically
from legw.runs.reading import check_plain
from legw.train.checkpoint_content import DamagedError, Expected, OtherModelError, check
from legw.train.divergence import Divergence
from legw.train.hardware import out_of_memory

CHECKPOINTS_KEPT = 2
"""Number of checkpoints that stay in a run folder."""


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
    """Position of a run, and the sums that it keeps."""

    updates: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0
    since_evaluation: Mean = field(default_factory=Mean)
    evaluated: Mean = field(default_factory=Mean)
    """Mean over the updates up to the last evaluation."""
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
        """Return the position that `to_dict` wrote."""
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

    Later checkpoints are dropped too: the run that writes this one could not read them.

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
    for old in found[: max(place - CHECKPOINTS_KEPT, 0)] + found[place:]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a run folder, oldest first."""
    found = [path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_number)


_NAME = re.compile(r"checkpoint-(\d{9,15})\.pt")


def _number(path: Path) -> int:
    """Return the number of updates in a checkpoint's name."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def load_newest(
    folder: Path, warn: Callable[[str], None], expected: Expected | None = None
) -> dict[str, Any] | None:
    """Read the newest checkpoint that a run can go on from; None where there is none at all.

    Args:
        folder: the run folder.
        warn: called with one line for each skipped checkpoint: damaged, or of another model.
        expected: the run that is to resume; None makes only the checks that need no run.

    Raises:
        RunError: there are checkpoints, and the run can go on from none of them.
    """
    found, other = paths(folder), ""
    for before, path in reversed(list(enumerate(found))):
        instead = "; taking the one before" if before else ""
        try:
            return check(_content(path), _number(path), expected)
        except OtherModelError as error:
            other = other or one_line(str(error), limit=120)
            if before:
                warn(f"{path.name}: is of another model ({one_line(str(error), 120)}){instead}")
        except Exception as error:  # a damaged file fails in many ways
            if not isinstance(error, DamagedError) and out_of_memory(error):
                raise
            ours = isinstance(error, DamagedError | RunError)
            why = one_line(str(error), 120) if ours else type(error).__name__
            warn(f"{path.name}: is damaged ({why}){instead}")
    if other:
        raise RunError(
            f"{folder}: its checkpoint is of another model ({other}); "
            f"go on with the model of its start, or choose another {setting('out')}"
        )
    if found:
        raise RunError(
            f"{folder}: no checkpoint can be read; train it again with another {setting('out')}, "
            "or give another run"
        )
    return None


def read_stateless(path: Path, updates: int, expected: Expected) -> dict[str, Any]:
    """Read one checkpoint without the state that its task carries from update to update.

    Args:
        path: of the checkpoint, under any name.
        updates: number of updates that its run had made, at least 0.
        expected: that run.

    Raises:
        RunError: it is damaged, or of another model.
    """
    try:
        content = _content(path)
        if isinstance(content, dict):
            content = {**content, "carried": None}
        return check(content, updates, expected)
    except OtherModelError as error:
        raise RunError(
            f"{path}: is of another model ({one_line(str(error), 120)}); "
            f"choose another {setting('out')}"
        ) from None
    except Exception as error:  # a damaged file fails in many ways
        if not isinstance(error, DamagedError | RunError) and out_of_memory(error):
            raise
        ours = isinstance(error, DamagedError | RunError)
        why = one_line(str(error), 120) if ours else type(error).__name__
        raise RunError(f"{path}: is damaged ({why}); choose another {setting('out')}") from None


def _content(path: Path) -> Any:
    """Unpickle a checkpoint; its tensors stay in the file until they are copied."""
    check_plain(path)
    _verify(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of sparse tensors: none of ours is one
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def load_into(model: nn.Module, optimizer: Optimizer, content: dict[str, Any]) -> None:
    """Load a checked checkpoint's weights and optimizer state."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])


def _verify(path: Path) -> None:
    """Raise unless every part of the file has its checksum; torch.load itself does not look."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise DamagedError("its parts are larger than the file")
        damaged = archive.testzip()
    if damaged is not None:
        raise DamagedError(f"{one_line(damaged, 60)} has a wrong checksum")
