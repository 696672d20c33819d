"""Probe interface: the view of a run that a probe gets, and protection of the run from it.

A probe measures between an update's gradient and its step. It may run passes, change the model's
mode and draw random numbers; the loop restores all of it afterwards. So a probed run is bitwise
equal to the unprobed one.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from legw.recipe import Recipe
from legw.train.accumulation import GlobalBatch, Gradient
from legw.train.batch_norm import GroupedBatchNorm
from legw.train.batches import derive
from legw.train.hardware import seed_draws
from legw.train.task import Observer, State, Task


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One update of a run, after its gradient is formed and before its step."""

    task: Task
    """Task that is trained."""
    model: nn.Module
    """The model, without the wrapper for several processes."""
    recipe: Recipe
    """Recipe of the run."""
    seed: int
    """Seed of the run."""
    update: int
    """Number of the update, from 0."""
    batch_size: int
    """Examples of the update, over all processes."""
    epoch: float
    """Position at the update's end, in epochs."""
    gradient: Gradient
    """The global batch's loss, and its gradient's norm before clipping."""
    gradients: Sequence[Tensor]
    """The gradient after clipping, one tensor for each of `parameters`; not to be changed."""
    parameters: Sequence[nn.Parameter]
    """The weights that have a gradient."""
    micro_batch_size: int
    """Most examples per forward and backward pass."""
    group: int
    """Examples that must stay together (batch-norm groups), at least 1."""
    share: slice
    """Slots of the global batch that this process has; empty where it has none."""
    readable: slice
    """Slots whose data can be read again: the whole batch, or, where a state is carried, only
    the share whose states this process has."""
    load: Callable[[slice | Tensor], tuple[Any, State]]
    """Returns the data of some readable slots, and the state they began with; the slots are a
    slice or a tensor of their numbers."""

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.parameters[0].device


class Probe(Observer):
    """An observer that also measures at some updates; on the first process only."""

    def wants(self, update: int) -> bool:
        """Say whether to measure at this update."""
        return False

    def measure(self, moment: Moment) -> None:
        """Measure; called for the updates that `wants` names.

        The weights must be as they were when it returns; modes, buffers, gradients
        and random state are put back by the loop.
        """


def measure(probes: Sequence[Probe], batch: GlobalBatch, update: int, gradient: Gradient) -> None:
    """Let probes measure, and restore the model afterwards.

    Args:
        probes: those that measure at this update.
        batch: the global batch whose gradient was just formed.
        update: its number, from 0.
        gradient: its loss and norms.
    """
    weights = [p for p in batch.model.parameters() if p.requires_grad and p.grad is not None]
    moment = Moment(
        task=batch.task,
        model=batch.model,
        recipe=batch.recipe,
        seed=batch.seed,
        update=update,
        batch_size=batch.batch_size,
        epoch=batch.batches.progress.epochs(update + 1),
        gradient=gradient,
        gradients=[p.grad for p in weights if p.grad is not None],
        parameters=weights,
        micro_batch_size=batch.micro_batch_size,
        group=batch.group,
        share=batch.share,
        readable=batch.readable,
        load=lambda slots: batch.again(update, slots),
    )
    with undisturbed(batch.model, moment.device):
        for probe in probes:
            probe.measure(moment)


def gradient_of(
    task: Task,
    model: nn.Module,
    batch: Any,
    state: State,
    parameters: Sequence[nn.Parameter],
    *,
    create_graph: bool = False,
) -> tuple[tuple[Tensor, ...], Any]:
    """Return the gradient of one batch's summed loss, in full precision, and its weight.

    Nothing is left in ``p.grad``, and other processes notice nothing. A weight that the
    loss does not depend on has the gradient 0.
    """
    loss, weight, _ = task.loss(model, batch, state)
    found = torch.autograd.grad(
        loss, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return found, weight


def seed_passes(moment: Moment, *parts: int | str) -> None:
    """Seed the generator of dropout, as a function of the run's seed and of `parts`."""
    seed_draws(derive(moment.seed, "probe", *parts), moment.device)


@contextlib.contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore modes, buffers, gradients, batch-norm statistics and random state on leaving.

    Inside, every ``p.grad`` is None, and a compiled model runs uncompiled: a second
    derivative needs the plain one.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    groups = [layer for layer in model.modules() if isinstance(layer, GroupedBatchNorm)]
    statistics = [(layer, layer.seen) for layer in groups]  # these wait for the step's end
    compiled = [(module, module._compiled_call_impl) for module in model.modules()]
    plain_state = random.getstate()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            for layer in groups:
                layer.seen = []
            for parameter, _ in gradients:
                parameter.grad = None
            for module, _ in compiled:
                module._compiled_call_impl = None
            yield
        finally:
            for module, call in compiled:
                module._compiled_call_impl = call
            for layer, seen in statistics:
                layer.seen = seen
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for module, training in modes:
                module.training = training
            random.setstate(plain_state)
