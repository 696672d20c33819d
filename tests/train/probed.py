"""A small run with probes, as one of several processes can make it."""

from __future__ import annotations

import json
from pathlib import Path

from legw.probes import CurvatureProbe, NoiseProbe
from legw.train import Settings, fit
from train.runs import recipe
from train.tasks import TASKS


def probed(name: str, out: Path, *, updates: int, probes: bool = True) -> None:
    """Train a small task for so many updates, with both probes or none."""
    task = TASKS[name]()
    looking = [CurvatureProbe(out, examples=24), NoiseProbe(out, every=2)] if probes else []
    fit(
        task,
        recipe(epochs=updates * 64 / task.num_examples(64)),
        out=out,
        settings=Settings(micro_batch_size=16, device="cpu"),
        observers=looking,
    )


def timed_all_reduces(folder: Path) -> None:
    """Be one of several processes, and write what its all-reduces took."""
    from legw.probes import speed
    from legw.train.dist import joined

    with joined("cpu") as world:
        times = [speed.all_reduce_seconds(world, size) for size in (4, 40_000_000)]
    (folder / str(world.rank)).write_text(json.dumps(times), encoding="utf-8")
