"""A reader that goes: training stops with a checkpoint and a word, printing just ends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from legw.cli import main, progress
from legw.recipe import to_toml
from legw.runs import records
from legw.train import checkpoint
from train.runs import recipe

WORDS = "--recipe small.toml --device cpu --micro-batch-size 64"


@pytest.fixture
def piped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, int], tuple[int, str]]:
    """Return a function that runs `legw WORDS | head -LINES`: its exit code, and its stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    (tmp_path / "small.toml").write_text(to_toml(recipe(epochs=40.0)), encoding="utf-8")

    def run(words: str, lines: int) -> tuple[int, str]:
        reading, writing = os.pipe()
        gone = threading.Event()

        def head() -> None:
            with os.fdopen(reading, "rb", buffering=0) as file:
                seen = 0
                while seen < lines and (found := file.read(1)):
                    seen += found == b"\n"
            gone.set()

        reader = threading.Thread(target=head)
        with os.fdopen(writing, "w", encoding="utf-8") as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            reader.start()
            if not lines:
                gone.wait(10)
            code = main(words.split())
        reader.join()
        return code, capsys.readouterr().err

    return run


def test_a_run_whose_reader_goes_stops_with_a_checkpoint(
    piped: Callable[[str, int], tuple[int, str]],
) -> None:
    code, said = piped(f"train train.tasks:Lines {WORDS} --out run", 3)
    summary = records.read_summary("run")
    assert summary is not None and summary.status == "interrupted"
    assert (code, said) == (
        2, f"legw: output: was closed by its reader; run: stopped after update {summary.updates}; "
        "the same command with --resume --out run goes on\n",
    )  # fmt: skip
    assert int(checkpoint.paths(Path("run"))[-1].stem[-9:]) == summary.updates
    assert main(f"train train.tasks:Lines {WORDS} --out run --resume".split()) == 0
    found = records.load("run")
    assert [row.update for row in found.updates] == list(range(125))


def test_a_run_that_nobody_reads_does_not_begin(
    piped: Callable[[str, int], tuple[int, str]],
) -> None:
    code, said = piped(f"train train.tasks:Lines {WORDS} --out run", 0)
    assert (code, said) == (
        2, "legw: output: was closed by its reader; the run folder is kept, and --resume "
        "goes on with the run\n",
    )  # fmt: skip
    assert not Path("run").exists()


@pytest.mark.ci
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_study_whose_reader_goes_stops_with_a_checkpoint(
    piped: Callable[[str, int], tuple[int, str]], jobs: int
) -> None:
    words = f"study train.tasks:Lines {WORDS} --batch-sizes 64,128 --seeds 2 --out study"
    code, said = piped(f"{words} --jobs {jobs}", 3)
    assert code == 2 and said.count("\n") == 1
    assert said.startswith("legw: output: was closed by its reader; study: stopped; the same ")
    places = records.find_runs(Path("study"))
    states = {place.name: records.load(place).status for place in places}
    assert "interrupted" in states.values() and "running" not in states.values()
    assert all(checkpoint.paths(place) for place in places)
    assert main(f"{words} --jobs {jobs}".split()) == 0
    assert len(records.find_runs(Path("study"))) == 4
    assert {records.load(place).status for place in places} == {"finished"}


PRINTING = [
    "recipes", "scale mnist-lstm -b 8192", "schedule mnist-lstm", "train --help", "probe noise -h",
    f"study train.tasks:Lines {WORDS} --batch-sizes 64,128 --dry-run",
]  # fmt: skip


@pytest.mark.parametrize("words", PRINTING)
def test_a_command_that_only_prints_just_ends(
    piped: Callable[[str, int], tuple[int, str]], words: str
) -> None:
    assert piped(words, 0) == (0, "")
