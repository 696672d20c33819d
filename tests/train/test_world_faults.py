"""Two processes as on two machines, of which the first meets a fault: both end, none is lost.

Network namespaces (`test_hosts`) show what a broken cable does; here are the faults of the
machine that writes: its disk fills, it dies in mid-checkpoint, its clock jumps.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legw.cli import main
from legw.recipe import to_toml
from legw.runs import records
from legw.train import checkpoint
from train.launch import Rank, start
from train.runs import assert_same_run, recipe, train

UPDATES = 40
AFTER = 12
"""Files that are brought to the disk before the fault: the manifest, and some checkpoints."""


def fill_the_disk(done: int) -> None:
    if done > AFTER:
        raise OSError(28, "No space left on device")


def die(done: int) -> None:
    """End as a machine that loses its power: the file is half-written, nothing is closed."""
    if done > AFTER:
        os.kill(os.getpid(), signal.SIGKILL)


def jump(done: int) -> None:
    """Put the clock on the wall a day ahead, or back; what counts seconds must not care."""
    real = time.time
    setattr(time, "time", lambda: real() + (86_400 if done % 2 else -86_400))  # noqa: B010


def legw(words: list[str], folder: Path, fault: Callable[[int], None] | None) -> int:
    """Be one process of `legw WORDS`; the first meets the fault when it syncs a file."""
    os.chdir(folder)
    if fault is not None and os.environ["RANK"] == "0":
        sync, done = os.fsync, [0]

        def faulty(descriptor: int) -> None:
            done[0] += 1
            fault(done[0])
            sync(descriptor)

        os.fsync = faulty
    return main(words)


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., list[Rank]]:
    """Return a function that trains on two processes, with a fault or without."""
    small = recipe(epochs=UPDATES * 64 / 704)
    (tmp_path / "small.toml").write_text(to_toml(small), encoding="utf-8")
    words = ["train", "train.tasks:Streams", "--recipe", "small.toml", "--micro-batch-size", "64",
             "--checkpoint-seconds", "0", "--resume", "--out", "run",
             "--patience-seconds", "300"]  # fmt: skip

    def begin(fault: Callable[[int], None] | None = None) -> list[Rank]:
        return start(2, legw, words, tmp_path, fault, logs=tmp_path / f"logs-{fault is None}")

    return begin


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train("streams", folder, updates=UPDATES)
    return folder


def finish(ranks: Callable[..., list[Rank]], out: Path, whole: Path) -> None:
    """Let both go on to the end, and see that it is the end of the run without a fault."""
    again = ranks()
    assert [rank.wait() for rank in again] == [0, 0], [rank.text for rank in again]
    assert_same_run(out, whole)
    assert not [each.name for each in out.glob(".*") if each.name != ".lock"]


def lines(rank: Rank) -> list[str]:
    return [line for line in rank.lines if line.startswith("legw: ")]


@pytest.mark.ci
def test_a_full_disk_ends_both_and_keeps_the_last_checkpoint(
    ranks: Callable[..., list[Rank]], tmp_path: Path, whole: Path
) -> None:
    first, second = ranks(fill_the_disk)
    assert (first.wait(), second.wait()) == (2, 2), first.text + second.text
    (said,) = lines(first)
    assert said.endswith("cannot be written: No space left on device")
    assert not any("Traceback" in rank.text for rank in (first, second))
    assert len(checkpoint.paths(tmp_path / "run")) == 2
    assert len(records.load(tmp_path / "run").updates) < UPDATES
    finish(ranks, tmp_path / "run", whole)


@pytest.mark.ci
def test_the_rendezvous_dies_in_mid_checkpoint(
    ranks: Callable[..., list[Rank]], tmp_path: Path, whole: Path
) -> None:
    """The first process keeps the store at which all meet; its file is left half-written."""
    first, second = ranks(die)
    assert first.wait() == -signal.SIGKILL
    assert second.wait() == 2, second.text
    (said,) = lines(second)
    assert said.startswith("legw: rank 1: lost another process (")
    assert said.endswith("; the same command with --resume goes on from the last checkpoint")
    assert "Traceback" not in second.text
    assert len(list((tmp_path / "run").glob(".checkpoint-*"))) == 1
    finish(ranks, tmp_path / "run", whole)


@pytest.mark.ci
def test_a_clock_that_jumps_changes_nothing(
    ranks: Callable[..., list[Rank]], tmp_path: Path, whole: Path
) -> None:
    pair = ranks(jump)
    assert [rank.wait() for rank in pair] == [0, 0], [rank.text for rank in pair]
    assert_same_run(tmp_path / "run", whole)
    found: Any = records.read_summary(tmp_path / "run")
    assert 0 < found.seconds <= found.wall_seconds < 3600
    seconds = [row.seconds for row in records.load(tmp_path / "run").updates]
    assert seconds == sorted(seconds)
