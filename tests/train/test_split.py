"""However a global batch is cut, over micro-batches and processes, the weights are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from legw import AdamW, Muon
from legw.train.accumulation import GlobalBatch
from legw.train.batches import Batches
from legw.train.dist import World
from train.launch import complete
from train.runs import recipe, train, weights
from train.tasks import TASKS, Streams

MUON: dict[str, Any] = {"optimizer": Muon(adamw_lr_ratio=0.5)}
ADAMW: dict[str, Any] = {"lr": 0.003, "optimizer": AdamW(beta2=0.95, weight_decay=0.1)}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "streams-muon": ("streams", MUON),
    "windows-muon": ("windows", MUON),
    "windows-adamw": ("windows", ADAMW),
}
"""Runs with another optimizer than momentum SGD: their tasks and changes."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in one piece, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    for name in TASKS:
        train(name, folder / name)
    for run, (name, changes) in OTHERS.items():
        train(name, folder / run, changes=changes)
    return folder


def assert_same_weights(found: Path, expected: Path) -> None:
    for name, tensor in weights(expected).items():
        assert_close(weights(found)[name], tensor, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("micro_batch_size", [32, 24, 16])
@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_change_nothing(
    whole: Path, tmp_path: Path, name: str, micro_batch_size: int
) -> None:
    train(name, tmp_path, micro_batch_size=micro_batch_size)
    assert_same_weights(tmp_path, whole / name)


@pytest.mark.parametrize("run", OTHERS)
def test_micro_batches_change_nothing_with_another_optimizer(
    whole: Path, tmp_path: Path, run: str
) -> None:
    name, changes = OTHERS[run]
    train(name, tmp_path, changes=changes, micro_batch_size=24)
    assert_same_weights(tmp_path, whole / run)


@pytest.mark.ci
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.ci)])
def test_processes_change_nothing(whole: Path, tmp_path: Path, world_size: int) -> None:
    plans = [{"name": name, "out": tmp_path / name, "micro_batch_size": 24} for name in TASKS]
    # With Muon each process makes a share of the matrices orthogonal.
    for run, (name, changes) in OTHERS.items():
        plans.append(
            {"name": name, "out": tmp_path / run, "changes": changes, "micro_batch_size": 24}
        )
    complete(world_size, train_all, plans, logs=tmp_path)
    for name in (*TASKS, *OTHERS):
        assert_same_weights(tmp_path / name, whole / name)


@pytest.mark.ci
def test_a_process_without_examples_takes_part(tmp_path: Path) -> None:
    """Batch 20 in groups of 8 makes three groups: the fourth process has none."""
    changes = {"batch_size": 20}
    train("normalised", tmp_path / "one", changes=changes)
    plan = {"name": "normalised", "out": tmp_path / "four", "changes": changes}
    complete(4, train_all, [plan], logs=tmp_path)
    assert_same_weights(tmp_path / "four", tmp_path / "one")


def test_the_carried_state_goes_through_the_cpu() -> None:
    """Another process's GPU has a number that this host may not have."""
    asked: list[tuple[object, ...]] = []

    class Far(torch.Tensor):
        def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            asked.append((self.shape, *args))
            return self.as_subclass(torch.Tensor)

    task = Streams()
    batch = GlobalBatch(
        task, task.model(), recipe(), world=World(torch.device("cpu")), micro_batch_size=64,
        group=1, batches=Batches(lambda epoch: task.order(0, epoch, 64), 704, 64),
        num_examples=704, seed=0, precision="fp32",
    )  # fmt: skip
    batch.carried = [(torch.ones(2, 3).as_subclass(Far),), (torch.zeros(1, 3).as_subclass(Far),)]
    (whole,) = batch.gather_carried() or ()
    assert asked == [((3, 3),)]
    assert type(whole) is torch.Tensor and whole.tolist() == [[1.0] * 3] * 2 + [[0.0] * 3]


def test_a_clip_norm_above_every_gradient_changes_nothing(tmp_path: Path) -> None:
    for name, clip_norm in (("none", None), ("far", 1e6)):
        train("lines", tmp_path / name, changes={"clip_norm": clip_norm})
    assert_same_weights(tmp_path / "far", tmp_path / "none")


def test_the_test_can_fail(whole: Path, tmp_path: Path) -> None:
    train("lines", tmp_path, changes={"clip_norm": 0.9})
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path, whole / "lines")


def train_all(plans: list[dict[str, Any]]) -> None:
    """Make several runs, one after the other."""
    for plan in plans:
        train(**plan)


def test_weights_are_in_double_precision(whole: Path) -> None:
    assert weights(whole / "streams")["decode.weight"].dtype is torch.float64
