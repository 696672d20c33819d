"""What README and docs show is true: their Python runs, their commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

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


# Shell: quick blocks run in the default suite, the digits' in the slow one, and what
# needs a cluster, a data set or hours says "# not run: why" where readers see it.

QUICK = ("recipes", "scale", "schedule")
"""Commands that answer at once."""
NOT_RUN = re.compile(r"^# not run: \S.*$", re.MULTILINE)
RUN_ELSEWHERE = re.compile(r"^# run here ", re.MULTILINE)
"""A block that a test of its own runs, as its first line says."""


def lines_of(code: str) -> list[str]:
    """Return a block's commands: continued lines joined; comments and what CI does left out."""
    joined = code.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not re.match(r"#|make |pip install ", line)]


def sort_of(code: str) -> str:
    """Return "marked", "quick", "slow" or "neither"."""
    if NOT_RUN.search(code) or RUN_ELSEWHERE.search(code):
        return "marked"
    lines = lines_of(code)
    if all(re.match(rf"legw ({'|'.join(QUICK)})\b", line) for line in lines):
        return "quick"
    digits = all("digits-lstm" in line or line.startswith("legw demo") for line in lines)
    return "slow" if digits else "neither"


def shell(sort: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{page}-{number}")
        for number, (page, code) in enumerate(blocks("bash"))
        if sort_of(code) == sort
    ]


def legw_lines() -> list[str]:
    """Return the words of every `legw` command there is, marked or not."""
    found = []
    for _, code in blocks("bash"):
        for line in lines_of(code):
            command = re.search(r"(?:^|-m )legw (.*)$", line)
            if command:
                found.append(command.group(1))
    return sorted(set(found))


@pytest.fixture
def my_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty folder with `my_recipe.toml`, as a page has it."""
    code = next(code for _, code in blocks("toml"))
    (tmp_path / "my_recipe.toml").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", legw_lines())
def test_a_command_is_understood(line: str) -> None:
    """Every command and option there is, those of blocks that are not run, too."""
    import importlib

    import tyro

    name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS
    words = words[: words.index("<")] if "<" in words else words
    command = importlib.import_module(COMMANDS[name][0])
    plain = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    tyro.cli(command.Options, args=words, config=plain)


@pytest.mark.parametrize("code", shell("quick"))
def test_a_quick_block_runs(code: str, my_recipe: None, capsys: pytest.CaptureFixture[str]) -> None:
    from legw.cli import main

    for line in lines_of(code):
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
        assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("code", shell("slow"))
def test_a_block_on_digits_runs(code: str, my_recipe: None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-ec", "\n".join(lines_of(code))],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=True, timeout=1800,
    )  # fmt: skip


def test_every_block_is_run_or_says_why_not(record_property: Any) -> None:
    """Prints how many there are of each (pytest -s)."""
    sorts = [(page, sort_of(code), code) for page, code in blocks("bash")]
    unmarked = [f"{page}: {code}" for page, sort, code in sorts if sort == "neither"]
    assert not unmarked, "\n".join(["say '# not run: why' in these blocks", *unmarked])
    counts = {name: sum(sort == name for _, sort, _ in sorts) for name in ("quick", "slow")}
    counts["not run"] = sum(bool(NOT_RUN.search(code)) for *_, code in sorts)
    counts["python"] = len(blocks("python"))
    print("\nblocks of README and docs:", ", ".join(f"{n} {name}" for name, n in counts.items()))
    record_property("blocks", counts)
    assert counts["quick"] and counts["slow"] and counts["python"]


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
