"""What tests of every part expect: error lines that are lines, and golden tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from legw.errors import LegwError, RecipeError
from messages import said

GOLDEN = Path(__file__).parent / "golden"


OPTION = re.compile(r"(?<![\w-])--[a-z]{2}")


def error_line(
    call: Callable[..., object], *args: Any, kind: type[LegwError] = RecipeError, **kwargs: Any
) -> str:
    """Return the line of the error that a call ends in, which must be one sane line.

    That is: of the `kind` asked for, printable (so without a line break), ``what: ...``,
    and short enough to be read. Word by word it is the one in the test's snapshot.
    """
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    line = str(caught.value)
    assert line.isprintable(), "an error is one line"
    assert len(line) <= 500, "an error is a line that can be read"
    assert not OPTION.search(line), "an error of Python names arguments, not options"
    return said(line)


def golden(name: str) -> list[dict[str, str]]:
    """Return the rows of `tests/golden/NAME`."""
    with (GOLDEN / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float:
    """Return the number that a golden table writes as a decimal or a fraction."""
    return float(Fraction(text))
