"""Output of commands: numbers, notes, tables and files; and failures of standard streams."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from legw.errors import LegwWarning, RunError, clean, one_line
from legw.runs.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def figure(value: float | None) -> str:
    """Return a loss or metric in few digits; a dash where there is none.

    >>> figure(0.98765), figure(None), figure(math.nan)
    ('0.9877', '-', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def cut(text: str, width: int) -> str:
    """Return text in at most `width` characters, cut in the middle: both ends tell runs apart.

    >>> cut("digits-lstm-muon/runs/legw-b512-s0", 20), cut("short", 20)
    ('digits-l…egw-b512-s0', 'short')
    """
    if len(text) <= width:
        return text
    end = (width - 1) * 3 // 5
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return where tables and progress go: plain without a terminal, or where NO_COLOR is set."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # for `main`; rich's own way out is exit code 1

    return Ours(highlight=False, markup=False, emoji=False, stderr=stderr, quiet=quiet)


@contextlib.contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Leave out the notes that the library gives as warnings, if the user wants it quiet."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore", LegwWarning)
        yield


def say(line: str) -> None:
    """Print one line: wrapped between words on a terminal, whole for a pipe."""
    console().print(clean(line), soft_wrap=not sys.stdout.isatty())


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
            print(f"note: {clean(line)}", file=sys.stderr)
        else:
            say(f"note: {line}")


def wrote(path: str, *, to_stderr: bool) -> None:
    """Print which file was written."""
    print(f"wrote {one_line(path)}", file=sys.stderr if to_stderr else sys.stdout)


def print_json(value: dict[str, Any]) -> None:
    """Print one object, indented; NaN and infinity are errors, for JSON has neither."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_toml(text: str) -> None:
    """Print TOML; characters that `clean` removes are written as TOML's escapes."""
    kept = (each if each == "\n" or clean(each) == each else f"\\U{ord(each):08X}" for each in text)
    print("".join(kept), end="")


def write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or none: first to a temporary neighbour, then in one step to its name.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # a pipe, /dev/stdout; a folder fails here
            path.write_bytes(data)
            return
        write_atomically(path.resolve(), data)  # of a link, replace what it points to
    except OSError as error:
        reason = f"{one_line(str(path))}: cannot be written: {error.strerror}"
        raise RunError(f"{reason}; choose another place") from None
    except RunError as error:
        raise RunError(f"{error}; choose another place") from None


# The standard streams ----------------------------------------------------------------


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Prepare the standard streams, and turn a failed write into one line.

    Raises:
        RunError: the standard output is closed, or its disk is full.
        BrokenPipeError: its reader has closed it, which `main` takes for no mistake.
    """
    if sys.stderr is None:  # Python's own word for a closed stream
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # to the end
    if sys.stdout is None:
        raise RunError("output: cannot be written: it is closed; give it with > FILE")
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    with contextlib.redirect_stdout(cast(TextIO, _Output(sys.stdout))):
        yield
        sys.stdout.flush()


def forget(stream: TextIO) -> None:
    """Redirect a closed stream to nowhere, so that the interpreter's flush at the end succeeds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())


def settle() -> None:
    """Flush the streams, so that the interpreter's flush at the end cannot fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                forget(stream)


def to_stderr(line: str) -> None:
    """Print a line on stderr; a closed stderr ends no run."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _never_fail_to_encode(stream: TextIO) -> None:
    """Show "?" for an arrow on a terminal that has none, instead of a traceback."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


class _Output:
    """A stream that says in one line that it cannot be written; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise self._told(error) from None

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise self._told(error) from None

    def _told(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error
        forget(self._stream)
        return RunError(f"output: cannot be written: {error.strerror}; write to another place")
