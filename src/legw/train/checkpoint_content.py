"""Checkpoint content: checked against the run it is for, before anything is loaded.

A checkpoint may come from anywhere. Unpickling it runs no code, but that is not enough: with state
of another shape, fused kernels access memory outside of their buffers, and a position past the
run's end would end the run at once. So this module checks each value against the model, the
optimizer, the recipe and the file's name. A checked value is loaded unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from legw.errors import RunError, one_line, shown, too_deep
from legw.runs.reading import at_least, typed
from legw.schedule import Progress
from legw.train.divergence import WINDOW

NOT_COMPARED = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}
"""Settings of optimizer groups that are set at each update, or that change the speed and not the
result. The run keeps its own values of these."""

ADAM = ("step", "exp_avg", "exp_avg_sq")
MOMENTUM = ("momentum_buffer",)


class DamagedError(Exception):
    """Content that no run of ours has written; its text gives the reason."""


class OtherModelError(Exception):
    """Content of another model or optimizer; its text names the difference."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The run that a checkpoint is to be put into."""

    model: nn.Module
    optimizer: Optimizer
    batch_size: int
    """The recipe's batch size, which is the number of rows of a carried state."""
    progress: Progress | None = None
    """Batch sizes of the run's updates, where the last one's is that number; None is a constant
    batch."""
    most_updates: int
    """Updates of the whole run."""
    steering: Mapping[str, Any] | None
    """Initial state of a steering rule; None without a steering rule."""
    carried: Callable[[], tuple[Tensor, ...] | None]
    """Returns an example of the task's carried state, with any number of rows; None for a task
    without one. Called only if the checkpoint has such a state."""
    averaged: bool = False
    """Whether the run keeps an average of its weights."""
    earlier_updates: int = 0
    """Steps that the optimizer had made beyond the updates that the run's position counts: those
    of a branch, whose batch is larger than that of the run it started from."""


@dataclass(kw_only=True)
class _Mean:
    total: float = 0.0
    count: int = 0


@dataclass(kw_only=True)
class _Divergence:
    first: float | None
    lowest: float
    recent: list[float]


@dataclass(kw_only=True)
class _Position:
    """The form in which `legw.train.checkpoint.Position` is written."""

    updates: int
    seconds: float
    wall_seconds: float
    since_evaluation: _Mean
    last_epoch: _Mean
    divergence: _Divergence
    evaluated: _Mean = field(default_factory=_Mean)


@dataclass(kw_only=True)
class _Plain:
    """Values of a checkpoint that are no tensors."""

    position: _Position
    metrics_bytes: int
    last_metric: float | None
    costs: dict[str, float] = field(default_factory=dict)
    steering: dict[str, Any] | None = None


def check(content: Any, updates: int, expected: Expected | None = None) -> dict[str, Any]:
    """Return a checkpoint's content, if a run can go on from it.

    Args:
        content: as it was unpickled.
        updates: number of updates in the file's name, at least 0.
        expected: the run; None makes only the checks that need no run.

    Returns:
        The same with tensors of their own memory, and the run's own optimizer settings.

    Raises:
        DamagedError: no run of ours has written it so.
        OtherModelError: its weights or its optimizer are those of another model.
    """
    if not isinstance(content, dict):
        raise DamagedError("is no checkpoint of legw")
    names = ("model", "optimizer", "position", "carried", "last_metric", "metrics_bytes")
    for name in names:
        if name not in content:
            raise DamagedError(f"{name} is missing")
    content = {**content, "position": _check_plain(content, updates)}
    model = _table(content["model"], "model")
    weights = {"model": model}
    if "average" in content:
        weights["average"] = _table(content["average"], "average")
    if expected is None:
        return {**content, **{name: _owned(each) for name, each in weights.items()}}
    if content["position"]["updates"] > expected.most_updates:
        raise DamagedError(f"updates={updates}: the whole run has {expected.most_updates}")
    _check_steering(content.get("steering"), expected.steering)
    if ("average" in weights) != expected.averaged:
        raise DamagedError("average: is of a recipe with another ema_decay")
    for each in weights.values():
        _check_model(each, expected.model.state_dict())
    state = _check_optimizer(
        content["optimizer"], expected.optimizer, updates + expected.earlier_updates
    )
    groups = expected.optimizer.state_dict()["param_groups"]
    return {
        **content,
        **{name: _owned(each) for name, each in weights.items()},
        "optimizer": {"state": state, "param_groups": groups},
        "carried": _check_carried(content["carried"], expected, updates),
    }


# Plain values -----------------------------------------------------------------------


def _check_plain(content: Mapping[str, Any], updates: int) -> dict[str, Any]:
    """Return the position, after a check of it and of all other plain values."""
    names = ("position", "metrics_bytes", "last_metric", "costs", "steering")
    values = {name: content[name] for name in names if name in content}
    if too_deep(values, most=4) or not _is_all_plain(values):
        raise DamagedError("has something else in a number's place")
    try:
        plain = typed(_Plain, values)
        position = plain.position
        at_least(plain, metrics_bytes=0)
        at_least(position, updates=0, seconds=0, wall_seconds=0)
        for mean in (position.since_evaluation, position.evaluated, position.last_epoch):
            at_least(mean, count=0)
        for name, seconds in plain.costs.items():
            if not 0 <= seconds < math.inf:
                raise DamagedError(f"costs: {one_line(name, 40)}={seconds}: must be at least 0")
    except RunError as error:
        raise DamagedError(str(error).removeprefix("cannot be read: ")) from None
    if position.updates != updates:
        raise DamagedError(f"updates={position.updates}: its file's name says {updates}")
    if not (math.isfinite(position.seconds) and math.isfinite(position.wall_seconds)):
        raise DamagedError("seconds: must be finite")
    if len(position.divergence.recent) > WINDOW:
        raise DamagedError(f"divergence: recent: has more than {WINDOW} losses")
    means = (position.since_evaluation, position.evaluated, position.last_epoch)
    most = max(mean.count for mean in means)
    if most > updates:
        raise DamagedError(f"position: a mean of {most} updates, of which {updates} were made")
    return asdict(position)


def _is_all_plain(value: Any) -> bool:
    """Whether there are only numbers, texts, lists and tables of them in a value."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_all_plain(each) for name, each in value.items())
    if isinstance(value, list):
        return all(_is_all_plain(each) for each in value)
    return value is None or type(value) in (bool, int, float, str)


def _check_steering(found: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> None:
    """Check that a steering rule's numbers are possible ones."""
    if found is None or own is None:
        if (found is None) != (own is None):
            raise DamagedError("steering: is of a run that another rule makes")
        return
    if found.keys() != own.keys():
        raise DamagedError(f"steering: has {shown(sorted(map(str, found)))}")
    for name, value in found.items():
        if name in ("scale", "count", "base_updates"):
            if value != own[name]:
                raise DamagedError(f"steering: {name}={shown(value)}, not {own[name]} as here")
            continue
        missing = value is None and name != "gained"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not missing and not (number and math.isfinite(value) and value >= 0):
            raise DamagedError(f"steering: {name}={shown(value)}: must be a number, at least 0")


# Tensors ----------------------------------------------------------------------------


def _table(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DamagedError(f"{what}: must be tensors by their names")
    return found


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor in the CPU's memory, with storage for every number."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _own(value: Any) -> Any:
    """Return a tensor in memory of its own, which no file and no other tensor shares."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _owned(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _own(value) for name, value in table.items()}


def _like(value: Any, own: Tensor, what: str) -> None:
    """See that a value is a tensor like the run's own."""
    if not _is_plain(value):
        raise DamagedError(f"{what}: must be a dense tensor")
    if value.shape != own.shape:
        raise OtherModelError(f"{what} has shape {tuple(value.shape)}, not {tuple(own.shape)}")
    if value.dtype != own.dtype:
        raise OtherModelError(f"{what} has dtype {value.dtype}, not {own.dtype}")


def _check_model(found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if missing := [name for name in own if name not in found]:
        raise OtherModelError(f"has no {one_line(missing[0], 60)}")
    if more := [name for name in found if name not in own]:
        raise OtherModelError(f"has {one_line(more[0], 60)}, which this model has not")
    for name, tensor in own.items():
        if isinstance(tensor, Tensor):
            _like(found[name], tensor, one_line(name, 60))
        elif type(found[name]) is not type(tensor):
            raise OtherModelError(f"{one_line(name, 60)} is {shown(found[name])}")


def _check_optimizer(found: Any, optimizer: Optimizer, updates: int) -> dict[int, dict[str, Any]]:
    """Return the state of each parameter, by its number."""
    if not (
        isinstance(found, dict)
        and isinstance(found.get("state"), dict)
        and isinstance(found.get("param_groups"), list)
    ):
        raise DamagedError("optimizer: must be a state and groups")
    _check_groups(found["param_groups"], optimizer)
    members = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for number, values in found["state"].items():
        if not isinstance(number, int) or not 0 <= number < len(members):
            raise OtherModelError(f"optimizer: has state of parameter {shown(number)}")
        group, parameter = members[number]
        state[number] = _check_state(
            _table(values, f"optimizer: state of parameter {number}"),
            parameter, _names(optimizer, group), number, updates,
        )  # fmt: skip
    if updates and not state and any(_names(optimizer, group) for group, _ in members):
        raise DamagedError("optimizer: has no state")
    for number, (group, parameter) in enumerate(members):
        if number not in state and _names(optimizer, group) == MOMENTUM:
            # It had no gradient yet. Torch's kernels want all momenta or none; 0 is a new one's.
            state[number] = {"momentum_buffer": torch.zeros_like(parameter, device="cpu")}
    return state


def _check_groups(found: list[Any], optimizer: Optimizer) -> None:
    own = optimizer.state_dict()["param_groups"]
    if len(found) != len(own):
        raise OtherModelError(f"optimizer: has {len(found)} groups, not {len(own)}")
    for theirs, ours in zip(found, own, strict=True):
        numbers = theirs.get("params") if isinstance(theirs, dict) else None
        whole = isinstance(numbers, list) and all(type(each) is int for each in numbers)
        if not whole or numbers != ours["params"]:
            raise OtherModelError("optimizer: its groups have other parameters")
        for name, value in ours.items():
            if name in NOT_COMPARED or name not in theirs:
                continue
            other = theirs[name]
            if type(other) is not type(value) or other != value:
                raise OtherModelError(f"optimizer: {name}={shown(other)}, not {shown(value)}")


def _names(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of an optimizer's state of a parameter; None for an optimizer of others."""
    kind = type(optimizer).__name__
    if kind == "Muon":
        return MOMENTUM if group["use_muon"] else ADAM
    if kind == "SGD":
        return MOMENTUM if group["momentum"] else ()
    return {"Adam": ADAM, "AdamW": ADAM, "LAMB": ADAM, "LARS": MOMENTUM}.get(kind)


def _check_state(
    found: dict[str, Any],
    parameter: Tensor,
    names: tuple[str, ...] | None,
    number: int,
    updates: int,
) -> dict[str, Any]:
    """Return one parameter's state; every tensor in it must suit the kernels that take it."""
    here = f"optimizer: parameter {number}"
    kept = {name: value for name, value in found.items() if value is not None}
    if names is not None and set(names) != kept.keys():
        raise OtherModelError(f"{here}: keeps {shown(sorted(kept))}, not {shown(sorted(names))}")
    for name, value in kept.items():
        what = f"{here}: {one_line(name, 40)}"
        if name == "step":
            _check_step(value, what, updates)
        elif names is not None:
            _like(value, parameter, what)
        elif isinstance(value, Tensor):
            if not _is_plain(value) or value.shape not in (parameter.shape, torch.Size()):
                raise OtherModelError(f"{what} has another shape than its parameter")
        elif not isinstance(value, int | float | str):
            raise DamagedError(f"{what}={shown(value)}: must be a tensor or a number")
    return {name: _own(value) for name, value in found.items()}


def _check_step(value: Any, what: str, updates: int) -> None:
    if not (_is_plain(value) and value.shape == () and value.is_floating_point()):
        raise DamagedError(f"{what}: must be a tensor of one number")
    number = value.item()
    if not (0 <= number <= updates and number == int(number)):
        raise DamagedError(f"{what}={shown(number)}: must be a whole number, at most {updates}")


def _check_carried(found: Any, expected: Expected, updates: int) -> tuple[Tensor, ...] | None:
    """Return the state that the task carries from update to update, checked against one."""
    if found is None:
        return None
    if not isinstance(found, tuple) or not all(_is_plain(each) for each in found):
        raise DamagedError("carried: must be dense tensors")
    own = expected.carried()
    if own is None:
        raise OtherModelError("carries a state, and this task carries none")
    theirs = [(tuple(each.shape), each.dtype) for each in found]
    rows = expected.batch_size
    if expected.progress is not None:
        rows = expected.progress.batch_size(max(updates - 1, 0))
    ours = [((rows, *each.shape[1:]), each.dtype) for each in own]
    if theirs != ours:
        raise OtherModelError(f"carries a state of shapes {[shape for shape, _ in theirs]}, "
                         f"not {[shape for shape, _ in ours]}")  # fmt: skip
    return tuple(_own(each) for each in found)
