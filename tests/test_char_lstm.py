"""The tutorial's script at 16 times its batch: five lines of code, and the page's results."""

from __future__ import annotations

import difflib
import io
import os
import re
import runpy
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
    row = r"^\| `(char_lstm\w*)\.py` \|.*\| ([\d.]+) ± [\d.]+ \| \d+ \|$"
    rows = re.findall(row, page, re.MULTILINE)
    return {name: float(loss) for name, loss in rows}


def test_the_page_has_a_loss_for_both_scripts() -> None:
    found = results_of((ROOT / "docs" / "char-lstm.md").read_text(encoding="utf-8"))
    assert set(found) == {SMALL.stem, LARGE.stem}
    assert all(1 < loss < 2 for loss in found.values())


@pytest.mark.parametrize("rule", ["", "legw", "sqrt"])
def test_what_makes_the_pages_numbers_changes_what_it_says(rule: str) -> None:
    text = runpy.run_path(str(ROOT / "results" / "char_lstm.py"))["changed"](rule, 2.0, 0.3, 7)
    assert "LR = 32, 16, 2.0\n" in text
    assert text.index("randperm(len(windows))") < text.index("manual_seed(7)\nclass CharLSTM")
    assert (f"warmup_epochs=0.3), BATCH := 128, {rule!r})" in text) == bool(rule)


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
