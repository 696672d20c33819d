"""Cost estimate of a run: time and memory of one device, from a short measurement.

The measurement times a few forward and backward passes. The micro-batch grows until a pass takes
long, holds the process's whole share, or would not fit into memory. Where training may use lanes,
several micro-batches are timed at once.

Memory is measured on the first examples of an epoch: where lengths differ, they are the longest of
their batch. Time is corrected by passes from other places of the epoch. Larger micro-batches than
the measured ones are extrapolated: memory in proportion to the examples of a micro-batch, time in
proportion to the examples. Nothing is trained and nothing is written.
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from legw import optimizers, schedule
from legw.recipe import Recipe
from legw.train import batch_norm, optim
from legw.train.accumulation import forward_and_backward
from legw.train.batches import split
from legw.train.dist import World
from legw.train.hardware import (
    available_memory,
    describe_device,
    memory_in_use,
    now,
    peak_memory,
    reset_peak_memory,
    seconds_of,
    times_of,
)
from legw.train.lanes import tried
from legw.train.microbatch import tune
from legw.train.microbatch.candidates import Candidate, climb, in_lanes, largest_share
from legw.train.muon_groups import described, muon_groups
from legw.train.precision import Precision, warn_if_slow
from legw.train.task import Task

FIRST = 8
"""Examples of the first micro-batch that is timed."""

LONG_SECONDS = 1.5
"""A pass that takes longer than this is the last that is timed."""

REPEATS = 3
"""Number of timings of a pass; the fastest counts, as other work only slows one."""

PLACES = 16
"""Places of an epoch that are timed beside its beginning: examples may differ in length."""

PLACES_SECONDS = 5.0
"""No further place is timed after so long."""

DATA_EXAMPLES = 64
"""Examples whose loading is timed, at most."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One process's part in a run, and its cost on a device like the one measured."""

    device: str
    """Device that was measured."""
    processes: int
    """Number of processes that share the batch."""
    share: int
    """Examples of each update for the process that has most."""
    group: int
    """Examples of a batch-norm group; 1 where there is none."""
    micro_batch_size: int
    """Examples per pass in the memory figure."""
    rates: dict[int, float]
    """Examples per second, forward and backward, for each size measured: a mean of the epoch."""
    laned: dict[str, float]
    """The same for several micro-batches at once, such as 2 x 64; empty without lanes."""
    data_rate: float
    """Examples per second that can be loaded and augmented."""
    data_ahead: bool
    """Whether data are loaded during the training on earlier data."""
    step_seconds: float
    """Time of an optimizer step."""
    parameters: int
    """Number of trained weights."""
    fixed_bytes: int
    """Weights, gradients and the optimizer's state."""
    pass_bytes: int
    """Further memory of a micro-batch's pass."""
    available_bytes: float
    """Free memory of the device."""
    num_examples: int
    """In one epoch."""
    updates: int
    """Of the whole run."""
    warmup_updates: int
    """Of its warmup."""
    smaller: dict[int, int] = field(default_factory=dict)
    """Number of updates at each smaller batch size of a batch that grows; else empty."""
    optimizer_groups: list[str] = field(default_factory=list)
    """For Muon: which optimizer has which tensors, a line for each group; else empty."""

    @property
    def micro_batches(self) -> int:
        """Passes of each update, in the process that has most."""
        return -(-self.share // self.micro_batch_size)

    @property
    def rate(self) -> float:
        """Examples per second of compute."""
        return max([*self.rates.values(), *self.laned.values()])

    @property
    def update_seconds(self) -> float:
        """One update, without the time that processes take to sum gradients."""
        compute, data = self.share / self.rate, self.share / self.data_rate
        return (max(compute, data) if self.data_ahead else compute + data) + self.step_seconds

    @property
    def run_seconds(self) -> float:
        """All updates, without evaluations."""
        last = self.updates - sum(self.smaller.values())
        phases = [count * self._seconds(batch_size) for batch_size, count in self.smaller.items()]
        return sum(phases) + last * self.update_seconds

    def _seconds(self, batch_size: int) -> float:
        """Return the time of an update of a smaller batch, whose passes are no larger."""
        share = largest_share(batch_size, self.processes, self.group)
        laned = {Candidate.read(each).examples: rate for each, rate in self.laned.items()}
        measured = [*self.rates.items(), *laned.items()]
        fits = [rate for size, rate in measured if size <= share] or [min(self.rates.values())]
        compute, data = share / max(fits), share / self.data_rate
        return (max(compute, data) if self.data_ahead else compute + data) + self.step_seconds


def estimate(
    task: Task,
    recipe: Recipe,
    *,
    device: torch.device,
    processes: int = 1,
    micro_batch_size: int | None = None,
    precision: Precision = "fp32",
    lanes: int | Literal["auto"] = "auto",
    one_lane: bool = False,
) -> Estimate:
    """Measure a few passes, and return the expected cost of a run.

    Args:
        task: the task to train.
        recipe: how, at its batch size.
        device: on which passes are timed.
        processes: number of processes that share the batch, at least 1, each with a device like
            this one.
        micro_batch_size: examples per pass; None is the largest measured, in whole groups.
        precision: fp32, or bf16 (autocast).
        lanes: number of micro-batches at once, at least 1; auto also tries one for each thread.
        one_lane: True where a reason outside of the task allows only one lane.

    Raises:
        RunError: there are more processes than examples in a batch, the micro-batch is
            smaller than a batch-norm group, or lanes are asked for where there can be none.
    """
    warn_if_slow(device.type, precision)
    num_examples = task.num_examples(recipe.batch_size)
    phases = schedule.phases(recipe, task.num_examples)
    smallest = phases[0].batch_size
    split(smallest, smallest, world_size=processes)  # can it be?
    model = task.model().to(device)
    group = min(batch_norm.fix_groups(model, recipe.norm_batch_size), recipe.batch_size)
    model.train()
    split(recipe.batch_size, recipe.batch_size, world_size=processes, group=group)  # can it be?
    share = largest_share(recipe.batch_size, processes, group)
    counts = tried(lanes, task, World(device), group, barred=one_lane or processes > 1)
    passes = _Passes(task, model, recipe, device, precision)
    rates, largest = _climb(passes, share)
    laned = _in_lanes(passes, rates, max(counts), share)
    longer = _first_to_mean(passes, rates)
    data_rate = _data_rate(passes, min(share, DATA_EXAMPLES))
    step_seconds, fixed = _step(task, model, recipe, device, passes)
    suits = max(group, largest // group * group) if share > largest else share
    if micro_batch_size is not None:
        split(recipe.batch_size, micro_batch_size, group=group)
        suits = min(micro_batch_size, share)
    return Estimate(
        device=describe_device(device),
        processes=processes,
        share=share,
        group=group,
        micro_batch_size=suits,
        rates={size: rate * longer for size, rate in rates.items()},
        laned={candidate: rate * longer for candidate, rate in laned.items()},
        data_rate=data_rate,
        data_ahead=hasattr(task, "prefetch"),
        step_seconds=step_seconds,
        parameters=sum(p.numel() for p in model.parameters()),
        fixed_bytes=fixed,
        pass_bytes=int(passes.bytes_per_example * suits),
        available_bytes=available_memory(device),
        num_examples=num_examples,
        updates=phases[-1].first + phases[-1].updates,
        warmup_updates=schedule.warmup_updates(recipe, task.num_examples),
        smaller={each.batch_size: each.updates for each in phases[:-1]},
        optimizer_groups=_groups(task, recipe, model),
    )


@dataclass
class _Passes:
    """Passes over the first examples of an epoch, or those from another place on."""

    task: Task
    model: nn.Module
    recipe: Recipe
    device: torch.device
    precision: Precision
    bytes_per_example: float = 0.0
    """Memory of the last pass beside weights and gradients; 0 before the first."""

    def load(self, size: int, begin: int = 0) -> Any:
        """Return examples as training sees them."""
        ids = self.task.order(0, 0, self.recipe.batch_size)
        own = ids[torch.arange(begin, begin + size) % len(ids)]
        return tune.load(self.task, own, self.device)

    def one(self, batch: Any) -> None:
        """Go forward and backward once."""
        forward_and_backward(self.task, self.model, batch, None, precision=self.precision)
        batch_norm.forget(self.model)

    def seconds(self, size: int) -> float:
        """Return the time of a pass, and note its memory."""
        batch = self.load(size)
        if not self.bytes_per_example:
            self.one(batch)  # what libraries take once does not grow with the examples
        before = memory_in_use(self.device)
        reset_peak_memory(self.device)
        self.one(batch)
        self.bytes_per_example = max(peak_memory(self.device) - before, 1.0) / size
        return min(times_of(lambda: self.one(batch), self.device, least=REPEATS))

    def laned_seconds(self, candidate: Candidate) -> float:
        """Return the time of a pass in each lane at once."""
        ids = self.task.order(0, 0, self.recipe.batch_size)
        world, precision = World(self.device), self.precision
        with contextlib.ExitStack() as held:
            several = tune.passing(
                self.task, self.model, ids, candidate, world=world, precision=precision, held=held
            )
            several()  # the first one makes the threads
            return min(times_of(several, self.device, least=REPEATS))


def _climb(passes: _Passes, share: int) -> tuple[dict[int, float], int]:
    """Return examples per second for growing sizes, and the largest size that was timed."""
    rates: dict[int, float] = {}
    size = min(FIRST, share)
    while True:
        spent = passes.seconds(size)
        rates[size] = size / spent
        larger = min(2 * size, share)
        fits = passes.bytes_per_example * larger < 0.8 * available_memory(passes.device)
        if size == share or spent > LONG_SECONDS or not fits:
            return rates, size
        size = larger


def _in_lanes(passes: _Passes, rates: dict[int, float], lanes: int, share: int) -> dict[str, float]:
    """Return examples per second of the sizes in lanes, while that is faster and fits."""
    room = 0.8 * available_memory(passes.device)

    def rate(candidate: Candidate) -> float:
        fits = passes.bytes_per_example * candidate.examples < room
        return candidate.examples / passes.laned_seconds(candidate) if fits else 0.0

    candidates = in_lanes(rates, lanes, share) if lanes > 1 else []
    return {str(candidate): each for candidate, each in climb(candidates, rate, {}).items() if each}


def _first_to_mean(passes: _Passes, rates: dict[int, float]) -> float:
    """Return the time of an epoch's first pass over the time of a usual pass."""
    size = max(rates, key=lambda each: rates[each])
    there = len(passes.task.order(0, 0, passes.recipe.batch_size)) // size
    if there < 2:
        return 1.0
    places = torch.randint(there, (PLACES,), generator=torch.Generator().manual_seed(0)) * size
    began, seconds = now(passes.device), []
    for begin in places.tolist():
        one = partial(passes.one, passes.load(size, begin))
        seconds.append(seconds_of(one, passes.device))
        if now(passes.device) - began > PLACES_SECONDS:
            break
    return size / rates[size] / statistics.fmean(seconds)


def _data_rate(passes: _Passes, size: int) -> float:
    passes.load(size)  # what is loaded once, and processes that load, start here
    return size / min(times_of(lambda: passes.load(size), passes.device, least=2))


def _groups(task: Task, recipe: Recipe, model: nn.Module) -> list[str]:
    data = recipe.optimizer
    if not isinstance(data, optimizers.Muon):
        return []
    return described(muon_groups(model, data, output=getattr(task, "output_layer", None)))


def _step(
    task: Task, model: nn.Module, recipe: Recipe, device: torch.device, passes: _Passes
) -> tuple[float, int]:
    """Return the time of an optimizer step, and the bytes that stay from update to update."""
    optimizer = optim.for_task(task, recipe, model, lr=0.0)
    passes.one(passes.load(min(FIRST, recipe.batch_size)))
    optimizer.step()
    seconds = min(times_of(optimizer.step, device, least=REPEATS))
    weights = [p for p in model.parameters() if p.requires_grad]
    average = [] if recipe.ema_decay is None else list(model.parameters())
    kept = [value for state in optimizer.state.values() for value in state.values()]
    state = [value for value in kept if isinstance(value, torch.Tensor)]
    tensors = [*weights, *weights, *average, *state]
    return seconds, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
