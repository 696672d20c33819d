"""Optimizers that step: LARS and LAMB, and `build`, which makes any one from its data.

LARS and LAMB scale each tensor's step by the norm of its weights. Norms and ratios are
computed for many tensors at once and never read back to the host, so the host never waits for a
GPU. Muon has modules of its own (`muon`, `muon_groups`), and the other optimizers
are torch's; `build` picks their fastest kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from legw import optimizers
from legw.errors import RecipeError, check_range, shown, unknown_name
from legw.recipe import Recipe
from legw.train.multi_tensor import (
    FUSED_DEVICES,
    Group,
    MultiTensorOptimizer,
    align_gradients,
    align_state,
    aligned,
    can_fuse,
)
from legw.train.muon import Muon
from legw.train.muon_groups import muon_groups


class _Layerwise(MultiTensorOptimizer):
    """LARS and LAMB: groups may be left out of the ratio."""

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; a setting that it leaves out is the optimizer's.

        Args:
            param_group: `params`, and any of the optimizer's arguments. With `adapt=False`
                (biases and norms) the ratio is 1 and there is no weight decay.

        Raises:
            RecipeError: a setting is out of range, or `adapt=False` meets weight decay.
        """
        no_decay = {"weight_decay": 0.0} if param_group.get("adapt") is False else {}
        settings = {"adapt": True, **self.defaults, **no_decay, **param_group}
        adapt, decay = settings["adapt"], settings["weight_decay"]
        if not isinstance(adapt, bool):
            raise RecipeError(f"{self.kind}: adapt={adapt!r}: must be True or False")
        if not adapt and decay != 0:
            rule = "must be 0 for what is left out of the ratio; leave it out"
            raise RecipeError(f"{self.kind}: weight_decay={decay!r} (adapt=False): {rule}")
        super().add_param_group(settings)


class LARS(_Layerwise):
    """Layer-wise adaptive rate scaling: momentum whose steps follow the weights' norms.

    For each tensor ``w`` with gradient ``g``, the ratio being 1 where a norm is 0::

        ratio = trust_coefficient*|w| / (|g| + weight_decay*|w| + eps)
        m = momentum*m + lr*ratio*(g + weight_decay*w)
        w = w - m

    This is the algorithm as published: lr and ratio are *inside* the momentum buffer, so a
    step keeps the rate it was made at. Two variants differ once lr moves: timm's `Lars` has
    lr outside the buffer (equal at a constant lr), and the code behind LEGW's ImageNet table
    has lr *and* ratio outside, and clamps the ratio to 50 and the gradient to [-10, 10].

    Args:
        params: tensors, or groups with settings of their own (see `add_param_group`).
        lr: learning rate, at least 0: a float, or a tensor of shape ().
        momentum: share of the last step that is kept, in [0, 1).
        weight_decay: factor of the weights that is added to the gradient, at least 0.
        trust_coefficient: length of a step as a share of the weights' norm, per lr, above 0.
        eps: added to the ratio's denominator, at least 0.
        foreach: False updates one tensor at a time, True and None many at once.

    Raises:
        RecipeError: an argument is out of range.

    Reference: You, Gitman and Ginsburg 2017, arXiv 1708.03888, algorithm 1.
    """

    kind = "lars"

    def __init__(  # noqa: PLR0917 (positional, as torch's own)
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        foreach: bool | None = None,
    ) -> None:
        defaults: Group = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        defaults |= {"trust_coefficient": trust_coefficient, "eps": eps, "foreach": foreach}
        super().__init__(params, defaults)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        share, decay, eps = group["trust_coefficient"], group["weight_decay"], group["eps"]
        ratios = _ratios(weights, gradients, share, decay, eps) if group["adapt"] else None
        if decay != 0:
            gradients = list(torch._foreach_add(gradients, weights, alpha=decay))
        momenta = self._state("momentum_buffer", weights)
        torch._foreach_mul_(momenta, group["momentum"])
        _add_scaled(momenta, gradients, group["lr"], ratios)
        torch._foreach_sub_(weights, momenta)


class LAMB(_Layerwise):
    """Layer-wise adaptive Adam: Adam's direction, in steps that follow the weights' norms.

    For each tensor ``w``, with Adam's bias-corrected averages ``m`` of the gradient and
    ``v`` of its square, the ratio being 1 where a norm is 0::

        u = m/(sqrt(v) + eps) + weight_decay*w
        ratio = |w| / |u|
        w = w - lr*ratio*u

    Args:
        params: tensors, or groups with settings of their own (see `add_param_group`).
        lr: learning rate, at least 0: a float, or a tensor of shape ().
        betas: decay per update of the averages of gradient and square, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: factor of the weights that is added to the direction, at least 0.
        foreach: False updates one tensor at a time, True and None many at once.

    Raises:
        RecipeError: an argument is out of range.

    Reference: You et al. 2019, arXiv 1904.00962, algorithm 2 (phi is the identity).
    """

    kind = "lamb"

    def __init__(  # noqa: PLR0917 (positional, as torch's own)
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        foreach: bool | None = None,
    ) -> None:
        defaults: Group = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        # `fused` makes torch load the counts as its fused kernel needs them.
        defaults |= {"foreach": foreach, "fused": True}
        super().__init__(params, defaults)
        self.register_load_state_dict_post_hook(align_state)

    def _update(self, weights: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        # One step of torch's Adam at lr -1 goes from weight_decay*w to u.
        updates = list(torch._foreach_mul(weights, group["weight_decay"]))
        beta1, beta2 = group["betas"]
        settings = {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "weight_decay": 0.0}
        adam(
            updates,
            [aligned(gradient, to) for gradient, to in zip(gradients, updates, strict=True)],
            *self._adam_state(weights),
            fused=weights[0].device.type in FUSED_DEVICES,
            **(settings | {"lr": -1.0, "amsgrad": False, "maximize": False}),
        )
        ratios = _ratios(weights, updates) if group["adapt"] else None
        _add_scaled(weights, updates, -group["lr"], ratios)


def _norms(tensors: list[Tensor]) -> Tensor:
    """Return the tensors' norms, shape (number of tensors,)."""
    # Half precision would overflow, or keep three digits.
    dtype = torch.float32 if tensors[0].itemsize < 4 else None
    return torch.stack(torch._foreach_norm(tensors, 2, dtype))


def _ratios(
    weights: list[Tensor], others: list[Tensor], share: float = 1, decay: float = 0, eps: float = 0
) -> Tensor:
    """Return share*|w| / (|other| + decay*|w| + eps), 1 where a norm is 0."""
    weight_norms, other_norms = _norms(weights), _norms(others)
    ratios = share * weight_norms / (other_norms + decay * weight_norms + eps)
    return ratios.masked_fill((weight_norms == 0) | (other_norms == 0), 1.0)


def _add_scaled(
    targets: list[Tensor], directions: list[Tensor], lr: float | Tensor, ratios: Tensor | None
) -> None:
    """Add lr*ratio*direction to each target; `ratios=None` stands for ones."""
    if ratios is not None:
        torch._foreach_addcmul_(targets, directions, (lr * ratios).unbind())
    elif isinstance(lr, Tensor):
        rate = lr.to(targets[0].device)
        torch._foreach_addcmul_(targets, directions, [rate] * len(targets))
    else:
        torch._foreach_add_(targets, directions, alpha=lr)


def _trainable(model: Module) -> list[Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_groups(model: Module) -> list[Group]:
    """Split a model's parameters into weights, and biases and norms, for LARS and LAMB.

    Args:
        model: parameters that need no gradient are left out, shared ones come once.

    Returns:
        Up to two groups: parameters of two and more dimensions, and the others, which take
        part with `adapt=False` and no weight decay. An empty group is left out.
    """
    weights = [parameter for parameter in _trainable(model) if parameter.ndim >= 2]
    others = [parameter for parameter in _trainable(model) if parameter.ndim < 2]
    adapted: Group = {"params": weights, "adapt": True}
    excluded: Group = {"params": others, "adapt": False, "weight_decay": 0.0}
    return [group for group in (adapted, excluded) if group["params"]]


def build(
    optimizer: optimizers.Optimizer,
    model: Module,
    lr: float,
    *,
    foreach: bool | None = None,
    output: str | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
    process_group: Any = None,
) -> Optimizer:
    """Return the torch optimizer that the data describe, for the model's parameters.

    LARS and LAMB get `parameter_groups`, Muon gets `muon_groups`; the others treat all
    parameters alike.

    Args:
        optimizer: the optimizer's type and settings.
        model: on the device where it is trained.
        lr: learning rate of the first update, at least 0.
        foreach: None takes the fastest kernels; True and False as in torch.
        output: name of the model's output layer, for Muon (see `muon_groups`); the others
            treat it as any layer.
        exclude: names of parameters or modules that Muon leaves to AdamW (see
            `muon_groups`); for Muon alone.
        split: matrices in a parameter, at least 1, by the parameter's name (see
            `muon_choices`); for Muon alone.
        process_group: processes that share Muon's work (see `Muon`); None shares nothing.

    Raises:
        RecipeError: the optimizer's type is unknown, lr is out of range, the model has
            nothing of a name, a split does not divide a tensor, or names are excluded or split
            for another optimizer than Muon.

    >>> build(optimizers.LARS(momentum=0.8), torch.nn.Linear(2, 1), lr=4.0).defaults["momentum"]
    0.8
    """
    kind = _KINDS.get(type(optimizer))
    if kind is None:
        known = [each.__name__ for each in _KINDS]
        raise RecipeError(unknown_name("optimizer", type(optimizer).__name__, known))
    check_range(optimizer.kind, "lr", lr, 0)
    settings = {"lr": lr, "foreach": foreach, **_settings(optimizer)}
    if isinstance(optimizer, optimizers.Muon):
        groups = muon_groups(model, optimizer, lr, output=output, exclude=exclude, split=split)
        return Muon(groups, process_group=process_group, **settings)
    for name, given in (("exclude", list(exclude)), ("split", dict(split or {}))):
        if given:
            raise RecipeError(f"{optimizer.kind}: {name}={shown(given)}: is for muon; leave it out")
    if kind in (LARS, LAMB):
        return kind(parameter_groups(model), **settings)
    weights = _trainable(model)
    made = kind(weights, **settings, fused=foreach is None and all(map(can_fuse, weights)))
    made.register_step_pre_hook(align_gradients)
    made.register_load_state_dict_post_hook(align_state)
    return made


def for_task(
    task: Any, recipe: Recipe, model: Module, *, lr: float | None = None, process_group: Any = None
) -> Optimizer:
    """Return the recipe's optimizer for a task's model.

    Args:
        task: may name the model's output layer as `output_layer`.
        recipe: its optimizer and peak learning rate are used.
        model: the task's, on the device where it is trained.
        lr: learning rate of the first update, at least 0; None is the recipe's peak.
        process_group: as for `build`.

    Raises:
        RecipeError: as for `build`.
    """
    rate = recipe.lr if lr is None else lr
    output = getattr(task, "output_layer", None)
    return build(recipe.optimizer, model, rate, output=output, process_group=process_group)


def _settings(data: optimizers.Optimizer) -> Group:
    """Return the data's fields under torch's names."""
    settings = asdict(data)
    if "epsilon" in settings:
        settings["eps"] = settings.pop("epsilon")
    if "beta1" in settings:
        settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
    for of_groups in ("split_gates", "adamw_lr_ratio", "adamw_weight_decay"):
        settings.pop(of_groups, None)
    return settings


# Looked up by the exact type, since AdamW and LAMB are Adams too.
_KINDS: dict[type[optimizers.Optimizer], Callable[..., Optimizer]] = {
    optimizers.SGD: torch.optim.SGD,
    optimizers.Adam: torch.optim.Adam,
    optimizers.AdamW: torch.optim.AdamW,
    optimizers.LARS: LARS,
    optimizers.LAMB: LAMB,
    optimizers.Muon: Muon,
}
