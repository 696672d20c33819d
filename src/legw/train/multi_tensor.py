"""Multi-tensor optimizer steps: the base of LARS, LAMB and Muon.

Tensors of one device and type are updated together by torch's multi-tensor kernels. Nothing is read
back to the host, so the host never waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from legw.errors import MAX_NUMBER, RecipeError, check_range

Group = dict[str, Any]
"""A parameter group of torch: its `params` and their settings."""

AdamState = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
"""State for torch's functions of Adam: averages, averages of squares, maxima, counts."""

CPU_BATCH_NUMEL = 2**18
"""Numbers per batch of tensors on a CPU: few enough for weights, gradients and state to
stay in cache from one operation to the next. A GPU takes all tensors at once."""

FUSED_DEVICES = ("cpu", "cuda")
"""Devices of torch's fused kernels: one pass over memory instead of several."""

RANGES = {
    "momentum": (0.0, 1.0),
    "eps": (0.0, MAX_NUMBER),
    "weight_decay": (0.0, MAX_NUMBER),
    "trust_coefficient": (1e-300, MAX_NUMBER),
}
"""Accepted settings of a group: at least the first number, below the second."""


class MultiTensorOptimizer(Optimizer):
    """A torch optimizer with checked groups and checked gradients."""

    kind: ClassVar[str]

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; a setting that it leaves out is the optimizer's.

        Args:
            param_group: `params`, and any of the optimizer's arguments.

        Raises:
            RecipeError: a setting is out of range.
        """
        settings = {**self.defaults, **param_group}
        lr = settings["lr"]
        is_scalar = isinstance(lr, Tensor) and lr.ndim == 0
        check_range(self.kind, "lr", lr.item() if is_scalar else lr, 0)
        for name, (low, high) in RANGES.items():
            if name in settings:
                check_range(self.kind, name, settings[name], low, high)
        for beta in settings.get("betas", ()):
            check_range(self.kind, "betas", beta, 0, 1)
        super().add_param_group(settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all weights that have a gradient.

        Args:
            closure: computes the gradients and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            RecipeError: a gradient is sparse.
        """
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        self._update_groups()
        return loss

    def _update_groups(self) -> None:
        """Update the weights of all groups, one batch of tensors after the other."""
        for group in self.param_groups:
            for weights in batches(self._moving(group), group["foreach"]):
                self._update(weights, gradients_of(weights), group)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        """Update weights of one device and dtype."""
        raise NotImplementedError

    def _moving(self, group: Group) -> list[Tensor]:
        """Return the weights of a group that have a gradient."""
        return [weight for weight in group["params"] if self._has_gradient(weight)]

    def _has_gradient(self, weight: Tensor) -> bool:
        if weight.grad is not None and weight.grad.layout is not torch.strided:
            raise RecipeError(
                f"{self.kind}: gradient of shape {tuple(weight.shape)}: layout="
                f"{weight.grad.layout}: must be dense; build the embedding with sparse=False"
            )
        return weight.grad is not None

    def _state(
        self, name: str, weights: list[Tensor], first: Callable[[Tensor], Tensor] = torch.zeros_like
    ) -> list[Tensor]:
        """Return the state `name` of each weight; at its first update it is first(weight)."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = first(weight)
        return [self.state[weight][name] for weight in weights]

    def _adam_state(self, weights: list[Tensor]) -> AdamState:
        """Return Adam's averages of gradient and square, no maxima, and the counts of updates."""
        averages, squares = self._state("exp_avg", weights), self._state("exp_avg_sq", weights)
        return averages, squares, [], self._state("step", weights, _no_updates)


def _no_updates(weight: Tensor) -> Tensor:
    """Return the count of a weight's updates, 0; torch's kernels want it as a tensor."""
    return torch.zeros((), dtype=torch.float32, device=weight.device)


def gradients_of(weights: list[Tensor]) -> list[Tensor]:
    """Return the gradients of weights that have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def batches(weights: list[Tensor], foreach: bool | None) -> Iterator[list[Tensor]]:
    """Yield the weights in batches of one device and dtype (see CPU_BATCH_NUMEL)."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for weight in weights:
        alike.setdefault((weight.device, weight.dtype), []).append(weight)
    for (device, _), members in alike.items():
        enough = CPU_BATCH_NUMEL if device.type == "cpu" else math.inf
        if foreach is False:
            enough = 0
        batch, numel = [], 0
        for weight in members:
            batch.append(weight)
            numel += weight.numel()
            if numel >= enough:
                yield batch
                batch, numel = [], 0
        if batch:
            yield batch


def can_fuse(weight: Tensor) -> bool:
    """Say whether torch's fused kernels take a weight: real, dense, and on a device of theirs.

    A view with gaps has no gradient of the same strides (see `aligned`).
    """
    return (
        weight.device.type in FUSED_DEVICES
        and weight.is_floating_point()
        and (
            weight.is_contiguous()  # which is quickly seen, and asked at every step
            or weight.stride() == torch.empty_like(weight, device="meta").stride()
        )
    )


def aligned(tensor: Tensor, to: Tensor) -> Tensor:
    """Return the tensor in the other's memory order: itself, or a copy if its own differs.

    Torch's fused kernels walk memory in order. On a CPU they accept a gradient or state
    whose strides are not the weight's, and silently pair the wrong numbers.
    """
    return tensor if tensor.stride() == to.stride() else torch.empty_like(to).copy_(tensor)


def align_state(optimizer: Optimizer) -> None:
    """Align loaded state: it may come from a model in another memory format."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = aligned(value, weight)


@torch.no_grad()
def align_gradients(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Align gradients that were set by hand; autograd's own mostly are."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.layout is torch.strided:
                weight.grad = aligned(weight.grad, weight)
