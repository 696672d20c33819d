"""What commands print and write: numbers, notes, tables, files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legw.errors import RunError, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def number(value: object, digits: int = 5) -> str:
    """Return a value as people read it: few significant digits, thousands in full.

    >>> [number(x) for x in (8192, 0.15625, 1 / 3, 123456.7, 6.25e-4, None, (30.0, 60.0), True)]
    ['8192', '0.15625', '0.33333', '123457', '0.000625', '-', '[30, 60]', 'true']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(number(item, digits) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.0f}" if 10**digits <= abs(value) < 1e15 else f"{value:.{digits}g}"
    return str(value)


def factor(old: object, new: object) -> str:
    """Return by what a number was multiplied, or "" where it was not, or is no number.

    >>> factor(6.4, 0.1), factor(2, 2), factor("sgd", "adam")
    ('÷64', '', '')
    """
    if not (isinstance(old, int | float) and isinstance(new, int | float)) or not old * new:
        return ""
    if old == new:
        return ""
    if new < old:
        return f"÷{number(old / new, 3)}"
    return f"×{number(new / old, 3)}"  # noqa: RUF001 # a sign that people read, not the letter


def console() -> Console:
    """Return where tables go: plain where stdout is no terminal, or NO_COLOR is set."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # for `main`; rich's own way out is exit code 1

    return Ours(highlight=False, markup=False, emoji=False)


def say(line: str) -> None:
    """Print one line: wrapped between words on a terminal, whole for a pipe."""
    console().print(line, soft_wrap=not sys.stdout.isatty())


def show(*tables: Table) -> None:
    """Print tables with an empty line around each, and no spaces at the ends of lines."""
    screen = console()
    print()
    for table in tables:
        with screen.capture() as drawn:
            screen.print(table)
        print(*(line.rstrip() for line in drawn.get().splitlines()), "", sep="\n")


def notes(lines: Iterable[str], *, to_stderr: bool) -> None:
    """Print each line as a `note:`; on stderr where stdout is for machines."""
    for line in lines:
        if to_stderr:
            print(f"note: {line}", file=sys.stderr)
        else:
            say(f"note: {line}")


def wrote(path: str, *, to_stderr: bool) -> None:
    """Print which file was written."""
    print(f"wrote {one_line(path)}", file=sys.stderr if to_stderr else sys.stdout)


def print_json(value: dict[str, Any]) -> None:
    """Print one object, indented; NaN and infinity are errors, for JSON has neither."""
    print(json.dumps(value, indent=2, allow_nan=False))


def write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or none: to a neighbour first, then in one step to its name.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout; a folder fails here
            path.write_bytes(data)
            return
        path = path.resolve()  # of a link, replace what it points to
        neighbour = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            neighbour.write_bytes(data)
            neighbour.replace(path)
        finally:
            neighbour.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{one_line(str(path))}: cannot be written: {error.strerror}; choose another place"
        ) from None
