"""However a global batch is cut, over micro-batches and processes, the weights are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from train.runs import train, weights
from train.tasks import TASKS

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in one piece, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    for name in TASKS:
        train(name, folder / name)
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


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_change_nothing(whole: Path, tmp_path: Path, world_size: int) -> None:
    plans = [{"name": name, "out": str(tmp_path / name), "micro_batch_size": 24} for name in TASKS]
    torchrun(world_size, plans)
    for name in TASKS:
        assert_same_weights(tmp_path / name, whole / name)


def test_a_process_without_examples_takes_part(tmp_path: Path) -> None:
    """Batch 20 in groups of 8 makes three groups: the fourth process has none."""
    changes = {"batch_size": 20}
    train("normalised", tmp_path / "one", changes=changes)
    torchrun(4, [{"name": "normalised", "out": str(tmp_path / "four"), "changes": changes}])
    assert_same_weights(tmp_path / "four", tmp_path / "one")


def test_the_test_can_fail(whole: Path, tmp_path: Path) -> None:
    train("lines", tmp_path, changes={"clip_norm": 0.9})
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path, whole / "lines")


def torchrun(world_size: int, plans: list[dict[str, object]]) -> None:
    """Make runs in so many processes on this machine."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world_size}", "-m", "train.runs", json.dumps(plans),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_weights_are_in_double_precision(whole: Path) -> None:
    assert weights(whole / "streams")["decode.weight"].dtype is torch.float64
