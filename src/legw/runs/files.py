"""Files that a reader sees whole or not at all; JSON without values outside its standard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from legw.errors import RunError, one_line


def write_json(path: Path, data: object) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    text = json.dumps(finite(data), indent=2, ensure_ascii=False)
    if not text.replace("\n", "").isprintable():  # it may be shown in a terminal as it is
        text = "".join(
            each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
        )
    write_atomically(path, (text + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by temporary file, fsync and rename.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes its place when all is written, or not at all.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")  # no other has it
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that lies there
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            where = one_line(str(path), 4096)
            raise RunError(f"{where}: cannot be written: {error.strerror or error}") from None
        raise


HALF_WRITTEN = re.compile(
    r"\.(checkpoint-\d+\.pt|(manifest|summary|study|table|probes|tracker-[\w.-]+)\.json|"
    r"(metrics|curvature|noise)\.jsonl)\.\d+"
)
"""Pattern of temporary files that a killed `write_atomically` leaves behind."""


def clear_half_written(folder: Path, *more: str) -> None:
    """Remove the half-written files of killed processes, which may be large.

    The caller must hold the folder's lock, so that no other process writes there.

    Args:
        folder: of a run or a study.
        more: names of other files that are written there.
    """
    for path in folder.glob(".*"):
        name = path.name[1:].rpartition(".")
        ours = HALF_WRITTEN.fullmatch(path.name) or (name[0] in more and name[2].isdecimal())
        if ours and not path.is_dir():
            with contextlib.suppress(OSError):
                path.unlink()


def finite(value: Any) -> Any:
    """Return the value with NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
