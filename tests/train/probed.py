"""A small run with probes, as one of several processes can make it."""

from __future__ import annotations

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
