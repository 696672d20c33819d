"""Measurements that probes write beside a run, one JSONL file for each kind.

    DIR/curvature.jsonl    the curvature along the gradient
    DIR/noise.jsonl        the noise of the gradient

The files lie in the run folder and are plain JSON, like all of it. After a restart
rows of updates that are made again are dropped, so that each update has one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from legw.errors import RunError
from legw.runs import reading
from legw.runs.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Curvature:
    """The curvature of the loss along one update's gradient."""

    update: int
    """Number of the update, from 0."""
    epoch: float
    """Position at its end, in epochs."""
    curvature: float | None
    """``|g'Hg| / |g|**2``, at least 0; None where it is not a finite number."""
    negative: bool
    """Whether ``g'Hg`` is below 0."""
    lr: float
    """Learning rate of the update."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of one update's gradient: two estimates, to be averaged before they are divided."""

    update: int
    """Number of the update, from 0."""
    epoch: float
    """Position at its end, in epochs."""
    trace: float | None
    """Estimate of the trace of one example's gradient covariance; at least 0."""
    squared_norm: float | None
    """Estimate of the true gradient's squared norm; below 0 where noise hides it."""
    examples: int
    """Examples whose gradients were computed again for the measurement."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured speed of one device."""

    passes: Mapping[int, float]
    """Examples in a micro-batch -> seconds of its data, forward and backward; at least one."""
    step_seconds: float
    """Seconds of an update beside its passes: clipping, optimizer step, book-keeping."""
    gradient_bytes: int
    """Bytes that are synchronised once an update."""
    spread: float = 0.0
    """Half the interquartile range of repeated measurements, as a share of their median."""
    device: str = ""
    """Measured device."""
    rounds: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """(examples in a micro-batch, micro-batches at once) -> seconds of such a round, where the
    task can be trained in lanes, which needs a single process."""


PROBES = "probes.json"
"""File in a probed run's folder that says how it was measured."""

Row = TypeVar("Row", Curvature, Noise)


def path_of(folder: str | Path, kind: type[Row]) -> Path:
    """Return the file of a kind of measurement in a run folder.

    >>> path_of("run", Noise).name
    'noise.jsonl'
    """
    return Path(folder) / f"{kind.__name__.lower()}.jsonl"


def read(folder: str | Path, kind: type[Row]) -> list[Row]:
    """Read the measurements of a run; a half-written line is skipped.

    Args:
        folder: the run folder.
        kind: `Curvature` or `Noise`.

    Returns:
        One row a measurement, in the order of updates; none where there is no file.

    Raises:
        RunError: the file cannot be read.
    """
    import msgspec

    path = path_of(folder, kind)
    if not reading.there(path):
        return []
    decoder = msgspec.json.Decoder(kind)
    rows = []
    try:
        with reading.open_plain(path, reading.MAX_METRICS_BYTES) as file:
            for line in reading.lines(file):
                try:
                    rows.append(decoder.decode(line))
                except (msgspec.DecodeError, msgspec.ValidationError):
                    continue
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    return [row for row in rows if row.update >= 0]


def append(folder: str | Path, rows: Sequence[Row]) -> None:
    """Add rows to the file of their kind.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    if not rows:
        return
    path = path_of(folder, type(rows[0]))
    try:
        with path.open("ab") as file:
            file.write(_lines(rows))
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def keep_before(folder: str | Path, kind: type[Row], update: int) -> list[Row]:
    """Drop the rows of an update and all later ones; return the rows before.

    Raises:
        RunError: the file cannot be read or written.
    """
    found = read(folder, kind)
    kept = [row for row in found if row.update < update]
    if reading.there(path_of(folder, kind)):
        write_atomically(path_of(folder, kind), _lines(kept))
    return kept


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(
        json.dumps(asdict(row), separators=(",", ":"), allow_nan=False) + "\n" for row in rows
    ).encode()
