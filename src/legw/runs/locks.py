"""Locks: one process at a time in a folder, freed by the system when the process dies.

The lock is an advisory one on a file of its own. The file is never removed, since two processes
could otherwise hold locks on two files of the same name. The lock works over NFS where that
supports `flock`. A file system without locks (or Windows) has none.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from legw.errors import RunError, setting
from legw.runs import reading

try:
    import fcntl

    LOCKS = True
except ImportError:  # Windows
    LOCKS = False

LOCK = ".lock"
"""Name of the file that is locked."""

PATIENCE_SECONDS = 2.0
"""Time to wait for a holder that is just ending."""

TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def held(
    folder: Path,
    *,
    name: str = LOCK,
    shared: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[None]:
    """Hold a folder's lock while entered.

    Args:
        folder: it must be there.
        name: of the lock's file.
        shared: True lets others share the lock; False keeps it alone.
        patience_seconds: longest wait for another holder, in seconds, at least 0.

    Raises:
        RunError: another process holds it, or the folder cannot be written.
    """
    if not LOCKS:
        yield
        return
    path = folder / name
    try:
        if reading.there(path):
            reading.check_plain(path)
        file = path.open("ab")
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    with file:  # closing it drops the lock
        if not _taken(file, shared=shared, patience_seconds=patience_seconds):
            raise RunError(
                f"{folder}: another process works on it; wait until that has ended, "
                f"or choose another {setting('out')}"
            )
        yield


def is_held(folder: Path, name: str = LOCK) -> bool:
    """Return whether a process works on a folder."""
    if not LOCKS:
        return False
    try:
        with reading.open_plain(folder / name) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except RunError:
        return False  # there is none, or no file
    except OSError as error:
        return error.errno in TAKEN
    return False


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process holds a file's lock, and hold it while entered.

    It is meant for caches, which are optional: where the file cannot be made or locked, this does
    not wait and raises no error.
    """
    if not LOCKS:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("ab")), fcntl.LOCK_EX)
        yield


def _taken(file: IO[bytes], *, shared: bool, patience_seconds: float) -> bool:
    """Try to take the lock until the time is over; True also where there are no locks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    end = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:
                return True  # a file system without locks
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        else:
            return True
