"""Micro-batch tuning: times candidates on the real task and takes the fastest.

On a CPU the fastest micro-batch is far below the largest that fits: small micro-batches stay in the
caches. On a GPU it is often the largest. So the candidates of `legw.train.microbatch.candidates`
are timed, forward and backward, one at a time and, where possible, in lanes (`legw.train.lanes`).
Throughput and memory of each are kept in the cache folder for each task, model size, device,
precision and number of threads, so that the seeds of a study share one measurement. Every run
checks anew what fits into memory.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from legw.recipe import Recipe
from legw.train import batch_norm
from legw.train.accumulation import forward_and_backward
from legw.train.dist import World
from legw.train.hardware import (
    available_memory,
    describe_device,
    memory_in_use,
    out_of_memory,
    peak_memory,
    reset_peak_memory,
    seconds_of,
    times_of,
)
from legw.train.lanes import Lanes, Sums, add_gradient
from legw.train.microbatch.cache import Look, Store, earlier_candidate, earlier_sizes
from legw.train.microbatch.candidates import (
    LONG_SECONDS,
    SMALLEST,
    Candidate,
    best,
    climb,
    in_lanes,
    ladder,
    largest_share,
    settle,
)
from legw.train.precision import Precision
from legw.train.settings import Settings
from legw.train.task import Task

__all__ = [
    "SMALLEST", "Choice", "Candidate", "best", "choose", "climb", "ladder", "settle",
]  # fmt: skip

ENOUGH_SECONDS = 0.2
"""Time for which one size is timed, at least once and at most `MAX_PASSES` times."""

MAX_PASSES = 20

PREFETCHED_EXAMPLES = 64
"""Examples, and at least one micro-batch, that a task which prefetches has loaded before timing."""


@dataclass(frozen=True)
class Choice:
    """The chosen micro-batch and lanes, with the measurements behind the choice."""

    micro_batch_size: int
    table: dict[Candidate, float]
    """Examples per second for each candidate measured; 0 where it did not fit."""
    measured: bool = True
    """False where the table came from the cache, or there was nothing to choose."""
    lanes: int = 1
    """Micro-batches at once."""
    sizes: dict[int, int] = field(default_factory=dict)
    """Micro-batch size for each smaller batch size of a run whose batch grows."""


def for_batches(
    task: Task,
    model: nn.Module,
    recipe: Recipe,
    settings: Settings,
    folder: Path,
    *,
    batch_sizes: Sequence[int],
    world: World,
    group: int,
    lanes: tuple[int, ...],
) -> Choice:
    """Return the micro-batch of a run, and that of each smaller batch size where it grows.

    The lanes are chosen at the largest batch, and kept. Measurements are shared: a smaller batch
    seldom needs new ones.

    Args:
        task: whose loss is timed.
        model: on the world's device, in fixed batch-norm groups.
        recipe: its batch size is the most examples of a micro-batch.
        settings: its micro-batch size, precision and memory limit.
        folder: the run folder.
        batch_sizes: of the run, in examples; the largest is the recipe's.
        world: all its processes measure together, and agree.
        group: examples that must stay together (batch-norm groups), at least 1.
        lanes: numbers of micro-batches at once, each to be tried, at least 1.
    """
    chosen = for_run(
        task, model, recipe, settings, folder, world=world, group=group, lanes=lanes
    )  # fmt: skip
    smaller = [size for size in batch_sizes if size < recipe.batch_size]
    if settings.micro_batch_size != "auto" or not smaller:
        return chosen
    device = describe_device(world.device)
    before = world.agree(lambda: earlier_sizes(folder, world.size, device))
    if set(smaller) <= before.keys():
        return replace(chosen, sizes={size: before[size] for size in smaller})
    found = {
        size: choose(
            task,
            model,
            replace(recipe, batch_size=size, batch_schedule=None),
            world=world,
            group=group,
            precision=settings.precision,
            memory_limit=settings.memory_limit,
            lanes=(chosen.lanes,),
        ).micro_batch_size
        for size in smaller
    }
    return replace(chosen, sizes=found)


def for_run(
    task: Task,
    model: nn.Module,
    recipe: Recipe,
    settings: Settings,
    folder: Path,
    *,
    world: World,
    group: int,
    lanes: tuple[int, ...],
) -> Choice:
    """Return the size that is given, or that a resumed run has, or the fastest.

    Args:
        task: whose loss is timed.
        model: on the world's device, in fixed batch-norm groups.
        recipe: its batch size is the most examples of a micro-batch.
        settings: its micro-batch size, precision and memory limit.
        folder: the run folder.
        world: all its processes measure together, and agree.
        group: examples that must stay together (batch-norm groups), at least 1.
        lanes: numbers of micro-batches at once, each to be tried, at least 1.
    """
    size = settings.micro_batch_size
    if size != "auto":
        return Choice(min(size, recipe.batch_size), {}, measured=False, lanes=lanes[0])
    device = describe_device(world.device)
    before = world.agree(lambda: earlier_candidate(folder, world.size, device))
    if before and before[1] in lanes:
        return Choice(before[0], {}, measured=False, lanes=before[1])
    return choose(
        task,
        model,
        recipe,
        world=world,
        group=group,
        precision=settings.precision,
        memory_limit=settings.memory_limit,
        lanes=lanes,
    )


def choose(
    task: Task,
    model: nn.Module,
    recipe: Recipe,
    *,
    world: World,
    group: int,
    precision: Precision,
    memory_limit: int | None = None,
    lanes: tuple[int, ...] = (1,),
    cache: Path | None = None,
) -> Choice:
    """Return the micro-batch, and the number of lanes, with the highest throughput that fits.

    The model keeps its weights, buffers and mode; its gradients are dropped.

    Args:
        task: whose loss is timed.
        model: on the world's device, in fixed batch-norm groups.
        recipe: its batch size bounds the ladder.
        world: all its processes measure together, and agree.
        group: examples that must stay together (batch-norm groups), at least 1.
        precision: fp32, or bf16 (autocast).
        memory_limit: bytes that a process may use, of those that are free; None is 80 % of them.
        lanes: the numbers of lanes to try, each at least 1.
        cache: folder of the tables; None is ``~/.cache/legw``.

    Raises:
        RunError: not even the smallest size fits.
    """
    share = largest_share(recipe.batch_size, world.size, group)
    sizes = ladder(share, group)
    if len(sizes) == 1:
        return Choice(sizes[0], {}, measured=False, lanes=lanes[0])
    store = Store(task, model, world, precision, cache)
    with store.alone() if world.first else contextlib.nullcontext():
        before: dict[Candidate, Look] = world.share(store.read() if world.first else None)
        limit = _limit(memory_limit, world)
        probe = _Probe(
            task, model, recipe, world=world, precision=precision, limit=limit, looks=before
        )
        known = {candidate: probe.within(look) for candidate, look in before.items()}
        measure = probe.throughput
        alone = climb([Candidate(size) for size in sizes], measure, known)
        table = dict(alone) if 1 in lanes else {}
        for count in lanes:
            if count > 1:
                table |= climb(in_lanes(sizes, count, share), measure, known)
        if not table:  # a batch too small for the lanes that are asked for
            table = climb([Candidate(sizes[0], lanes[0])], measure, known)
        measured = any(rate and candidate not in known for candidate, rate in table.items())
        if measured:
            table = settle(table, measure, share)
        rates = {candidate: rate for candidate, rate in (alone | table).items() if rate}
        looks = probe.looks | {
            candidate: Look(rates[candidate], probe.looks[candidate].bytes) for candidate in rates
        }
        if world.first and looks != before:
            store.write(looks)
    chosen = best(table, share)
    return Choice(chosen.size, table, measured=measured, lanes=chosen.lanes)


def _limit(given: int | None, world: World) -> float:
    """Return the bytes that each process may use, the same for all processes."""
    free = available_memory(world.device)
    own = 0.8 * free if given is None else min(given, free)
    return min(float(each) for each in world.gather(own))


class _Probe:
    """Times forward and backward passes over an epoch's examples, from the first on."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        *,
        world: World,
        precision: Precision,
        limit: float,
        looks: dict[Candidate, Look],
    ) -> None:
        self._task, self._model, self._world = task, model, world
        self._precision, self._limit = precision, limit
        self._ids = task.order(0, 0, recipe.batch_size)
        self.looks = dict(looks)
        """Measurements of each candidate, the same in all processes."""
        self._seen: set[Candidate] = set()

    def within(self, look: Look) -> float:
        """Return the examples per second of a candidate; 0 where it needs more than the limit."""
        return look.rate if look.bytes <= self._limit else 0.0

    def throughput(self, candidate: Candidate) -> float:
        """Return a candidate's examples per second; 0 where it would not fit.

        The lowest throughput and the highest memory of all processes count: it must suit every one.
        """
        if self._foreseen(candidate) > self._limit:
            return 0.0
        found = self._world.gather(self._look(candidate))
        if None in found:
            return 0.0
        earlier = [self.looks[candidate].bytes] if candidate in self.looks else []
        most = max([*earlier, *(look.bytes for look in found)])
        self.looks[candidate] = Look(min(look.rate for look in found), most)
        return self.within(self.looks[candidate])

    def _foreseen(self, candidate: Candidate) -> float:
        """Return a candidate's expected bytes: those of the next smaller one, in proportion.

        It is 0 where nothing is known of a smaller one.
        """
        if candidate in self.looks:
            return self.looks[candidate].bytes
        smaller = [each for each in self.looks if each.examples <= candidate.examples]
        if not smaller:
            return 0.0
        nearest = max(smaller, key=lambda each: each.examples)
        return self.looks[nearest].bytes * candidate.examples / nearest.examples

    def _look(self, candidate: Candidate) -> Look | None:
        """Return a candidate's throughput and memory here; None where memory runs out."""
        device = self._world.device
        before = memory_in_use(device)
        reset_peak_memory(device)
        try:
            rate = self._timed(candidate)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return None
        finally:
            self._model.zero_grad(set_to_none=True)
            batch_norm.forget(self._model)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return Look(rate, max(peak_memory(device) - before, 0.0))

    def _timed(self, candidate: Candidate) -> float:
        """Return examples per second of the median pass; of the first, where it takes long.

        The fastest pass would favour short passes, which fit between other work of the machine. The
        mean would depend on a single delayed pass.
        """
        device = self._world.device
        with contextlib.ExitStack() as held:
            one = passing(
                self._task, self._model, self._ids, candidate, world=self._world,
                precision=self._precision, held=held,
            )  # fmt: skip
            if candidate not in self._seen:
                first = seconds_of(one, device)  # it allocates, and chooses kernels
                counts = self._counts(first)
                self._seen.add(candidate)
                if counts:
                    return candidate.examples / first
            times = times_of(one, device, ENOUGH_SECONDS, most=MAX_PASSES)
        return candidate.examples / statistics.median(times)

    def _counts(self, seconds: float) -> bool:
        """Say whether a candidate's first pass may stand for the others.

        On a CPU it may where it takes long, as one-time work is a small part of it. The very first
        pass never does: torch initialises itself in it.
        """
        return seconds > LONG_SECONDS and bool(self._seen) and self._world.device.type == "cpu"


def load(task: Task, ids: Tensor, device: torch.device) -> Any:
    """Return examples as training gets them, augmented where the task does so.

    Args:
        task: whose data.
        ids: int64 of shape (examples,), on the CPU.
        device: of the data.
    """
    batch = task.batch(ids, device)
    augment = getattr(task, "augment", None)
    return batch if augment is None else augment(batch, torch.arange(len(ids)) * 2**40)


def passing(
    task: Task,
    model: nn.Module,
    ids: Tensor,
    candidate: Candidate,
    *,
    world: World,
    precision: Precision,
    held: contextlib.ExitStack,
) -> Callable[[], None]:
    """Return a function that makes one pass: of one micro-batch, or of one in each lane.

    Args:
        task: whose loss is computed.
        model: on the world's device.
        ids: examples in the order of training. Each pass takes the next ones, as the sizes of
            examples may differ; after the last follows the first. For a task that prefetches, some
            micro-batches are loaded here, and each pass takes the next of them. In lanes nothing is
            prefetched.
        candidate: examples of a micro-batch, and the number of lanes.
        world: its device.
        precision: fp32, or bf16 (autocast).
        held: keeps the lanes' threads until it is closed.
    """
    turns = itertools.count()

    def next_batch() -> Any:
        begin = next(turns) * candidate.size
        return load(task, ids[torch.arange(begin, begin + candidate.size) % len(ids)], world.device)

    if candidate.lanes == 1:
        if hasattr(task, "prefetch"):
            ready = itertools.cycle(
                [next_batch() for _ in range(max(PREFETCHED_EXAMPLES // candidate.size, 1))]
            )
            next_batch = ready.__next__

        def one() -> None:
            batch = next_batch()
            forward_and_backward(task, model, batch, None, precision=precision)

        return one
    threads = Lanes(candidate.lanes)
    held.callback(threads.close)
    parameters = [p for p in model.parameters() if p.requires_grad]

    sums = [Sums(parameters) for _ in range(candidate.lanes)]  # kept: to add up costs time, too

    def lane(number: int) -> None:
        batch = next_batch()
        add_gradient(
            task, model, batch, None, precision=precision, parameters=parameters,
            sums=sums[number],
        )  # fmt: skip

    def several() -> None:
        threads.run(lane)

    return several
