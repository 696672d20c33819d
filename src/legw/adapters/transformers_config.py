"""Configuration of Hugging Face's Trainer: its names, and its differences from a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import cast, get_args

from legw import optimizers as kinds
from legw.adapters import transformers_fields as fields
from legw.adapters.fields import (
    Fields,
    Values,
    below_lr,
    by_name,
    count,
    examples,
    few_at_once,
    number,
    passes,
    positive,
    rounded,
)
from legw.adapters.forms import Form, Usual
from legw.adapters.optimizer_names import is_adamw, other
from legw.adapters.role_names import role_of
from legw.decays import (
    Constant,
    Cosine,
    Decay,
    InverseSqrt,
    Polynomial,
    Tail,
    WarmupStableDecay,
)
from legw.errors import RecipeError, one_line, shown
from legw.recipe import Recipe
from legw.schedule import in_unit, updates, warmup_updates

WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedulers that ignore a given warmup."""

SCHEDULER_VALUES = "lr_scheduler_kwargs"
"""Place of a scheduler's values: its lowest rate, its power."""


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return a recipe's fields from TrainingArguments, and settings left out; see `forms.Form`."""
    form = "transformers"
    left_out: list[str] = []
    batch = (
        count(form, values, "per_device_train_batch_size", 8)
        * _accumulation(values)
        * (1 if _splits(values) else processes)
    )
    lr = positive(form, values, "learning_rate", 5e-5)
    unit, length = "epochs", number(form, values, "num_train_epochs", 3.0)
    steps = number(form, values, "max_steps", -1)
    if steps > 0:
        unit, length = "steps", steps
        if values.get("num_train_epochs") is not None:
            left_out.append(
                f"num_train_epochs={shown(values['num_train_epochs'])}: is passed over, for "
                "max_steps goes before it"
            )

    def of_steps(name: str, count: float) -> float:
        """Return a number of updates in the unit of the run."""
        if unit == "steps":
            return count
        return count * batch / examples(form, name, count, num_examples)

    warmup = number(form, values, "warmup_ratio", 0.0) * length
    given = number(form, values, "warmup_steps", 0)
    if given and warmup:
        left_out.append(
            f"warmup_ratio={shown(values['warmup_ratio'])}: is passed over, for warmup_steps goes "
            "before it"
        )
    if 0 < given < 1:
        warmup = given * length
    elif given:
        warmup = of_steps("warmup_steps", given)
    decay, reason = _decay(values, lr, Run(unit, length, warmup, of_steps))
    if reason:
        left_out.append(reason)
    if warmup and _scheduler(values) in WITHOUT_WARMUP:
        left_out.append(f"lr_scheduler_type='{_scheduler(values)}': does not warm up; "
                        "constant_with_warmup would")  # fmt: skip
        warmup = 0.0
    optimizer, reason = _optimizer(values)
    if reason:
        left_out.append(reason)
    if warmup:
        left_out.append("warmup: Trainer's first update has rate 0 (ramp='start' in legw)")
    left_out += _counted(values)
    clip = number(form, values, "max_grad_norm", 1.0)
    return {
        "batch_size": batch,
        "lr": lr,
        unit: length,
        f"warmup_{unit}": warmup,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip if clip > 0 else None,
    }, left_out


def _accelerator(values: Values) -> Fields:
    """Return the values of `accelerator_config`."""
    given = values.get("accelerator_config")
    given = getattr(given, "__dict__", given)  # of an AcceleratorConfig
    return by_name("transformers", {"accelerator_config": given}, "accelerator_config")


def _splits(values: Values) -> bool:
    """Say whether the batch of a device is split among all processes, as Accelerate can."""
    return bool(_accelerator(values).get("split_batches") or values.get("split_batches"))


def _accumulation(values: Values) -> int:
    """Return the accumulation, for which `accelerator_config` has a name of its own too."""
    form, name = "transformers", "gradient_accumulation_steps"
    given = count(form, values, name, 1)
    if not _accelerates(values):
        return given
    inner = by_name(form, _accelerator(values), ACCUMULATION)
    own = count(f"{form}: accelerator_config: {ACCUMULATION}", inner, "num_steps", 1)
    if given > 1:
        raise RecipeError(
            f"{form}: {name}={given}: accelerator_config has num_steps={own} too, and Trainer "
            "takes only one of them; give one"
        )
    return own


ACCUMULATION = "gradient_accumulation_kwargs"
"""Place of the accumulation, `num_steps`, in `accelerator_config`."""


def _accelerates(values: Values) -> bool:
    """Say whether the accumulation is in `accelerator_config`."""
    inner = _accelerator(values).get(ACCUMULATION)
    return inner is not None and "num_steps" in by_name(
        "transformers", {ACCUMULATION: inner}, ACCUMULATION
    )


def _write_accumulation(new: Fields, times: int) -> None:
    """Write the accumulation where it was given."""
    if not _accelerates(new):
        new["gradient_accumulation_steps"] = times
        return
    new["gradient_accumulation_steps"] = 1
    more = _accelerator(new)
    more[ACCUMULATION] = by_name("transformers", more, ACCUMULATION) | {"num_steps": times}
    text = isinstance(new["accelerator_config"], str)
    new["accelerator_config"] = json.dumps(more) if text else more


def _counted(values: Values) -> list[str]:
    """Return the scheduler's values that count updates and that no decay of ours has."""
    more = by_name("transformers", values, SCHEDULER_VALUES)
    known = DECAYS.get(_scheduler(values), (None, ()))[1]
    return [
        f"{SCHEDULER_VALUES}: {one_line(str(name), 60)}={shown(value)}: counts updates, and stays"
        for name, value in more.items()
        if name not in known and (role_of(str(name)) or name == "patience") and value
    ]


@cache
def installed() -> tuple[int, str] | None:
    """Return Transformers' major version, and the whole one; None where it is not installed."""
    try:
        version = metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None
    major = version.partition(".")[0]
    return (int(major) if major.isdecimal() else 0), version


def _not_in_5(values: Values) -> list[str]:
    version = installed()
    names = fields.gone(values)
    if version is None or version[0] < 5 or not names:
        return []
    said = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"{said}: Transformers {version[1]} has no such names; take them out"]


def _scheduler(values: Values) -> str:
    kind = values.get("lr_scheduler_type")
    return str(getattr(kind, "value", kind))


@dataclass(frozen=True)
class Run:
    """Length of the run and of its warmup, in the unit of the run."""

    unit: str
    """epochs, or steps where `max_steps` says so."""
    length: float
    """Of the run."""
    warmup: float
    """Of its warmup."""
    of_steps: Callable[[str, float], float]
    """(the setting's name, a number of updates) -> the same in the unit."""


def _decay(values: Values, lr: float, run: Run) -> tuple[Decay, str]:
    form, kind = f"transformers: {SCHEDULER_VALUES}", _scheduler(values)
    more = by_name("transformers", values, SCHEDULER_VALUES)
    read = DECAYS.get(kind)
    if read is not None and set(more) <= set(read[1]):
        found = read[0](form, more, lr, run)
        if found is not None:
            return found, ""
    return Constant(), f"lr_scheduler_type={shown(kind)}: legw has no such decay; it stays"


def _constant(form: str, more: Values, lr: float, run: Run) -> Decay:
    return Constant()


def _linear(form: str, more: Values, lr: float, run: Run) -> Decay:
    return Polynomial(power=1)


def _polynomial(form: str, more: Values, lr: float, run: Run) -> Decay:
    end = below_lr(form, more, "lr_end", 1e-7, lr)
    return Polynomial(power=number(form, more, "power", 1.0), end=end)


def _cosine(form: str, more: Values, lr: float, run: Run) -> Decay:
    low = below_lr(form, more, "min_lr", 0.0, lr)
    waves = 2 * positive(form, more, "num_cycles", 0.5)
    return Cosine(end=number(form, more, "min_lr_rate", low), half_cycles=waves)


def _inverse_sqrt(form: str, more: Values, lr: float, run: Run) -> Decay:
    scale = 0.0
    if more.get("timescale") is not None:
        scale = run.of_steps("timescale", positive(form, more, "timescale", 1.0))
    scale = scale or run.warmup or run.of_steps("timescale", 10_000)
    settings: Fields = {f"time_scale_{run.unit}": scale}
    return InverseSqrt(**settings)


def _trapezoid(form: str, more: Values, lr: float, run: Run) -> Decay | None:
    """Return warmup-stable-decay; its tail is a number of updates there, a share here."""
    shape = str(more.get("decay_type") or "cosine")
    if shape not in get_args(Tail) or more.get("warmup_type") not in (None, "linear"):
        return None
    updates = positive(form, more, "num_decay_steps", 1.0)
    tail = run.of_steps("num_decay_steps", updates) / run.length
    if tail > 1:
        raise RecipeError(f"{form}: num_decay_steps={updates:g}: is longer than the run")
    end = number(form, more, "min_lr_ratio", 0.0)
    return WarmupStableDecay(tail=tail, shape=cast(Tail, shape), end=end)


DECAYS: dict[str, tuple[Callable[[str, Values, float, Run], Decay | None], tuple[str, ...]]] = {
    "None": (_linear, ()),
    "linear": (_linear, ()),
    "cosine": (_cosine, ("num_cycles",)),
    "cosine_with_min_lr": (_cosine, ("min_lr", "min_lr_rate", "num_cycles")),
    "polynomial": (_polynomial, ("lr_end", "power")),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant, ()),
    "inverse_sqrt": (_inverse_sqrt, ("timescale",)),
    "warmup_stable_decay": (
        _trapezoid, ("num_decay_steps", "min_lr_ratio", "warmup_type", "decay_type")
    ),
}  # fmt: skip
"""Schedulers of Transformers with the values that each may have here."""


def _optimizer(values: Values) -> tuple[kinds.Optimizer, str]:
    name = str(getattr(values.get("optim"), "value", values.get("optim") or "adamw_torch"))
    form = "transformers"
    decay = number(form, values, "weight_decay", 0.0)
    if name == "sgd":
        return kinds.SGD(weight_decay=decay), ""
    if not is_adamw(name):
        return other("optim", name)
    return kinds.AdamW(
        beta1=number(form, values, "adam_beta1", 0.9),
        beta2=number(form, values, "adam_beta2", 0.999),
        epsilon=number(form, values, "adam_epsilon", 1e-8),
        weight_decay=decay,
    ), ""


def write(
    values: Values, base: Recipe, big: Recipe, processes: int, *, own_version: bool = True
) -> tuple[Fields, list[str]]:
    """Return TrainingArguments of a scaled recipe, and notes on what they lack; see `forms.Form`.

    Args:
        values: the arguments of the base.
        base: recipe of these values.
        big: the scaled recipe.
        processes: that train together, at least 1.
        own_version: True takes the names of the installed version; False those of `values`.
    """
    new = dict(values)
    old = count("transformers", values, "per_device_train_batch_size", 8)
    split = processes if _splits(values) else 1
    size, times = passes(big.batch_size, max(old // split, 1), processes)
    lost = few_at_once(size, times, max(old // split, 1), "gradient_accumulation_steps")
    new |= {
        "per_device_train_batch_size": size * split,
        "learning_rate": big.lr,
    }
    _write_accumulation(new, times)
    if big.unit == "steps":
        new["max_steps"] = updates(big)
    elif big.length != base.length:
        new["num_train_epochs"] = big.length
    _write_warmup(new, base, big, installed() if own_version else None)
    if big.warmup and _scheduler(values) == "constant":
        new["lr_scheduler_type"] = "constant_with_warmup"  # the plain one ignores a warmup
    new |= _lowest_rates(values, big.lr / base.lr)
    new |= _scheduler_steps(new, base, big)
    _write_adam(new, base, big, {"beta1": "adam_beta1", "beta2": "adam_beta2",
                                 "epsilon": "adam_epsilon"})  # fmt: skip
    if big.warmup and _scheduler(new) in WITHOUT_WARMUP:
        lost.append(f"warmup_{big.unit}={big.warmup:g}: Trainer's {_scheduler(new)} has none; "
                    "legw.train.RecipeLR(after_warmup=...) would")  # fmt: skip
    elif big.warmup and big.warmup_from_lr:
        lost.append(f"warmup_from_lr={big.warmup_from_lr:g}: Trainer's warmup begins at rate 0")
    return new, lost


def _write_warmup(new: Fields, base: Recipe, big: Recipe, version: tuple[int, str] | None) -> None:
    """Write the warmup as it was given, in a name that the version has."""
    if number("transformers", new, "warmup_steps", 0) >= 1:
        new["warmup_steps"] = warmup_updates(big)
    elif big.warmup / big.length != base.warmup / base.length:
        name = "warmup_ratio" if new.get("warmup_ratio") else "warmup_steps"
        new[name] = big.warmup / big.length  # below 1, warmup_steps is a share too
    if version is None:
        return
    if version[0] >= 5 and "warmup_ratio" in new:
        ratio = new.pop("warmup_ratio")
        if ratio and not number("transformers", new, "warmup_steps", 0):
            new["warmup_steps"] = number("transformers", {"ratio": ratio}, "ratio", 0.0)
    elif version[0] < 5 and 0 < number("transformers", new, "warmup_steps", 0) < 1:
        new["warmup_ratio"] = new.pop("warmup_steps")


def _scheduler_steps(values: Values, base: Recipe, big: Recipe) -> Fields:
    """Return the scheduler's values with its numbers of updates, for the scaled run."""
    more = by_name("transformers", values, SCHEDULER_VALUES)
    if isinstance(big.decay, WarmupStableDecay):
        more["num_decay_steps"] = round(big.decay.tail * updates(big))
    elif isinstance(big.decay, InverseSqrt) and (more.get("timescale") or big is not base):
        more["timescale"] = max(
            1, rounded("transformers", "timescale", scale_updates(big))
        )  # Trainer's own is the warmup's
    else:
        return {}
    text = isinstance(values.get(SCHEDULER_VALUES), str)
    return {SCHEDULER_VALUES: json.dumps(more) if text else more}


def scale_updates(recipe: Recipe) -> float:
    """Return the time scale of an `InverseSqrt` in updates."""
    in_steps = in_unit(recipe, "steps").decay
    assert isinstance(in_steps, InverseSqrt) and in_steps.time_scale_steps is not None
    return in_steps.time_scale_steps


def _lowest_rates(values: Values, factor: float) -> Fields:
    """Return the scheduler's values with its lowest rate scaled as the peak is, if it has one."""
    more = by_name("transformers", values, SCHEDULER_VALUES)
    if _scheduler(values) == "polynomial":
        more.setdefault("lr_end", 1e-7)  # Transformers' own, which is not relative to the rate
    names = [name for name in ("min_lr", "lr_end") if more.get(name) is not None]
    for name in names:
        more[name] = number(f"transformers: {SCHEDULER_VALUES}", more, name, 0.0) * factor
    text = isinstance(values.get(SCHEDULER_VALUES), str)
    return {SCHEDULER_VALUES: json.dumps(more) if text else more} if names else {}


def _write_adam(new: Fields, base: Recipe, big: Recipe, names: dict[str, str]) -> None:
    """Write those settings of Adam and of clipping that a rule has changed."""
    if base.optimizer != big.optimizer:
        new |= {theirs: getattr(big.optimizer, ours) for ours, theirs in names.items()}
    decay = getattr(big.optimizer, "weight_decay", None)
    if decay != getattr(base.optimizer, "weight_decay", None):
        new["weight_decay"] = decay
    if big.clip_norm != base.clip_norm:
        new["max_grad_norm"] = big.clip_norm


FORM = Form(
    title="Transformers",
    known_by=(
        ("per_device_train_batch_size",), ("num_train_epochs",), ("lr_scheduler_type",),
        ("lr_scheduler_kwargs",), ("per_device_eval_batch_size",),
    ),
    settings=fields.SETTINGS | fields.ONLY_BEFORE_5,
    usual=(
        Usual("batch", ("per_device_train_batch_size",), "per_device_train_batch_size=8"),
        Usual(
            "accumulation", ("gradient_accumulation_steps",), "gradient_accumulation_steps=1",
            when=lambda values: not _accelerates(values),
        ),
        Usual("rate", ("learning_rate",), "learning_rate=5e-05"),
        Usual(
            "length", ("num_train_epochs",), "num_train_epochs=3",
            when=lambda values: number("transformers", values, "max_steps", -1) <= 0,
        ),
        Usual("warmup", ("warmup_steps", "warmup_ratio"), "warmup_steps=0"),
        Usual("schedule", ("lr_scheduler_type",), "lr_scheduler_type='linear'"),
        Usual("optimizer", ("optim",), "optim='adamw_torch_fused'"),
    ),
    read=read,
    write=write,
    more=_not_in_5,
)  # fmt: skip
"""TrainingArguments, of Transformers 4 and 5."""
