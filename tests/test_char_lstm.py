"""The tutorial's script at 16 times its batch: five lines of code, and the page's results."""

from __future__ import annotations

import difflib
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL, LARGE = (ROOT / "examples" / f"char_lstm{kind}.py" for kind in ("", "_large"))
LAST = re.compile(r"^epoch (\d+)   rate ([\d.]+)   validation loss ([\d.]+)$", re.MULTILINE)


def code_of(path: Path) -> list[str]:
    """Return the lines of code: no empty ones, no comments, not the module's docstring."""
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING:
            return [line for line in text.splitlines()[token.end[0] :] if line.strip()]
    raise AssertionError(path)


def test_five_lines_are_changed() -> None:
    """A line put in the place of another is one."""
    changes = difflib.SequenceMatcher(None, code_of(SMALL), code_of(LARGE), autojunk=False)
    changed = [
        max(after - before, new_after - new_before)
        for kind, before, after, new_before, new_after in changes.get_opcodes()
        if kind != "equal"
    ]
    assert sum(changed) == 5


def results_of(page: str) -> dict[str, float]:
    """Return the validation loss of each script, as the page's table has it."""
    rows = re.findall(r"^\| `(char_lstm\w*)\.py` \|.*\| ([\d.]+) \|$", page, re.MULTILINE)
    return {name: float(loss) for name, loss in rows}


@pytest.mark.slow
@pytest.mark.parametrize("path", [SMALL, LARGE], ids=lambda path: path.stem)
def test_it_comes_to_what_the_page_says(path: Path) -> None:
    """To 0.08: the text is of the Python that runs it, and rounding differs."""
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, check=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    epoch, _, loss = LAST.findall(done.stdout)[-1]
    page = (ROOT / "docs" / "char-lstm.md").read_text(encoding="utf-8")
    assert epoch == "16"
    assert float(loss) == pytest.approx(results_of(page)[path.stem], abs=0.08)
