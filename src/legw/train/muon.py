"""Muon: momentum whose matrices are made orthogonal, with AdamW beside it.

One torch optimizer holds both parts, so that one scheduler, one checkpoint and one step
serve both. `muon_groups` decides which tensor belongs to which part.

Shapes: N matrices, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from legw.errors import RecipeError, check_count, shown
from legw.optimizers import MUON_RMS
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

if TYPE_CHECKING:
    from legw.train.lanes import Lanes

ADAMW_SETTINGS = ("lr", "betas", "eps", "weight_decay", "foreach")
"""Groups of AdamW's that agree in these are updated together."""

LANES_COST = 2**22
"""Stacks of a lower cost (see `_Stack.cost`) are computed by one thread: waking others takes
longer."""

UNEVEN = 1.25
"""Largest worker's load over an even share up to which whole weights are dealt out. Above it,
single matrices are dealt out, which have to be put together again."""


@dataclass
class _Stack:
    """Matrices to be made orthogonal, each by itself, for example those of one weight."""

    direction_NRC: Tensor
    ns_steps: int
    turned_NRC: Tensor | None = None
    """The matrices made orthogonal; None until they are."""

    @property
    def alike(self) -> tuple[Any, ...]:
        """Key that is equal for stacks that can be made orthogonal together."""
        x = self.direction_NRC
        return x.shape[1:], x.dtype, x.device, self.ns_steps

    @property
    def cost(self) -> int:
        """Multiplications of one product in an iteration."""
        smaller, larger = sorted(self.direction_NRC.shape[1:])
        return len(self.direction_NRC) * smaller * smaller * larger

    def singly(self) -> list[_Stack]:
        """Return a stack for each matrix; itself where it has one."""
        if len(self.direction_NRC) == 1:
            return [self]
        return [_Stack(one_1RC, self.ns_steps) for one_1RC in torch.split(self.direction_NRC, 1)]

    @property
    def length(self) -> float:
        """Factor of a step, per lr."""
        return MUON_RMS * math.sqrt(max(self.direction_NRC.shape[1:]))

    def made(self) -> Tensor:
        """Return the orthogonal matrices, once they are computed."""
        assert self.turned_NRC is not None
        return self.turned_NRC


class Muon(MultiTensorOptimizer):
    """Muon for hidden matrices, AdamW for the other tensors.

    For a weight ``w`` of a group with `use_muon`, with gradient ``g``::

        m = momentum*m + (1 - momentum)*g
        u = (1 - momentum)*g + momentum*m      (u = m without Nesterov)
        w = w - lr*weight_decay*w
        w = w - lr*0.2*sqrt(max(R, C))*orthogonal(u)

    The weight is taken as `split` matrices of R rows and C columns that lie one above the
    other (4 for an LSTM's gates), or side by side in a group with `transposed`; each is made
    orthogonal by itself. A weight of more than
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
    lanes: Lanes | None = None
    """Threads that share the work of a CPU, each with a core of its own; `fit` sets it."""
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
                left out), `split`, the number of matrices in each weight (1 if left out), and
                `transposed`, whether they lie side by side (False if left out).

        Raises:
            RecipeError: a setting is out of range, or a tensor is no stack of so many
                matrices.
        """
        settings = {"use_muon": True, "split": 1, **param_group}
        use_muon, split = settings["use_muon"], settings["split"]
        if not isinstance(use_muon, bool):
            raise RecipeError(f"muon: use_muon={shown(use_muon)}: must be True or False")
        check_count("muon", "split", split)
        check_count("muon", "ns_steps", settings.get("ns_steps", self.defaults["ns_steps"]))
        super().add_param_group(settings)
        if use_muon:
            for weight in self.param_groups[-1]["params"]:
                _check_matrices(weight, split, transposed=settings.get("transposed", False))

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

        def meanwhile() -> None:
            for moving, group in others.values():
                for weights in batches(moving, group["foreach"]):
                    self._update(weights, gradients_of(weights), group)

        self._orthogonalise([stack for _, stacks, _ in hidden for stack in stacks], meanwhile)
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
        if group.get("transposed"):
            directions = [u.mT for u in directions]
        return [_Stack(u.reshape(split, len(u) // split, -1), ns_steps) for u in directions]

    def _orthogonalise(self, stacks: Sequence[_Stack], meanwhile: Callable[[], None]) -> None:
        """Make every stack's matrices orthogonal, by this thread or together with others.

        This thread also calls the function that is to run meanwhile.
        """
        processes, lanes = self._processes, self.lanes
        if processes is not None:
            size = processes.size()
        elif lanes is not None and sum(stack.cost for stack in stacks) >= LANES_COST:
            size = lanes.count
        else:
            meanwhile()
            _fill(stacks)
            return
        apart = _apart(stacks, size)
        parts = [part for each in apart for part in each]
        dealt: list[list[_Stack]] = [[] for _ in range(size)]
        for part, owner in zip(parts, _shares([part.cost for part in parts], size), strict=True):
            dealt[owner].append(part)
        if processes is not None:
            meanwhile()
            _fill(dealt[processes.rank()])
            _exchange(dealt, processes)
        elif lanes is not None:
            dealt.reverse()  # the last has least, and this thread, lane 0, has more to do

            def work(lane: int) -> None:
                _fill(dealt[lane])
                if lane == 0:
                    meanwhile()

            lanes.run(work)
        for stack, each in zip(stacks, apart, strict=True):
            if len(each) > 1:
                stack.turned_NRC = torch.cat([part.made() for part in each])


@torch.no_grad()
def _fill(stacks: Sequence[_Stack]) -> None:
    """Make the stacks' matrices orthogonal, those of one shape together."""
    together: dict[tuple[Any, ...], list[_Stack]] = {}
    for stack in stacks:
        together.setdefault(stack.alike, []).append(stack)
    for alike in together.values():
        directions = [stack.direction_NRC for stack in alike]
        stacked_NRC = directions[0] if len(directions) == 1 else torch.cat(directions)
        turned_NRC = orthogonal(stacked_NRC, alike[0].ns_steps)
        parts = torch.split(turned_NRC, [len(direction) for direction in directions])
        for stack, part_NRC in zip(alike, parts, strict=True):
            stack.turned_NRC = part_NRC


def _take(weights: list[Tensor], stacks: list[_Stack], group: Group) -> None:
    """Decay weights, and move them against their orthogonal matrices times length and lr."""
    lr, decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor):
        lr = lr.to(weights[0].device)
    if decay != 0:
        torch._foreach_mul_(weights, 1 - lr * decay)
    by_length: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for weight, stack in zip(weights, stacks, strict=True):
        moving, steps = by_length.setdefault(stack.length, ([], []))
        moving.append(weight)
        made = stack.made()
        transposed = group.get("transposed")
        steps.append(made.flatten(0, 1).mT if transposed else made.reshape(weight.shape))
    for length, (moving, steps) in by_length.items():
        if isinstance(lr, Tensor):
            torch._foreach_mul_(steps, lr * length)
            torch._foreach_sub_(moving, steps)
        else:
            torch._foreach_add_(moving, steps, alpha=-lr * length)


def _apart(stacks: Sequence[_Stack], size: int) -> list[list[_Stack]]:
    """Return each stack as parts that so many workers can share evenly."""
    costs, loads = [stack.cost for stack in stacks], [0] * size
    for cost, owner in zip(costs, _shares(costs, size), strict=True):
        loads[owner] += cost
    if max(loads) * size <= UNEVEN * sum(costs):
        return [[stack] for stack in stacks]
    return [stack.singly() for stack in stacks]


def _shares(costs: Sequence[int], size: int) -> list[int]:
    """Return the worker of each piece of work, such that all workers have about equal loads.

    The same on every process: the most expensive first, each to the worker with least.

    >>> _shares([1, 4, 1, 2], size=2)
    [1, 0, 1, 1]
    """
    loads, owners = [0] * size, [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda each: -costs[each]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += costs[place]
    return owners


def _exchange(dealt: Sequence[Sequence[_Stack]], processes: Any) -> None:
    """Send this process's orthogonal matrices to all others, and receive theirs."""
    kinds: dict[tuple[Any, ...], list[list[Tensor]]] = {}
    for owner, stacks in enumerate(dealt):
        for stack in stacks:
            if stack.turned_NRC is None:
                stack.turned_NRC = torch.empty_like(stack.direction_NRC)
            kind = stack.turned_NRC.device, stack.turned_NRC.dtype
            kinds.setdefault(kind, [[] for _ in dealt])[owner].append(stack.turned_NRC)
    for tensors in kinds.values():
        _exchange_alike(tensors, processes)


def _exchange_alike(tensors: list[list[Tensor]], processes: Any) -> None:
    """Exchange tensors of one device and dtype, given for each process; fill the others'."""
    rank = processes.rank()
    numels = [sum(tensor.numel() for tensor in share) for share in tensors]
    first = next(share[0] for share in tensors if share)
    own = first.new_zeros(max(numels))
    if tensors[rank]:
        torch.cat([tensor.flatten() for tensor in tensors[rank]], out=own[: numels[rank]])
    everything = [torch.empty_like(own) for _ in tensors]
    distributed.all_gather(everything, own, group=processes)
    for other, sent in enumerate(everything):
        parts = torch.split(sent[: numels[other]], [tensor.numel() for tensor in tensors[other]])
        for tensor, part in zip(tensors[other], parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _check_matrices(weight: Tensor, split: int, *, transposed: bool) -> None:
    shape = tuple(weight.shape)
    if weight.ndim < 2 or not weight.is_floating_point():
        raise RecipeError(
            f"muon: tensor of shape {shape}: must be a real matrix; "
            "put it into a group with use_muon=False"
        )
    if transposed and weight.ndim != 2:
        raise RecipeError(f"muon: tensor of shape {shape}: transposed=True: must be a matrix")
    if shape[1 if transposed else 0] % split:
        which = "second" if transposed else "first"
        raise RecipeError(
            f"muon: tensor of shape {shape}: split={split}: must divide its {which} dimension"
        )
