"""Runs of the small tasks, and what two runs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from legw import SGD, Recipe, rules
from legw.runs import records
from legw.runs.records import Summary
from legw.train import Settings, fit
from legw.train.checkpoint import load_newest
from train.paced import held_back
from train.tasks import TASKS


def recipe(updates: int = 20, **changes: Any) -> Recipe:
    """Return a recipe of so many updates at batch 64 (or what `changes` says)."""
    values: dict[str, Any] = {
        "name": "small", "batch_size": 64, "lr": 0.05, "epochs": 1.0, "warmup_epochs": 0.1,
        "optimizer": SGD(momentum=0.9), "clip_norm": 1.0, "norm_batch_size": 8,
    }  # fmt: skip
    return Recipe(**(values | changes))


def train(
    name: str,
    out: Path,
    *,
    updates: int = 20,
    changes: dict[str, Any] | None = None,
    hurry: Path | None = None,
    **settings: Any,
) -> Summary:
    """Train a small task for so many updates of its batch size, slowly until `hurry` exists."""
    task = TASKS[name]() if hurry is None else held_back(TASKS[name](), hurry)
    changes = changes or {}
    batch_size = changes.get("batch_size", 64)
    epochs = updates * batch_size / task.num_examples(batch_size)
    settings = {"micro_batch_size": 64, "device": "cpu"} | settings
    return fit(task, recipe(epochs=epochs, **changes), out=out, settings=Settings(**settings))


ADASCALE_BASE = recipe(batch_size=16, epochs=1.0)


def train_adascale(out: Path, name: str = "lines", **settings: Any) -> Summary:
    """Train a small task at batch 64 as AdaScale steers it, from a base of batch 16."""
    settings = {"micro_batch_size": 16, "device": "cpu"} | settings
    big = rules.apply(ADASCALE_BASE, 64, rules.ADASCALE)
    return fit(
        TASKS[name](), big, out=out, base=ADASCALE_BASE, rule="adascale",
        settings=Settings(**settings),
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights and buffers of a run's last checkpoint."""
    content = load_newest(out, warn=print)
    assert content is not None
    return content["model"]


def assert_same_run(found: Path, expected: Path) -> None:
    """Every update once, with the same rate, loss, metric and weights to rounding."""
    one, other = records.load(found), records.load(expected)
    assert not one.problems
    assert [row.update for row in one.updates] == list(range(len(other.updates)))
    assert [row.lr for row in one.updates] == [row.lr for row in other.updates]
    assert [row.loss for row in one.updates] == approx([row.loss for row in other.updates])
    metrics = [row.metric for row in one.evaluations]
    assert metrics == approx([row.metric for row in other.evaluations])
    assert one.summary is not None and other.summary is not None
    assert one.summary.status == other.summary.status == "finished"
    assert one.summary.metric["value"] == approx(other.summary.metric["value"])
    assert one.summary.final_loss == approx(other.summary.final_loss)
    mine = weights(found)
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-10, msg=name)


def approx(expected: Any) -> Any:
    return pytest.approx(expected, rel=0, abs=1e-10)
