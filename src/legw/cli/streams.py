"""The standard streams as users leave them: closed, on a full disk, without a reader."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO, cast

from legw.errors import RunError


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Have streams that a command can print to, and tell in one line of output that is lost.

    Raises:
        RunError: the standard output is closed, or its disk is full.
        BrokenPipeError: its reader has gone, which `main` takes for no mistake.
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
    """Let the interpreter's own flush at its end succeed: what is left has no place to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())


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
