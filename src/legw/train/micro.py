"""The fastest micro-batch, found by a short measurement on the real task.

On a CPU the fastest micro-batch is far from the largest that fits: small pieces
stay in the caches. On a GPU it is often the largest. So a ladder of sizes is
timed, forward and backward, and the highest throughput within the memory limit
wins. The table is kept in ``~/.cache/legw`` per task, size of model, device, precision
and number of threads, so that the seeds of a study share one measurement.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from legw import locks
from legw.durations import MICRO_BATCHES, cache_folder
from legw.errors import RunError
from legw.files import write_json
from legw.recipe import Recipe
from legw.train import norm
from legw.train.dist import World
from legw.train.machine import (
    available_memory,
    describe_device,
    memory_in_use,
    peak_memory,
    reset_peak_memory,
)
from legw.train.step import Precision, forward_and_backward
from legw.train.task import Task

__all__ = ["Choice", "best", "cache_folder", "choose", "climb", "ladder", "settle"]

SMALLEST = 16
"""Below this many examples a micro-batch is never worth its overhead."""

ENOUGH_SECONDS = 0.15
"""How long one size is timed, at least once and at most `MOST_PASSES` times."""

MOST_PASSES = 20

GIVE_UP = 0.6
"""The ladder ends after two sizes in a row below this share of the best throughput."""

NEAR = 0.8
"""Sizes above this share of the best are timed again, `ROUNDS` times in turn."""

ROUNDS = 2

CLOSE = 0.98
"""Of sizes this close to the best the smallest is taken: it needs less memory."""


@dataclass(frozen=True)
class Choice:
    """The micro-batch that was chosen, and why."""

    micro_batch_size: int
    table: dict[int, float]
    """Examples per second for each size measured; 0 where it did not fit."""
    measured: bool = True
    """False where the table came from the cache, or there was nothing to choose."""


def choose(
    task: Task,
    model: nn.Module,
    recipe: Recipe,
    *,
    world: World,
    group: int,
    precision: Precision,
    memory_limit: int | None = None,
    cache: Path | None = None,
) -> Choice:
    """Return the micro-batch with the highest throughput that fits.

    The model keeps its weights, buffers and mode; its gradients are dropped.

    Args:
        task: whose loss is timed.
        model: on the world's device, in fixed batch-norm groups.
        recipe: its batch size bounds the ladder.
        world: all its processes measure together, and agree.
        group: examples that must stay together (batch-norm groups), at least 1.
        precision: fp32, or bf16 (autocast).
        memory_limit: bytes that a process may use; None is 80 % of what is free.
        cache: folder of the tables; None is ``~/.cache/legw``.

    Raises:
        RunError: not even the smallest size fits.
    """
    share = -(-recipe.batch_size // world.size)
    sizes = ladder(share, group)
    if len(sizes) == 1:
        return Choice(sizes[0], {}, measured=False)
    store = _Store(task, model, world, precision, cache)
    limit = memory_limit if memory_limit is not None else int(0.8 * available_memory(world.device))
    probe = _Probe(task, model, recipe, world=world, precision=precision, limit=limit)
    with store.alone() if world.first else contextlib.nullcontext():
        known = world.share(store.read() if world.first else None)
        measure = functools.partial(_least, world, probe)
        table = climb(sizes, measure, known)
        if any(size not in known for size in table):
            table = settle(table, measure)
        if world.first and table != known:
            store.write(known | table)
    return Choice(best(table, share), table, measured=any(size not in known for size in table))


def ladder(share: int, group: int = 1) -> list[int]:
    """Return the sizes to try for a process's share of the batch: whole groups, ascending.

    >>> ladder(100)
    [16, 32, 64, 100]
    >>> ladder(512, group=128)
    [128, 256, 512]
    """
    size = max(SMALLEST, group)
    sizes = []
    while size < share:
        sizes.append(size)
        size *= 2
    return [*sizes, share]


def climb(
    sizes: list[int], measure: Callable[[int], float], known: dict[int, float]
) -> dict[int, float]:
    """Measure sizes in ascending order until larger ones no longer fit or pay.

    Args:
        sizes: what to try, ascending.
        measure: size -> examples per second, 0 where it does not fit.
        known: what was measured before.

    >>> climb([16, 32, 64, 128], {16: 90.0, 32: 100.0, 64: 50.0, 128: 40.0}.__getitem__, {})
    {16: 90.0, 32: 100.0, 64: 50.0, 128: 40.0}
    """
    table: dict[int, float] = {}
    slow = 0
    for size in sizes:
        table[size] = known[size] if size in known else measure(size)
        slow = slow + 1 if table[size] < GIVE_UP * max(table.values()) else 0
        if table[size] == 0 or slow == 2:
            break
    return table


def settle(table: dict[int, float], measure: Callable[[int], float]) -> dict[int, float]:
    """Time the sizes that come near the best again, in turn, and keep each one's best.

    Other work on the machine slows whatever is timed at that moment, and one look at
    each size would take that for the size's own.

    Args:
        table: examples per second of each size.
        measure: size -> examples per second.

    >>> again = {32: 110.0, 64: 70.0}
    >>> settle({16: 50.0, 32: 80.0, 64: 90.0}, again.__getitem__)
    {16: 50.0, 32: 110.0, 64: 90.0}
    """
    near = [size for size, rate in table.items() if rate and rate >= NEAR * max(table.values())]
    if len(near) < 2:
        return table
    found = dict(table)
    for _ in range(ROUNDS):
        for size in near:
            found[size] = max(found[size], measure(size))
    return found


def best(table: dict[int, float], share: int) -> int:
    """Return the smallest size whose throughput over a whole share is close to the best.

    A share that is no multiple of a size ends with a short piece, which is counted as if
    it took as long as a full one.

    Raises:
        RunError: no size fits.

    >>> best({16: 50.0, 32: 99.0, 64: 100.0, 128: 0.0}, share=640)
    32
    >>> best({16: 100.0, 20: 90.0}, share=20)
    20
    """
    rates = {size: rate * share / (-(-share // size) * size) for size, rate in table.items()}
    top = max(rates.values())
    if top == 0:
        raise RunError(
            f"micro_batch_size: not even {min(table)} examples fit into the memory limit; "
            "raise --memory-limit or give --micro-batch-size"
        )
    return min(size for size, rate in rates.items() if rate >= CLOSE * top)


def _least(world: World, probe: _Probe, size: int) -> float:
    """Return the lowest throughput of all processes: a size must suit every one."""
    return min(float(each) for each in world.gather(probe.throughput(size)))


class _Probe:
    """Times forward and backward passes over the first examples of an epoch."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        *,
        world: World,
        precision: Precision,
        limit: int,
    ) -> None:
        self._task, self._model, self._world = task, model, world
        self._precision, self._limit = precision, limit
        self._ids = task.order(0, 0, recipe.batch_size)
        self._last: tuple[int, float] | None = None

    def throughput(self, size: int) -> float:
        """Return examples per second at this size; 0 where it would not fit."""
        device = self._world.device
        if self._last and self._last[1] * size / self._last[0] > self._limit:
            return 0.0  # what the last size took, grown in proportion, is too much
        before = memory_in_use(device)
        reset_peak_memory(device)
        try:
            rate = self._timed(size)
        except (torch.OutOfMemoryError, MemoryError):
            return 0.0
        except RuntimeError as error:  # the CPU's allocator has no class of its own
            if "memory" not in str(error):
                raise
            return 0.0
        finally:
            self._model.zero_grad(set_to_none=True)
            norm.forget(self._model)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        self._last = (size, max(peak_memory(device) - before, 0.0))
        return rate if self._last[1] <= self._limit else 0.0

    def _timed(self, size: int) -> float:
        ids = self._ids[torch.arange(size) % len(self._ids)]
        self._pass(ids)  # the first pass allocates, and chooses kernels
        marks = [self._now()]
        while len(marks) == 1 or (
            marks[-1] - marks[0] < ENOUGH_SECONDS and len(marks) <= MOST_PASSES
        ):
            self._pass(ids)
            marks.append(self._now())
        # Other work on the machine only ever slows a pass: the fastest is the size's own.
        return size / min(after - before for before, after in pairwise(marks))

    def _pass(self, ids: torch.Tensor) -> None:
        batch = self._task.batch(ids, self._world.device)
        forward_and_backward(self._task, self._model, batch, None, precision=self._precision)

    def _now(self) -> float:
        if self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)
        return time.perf_counter()


class _Store:
    """The tables measured before, one file for all tasks."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        world: World,
        precision: Precision,
        folder: Path | None,
    ) -> None:
        self._path = (folder or cache_folder()) / MICRO_BATCHES
        parts = (
            task.name,
            f"{sum(p.numel() for p in model.parameters())} parameters",
            describe_device(world.device),
            precision,
            f"{world.size} processes",
            f"torch {torch.__version__}",
        )
        self._key = " | ".join(parts)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Let the runs of a study measure one after the other: the second finds it done."""
        return locks.in_turn(self._path.with_suffix(".lock"))

    def read(self) -> dict[int, float]:
        """Return the table of this task and machine; empty where there is none."""
        table: dict[str, float] = self._all().get(self._key, {})
        return {int(size): rate for size, rate in table.items()}

    def write(self, table: dict[int, float]) -> None:
        """Keep a table; a cache that cannot be written is no reason to stop."""
        with contextlib.suppress(OSError, RunError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = {str(size): round(rate, 1) for size, rate in sorted(table.items())}
            write_json(self._path, self._all() | {self._key: kept})

    def _all(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
