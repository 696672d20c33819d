"""Batch normalisation over fixed groups of examples.

Ordinary batch-norm takes its statistics over one forward pass of one process, so the same recipe
trains differently on other hardware.
Here every `norm_batch_size` consecutive slots of the global batch are a group
with statistics of its own ("ghost batch norm", Hoffer et al. 2017, arXiv
1705.08741), and the running averages move once per update, by the mean over all
groups of all processes.

Shapes: G groups, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from legw.errors import RunError
from legw.train.dist import World
from legw.train.second_derivative import differentiable_gradient


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
        self.seen: list[tuple[int, Tensor, Tensor]] = []
        """Groups since the last `fold`: the count of numbers per channel in each, the means, and
        the inverse standard deviations, both of shape (groups, C)."""

    def forward(self, examples: Tensor) -> Tensor:
        """Normalise; in training each group by its own mean and variance.

        Raises:
            RunError: the last group has one number a channel, which has no variance.
        """
        if not self.training:
            return functional.batch_norm(
                examples, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        values = examples[0].numel() // examples.shape[1]  # of a channel, in one example
        sizes = [values * len(group) for group in torch.split(examples, self.group_size)]
        if sizes[-1] < 2:
            raise RunError(
                "batch-norm: a group of 1 example has no variance; choose a batch_size that "
                f"is no multiple of norm_batch_size={self.group_size} plus 1"
            )
        mean_GC = self.running_mean.new_empty(len(sizes), examples.shape[1])
        inverse_GC = torch.empty_like(mean_GC)
        normalised: Tensor = _InGroups.apply(
            examples, self.weight, self.bias, self.group_size, self.eps, mean_GC, inverse_GC
        )
        whole = len(sizes) if sizes[-1] == sizes[0] else -1
        self.seen.append((sizes[0], mean_GC[:whole], inverse_GC[:whole]))
        if whole == -1:
            self.seen.append((sizes[-1], mean_GC[-1:], inverse_GC[-1:]))
        return normalised

    def sums(self) -> Tensor:
        """Return the sums of means and variances over the groups seen, and their number.

        The shape is (2*channels + 1,); the groups count as dealt with.
        """
        channels = len(self.running_mean)
        sums = self.running_mean.new_zeros(2 * channels + 1)
        for size in {seen[0] for seen in self.seen}:
            means = torch.cat([mean for numbers, mean, _ in self.seen if numbers == size])
            inverses = torch.cat([inverse for numbers, _, inverse in self.seen if numbers == size])
            variances = (inverses.pow(-2) - self.eps).sum(0) * (size / (size - 1))
            sums += torch.cat([means.sum(0), variances, sums.new_full((1,), len(means))])
        self.seen.clear()
        return sums

    def move(self, sums: Tensor) -> None:
        """Move the running averages once, by the means that the sums make."""
        mean, variance = (sums[:-1] / sums[-1]).to(self.running_mean.dtype).chunk(2)
        self.num_batches_tracked += 1
        if self.momentum is None:  # the plain average; the count stays on the device
            share = 1.0 / self.num_batches_tracked.to(mean.dtype)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)
        else:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)


class _InGroups(torch.autograd.Function):
    """Batch-norm of each group on its own, written into one output.

    A loop with a concatenation would read and write everything once more. One call over groups
    times channels would need another memory order than channels-last. A group stays in a GPU's
    cache between its two passes.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 (as autograd calls it)
        ctx: Any,
        examples: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        group_size: int,
        eps: float,
        mean_GC: Tensor,
        inverse_GC: Tensor,
    ) -> Tensor:
        """Normalise; fill in each group's mean, and the inverse of its deviation."""
        examples = _dense(examples)
        normalised = torch.empty_like(examples)
        parts = zip(
            torch.split(examples, group_size), torch.split(normalised, group_size), mean_GC,
            inverse_GC,
            strict=True,
        )  # fmt: skip
        for group, out, mean, inverse in parts:
            torch.ops.aten.native_batch_norm.out(
                group, weight, bias, None, None, True, 0.0, eps,
                out=out, save_mean=mean, save_invstd=inverse,
            )  # fmt: skip
        ctx.save_for_backward(examples, weight, bias, mean_GC, inverse_GC)
        ctx.group_size, ctx.eps = group_size, eps
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of examples, weight and bias."""
        examples, weight, bias, mean_GC, inverse_GC = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd make it
            return _differentiable(ctx, gradients[0])
        wanted = [True, weight is not None, bias is not None]
        found = [
            torch.ops.aten.native_batch_norm_backward(
                gradient, group, weight, None, None, mean, inverse, True, ctx.eps, wanted
            )
            for gradient, group, mean, inverse in zip(
                torch.split(_dense(gradients[0]), ctx.group_size),
                torch.split(examples, ctx.group_size),
                mean_GC,
                inverse_GC,
                strict=True,
            )
        ]
        of_examples, *others = zip(*found, strict=True)
        sums = [
            torch.stack(parts).sum(0) if there else None
            for parts, there in zip(others, wanted[1:], strict=True)
        ]
        whole = of_examples[0] if len(found) == 1 else torch.cat(of_examples)
        return (whole, *sums, None, None, None, None)


def _differentiable(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the result of `backward`, by torch's own functions, which have derivatives."""
    examples, weight, bias, _, _ = ctx.saved_tensors
    again = torch.cat(
        [
            functional.batch_norm(group, None, None, weight, bias, training=True, eps=ctx.eps)
            for group in torch.split(examples, ctx.group_size)
        ]
    )
    found = differentiable_gradient(again, (examples, weight, bias), gradient)
    return (*found, None, None, None, None)


def _dense(tensor: Tensor) -> Tensor:
    """Return the tensor itself if its memory is in an order that the kernels know."""
    if tensor.is_contiguous():
        return tensor
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.contiguous()


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
    """Move the running averages of all grouped layers, once per update.

    The mean is over all groups of all processes, with one exchange for all layers.
    """
    layers = list(_grouped(model))
    if layers:
        sums = [layer.sums() for layer in layers]
        totals = torch.split(world.sum(torch.cat(sums)), [len(each) for each in sums])
        for layer, total in zip(layers, totals, strict=True):
            layer.move(total)


def forget(model: nn.Module) -> None:
    """Drop the statistics of a forward pass that belongs to no update."""
    for layer in _grouped(model):
        layer.seen.clear()


def _grouped(model: nn.Module) -> Iterator[GroupedBatchNorm]:
    return (module for module in model.modules() if isinstance(module, GroupedBatchNorm))
