"""Make one run of a small task: `python -m runs ...` under torchrun, or `train` in a test."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from legw import SGD, Recipe
from legw.records import Summary
from legw.train import Settings, fit
from legw.train.state import load_newest
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
    **settings: Any,
) -> Summary:
    """Train a small task for so many updates of its batch size."""
    task = TASKS[name]()
    changes = changes or {}
    batch_size = changes.get("batch_size", 64)
    epochs = updates * batch_size / task.num_examples(batch_size)
    settings = {"micro_batch_size": 64, "device": "cpu"} | settings
    return fit(task, recipe(epochs=epochs, **changes), out=out, settings=Settings(**settings))


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights and buffers of a run's last checkpoint."""
    content = load_newest(out, warn=print)
    assert content is not None
    return content["model"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("plans", type=json.loads)
    for plan in parser.parse_args().plans:
        plan["out"] = Path(plan["out"])
        train(**plan)
