"""What `legw plan` measures: passes, the step, and an all-reduce."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expect import error_line
from legw.errors import RunError
from legw.probes import speed
from legw.train.dist import World
from threads import threads
from train.launch import complete
from train.probed import timed_all_reduces
from train.runs import recipe
from train.tasks import Lines, Normalised

CPU = World(torch.device("cpu"))


class Slow(Lines):
    """A pass takes 2 ms, and 0.1 ms for each example; from some size on it does not fit."""

    def __init__(self, most: int = 10**9, error: Exception | None = None) -> None:
        super().__init__()
        self.most = most
        self.error = error or MemoryError()

    def loss(self, model: nn.Module, batch: Any, state: Any) -> Any:
        if len(batch[0]) > self.most:
            raise self.error
        time.sleep(0.002 + 0.0001 * len(batch[0]))
        return super().loss(model, batch, state)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


def test_passes_take_what_they_take() -> None:
    found = speed.measure(Slow(), recipe(), world=CPU, largest=128, seconds=0.05)
    assert sorted(found.passes) == [16, 32, 64, 128]
    for size, seconds in found.passes.items():
        assert 0.002 + 0.0001 * size <= seconds < 3 * (0.002 + 0.0001 * size) + 0.25  # other work
    assert 0 < found.step_seconds < 0.5
    weights = 6 * 8 + 8 + 8 + 1
    assert found.gradient_bytes == 8 * weights
    assert found.device.startswith("cpu") and found.spread >= 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_sizes_that_do_not_fit_are_left_out(error: Exception) -> None:
    small: dict[str, Any] = {"world": CPU, "largest": 128, "seconds": 0.01}
    found = speed.measure(Slow(most=40, error=error), recipe(), **small)
    assert sorted(found.passes) == [16, 32]
    error_line(speed.measure, Slow(most=3, error=error), recipe(), **small, kind=RunError)


def test_another_error_is_not_hidden() -> None:
    task = Slow(most=40, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        speed.measure(task, recipe(), world=CPU, largest=128, seconds=0.01)


def test_batch_norm_groups_stay_whole() -> None:
    found = speed.measure(
        Normalised(), recipe(norm_batch_size=24), world=CPU, largest=96, seconds=0.01
    )
    assert sorted(found.passes) == [24, 48, 96]


class Alone(Slow):
    """The same, but lanes may not serve it."""

    concurrent = False


def test_as_many_lanes_as_threads_are_timed_where_they_can_be(two_threads: None) -> None:
    found = speed.measure(Slow(), recipe(), world=CPU, largest=64, seconds=0.05)
    assert sorted(found.passes) == [16, 32, 64] and sorted(found.rounds) == [(16, 2), (32, 2)]
    for (size, _), seconds in found.rounds.items():
        assert seconds >= 0.002 + 0.0001 * size
    assert found.rounds[32, 2] < 2 * found.passes[32], "they wait at the same time"
    for task, lanes in ((Slow(), False), (Alone(), True)):
        assert not speed.measure(
            task, recipe(), world=CPU, largest=32, lanes=lanes, seconds=0.01
        ).rounds


def test_interruptions_count_by_their_share_of_the_time() -> None:
    calls = iter(range(1000))

    def action() -> None:
        time.sleep(0.05 if next(calls) % 4 == 0 else 0.002)

    seconds, spread = speed.timed(action, torch.device("cpu"), 0.3)
    assert 0.01 <= seconds < 0.05 and spread >= 0


def test_one_process_synchronises_nothing() -> None:
    assert speed.all_reduce_seconds(CPU, 4000) == 0.0


@pytest.mark.parametrize("world_size", [2])
def test_a_larger_gradient_takes_longer(world_size: int, tmp_path: Path) -> None:
    complete(world_size, timed_all_reduces, tmp_path, logs=tmp_path / "logs")
    for rank in range(world_size):
        small, large = json.loads((tmp_path / str(rank)).read_text())
        assert 0 < small < large
