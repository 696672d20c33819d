"""A small study in a process of its own, to be killed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

import faults
from legw.recipe import Recipe
from legw.runs import records
from legw.study import runner
from legw.study.plan import Study
from legw.study.shards import WHOLE, Shard
from legw.train import Settings

SMALL = Recipe(name="small", batch_size=16, lr=0.2, epochs=10, warmup_epochs=0.5, num_examples=128)
ASKED = Study(
    task="digits", base=SMALL, batch_sizes=(16, 32, 128), rules=("legw", "sqrt", "adascale"),
    seeds=(0,), tuned={"adam": {"lr": (0.01,)}},
)  # fmt: skip


def make(
    folder: Path, jobs: int = 1, checkpoint_seconds: float = 0.01, shard: Shard = WHOLE
) -> runner.Outcome:
    """Make the study, or go on with it; usually with a checkpoint after every few updates."""
    torch.set_num_threads(1)
    settings = Settings(device="cpu", micro_batch_size=16, checkpoint_seconds=checkpoint_seconds)
    return runner.run_study(
        ASKED,
        functools.partial(faults.failing, ""),
        folder,
        settings=settings,
        jobs=jobs,
        shard=shard,
    )


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """What each run came to, without its times: losses and metrics of every update and epoch."""
    found = {}
    for place in records.find_runs(folder):
        run = records.load(place)
        assert run.summary is not None and not run.problems, place
        found[place.name] = {
            "status": run.status,
            "metric": run.summary.metric,
            "updates": [(row.update, row.lr, row.loss) for row in run.updates],
            "evaluations": [(row.update, row.metric) for row in run.evaluations],
            "reason": run.summary.reason,
        }
    return found
