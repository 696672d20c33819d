"""Weight average (EMA): the weights that evaluations measure where a recipe has `ema_decay`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from legw.recipe import Recipe
from legw.train.batch_norm import GroupedBatchNorm


def averaging(recipe: Recipe) -> str:
    """Return a note on the weight average that evaluations measure; empty without `ema_decay`.

    >>> averaging(Recipe(batch_size=8, lr=1, steps=1000, ema_decay=0.99))
    'evaluations measure the average of the weights over about 100 updates (ema_decay 0.99)'
    """
    if recipe.ema_decay is None:
        return ""
    span = f"{1 / (1 - recipe.ema_decay):.3g} updates (ema_decay {recipe.ema_decay:.6g})"
    return f"evaluations measure the average of the weights over about {span}"


class WeightAverage:
    """An average of a model's weights, which moves once an update.

    After the first update it equals the weights; after each later one
    ``average = decay*average + (1 - decay)*weights``. The running averages of batch
    normalisation belong to the weights, and are averaged alike; other buffers are copied.

    Args:
        model: copied; it keeps its own weights.
        decay: per update, at least 0 and below 1.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(model, decay=0.75)
    >>> for update, value in enumerate((0.0, 4.0)):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     average.move(model, update)
    >>> average.model.weight.item()
    1.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # a copy's weights lie apart, which cuDNN tells
        self.decay = decay

    @torch.no_grad()
    def move(self, model: nn.Module, update: int) -> None:
        """Add the weights after an update, counted from 0, to the average."""
        mine, theirs = _tensors(self.model), _tensors(model)
        torch._foreach_lerp_(mine[0], theirs[0], 1 - self.decay if update else 1.0)
        for old, new in zip(mine[1], theirs[1], strict=True):
            old.copy_(new)


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return a model's averaged tensors, and its copied ones."""
    averaged = [weight.detach() for weight in model.parameters()]
    copied: list[Tensor] = []
    for module in model.modules():
        norm = isinstance(module, GroupedBatchNorm)
        for buffer in module.buffers(recurse=False):
            (averaged if norm and buffer.is_floating_point() else copied).append(buffer)
    return averaged, copied
