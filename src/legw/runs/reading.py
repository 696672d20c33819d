"""Reading of untrusted files: a folder's plain files, and nothing else in it.

A run folder may come from anybody. A file in it is read only if it is a plain file (no pipe, device
or folder), not too large for its kind, and no link that leads out of its folder. Its content is
then checked against its types. Each fault becomes one line. No file outside of the folder is
opened, and no file is read before its size is known.

Every error's line begins with "is ..." or "cannot ...", for the caller to put the path before.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from legw.errors import RunError, one_line, too_deep

MAX_BYTES = 64 * 2**20
"""Largest manifest, summary, study or table; those of real runs have some kilobytes."""

MAX_METRICS_BYTES = 2**30
"""Largest file of one line an update: some seven million updates."""

MAX_LINE_BYTES = 2**16
"""Longest line of such a file; a row has some two hundred."""

MAX_WHOLE = 2**63 - 1
"""Largest whole number, of either sign."""

Record = TypeVar("Record")

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def there(path: Path) -> bool:
    """Whether this name exists, also as a link that leads nowhere."""
    return os.path.lexists(path)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies outside of a folder."""
    try:
        return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return True


def check_plain(path: Path) -> os.stat_result:
    """Check that a path is a plain file, itself or by a link inside its folder.

    Raises:
        RunError: it is not, or is not there.
    """
    try:
        if path.is_symlink() and leads_out(path, path.parent):
            raise RunError("is a link that leads out of its folder; put the file itself there")
        found = path.stat()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {_why(error)}; check the path") from None
    for is_it, kind in KINDS:
        if is_it(found.st_mode):
            raise RunError(f"is {kind}, not a file; move it away")
    return found


def open_plain(path: Path, most_bytes: int = MAX_BYTES) -> IO[bytes]:
    """Open a plain file of an allowed size.

    Raises:
        RunError: it is none, is larger, or cannot be read.
    """
    size = check_plain(path).st_size
    if size > most_bytes:
        raise RunError(
            f"is {size / 2**20:,.0f} MiB large, where at most {most_bytes / 2**20:,.0f} can be; "
            "move it away"
        )
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {_why(error)}; check the path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # another one since it was looked at
        os.close(descriptor)
        raise RunError("is not a file; move it away")
    return os.fdopen(descriptor, "rb")


def content(path: Path, most_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a plain file.

    Raises:
        RunError: it is none, is too large, or cannot be read.
    """
    with open_plain(path, most_bytes) as file:
        try:
            found = file.read(most_bytes + 1)
        except OSError as error:
            raise RunError(f"cannot be read: {_why(error)}; check the path") from None
    if len(found) > most_bytes:  # it has grown meanwhile
        raise RunError(f"is larger than {most_bytes} bytes; move it away")
    return found


def find(folder: Path, name: str) -> list[Path]:
    """Return the folders at or below a folder that have something of this name, sorted.

    Links to folders are not followed, and folders that cannot be listed are skipped.
    """
    found, left = [], [folder]
    while left:
        place = left.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name == name:
                        found.append(place)
                    elif entry.is_dir(follow_symlinks=False):
                        left.append(place / entry.name)
        except (OSError, ValueError):
            continue
    return sorted(found)


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's lines; of one that is too long for a row the beginning alone."""
    while line := file.readline(MAX_LINE_BYTES):
        yield line
        while line and not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
            line = file.readline(MAX_LINE_BYTES)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(str(error), 80)


# JSON ----------------------------------------------------------------------------


def json_object(path: Path) -> dict[str, Any]:
    """Return the one JSON object of a file.

    Raises:
        RunError: the file cannot be read, or holds something else.
    """
    data = json_value(content(path))
    if not isinstance(data, dict):
        raise RunError("must be one JSON object")
    return data


def json_value(text: bytes) -> Any:
    """Return the value of JSON text; NaN and infinities, which are no JSON, are read as null.

    Raises:
        RunError: it is no JSON in UTF-8, is nested deeper than any file of ours, or has a
            whole number past 2**63 or a letter that is no Unicode.

    >>> json_value(b'{"loss": NaN, "lr": 1e999}')
    {'loss': None, 'lr': None}
    """
    try:
        line = text.decode("utf-8-sig")
        odd = _ODD.search(line) is not None
        data = (_CAREFUL if odd else _DECODER).decode(line)
        if odd:
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RunError(f"cannot be read: {one_line(str(error), 120)}") from None
    if too_deep(data):
        raise RunError("cannot be read: is nested too deeply")
    return data


def typed(kind: type[Record], data: Any) -> Record:
    """Return plain values as a record, types checked; unknown fields are skipped.

    Raises:
        RunError: a field is missing or of another type.
    """
    import msgspec

    try:
        return msgspec.convert(data, type=kind)
    except (msgspec.ValidationError, OverflowError, UnicodeError) as error:
        raise RunError(f"cannot be read: {one_line(str(error))}") from None


def at_least(record: object, **least: float) -> None:
    """Check that a record's numbers are not below their lower limits; None is not checked.

    Raises:
        RunError: one is.
    """
    for name, bound in least.items():
        value = getattr(record, name)
        if value is not None and not value >= bound:
            raise RunError(f"cannot be read: {name}={value}: must be at least {bound:g}")


_ODD = re.compile(r"[eE]\+?\d{3}|\d{18}|\\u[dD][89a-fA-F]")
"""Pattern of lines with numbers beyond a float or 64 bits, or with half of a surrogate pair."""


def _none(constant: str) -> None:
    """Read NaN and infinities as null."""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > MAX_WHOLE:
        raise ValueError("a whole number is past 2**63")
    return value


_DECODER = json.JSONDecoder(parse_constant=_none)  # one for all rows: json.loads makes one for each
_CAREFUL = json.JSONDecoder(parse_constant=_none, parse_float=_finite, parse_int=_whole)
