"""How a benchmark measures and what it returns: ratios of alternating rounds."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from legw.recipe import Recipe
from legw.runs import records
from legw.runs.records import Manifest, Update
from legw.train import Metric, Observer, Settings, Task, fit
from legw.train.accumulation import Precision
from legw.train.microbatch.candidates import Candidate

WARM_UP = 2
"""Rounds at the start that do not count: memory is allocated, kernels are chosen."""


@dataclass(frozen=True)
class Ratio:
    """How many times better ours is, measured several times."""

    name: str
    values: Sequence[float]
    floor: float | None = None
    """What the median must reach; None is a number to read and nothing to reach."""
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the values."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, method="inclusive")
        return first, third

    @property
    def held(self) -> bool:
        """Whether the median is at or above the floor; without a floor it always is."""
        return self.floor is None or self.median >= self.floor


def alternate(theirs: Callable[[], object], ours: Callable[[], object], rounds: int) -> list[float]:
    """Call both in turns; return the seconds of theirs over those of ours, round by round."""
    ratios = [seconds(theirs) / seconds(ours) for _ in range(WARM_UP + rounds)]
    return ratios[WARM_UP:]


def race(
    name: str,
    task: Task,
    recipe: Recipe,
    other: Iterator[float],
    *,
    rounds: int,
    block: int = 1,
    precision: Precision = "fp32",
    lanes: int | Literal["auto"] = "auto",
    floor: float | None = None,
    warm_up: int = WARM_UP,
) -> Ratio:
    """Train with `fit`, and let another loop make as many updates after every block of its own.

    Ours is the real thing: everything that `fit` does from one update to the next counts,
    the rows that it records too.

    Args:
        name: of the ratio.
        task: what is trained.
        recipe: how; its length is set here.
        other: another loop, which makes one update when asked for its next loss.
        rounds: rounds that count.
        block: updates of each side in a round.
        precision: of `fit`: fp32, or bf16 (autocast).
        lanes: of `fit`: micro-batches at once, at least 1, or auto.
        floor: what the ratio must reach.
        warm_up: rounds before those that count.
    """
    turns = _Turns(other, block)
    candidate = run(
        task, recipe, (warm_up + rounds) * block, turns, precision=precision, lanes=lanes
    )
    return Ratio(name, turns.ratios[warm_up:], floor, f"micro-batch {candidate}")


def run(
    task: Task,
    recipe: Recipe,
    updates: int,
    observer: Observer | None = None,
    *,
    precision: Precision = "fp32",
    micro_batch_size: int | Literal["auto"] = "auto",
    lanes: int | Literal["auto"] = "auto",
) -> Candidate:
    """Make so many updates with `fit`, as it comes; return the candidate that it chose."""
    epochs = updates * recipe.batch_size / task.num_examples(recipe.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = fit(
            _Unjudged(task),
            replace(recipe, epochs=epochs),
            out=out,
            settings=Settings(
                device="cpu",
                precision=precision,
                micro_batch_size=micro_batch_size,
                lanes=lanes,
                checkpoint_seconds=1e9,
            ),
            observers=[observer] if observer else [],
        )
        if summary.status != "finished":  # Ctrl-C, for one
            raise SystemExit(f"benchmarks: {task.name}: {summary.status}: {summary.reason}")
        manifest = records.read_manifest(out)
        return Candidate(manifest.micro_batch_size, manifest.lanes)


class _Turns(Observer):
    """Times blocks of `fit`'s updates, and lets the other loop run after each."""

    def __init__(self, other: Iterator[float], block: int) -> None:
        self.ratios: list[float] = []
        self._other, self._block = other, block
        self._threads = torch.get_num_threads()
        self._done = 0

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._began = time.perf_counter()

    def on_update(self, row: Update) -> None:
        self._done += 1
        if self._done % self._block:
            return
        ours = time.perf_counter() - self._began
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)  # in lanes, ours leaves this thread a share of them
        theirs = seconds(lambda: [next(self._other) for _ in range(self._block)])
        torch.set_num_threads(threads)
        self.ratios.append(theirs / ours)
        self._began = time.perf_counter()


class _Unjudged:
    """A task without its evaluation, which no other loop makes."""

    metric = Metric("none")

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> object:
        return getattr(self._task, name)

    def evaluate(self, model: object) -> float:
        return 0.0


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
