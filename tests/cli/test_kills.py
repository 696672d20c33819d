"""A study that is killed at random moments and resumed comes to exactly the same."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

import studies
from legw.runs import locks
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
    [(2, 1), pytest.param(10, 1, marks=pytest.mark.slow),
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
