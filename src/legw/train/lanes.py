"""Lanes: several micro-batches at once on a CPU, each in a thread with a share of the cores.

A micro-batch that fits into the caches is too small to keep several cores busy: they would wait for
each other after every operation. In lanes, each core works on a micro-batch of its own, and the
lanes wait for each other once an update. The assignment of micro-batches to lanes and the order of
the sum are fixed, so a run is reproducible.

A task says with ``concurrent = True`` that lanes may serve it: its `batch`, `augment` and
`loss` draw no random numbers from torch's generator and change nothing that another call sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from legw.errors import RunError, setting
from legw.train.accumulation import Accumulation, GlobalBatch, summed_loss
from legw.train.batches import derive
from legw.train.dist import World
from legw.train.dropout import seed_thread
from legw.train.muon import Muon
from legw.train.precision import Precision
from legw.train.task import State, Task

T = TypeVar("T")


def tried(
    asked: int | Literal["auto"], task: Task, world: World, group: int, *, barred: bool = False
) -> tuple[int, ...]:
    """Return the numbers of lanes from which a run may choose.

    Args:
        asked: the user's number of lanes, at least 1, or auto.
        task: the task to train; lanes may serve a `concurrent` one.
        world: must be one process on a CPU.
        group: examples that batch-norm keeps together; its statistics are made in one place.
        barred: True where another reason allows only one lane.

    Raises:
        RunError: more than one is asked for where there can be only one.
    """
    apart = world.device.type == "cpu" and world.size == 1 and group == 1
    possible = apart and not barred and getattr(task, "concurrent", False)
    if asked == "auto":
        threads = torch.get_num_threads()
        return (1, threads) if possible and threads > 1 else (1,)
    if asked > 1 and not possible:
        raise RunError(
            f"{task.name}: lanes={asked}: needs a task that is concurrent (no draws "
            "from torch's generator, no batch-norm), one process on a CPU, a model that is not "
            f"compiled, and another rule than adascale; leave {setting('lanes')} out"
        )
    return (asked,)


class Lanes:
    """Threads that work side by side, each with its share of the cores.

    The first lane is the caller's own thread. Between two calls of `run` it also has only one
    lane's share of the cores: torch's other helper threads would keep on spinning on cores that the
    next call needs. `all_cores` gives this thread all cores for a while.

    Args:
        count: number of lanes, at least 2.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._cores = torch.get_num_threads()
        self._share = max(self._cores // count, 1)
        self._others = ThreadPoolExecutor(count - 1, thread_name_prefix="lane")

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Call `work` with 0 .. count - 1, all at once; return what they return, in order.

        If one fails, the others are waited for and the first error is raised.
        """

        def own(lane: int) -> T:
            torch.set_num_threads(self._share)
            return work(lane)

        futures = [self._others.submit(own, lane) for lane in range(1, self.count)]
        try:
            first = own(0)
        finally:
            wait(futures)
        return [first, *(future.result() for future in futures)]

    @contextmanager
    def all_cores(self) -> Iterator[None]:
        """Let the caller's thread have every core."""
        torch.set_num_threads(self._cores)
        try:
            yield
        finally:
            torch.set_num_threads(self._share)

    def close(self) -> None:
        """End the threads; the caller's has every core again."""
        self._others.shutdown()
        torch.set_num_threads(self._cores)


class Sums:
    """Gradients added up outside of ``p.grad``, which all lanes share.

    Args:
        parameters: whose gradients.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.grads: list[Tensor | None] = [None] * len(parameters)
        self._owned = [False] * len(parameters)

    def add(self, grads: list[Tensor | None]) -> None:
        """Add gradients, which stay as they are: two of them may share their memory."""
        for place, grad in enumerate(grads):
            total = self.grads[place]
            if grad is None:
                continue
            if total is None:
                self.grads[place] = grad
            elif self._owned[place]:
                total.add_(grad)
            else:
                self.grads[place] = total + grad
                self._owned[place] = True

    def result(self) -> list[Tensor | None]:
        """Return the sums, each in memory of its own."""
        return [
            grad if grad is None or owned else grad.clone()
            for grad, owned in zip(self.grads, self._owned, strict=True)
        ]


def add_gradient(
    task: Task,
    model: nn.Module,
    batch: Any,
    state: State,
    *,
    precision: Precision,
    parameters: list[nn.Parameter],
    sums: Sums,
) -> tuple[Tensor, Any, State]:
    """Add one micro-batch's gradient to the sums; return its loss, weight and state."""
    loss, weight, after = summed_loss(task, model, batch, state, precision, alone=False)
    sums.add(list(torch.autograd.grad(loss, parameters, allow_unused=True)))
    return loss.detach(), weight, after


class LanedAccumulation(Accumulation):
    """Gradient accumulation with the micro-batches worked on in lanes.

    Args:
        lanes: number of lanes, at least 2.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = Lanes(lanes)

    def all_cores(self) -> AbstractContextManager[None]:
        return self._lanes.all_cores()

    def share_with(self, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(optimizer, Muon):
            optimizer.lanes = self._lanes

    def close(self) -> None:
        super().close()
        self._lanes.close()

    def accumulate(self, batch: GlobalBatch, update: int) -> Tensor:
        """Sum gradients over all micro-batches; return (loss, weight) sums."""
        ids_B = batch.begin(update)
        drawn = torch.get_rng_state()
        found = self._lanes.run(lambda lane: self._lane(lane, batch, update, ids_B))
        if not torch.equal(drawn, torch.get_rng_state()):
            raise RunError(
                f"{batch.task.name}: its loss draws from torch's generator, so it cannot be "
                "concurrent; drop that member, take legw.train.SeededDropout, or train with "
                f"{setting('lanes', '1')}"
            )
        total = Sums(batch.parameters)
        for sums, _ in found:
            total.add(sums.grads)
        for parameter, grad in zip(batch.parameters, total.result(), strict=True):
            parameter.grad = grad
        return torch.stack([numbers for _, numbers in found]).sum(0)

    def _lane(
        self, lane: int, batch: GlobalBatch, update: int, ids_B: Tensor
    ) -> tuple[Sums, Tensor]:
        """Work on this lane's micro-batches in turn; return gradients, and (loss, weight)."""
        sums, numbers = Sums(batch.parameters), torch.zeros(2, dtype=torch.float64)
        loading = computing = 0.0
        for index in range(lane, len(batch.parts), self._lanes.count):
            began = time.perf_counter()
            slots = batch.parts[index]
            examples = batch.read(update, ids_B[slots], slots)
            loaded = time.perf_counter()
            seed_thread(derive(batch.seed, "draws", update, slots.start), batch.world.device)
            loss, weight, batch.carried[index] = add_gradient(
                batch.task,
                batch.wrapped,
                examples,
                batch.carried[index],
                precision=batch.precision,
                parameters=batch.parameters,
                sums=sums,
            )
            numbers[0] += loss
            numbers[1] += weight
            loading += loaded - began
            computing += time.perf_counter() - loaded
        if lane == 0:  # the lanes are alike, and one clock is enough
            batch.costs.data += loading
            batch.costs.compute += computing
        return sums, numbers
