"""Batch normalisation over fixed groups of examples.

Ordinary batch-norm takes its statistics over whatever a process happens to
compute at once, so that the same recipe trains differently on other hardware.
Here every `norm_batch_size` consecutive slots of the global batch are a group
with statistics of its own ("ghost batch norm", Hoffer et al. 2017, arXiv
1705.08741), and the running averages move once per update, by the mean over all
groups of all processes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from legw.train.dist import World


class GroupedBatchNorm(nn.Module):
    """Batch-norm whose training statistics are per group of `group_size` examples.

    Input and output have shape (examples, channels, ...). Parameters and buffers have
    the names of `torch.nn.BatchNorm2d`, so a state_dict fits both.
    """

    def __init__(self, plain: _BatchNorm, group_size: int) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.group_size = group_size
        self.eps = plain.eps
        self.momentum = plain.momentum
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", plain.running_mean)
        self.register_buffer("running_var", plain.running_var)
        self.register_buffer("num_batches_tracked", plain.num_batches_tracked)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, examples: Tensor) -> Tensor:
        """Normalise; in training each group by its own mean and variance."""
        if not self.training:
            return functional.batch_norm(
                examples, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return torch.cat(
            [self._one_group(group) for group in torch.split(examples, self.group_size)]
        )

    def _one_group(self, group: Tensor) -> Tensor:
        channels = group.shape[1]
        mean = self.running_mean.new_zeros(channels)
        variance = torch.zeros_like(mean)
        normalised = functional.batch_norm(
            group, mean, variance, self.weight, self.bias, True, momentum=1.0, eps=self.eps
        )  # with momentum 1 the "running" statistics are this group's own
        self.seen.append((mean, variance))
        return normalised

    def fold(self, world: World) -> None:
        """Move the running averages once, by the mean over all groups of the update."""
        sums = self.running_mean.new_zeros(2 * len(self.running_mean) + 1)
        for mean, variance in self.seen:
            sums += torch.cat([mean, variance, sums.new_ones(1)])
        self.seen.clear()
        world.sum(sums)
        mean, variance = (sums[:-1] / sums[-1]).chunk(2)
        self.num_batches_tracked += 1
        count = float(self.num_batches_tracked)
        share = 1.0 / count if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def fix_groups(model: nn.Module, group_size: int) -> int:
    """Replace every batch-norm layer inside a model by a grouped one.

    Layers without running averages or without weights are replaced too where they
    normalise over examples; a model that is itself one batch-norm layer is left alone.

    Args:
        model: changed in place; its parameters stay the same objects.
        group_size: examples in a group, at least 1.

    Returns:
        The examples that must stay together: `group_size`, or 1 without batch-norm.
    """
    found = False
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and child.track_running_stats:
                setattr(module, name, GroupedBatchNorm(child, group_size))
                found = True
    return group_size if found else 1


def fold(model: nn.Module, world: World) -> None:
    """Move the running averages of all grouped layers, once per update."""
    for layer in _grouped(model):
        layer.fold(world)


def forget(model: nn.Module) -> None:
    """Drop the statistics that a forward pass left and no update should see."""
    for layer in _grouped(model):
        layer.seen.clear()


def _grouped(model: nn.Module) -> Iterator[GroupedBatchNorm]:
    return (module for module in model.modules() if isinstance(module, GroupedBatchNorm))
