"""A study that is killed at random moments and resumed comes to exactly the same."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

import studies
from expect import error_line
from legw import RunError
from legw.runs import locks, records
from legw.study.shards import WHOLE, Shard
from train.launch import CONTEXT


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    running = CONTEXT.Process(target=studies.make, args=(folder, 1, 600.0))
    running.start()
    running.join()
    assert running.exitcode == 0
    return folder


def progress(folder: Path) -> int:
    """How many bytes of metrics all runs have written."""
    return sum(path.stat().st_size for path in folder.glob("runs/*/metrics.jsonl"))


def kill_again_and_again(folder: Path, kills: int, jobs: int) -> None:
    moments = random.Random(0)
    for _ in range(kills):
        before, end = progress(folder), time.monotonic() + 300
        running: Any = CONTEXT.Process(target=studies.make, args=(folder, jobs))
        running.start()
        while running.is_alive() and progress(folder) <= before and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        running.kill()
        running.join()
        while any(locks.is_held(place) for place in folder.glob("runs/*")):
            time.sleep(0.01)  # workers write their checkpoints and end
    running = CONTEXT.Process(target=studies.make, args=(folder, jobs))
    running.start()
    running.join()
    assert running.exitcode == 0


@pytest.mark.parametrize(
    ("kills", "jobs"),
    [pytest.param(2, 1, marks=pytest.mark.ci), pytest.param(10, 1, marks=pytest.mark.slow),
     pytest.param(10, 2, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_killed_study_comes_to_the_same(
    whole: Path, tmp_path: Path, kills: int, jobs: int
) -> None:
    kill_again_and_again(tmp_path, kills, jobs)
    found, expected = studies.results(tmp_path), studies.results(whole)
    assert found.keys() == expected.keys()
    assert len(found) == 1 + 2 * 3 + 2
    for name, run in expected.items():
        assert found[name] == run, name
    times = ("seconds",)
    tables = [
        [{k: v for k, v in row.items() if k not in times} for row in json.loads(path.read_text())]
        for path in (tmp_path / "table.json", whole / "table.json")
    ]
    assert tables[0] == tables[1]


# One machine of several is lost -----------------------------------------------------------


def lose(folder: Path, shard: Shard) -> None:
    """Begin a part of the study, and kill what makes it once a run has begun."""
    running: Any = CONTEXT.Process(target=studies.make, args=(folder, 1, 0.01, shard))
    running.start()
    end = time.monotonic() + 300
    while running.is_alive() and not progress(folder) and time.monotonic() < end:
        time.sleep(0.002)
    running.kill()
    running.join()


@pytest.mark.parametrize(
    "over",
    [pytest.param(Shard(2, 2), marks=pytest.mark.ci), pytest.param(WHOLE, marks=pytest.mark.slow)],
    ids=["its number", "none"],
)
def test_the_runs_of_a_machine_that_is_lost_are_taken_over(
    whole: Path, tmp_path: Path, over: Shard
) -> None:
    """By the command with the lost machine's number, or by the one without, on any other."""
    lose(tmp_path, Shard(2, 2))
    begun = {path.parent.name for path in tmp_path.glob("runs/*/manifest.json")}
    assert begun
    first = studies.make(tmp_path, 1, 600.0, Shard(1, 2))
    assert not first.left
    found = {place.name: records.load(place).status for place in records.find_runs(tmp_path)}
    assert "running" in [found[name] for name in begun], "the first part leaves them alone"
    assert not studies.make(tmp_path, 1, 600.0, over).left
    assert not studies.make(tmp_path, 1, 600.0).left  # the table of the whole
    assert studies.results(tmp_path) == studies.results(whole)
    for place in records.find_runs(tmp_path):
        assert not [each.name for each in place.glob(".*") if each.name != ".lock"]


def test_a_part_that_is_being_made_is_not_made_twice(tmp_path: Path) -> None:
    with locks.held(tmp_path, name=".lock-2-of-2"):
        line = error_line(studies.make, tmp_path, 1, 600.0, Shard(2, 2), kind=RunError)
    assert line.startswith(f"{tmp_path}: another process works on it; wait until that has ended")
