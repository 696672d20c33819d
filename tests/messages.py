"""Snapshots of messages: what users read is kept in tests/golden/messages, a file a test module.

A test hands a message over with `said`. After the test its messages have to be those of its
section in the file, in their order; a message without a section fails, everywhere. `make messages`
writes the files anew, for a look at the difference before it is committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
FOLDER = TESTS / "golden" / "messages"
HEAD = "# Written by `make messages`; docs/contributing.md says when.\n"
REWRITE = "--rewrite-messages"

Sections = dict[str, list[str]]
"""For each test its messages."""


class Book:
    """The messages of one pytest process: those of the test that runs, and those to be written."""

    def __init__(self) -> None:
        self.now: list[str] | None = None
        """Messages of the test that runs; None where none are kept."""
        self.collected: dict[Path, set[str]] = {}
        """For each file the tests that there are, those left out by a mark among them."""


BOOK = Book()


def said(text: str) -> str:
    """Hold a message of one or more lines against the snapshot of the test, and return it."""
    if BOOK.now is not None:
        BOOK.now.extend(text.splitlines())
    return text


def read(path: Path) -> Sections:
    """Return the sections of one file: for each test its messages."""
    sections: Sections = {}
    test = ""
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        if line.startswith("    "):
            sections[test].append(line[4:])
        elif line and not line.startswith("#"):
            test = line
            sections[test] = []
    return sections


def write(path: Path, sections: Sections) -> None:
    """Write one file, or remove it where no message is left."""
    if not sections:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = ("".join(f"{line}\n" for line in (test, *("    " + each for each in sections[test])))
             for test in sorted(sections))  # fmt: skip
    path.write_text(HEAD + "".join("\n" + part for part in parts), encoding="utf-8")


def change(path: Path, new: Callable[[Sections], Sections]) -> None:
    """Change one file's sections; several processes take turns, and a killed one loses nothing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = read(path)
        sections = {test: said for test, said in new(old).items() if said}
        if sections != old:
            write(path, sections)


def place(item: pytest.Item) -> tuple[Path, str]:
    """Return the snapshot file of a test, and the name of its section."""
    path = FOLDER / item.path.relative_to(TESTS).with_suffix(".txt")
    name = re.sub(r"[^\x21-\x7e]+", " ", item.nodeid.partition("::")[2])
    if len(name) > 120:
        name = f"{name[:100]}...{hashlib.sha1(name.encode()).hexdigest()[:8]}"
    return path, name


def plain(line: str, base: Path) -> str:
    """Return a message without what differs between machines: where tests and the project lie."""
    line = re.sub(re.escape(str(base)) + r"/[^/\s:;,'\"]+", "TMP", line)
    line = re.sub(r"(is not available here; try) .*", r"\1 DEVICES", line)
    line = re.sub(r"\b(at|after) update \d+", r"\1 update N", line)  # a signal comes at any time
    line = re.sub(r"(.)\1{30,}", r"\1 (many)", line)  # of a path that is cut off, more or fewer
    line = line.replace(str(TESTS.parent), "ROOT").replace(str(Path.home()), "HOME")
    return line.encode("utf-8", "backslashreplace").decode()


# pytest's hooks, which tests/conftest.py takes over --------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(REWRITE, action="store_true", help="write tests/golden/messages anew")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which tests there are; in part of a module, all others stay as they are written."""
    if not any("::" in word for word in config.args):
        for item in items:
            if item.path.is_relative_to(TESTS):
                path, name = place(item)
                BOOK.collected.setdefault(path, set()).add(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Compare a test's messages with its section, or take them for the new one."""
    test = getattr(item, "function", None)
    drawn = test is None or getattr(test, "is_hypothesis_test", False)  # others at each run
    slow = any(item.get_closest_marker(name) for name in ("slow", "ci"))  # `make messages` has none
    if drawn or slow or not item.path.is_relative_to(TESTS):
        return (yield)
    BOOK.now = []
    try:
        result = yield
        found = [plain(line, item.config._tmp_path_factory.getbasetemp()) for line in BOOK.now]
    finally:
        BOOK.now = None
    path, name = place(item)
    if item.config.getoption(REWRITE):
        change(path, lambda sections: sections | {name: found})
    else:
        __tracebackhide__ = True
        kept = read(path).get(name, [])
        assert found == kept, f"other messages than in {path}; `make messages` writes them anew"
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Drop the sections of tests that there are no longer."""
    if session.config.getoption(REWRITE):
        for path, tests in BOOK.collected.items():
            if path.exists():
                change(path, lambda old, tests=tests: {t: old[t] for t in old if t in tests})
