"""Files that a reader sees whole or not at all, and JSON without what JSON has no word for."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from legw.errors import RunError


def write_json(path: Path, data: object) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never half.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    text = json.dumps(finite(data), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by temporary file, fsync and rename.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def finite(value: Any) -> Any:
    """Return the value with NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
