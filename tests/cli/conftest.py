"""The command line in one process: 80 columns, no colors, exit code and both streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from legw.cli import main, output
from messages import said


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture(autouse=True)
def _eighty_plain_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def _messages_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every error line of a command against the test's snapshot."""
    real = output.to_stderr

    def to_stderr(line: str) -> None:
        if line.startswith("legw: "):
            said(line)
        real(line)

    monkeypatch.setattr(output, "to_stderr", to_stderr)


@pytest.fixture
def legw(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    """Return a function that runs `legw WORDS` in this process."""

    def run(words: str) -> Answer:
        code = main(words.split())
        return Answer(code, *capsys.readouterr())

    return run
