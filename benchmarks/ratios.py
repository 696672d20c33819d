"""How a benchmark measures and what it returns: ratios of alternating rounds."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from legw.recipe import Recipe
from legw.records import Manifest, Update
from legw.train import Observer, Settings, Task, fit
from legw.train.task import Metric

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


@dataclass(frozen=True)
class Rounds:
    """The seconds that each side took, round by round, and ours' micro-batch."""

    seconds: Sequence[dict[str, float]]
    micro_batch_size: int

    def ratios(self, side: str, by: str = "ours") -> list[float]:
        """Return the seconds of one side over those of another in each round that counts."""
        return [taken[side] / taken[by] for taken in self.seconds[WARM_UP:]]


def alternate(sides: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Call each side once a round; return the seconds of each call, round by round."""
    return [{side: _seconds(call) for side, call in sides.items()} for _ in range(rounds)]


def race(
    task: Task,
    recipe: Recipe,
    rivals: dict[str, Iterator[float]],
    *,
    rounds: int,
    block: int = 1,
    precision: str = "fp32",
) -> Rounds:
    """Train with `fit`, and let each rival make as many updates after every block of its own.

    Ours is the real thing: everything that `fit` does from one update to the next counts,
    the rows that it records too.

    Args:
        task: what is trained; its data must not end within the race.
        recipe: how; its length is set here.
        rivals: other loops, each of which makes one update when asked for its next loss.
        rounds: rounds that count.
        block: updates of each side in a round.
        precision: of ours.
    """
    turns = _Turns(rivals, block)
    updates = (WARM_UP + rounds) * block
    epochs = updates * recipe.batch_size / task.num_examples(recipe.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            _Unjudged(task),
            replace(recipe, epochs=epochs),
            out=Path(folder) / "run",
            settings=Settings(device="cpu", precision=precision, checkpoint_seconds=1e9),
            observers=[turns],
        )
    return Rounds(turns.seconds, turns.micro_batch_size)


class _Turns(Observer):
    """Times blocks of `fit`'s updates, and lets the rivals run between two blocks."""

    def __init__(self, rivals: dict[str, Iterator[float]], block: int) -> None:
        self.seconds: list[dict[str, float]] = []
        self.micro_batch_size = 0
        self._rivals, self._block = rivals, block
        self._done = 0

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self.micro_batch_size = manifest.micro_batch_size
        self._began = time.perf_counter()

    def on_update(self, row: Update) -> None:
        self._done += 1
        if self._done % self._block:
            return
        taken = {"ours": time.perf_counter() - self._began}
        for name, rival in self._rivals.items():
            taken[name] = _seconds(lambda: [next(rival) for _ in range(self._block)])  # noqa: B023
        self.seconds.append(taken)
        self._began = time.perf_counter()


class _Unjudged:
    """A task without its evaluation, which no rival makes."""

    metric = Metric("none")

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> object:
        return getattr(self._task, name)

    def evaluate(self, model: object) -> float:
        return 0.0


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
