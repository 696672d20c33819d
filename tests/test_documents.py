"""What README and docs show is true: their Python runs, their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from legw import recipes
from legw.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, code) of every block in this language."""
    found = []
    for page in PAGES:
        for name, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            if name == language:
                found.append((page.name, code))
    return found


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_runs(page: str, code: str) -> None:
    exec(compile(code, page, "exec"), {"__name__": "example"})


@pytest.mark.parametrize(("page", "code"), blocks("toml"))
def test_recipes_can_be_read(page: str, code: str, tmp_path: Path) -> None:
    from legw.recipe import read

    path = tmp_path / "my_recipe.toml"
    path.write_text(code, encoding="utf-8")
    assert read(path).batch_size >= 1


def test_commands_exist() -> None:
    words = re.findall(r"^legw (\S+)", "\n".join(code for _, code in blocks("bash")), re.MULTILINE)
    assert words
    assert set(words) <= set(COMMANDS)


def test_the_line_in_the_readme_is_what_scale_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from legw.cli import main

    assert main(["scale", recipes.MNIST_LSTM.name, "-b", "8192"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tables.py", "theory.py"])
def test_tables_are_made_from_the_results(name: str) -> None:
    """README and docs show what lies under results/, to the digit."""
    script = ROOT / "results" / name
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
