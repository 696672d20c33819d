"""Gradient accumulation: the gradient of one global batch, summed over micro-batches.

Every micro-batch adds the gradient of its *summed* loss; at the end the total is
divided by the total weight (examples, or tokens) over all micro-batches and
processes, and only then clipped. So no short micro-batch, unequal share or token
count is weighted wrongly.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from legw.errors import RunError
from legw.recipe import Recipe
from legw.train import batch_norm
from legw.train.batches import Batches, derive, split
from legw.train.dist import World
from legw.train.dropout import forget_thread
from legw.train.hardware import seed_draws
from legw.train.precision import Precision, autocast
from legw.train.task import State, Task

PREFETCHED = 4
"""Number of micro-batches that `Task.prefetch` announces in advance."""


@dataclass
class Costs:
    """Seconds of each kind of work, as seen by this process."""

    data: float = 0.0
    compute: float = 0.0
    communication: float = 0.0
    evaluation: float = 0.0
    checkpoints: float = 0.0
    probes: float = 0.0


@dataclass(frozen=True)
class Gradient:
    """Loss and norms of the global batch's gradient; the gradient itself lies in ``p.grad``."""

    loss: Tensor
    """Sum of the losses over the sum of the weights, 0-dim."""
    norm: Tensor
    """Norm of the whole gradient before clipping, 0-dim."""
    flags: Tensor
    """The sums over processes of the flags given, shape (flags,)."""
    extra: Tensor
    """Further measured sums, shape (numbers,); empty except under AdaScale."""


class Flags:
    """Sums of flags over all processes: read at once on a CPU, one update late on a GPU.

    The delay keeps the host from waiting for the update that it has just queued. The sums are the
    same on every process, so all processes act alike.
    """

    def __init__(self) -> None:
        self._late: tuple[Tensor, Any] | None = None

    def read(self, flags: Tensor) -> list[float]:
        """Take an update's summed flags; return them, or on a GPU those of the update before."""
        if flags.device.type != "cuda":
            return list(flags.tolist())
        before = self._late
        host = flags.to("cpu", non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(flags.device))
        self._late = (host, copied)
        if before is None:
            return [0.0] * len(flags)
        before[1].synchronize()
        return list(before[0].tolist())

    def forget(self) -> None:
        """Drop flags that were not read yet; a wish that still holds is raised again."""
        self._late = None


class Accumulation:
    """Gradient accumulation of one process: one micro-batch after the other.

    Another way to sum up the micro-batches is a subclass: `legw.train.lanes.LanedAccumulation`
    works on several at once, `legw.train.adascale.MicroGradients` measures them on the way.
    """

    def parts(self, batch: GlobalBatch) -> list[slice]:
        """Return this process's micro-batches, as slots of the global batch; [] for none."""
        return split(
            batch.batch_size,
            batch.micro_batch_size,
            rank=batch.world.rank,
            world_size=batch.world.size,
            group=batch.group,
        )

    def wrap(self, batch: GlobalBatch) -> nn.Module:
        """Return the model that sums gradients over processes."""
        return batch.world.wrap(batch.model)

    def accumulate(self, batch: GlobalBatch, update: int) -> Tensor:
        """Leave the sum of the gradients in ``p.grad``.

        Returns:
            The sums of the losses and of the weights, and what else is measured,
            float64 of shape (at least 2,), on the model's device.
        """
        return batch.one_by_one(update)

    def extra(self, totals: Tensor) -> Tensor:
        """Return the further measured sums, beside loss and weight, over all processes."""
        return totals[2:]

    def all_cores(self) -> contextlib.AbstractContextManager[None]:
        """Within it, this thread has every core, for work outside of an update."""
        return contextlib.nullcontext()

    def share_with(self, optimizer: torch.optim.Optimizer) -> None:
        """Lend the optimizer's step the threads that are idle between two gradients; none here."""

    def close(self) -> None:
        """Release what the gradients needed: this thread's dropout follows torch again."""
        forget_thread()


class GlobalBatch:
    """One process's part in the gradients of a run's global batches.

    Args:
        task: data and loss.
        model: on the world's device, already in fixed batch-norm groups.
        recipe: batch size and clipping.
        world: this process.
        micro_batch_size: most examples per forward and backward pass, at least `group`.
        micro_batch_sizes: the same for each batch size of a run whose batch grows; None is the
            one for all of them.
        group: examples that must stay together (batch-norm groups), at least 1.
        batches: the example ids of each update.
        num_examples: examples in one epoch, at least 1.
        seed: of the random draws.
        precision: fp32, or bf16 (autocast).
        accumulation: the way to sum up micro-batches; None is one after the other.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        recipe: Recipe,
        *,
        world: World,
        micro_batch_size: int,
        group: int,
        batches: Batches,
        num_examples: int,
        seed: int,
        precision: Precision,
        accumulation: Accumulation | None = None,
        micro_batch_sizes: Mapping[int, int] | None = None,
    ) -> None:
        self.task, self.model, self.recipe, self.world = task, model, recipe, world
        self.batches, self.num_examples, self.seed = batches, num_examples, seed
        self.precision, self.group = precision, group
        self.costs = Costs()
        self.accumulation = accumulation or Accumulation()
        self._largest, self._sizes = micro_batch_size, micro_batch_sizes or {}
        self._cuts: dict[int, list[slice]] = {}
        self._enter(batches.progress.batch_size(0))
        self.carried: list[State] = [None] * len(self.parts)
        self._before = self.carried
        self.wrapped = self.accumulation.wrap(self)
        """The model as it is called: with several processes it sums the gradients over them."""
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        """Those whose gradients are summed up."""
        self._augment = getattr(task, "augment", None)
        self._prefetch = getattr(task, "prefetch", None)
        self._announced = (-1, -1)

    def _enter(self, batch_size: int) -> None:
        """Cut batches of this size from here on."""
        self.batch_size = batch_size
        """Examples of the update that is made."""
        self.micro_batch_size = self._sizes.get(batch_size, self._largest)
        """Most examples per forward and backward pass of it."""
        own = self._cut(batch_size)
        self.idle = not own
        self.parts = own or self._in_place_of_none()

    def _cut(self, batch_size: int) -> list[slice]:
        """Return this process's micro-batches in a batch of this size, which is being made."""
        if batch_size not in self._cuts:
            self._cuts[batch_size] = self.accumulation.parts(self)
        return self._cuts[batch_size]

    def _in_place_of_none(self) -> list[slice]:
        """Return the micro-batch with which a process without examples takes part, weight 0."""
        return [slice(0, min(self.group, self.batch_size))]

    def gradient(self, update: int, flags: tuple[float, ...] = ()) -> Gradient:
        """Leave the global batch's gradient in ``p.grad``, divided and clipped.

        Args:
            update: number of the update, from 0.
            flags: numbers to be summed over processes on the same trip.
        """
        for parameter in self.parameters:
            parameter.grad = None
        sums = self.accumulation.accumulate(self, update)
        totals = self._over_processes(sums, flags)
        grad_norm = self._normalise(totals[1])
        loss, own = totals[0] / totals[1], len(sums)
        return Gradient(
            loss, grad_norm, flags=totals[own:], extra=self.accumulation.extra(totals[:own])
        )

    def _over_processes(self, sums: Tensor, flags: tuple[float, ...]) -> Tensor:
        """Return the sums and the flags, summed over processes."""
        if not flags and self.world.size == 1:
            return sums
        totals = torch.cat([sums, _sent(torch.tensor(flags, dtype=sums.dtype), sums.device)])
        began = time.perf_counter()
        self.world.sum(totals)
        self.costs.communication += time.perf_counter() - began
        return totals

    def one_by_one(self, update: int, after: Callable[[int, Any], None] | None = None) -> Tensor:
        """Sum up gradients in ``p.grad``, one micro-batch after the other.

        Args:
            update: number of the update, from 0.
            after: called after each micro-batch, with its number and its weight.

        Returns:
            The sums of the losses and of the weights, float64 of shape (2,).
        """
        ids_B = _pinned(self.begin(update), self.world.device)
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        loss_sum, weight_sum = sums.unbind()
        for index, slots in enumerate(self.parts):
            self._announce(update, index)
            batch = self._load(update, ids_B[slots], slots)
            began = time.perf_counter()
            seed_draws(derive(self.seed, "draws", update, slots.start), self.world.device)
            with self._synchronised(index == len(self.parts) - 1):
                loss, weight, state = forward_and_backward(
                    self.task,
                    self.wrapped,
                    batch,
                    self.carried[index],
                    precision=self.precision,
                    factor=0.0 if self.idle else 1.0,
                )
            if self.idle:
                batch_norm.forget(self.model)
            else:
                self.carried[index] = state
                loss_sum += loss
                weight_sum += weight
                if after is not None:
                    after(index, weight)
            self.costs.compute += time.perf_counter() - began
        return sums

    def begin(self, update: int) -> Tensor:
        """Return the update's example ids; where an epoch begins, no state is carried into it."""
        ids_B = self.batches.ids(update)
        opens_epoch = self.batches.opens_epoch(update)
        self._grow(update, opens_epoch)
        if opens_epoch:
            self.carried = [None] * len(self.parts)
        self._before = list(self.carried)
        return ids_B

    def _grow(self, update: int, opens_epoch: bool) -> None:
        """Take the update's batch size, where it is another than that of the one before.

        Raises:
            RunError: a state is carried into the update, which only a new epoch drops.
        """
        size = self.batches.progress.batch_size(update)
        if size == self.batch_size:
            return
        if not opens_epoch and any(state is not None for state in self.carried):
            raise RunError(
                f"{self.recipe.name}: batch_schedule: the batch grows from {self.batch_size} to "
                f"{size} within an epoch, and {self.task.name} carries a state from batch to "
                "batch; let it grow between epochs: give whole until_epochs"
            )
        self._enter(size)
        self.carried = [None] * len(self.parts)

    def _load(self, update: int, ids: Tensor, slots: slice) -> Any:
        began = time.perf_counter()
        batch = self.read(update, ids, slots)
        self.costs.data += time.perf_counter() - began
        return batch

    def read(self, update: int, ids: Tensor, slots: slice | Tensor) -> Any:
        batch = self.task.batch(ids, self.world.device)
        if self._augment is None:
            return batch
        return self._augment(batch, self._draws(ids, self.batches.epochs(update)[slots]))

    @property
    def share(self) -> slice:
        """The slots of the global batch that this process has; empty where it has none."""
        return slice(0, 0) if self.idle else slice(self.parts[0].start, self.parts[-1].stop)

    @property
    def readable(self) -> slice:
        """Slots whose data `again` can return: all, or the share's where a state is carried."""
        carries = self._before[0] is not None
        return self.share if carries else slice(0, self.batch_size)

    def again(self, update: int, slots: slice | Tensor) -> tuple[Any, State]:
        """Return the data of some slots of the last update, and their state at its start.

        Args:
            update: the one whose gradient was formed last.
            slots: a part of `readable`, or the numbers of some of its slots.
        """
        batch = self.read(update, self.batches.ids(update)[slots], slots)
        if self._before[0] is None:
            return batch, None
        first = self.share.start
        rows = _from(first, slots)
        return batch, tuple(tensor[rows] for tensor in _joined(self._before) or ())

    def _announce(self, update: int, index: int) -> None:
        """Tell the task which micro-batches come after this process's own at this place."""
        if self._prefetch is None:
            return
        began = time.perf_counter()
        for place, slots in itertools.islice(self._ahead(update, index), PREFETCHED + 1):
            if place > self._announced:
                ids = self.batches.ids(place[0])[slots]
                self._prefetch(ids, self._draws(ids, self.batches.epochs(place[0])[slots]))
                self._announced = place
        self.costs.data += time.perf_counter() - began

    def _ahead(self, update: int, index: int) -> Iterator[tuple[tuple[int, int], slice]]:
        """Yield this process's micro-batches from one on: update and number, and slots."""
        while True:
            parts = self._parts_of(self.batches.progress.batch_size(update))
            for number in range(index, len(parts)):
                yield (update, number), parts[number]
            update, index = update + 1, 0

    def _parts_of(self, batch_size: int) -> list[slice]:
        """Return this process's micro-batches in batches of a size, without making them."""
        if batch_size == self.batch_size:
            return self.parts
        now = self.batch_size
        self._enter(batch_size)
        try:
            return self.parts
        finally:
            self._enter(now)

    def _draws(self, ids: Tensor, epochs: Tensor) -> Tensor:
        """Return a seed for each example, a function of (seed, epoch, example id)."""
        mixed = ids * 0x5851F42D4C957F2D + epochs * 0x14057B7EF767814F
        return (mixed + derive(self.seed, "augment")) & 0x7FFFFFFFFFFFFFFF

    def _synchronised(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Sum gradients over processes in the last micro-batch only."""
        if isinstance(self.wrapped, nn.parallel.DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _normalise(self, weight: Tensor) -> Tensor:
        """Divide the summed gradients by the global weight, then clip; return the norm."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        divisor = weight / self.world.size  # DistributedDataParallel leaves the mean of the sums
        total_norm = torch.nn.utils.get_total_norm(grads) / divisor
        factor = self._clipping(total_norm) / divisor
        on_cpu = self.world.device.type == "cpu"  # reading a number back makes a GPU wait
        torch._foreach_mul_(grads, factor.item() if on_cpu else factor)
        return total_norm

    def _clipping(self, total_norm: Tensor) -> Tensor | float:
        """Return the factor that clips a gradient of this norm, in (0, 1]."""
        if self.recipe.clip_norm is None:
            return 1.0
        return (self.recipe.clip_norm / (total_norm + 1e-6)).clamp(max=1.0)

    # The carried state, one row a slot of the global batch -----------------------

    def gather_carried(self) -> State:
        """Return the whole batch's carried state, on the CPU of every process."""
        there = not self.idle and self.carried[0] is not None
        # Each GPU's would come back on a device of that number, which not every host has.
        own = tuple(tensor.cpu() for tensor in _joined(self.carried) or ()) if there else None
        shares = [share for share in self.world.gather(own) if share is not None]
        return _joined(shares) if shares else None

    def carried_like(self) -> State:
        """Return the state that the task carries, of a few examples, on the CPU."""
        ids = self.batches.ids(0)[self._parts_of(self.batches.progress.batch_size(0))[0]]
        self.model.eval()  # what batch-norm keeps stays as it is
        try:
            with torch.no_grad():
                batch = self.task.batch(ids, self.world.device)
                *_, state = summed_loss(self.task, self.model, batch, None, self.precision)
        finally:
            self.model.train()
        return None if state is None else tuple(tensor.cpu() for tensor in state)

    def set_carried(self, whole: State, updates: int = 0) -> None:
        """Take this process's part of a whole batch's carried state.

        Args:
            whole: one row a slot of the last update's batch; None for no state.
            updates: number of updates made.
        """
        self._enter(self.batches.progress.batch_size(max(updates - 1, 0)))
        if whole is None or self.idle:
            self.carried = [None] * len(self.parts)
            return
        device = self.world.device
        self.carried = [tuple(t[slots].to(device) for t in whole) for slots in self.parts]


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor that goes to a GPU without waiting: pageable memory would wait for it."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.numel() else tensor


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return _pinned(tensor, device).to(device, non_blocking=True)


def forward_and_backward(
    task: Task,
    model: nn.Module,
    batch: Any,
    state: State,
    *,
    precision: Precision,
    factor: float = 1.0,
) -> tuple[Tensor, Any, State]:
    """Add one micro-batch's gradient, times a factor; return its loss, weight and state.

    Loss and state are detached from their graph.
    """
    loss, weight, after = summed_loss(task, model, batch, state, precision)
    (loss if factor == 1.0 else loss * factor).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), weight, after


def summed_loss(
    task: Task,
    model: nn.Module,
    batch: Any,
    state: State,
    precision: Precision,
    *,
    alone: bool = True,
) -> tuple[Tensor, Any, State]:
    """Return a micro-batch's loss with its graph, its weight, and the detached state.

    Autocast caches each cast weight for all threads, together with a part of the graph. So the
    cache is used only where the micro-batch is `alone`, with no other beside it.
    """
    kind = next(model.parameters()).device.type
    with autocast(kind, precision, keep_casts=alone):
        loss, weight, after = task.loss(model, batch, state)
    return loss, weight, None if after is None else tuple(tensor.detach() for tensor in after)


def _joined(states: list[State]) -> State:
    return tuple(torch.cat(tensors) for tensors in zip(*(s or () for s in states), strict=True))


def _from(first: int, slots: slice | Tensor) -> slice | Tensor:
    """Return slots counted from the share's first."""
    if isinstance(slots, Tensor):
        return slots - first
    return slice(slots.start - first, slots.stop - first)
