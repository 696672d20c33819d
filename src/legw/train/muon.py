"""Muon: momentum whose matrices are made orthogonal, with AdamW beside it.

One torch optimizer holds both parts, so that one scheduler, one checkpoint and one step
serve both. `muon_groups` decides which tensor belongs to which part.

Shapes: N matrices, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from legw.errors import RecipeError, shown
from legw.train.multi_tensor import (
    Group,
    MultiTensorOptimizer,
    align_state,
    aligned,
    batches,
    can_fuse,
    gradients_of,
)
from legw.train.orthogonal import orthogonal

RMS = 0.2
"""Root mean square of the entries of a step, per lr: about that of AdamW's steps."""

ADAMW_SETTINGS = ("lr", "betas", "eps", "weight_decay", "foreach")
"""Groups of AdamW's that agree in these are updated together."""


@dataclass
class _Stack:
    """Matrices that are to be made orthogonal, each by itself: those of one weight, say."""

    direction_NRC: Tensor
    ns_steps: int
    step_NRC: Tensor | None = None
    """The step against which the weight moves, times lr; None until it is made."""

    @property
    def alike(self) -> tuple[Any, ...]:
        """Equal for stacks that can be made orthogonal together."""
        x = self.direction_NRC
        return x.shape[1:], x.dtype, x.device, self.ns_steps

    def singly(self) -> list[_Stack]:
        """Return a stack for each matrix."""
        return [_Stack(matrix_1RC, self.ns_steps) for matrix_1RC in self.direction_NRC.split(1)]

    @property
    def cost(self) -> int:
        """Products of an iteration, up to a factor."""
        smaller, larger = sorted(self.direction_NRC.shape[1:])
        return len(self.direction_NRC) * smaller * smaller * larger


class Muon(MultiTensorOptimizer):
    """Muon for hidden matrices, AdamW for the other tensors.

    For a weight ``w`` of a group with `use_muon`, with gradient ``g``::

        m = momentum*m + (1 - momentum)*g
        u = (1 - momentum)*g + momentum*m      (u = m without Nesterov)
        w = w - lr*weight_decay*w
        w = w - lr*0.2*sqrt(max(R, C))*orthogonal(u)

    The weight is taken as `split` matrices of R rows and C columns that lie one above the
    other (4 for an LSTM's gates); each is made orthogonal by itself. A weight of more than
    two dimensions, as of a convolution, is flattened to (first, all others). Averages start
    at 0 and are not corrected for it: the length of ``u`` does not matter.

    A group with `use_muon=False` takes the steps of `torch.optim.AdamW`.

    Args:
        params: tensors, or groups with settings of their own (see `add_param_group`).
        lr: learning rate, at least 0: a float, or a tensor of shape ().
        momentum: share of the gradient's average that is kept, in [0, 1).
        nesterov: look ahead, as above.
        weight_decay: share of the weights taken off per update, times lr, at least 0.
        ns_steps: Newton-Schulz iterations, at least 1.
        betas: AdamW's decay per update of the averages of gradient and square, in [0, 1).
        eps: added to AdamW's denominator, at least 0.
        foreach: False updates one tensor at a time, True and None many at once.
        process_group: processes that hold the same weights and gradients, as under
            DistributedDataParallel: each makes a share of the matrices orthogonal and sends
            it to the others. None: every process computes all. All of them must step together.

    Raises:
        RecipeError: an argument is out of range.

    Reference: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks";
    the step's length: Liu et al. 2025, arXiv 2502.16982, section 2.2 (torch's
    ``adjust_lr_fn="match_rms_adamw"``).
    """

    kind = "muon"
    _processes: Any = None

    def __init__(  # noqa: PLR0917 (positional, as torch's own)
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        foreach: bool | None = None,
        process_group: Any = None,
    ) -> None:
        defaults: Group = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        defaults |= {"weight_decay": weight_decay, "ns_steps": ns_steps}
        # `fused` makes torch load the counts of updates as its fused kernel needs them.
        defaults |= {"betas": betas, "eps": eps, "foreach": foreach, "fused": True}
        self._processes = process_group
        super().__init__(params, defaults)
        self.register_load_state_dict_post_hook(align_state)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; a setting that it leaves out is the optimizer's.

        Args:
            param_group: `params`, and any of the optimizer's arguments; `use_muon` (True if
                left out) and `split`, the number of matrices in each weight (1 if left out).

        Raises:
            RecipeError: a setting is out of range, or a tensor is no stack of so many
                matrices.
        """
        settings = {"use_muon": True, "split": 1, **param_group}
        use_muon, split = settings["use_muon"], settings["split"]
        if not isinstance(use_muon, bool):
            raise RecipeError(f"muon: use_muon={shown(use_muon)}: must be True or False")
        _check_whole("split", split)
        _check_whole("ns_steps", settings.get("ns_steps", self.defaults["ns_steps"]))
        super().add_param_group(settings)
        if use_muon:
            for weight in self.param_groups[-1]["params"]:
                _check_matrices(weight, split)

    def _update_groups(self) -> None:
        hidden: list[tuple[list[Tensor], list[_Stack], Group]] = []
        others: dict[tuple[Any, ...], tuple[list[Tensor], Group]] = {}
        for group in self.param_groups:
            moving = self._moving(group)
            if not group["use_muon"]:
                settings = tuple(group[name] for name in ADAMW_SETTINGS)
                others.setdefault(settings, ([], group))[0].extend(moving)
                continue
            for weights in batches(moving, group["foreach"]):
                hidden.append((weights, self._stacks(weights, group), group))
        for moving, group in others.values():
            for weights in batches(moving, group["foreach"]):
                self._update(weights, gradients_of(weights), group)
        self._orthogonalise([stack for _, stacks, _ in hidden for stack in stacks])
        for weights, stacks, group in hidden:
            _take(weights, stacks, group)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        """Take AdamW's step."""
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            [aligned(gradient, to) for gradient, to in zip(gradients, weights, strict=True)],
            *self._adam_state(weights),
            fused=all(can_fuse(weight) for weight in weights),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _stacks(self, weights: list[Tensor], group: Group) -> list[_Stack]:
        """Move the weights' momenta; return the directions, a stack for each weight."""
        gradients = gradients_of(weights)
        directions = self._state("momentum_buffer", weights)
        torch._foreach_lerp_(directions, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            directions = list(torch._foreach_lerp(gradients, directions, group["momentum"]))
        split, ns_steps = group["split"], group["ns_steps"]
        return [_Stack(u.reshape(split, len(u) // split, -1), ns_steps) for u in directions]

    def _orthogonalise(self, stacks: Sequence[_Stack]) -> None:
        """Make every stack's step, by this process or with the others' help."""
        if self._processes is None:
            _fill(stacks)
            return
        rank, size = self._processes.rank(), self._processes.size()
        apart = [stack.singly() for stack in stacks]
        single = [each for stack in apart for each in stack]
        owners = _shares([each.cost for each in single], size)
        _fill([each for each, owner in zip(single, owners, strict=True) if owner == rank])
        shares: dict[tuple[Any, ...], list[list[Tensor]]] = {}
        for each, owner in zip(single, owners, strict=True):
            if each.step_NRC is None:
                each.step_NRC = torch.empty_like(each.direction_NRC)
            kind = each.step_NRC.device, each.step_NRC.dtype
            shares.setdefault(kind, [[] for _ in range(size)])[owner].append(each.step_NRC)
        for steps in shares.values():
            _exchange(steps, rank, self._processes)
        for stack, parts in zip(stacks, apart, strict=True):
            stack.step_NRC = torch.cat(
                [each.step_NRC for each in parts if each.step_NRC is not None]
            )


def _fill(stacks: Sequence[_Stack]) -> None:
    """Make the stacks' steps; matrices of one shape are made orthogonal together."""
    together: dict[tuple[Any, ...], list[_Stack]] = {}
    for stack in stacks:
        together.setdefault(stack.alike, []).append(stack)
    for alike in together.values():
        directions = [stack.direction_NRC for stack in alike]
        stacked_NRC = directions[0] if len(directions) == 1 else torch.cat(directions)
        turned_NRC = orthogonal(stacked_NRC, alike[0].ns_steps)
        turned_NRC.mul_(RMS * math.sqrt(max(turned_NRC.shape[1:])))
        steps = turned_NRC.split([len(direction) for direction in directions])
        for stack, step_NRC in zip(alike, steps, strict=True):
            stack.step_NRC = step_NRC


def _take(weights: list[Tensor], stacks: list[_Stack], group: Group) -> None:
    """Decay weights, and move them against their steps times lr."""
    lr, decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor):
        lr = lr.to(weights[0].device)
    if decay != 0:
        torch._foreach_mul_(weights, 1 - lr * decay)
    steps = [
        stack.step_NRC.reshape(weight.shape)
        for stack, weight in zip(stacks, weights, strict=True)
        if stack.step_NRC is not None
    ]
    if isinstance(lr, Tensor):
        torch._foreach_mul_(steps, lr)
        torch._foreach_sub_(weights, steps)
    else:
        torch._foreach_add_(weights, steps, alpha=-lr)


def _shares(costs: Sequence[int], size: int) -> list[int]:
    """Return which of so many processes has which work, such that each has about as much.

    The same on every process: the dearest first, each to the process that has least.

    >>> _shares([1, 4, 1, 2], size=2)
    [1, 0, 1, 1]
    """
    loads, owners = [0] * size, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda each: -costs[each]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += costs[place]
    return owners


def _exchange(steps: list[list[Tensor]], rank: int, processes: Any) -> None:
    """Send this process's tensors to all others, and fill theirs; of one device and dtype."""
    numels = [sum(step.numel() for step in share) for share in steps]
    first = next(share[0] for share in steps if share)
    own = first.new_zeros(max(numels))
    if steps[rank]:
        torch.cat([step.flatten() for step in steps[rank]], out=own[: numels[rank]])
    everything = [torch.empty_like(own) for _ in steps]
    distributed.all_gather(everything, own, group=processes)
    for other, sent in enumerate(everything):
        parts = torch.split(sent[: numels[other]], [step.numel() for step in steps[other]])
        for step, part in zip(steps[other], parts, strict=True):
            step.copy_(part.view_as(step))


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"muon: {name}={shown(value)}: must be a whole number, at least 1")


def _check_matrices(weight: Tensor, split: int) -> None:
    shape = tuple(weight.shape)
    if weight.ndim < 2 or not weight.is_floating_point():
        raise RecipeError(
            f"muon: tensor of shape {shape}: must be a real matrix; "
            "put it into a group with use_muon=False"
        )
    if shape[0] % split:
        raise RecipeError(
            f"muon: tensor of shape {shape}: split={split}: must divide its first dimension"
        )
