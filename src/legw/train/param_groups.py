"""Learning rates of an optimizer's parameter groups: read, written, and put in ratio.

Rates may be floats or tensors of one element; here they are read as floats.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from torch import Tensor
from torch.optim import Optimizer

from legw.errors import RecipeError, shown

REFERENCE = "reference_lr"
"""Key in a parameter group, beside torch's `initial_lr`: the rate that counts as ratio 1.
Both travel in the optimizer's state_dict, so that ratios outlive the scheduler."""


def read(optimizer: Optimizer) -> list[float]:
    """Return the rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def write(optimizer: Optimizer, rates: Sequence[float | Tensor]) -> list[float | Tensor]:
    """Give each group its rate, and return copies of what the groups now have.

    Tensors are filled in place, as compiled and captured code holds on to them.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    now = [group["lr"] for group in optimizer.param_groups]
    return [rate.clone() if isinstance(rate, Tensor) else rate for rate in now]


def after_loads(optimizer: Optimizer, call: Callable[[], object]) -> None:
    """Call a bound method after every ``optimizer.load_state_dict``, while its object exists."""
    here = weakref.WeakMethod(call)

    def hook(_: Optimizer) -> None:
        call = here()
        if call is not None:
            call()

    with contextlib.suppress(AttributeError):  # accelerate's wrapper has no hooks of its own
        optimizer.register_load_state_dict_post_hook(hook)


def built_with(optimizer: Optimizer) -> list[float]:
    """Return each group's rate at construction: torch's `initial_lr`, where it exists.

    Raises:
        RecipeError: a group has a rate that is no number.
    """
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    for index, rate in enumerate(rates):
        if not _is_number(rate):
            raise RecipeError(
                f"RecipeLR: param_groups[{index}] lr={shown(rate)}: must be a number; "
                "build the optimizer with lr=recipe.lr"
            )
    return [float(rate) for rate in rates]


def reference(
    optimizer: Optimizer, peak: float, *, stated: float | None = None,
    base_lr: float | None = None, built: str | None = None,
) -> float:  # fmt: skip
    """Return the rate that counts as ratio 1.

    It is the stated rate; else the optimizer's own `lr` where a group has it; else the recipe's. An
    `lr` equal to torch's default of the class may never have been given, so it does not count where
    groups have rates of their own.

    Args:
        optimizer: as it was built, or as it was loaded.
        peak: the recipe's rate, above 0.
        stated: the rate itself, above 0.
        base_lr: the base recipe's rate, which a group must have.
        built: the scheduler that is on the optimizer already, and may have set its rates.

    Raises:
        RecipeError: no group has the rate that is known, or none is.
    """
    if stated is not None:
        if not (_is_number(stated) and 0 < float(stated) < math.inf):
            raise RecipeError(
                f"RecipeLR: reference_lr={shown(stated)}: must be a number above 0, the rate that "
                "has the ratio 1"
            )
        return float(stated)
    known = [group[REFERENCE] for group in optimizer.param_groups if REFERENCE in group]
    if known:
        return float(known[0])
    rates, default = built_with(optimizer), optimizer.defaults.get("lr")
    for rate, group in zip(rates, optimizer.param_groups, strict=True):
        if group["lr"] is default:  # one tensor for both, which a scheduler may have filled since
            default = rate
    if base_lr is not None:
        wanted = [base_lr]
    else:
        unsaid = _differ(rates) and default == _usual_lr(optimizer)
        default = None if unsaid else default
        wanted = [float(lr) for lr in (default, peak) if _is_number(lr) and lr > 0]
    for lr in wanted:
        for rate in rates:
            if math.isclose(rate, lr, rel_tol=1e-6):  # a tensor has seven digits
                return rate
    raise RecipeError(f"RecipeLR: {_no_ratio(optimizer, peak, base_lr, built, default)}")


def _no_ratio(
    optimizer: Optimizer, peak: float, base_lr: float | None, built: str | None, default: object
) -> str:
    """Return why no group's rate has the ratio 1, and what to do."""
    lr = f"lr={shown(built_with(optimizer))}"
    if base_lr is not None:
        return (
            f"param_groups: {lr}: none is the base's {base_lr:g}, to take ratios to; give "
            "lr=base.lr to the optimizer, or reference_lr= here"
        )
    if built is not None:  # else the optimizer's own lr would be there
        return (
            f"after_warmup={built}: has set {lr} when it was built, and none is the recipe's "
            f"{peak:g}; say with reference_lr= which rate has the ratio 1, or take a scheduler "
            "without a warmup of its own, as CosineAnnealingLR"
        )
    if default is None:
        return (
            f"param_groups: {lr}: groups have rates of their own, and none is the recipe's "
            f"{peak:g}; say which rate has the ratio 1 with base= or reference_lr="
        )
    return (
        f"param_groups: {lr}: none is the optimizer's lr={shown(default)}, above 0, or the "
        f"recipe's {peak:g}, to take ratios to; give lr=recipe.lr to the optimizer"
    )


def _differ(rates: Sequence[float]) -> bool:
    return any(not math.isclose(rate, rates[0], rel_tol=1e-6) for rate in rates)


def _usual_lr(optimizer: Optimizer) -> object:
    """Return the `lr` that an optimizer of this class has where none is given."""
    known = inspect.signature(type(optimizer).__init__).parameters.get("lr")
    return None if known is None else known.default


def peaks(rates: Sequence[float]) -> str:
    """Return the peaks of groups in a few words: equal ones together.

    >>> peaks([0.4, 0.4, 0.04])
    '0.4 (2 groups), 0.04 (1 group)'
    """
    counts: dict[str, int] = {}
    for rate in rates:
        counts[f"{rate:.5g}"] = counts.get(f"{rate:.5g}", 0) + 1
    return ", ".join(
        f"{rate} ({count} group{'' if count == 1 else 's'})" for rate, count in counts.items()
    )


def trust_order(optimizer: Optimizer) -> None:
    """Let torch's schedulers accept a `step` that is no method, as ``torch.compile(step)``.

    They wrap the step, to warn where it is called after theirs, and fail where they
    cannot. A step that is marked as wrapped is left alone.
    """
    step: Any = optimizer.step
    if not hasattr(step, "__func__") and not hasattr(step, "_wrapped_by_lr_sched"):
        step._wrapped_by_lr_sched = True
        optimizer._opt_called = True  # type: ignore[attr-defined]


def _is_number(value: object) -> TypeGuard[float | Tensor]:
    return isinstance(value, float | int | Tensor)
