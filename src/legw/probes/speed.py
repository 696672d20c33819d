"""Training speed of this machine: passes of each micro-batch, the step, and an all-reduce."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable

import torch

from legw.errors import RunError
from legw.recipe import Recipe
from legw.runs.measurements import Speed
from legw.train import batch_norm, optim
from legw.train.accumulation import forward_and_backward
from legw.train.dist import World
from legw.train.hardware import describe_device, out_of_memory, times_of
from legw.train.lanes import tried
from legw.train.microbatch import tune
from legw.train.microbatch.candidates import SMALLEST, Candidate, climb, ladder
from legw.train.precision import Precision, warn_if_slow
from legw.train.task import Task

ENOUGH_SECONDS = 0.4
"""Time for each measurement, at least `MIN_CALLS` and at most `MAX_CALLS` times."""

MIN_CALLS, MAX_CALLS = 3, 50


def measure(
    task: Task,
    recipe: Recipe,
    *,
    world: World,
    largest: int,
    precision: Precision = "fp32",
    lanes: bool = True,
    seconds: float = ENOUGH_SECONDS,
) -> Speed:
    """Return this device's speed: the time of a pass, for each micro-batch size.

    Sizes go up from 16 in powers of 2 until one does not fit, or takes long and is no faster.
    Where the task can be trained in lanes, as many micro-batches at once as there are
    threads are timed too, as `legw train` does.

    Args:
        task: whose loss is timed.
        recipe: its optimizer and clipping; its batch size sets the order of examples.
        world: this process; each times its own device.
        largest: most examples that a device will have of a batch, at least 1.
        precision: fp32, or bf16 (autocast).
        lanes: True times lanes too, where the planned runs may use them.
        seconds: time spent on each size, above 0.

    Raises:
        RunError: not even the smallest size fits.
    """
    warn_if_slow(world.device.type, precision)
    torch.manual_seed(0)
    model = task.model().to(world.device).train()
    group = batch_norm.fix_groups(model, recipe.norm_batch_size)
    ids = task.order(0, 0, recipe.batch_size)
    spreads: list[float] = []

    def rate(candidate: Candidate) -> float:
        with contextlib.ExitStack() as held:
            try:
                one = tune.passing(
                    task, model, ids, candidate, world=world, precision=precision, held=held
                )
                mean, spread = timed(one, world.device, seconds)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                return 0.0
            finally:
                batch_norm.forget(model)
                model.zero_grad(set_to_none=True)
        spreads.append(spread)
        return candidate.examples / mean

    sizes = ladder(largest, group)
    table: dict[Candidate, float] = {}
    for count in tried("auto", task, world, group, barred=not lanes):
        candidates = [
            Candidate(size, count) for size in sizes if count == 1 or size * count <= largest
        ]
        table |= climb(candidates, rate, {})
    times = {
        candidate: candidate.examples / found for candidate, found in table.items() if found > 0
    }
    passes = {candidate.size: time for candidate, time in times.items() if candidate.lanes == 1}
    if not passes:
        raise RunError(f"speed: not even {SMALLEST} examples fit into memory; free some")
    batch = tune.load(task, ids[: min(passes)], world.device)
    forward_and_backward(task, model, batch, None, precision=precision)
    batch_norm.forget(model)
    return Speed(
        passes=passes,
        rounds={candidate: time for candidate, time in times.items() if candidate.lanes > 1},
        step_seconds=timed(_step(task, model, recipe), world.device, seconds)[0],
        gradient_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        spread=statistics.median(spreads),
        device=describe_device(world.device),
    )


def _step(task: Task, model: torch.nn.Module, recipe: Recipe) -> Callable[[], None]:
    """Return a function for an update's work beside its passes: norm, clipping and step.

    Args:
        task: may name the model's output layer.
        model: with gradients.
        recipe: its optimizer, at a rate of 0.
    """
    optimizer = optim.for_task(task, recipe, model, lr=0.0)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]

    def rest() -> None:
        torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, 1.0)
        optimizer.step()

    return rest


def all_reduce_seconds(world: World, gradient_bytes: int, repeats: int = 10) -> float:
    """Return the time of one all-reduce of so many bytes over all processes; 0 for one process.

    Args:
        world: this process; all must call.
        gradient_bytes: at least 4.
        repeats: number of timings, at least 1; the median counts.
    """
    if world.size == 1:
        return 0.0
    values = torch.zeros(max(gradient_bytes // 4, 1), device=world.device)
    world.sum(values)
    return statistics.median(times_of(lambda: world.sum(values), world.device, least=repeats))


def timed(
    action: Callable[[], object], device: torch.device, seconds: float
) -> tuple[float, float]:
    """Return the mean of an action's times, and half their interquartile range over the mean.

    It is the mean, as a run's time is a sum: interruptions occur during the run, too.

    Args:
        action: called once before the timing, then until `seconds` are spent.
        device: waited for after each call.
        seconds: as long as this, at least `MIN_CALLS` and at most `MAX_CALLS` calls.
    """
    action()
    times = times_of(action, device, seconds, least=MIN_CALLS, most=MAX_CALLS)
    low, _, high = statistics.quantiles(times, n=4)
    mean = statistics.fmean(times)
    return mean, (high - low) / 2 / mean
