"""What Hugging Face TrainingArguments call things, and where Trainer differs from a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, get_args

from legw import optimizers as kinds
from legw.adapters.fields import Fields, Values, by_name, count, examples, number, passes, positive
from legw.decays import (
    Constant,
    Cosine,
    Decay,
    InverseSqrt,
    Polynomial,
    Tail,
    WarmupStableDecay,
)
from legw.errors import shown
from legw.recipe import Recipe
from legw.schedule import updates, warmup_updates
from legw.units import in_unit

STEPS = ("eval_steps", "save_steps", "logging_steps", "torch_empty_cache_steps")
"""Settings that count updates, and have no say in what is trained."""

WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedulers that pass over the warmup that they are given."""

SCHEDULER_VALUES = "lr_scheduler_kwargs"
"""Where the values of a scheduler are: its lowest rate, its power."""


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return the recipe's fields in TrainingArguments, and what is left out; see `forms.Form`."""
    form = "transformers"
    left_out: list[str] = []
    batch = (
        count(form, values, "per_device_train_batch_size", 8)
        * count(form, values, "gradient_accumulation_steps", 1)
        * processes
    )
    lr = positive(form, values, "learning_rate", 5e-5)
    unit, length = "epochs", number(form, values, "num_train_epochs", 3.0)
    steps = number(form, values, "max_steps", -1)
    if steps > 0:
        unit, length = "steps", steps

    def of_steps(name: str, count: float) -> float:
        """Return a number of updates in the unit of the run."""
        if unit == "steps":
            return count
        return count * batch / examples(form, name, count, num_examples)

    warmup = number(form, values, "warmup_ratio", 0.0) * length
    given = number(form, values, "warmup_steps", 0)
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
    left_out += [
        f"{name}={shown(values[name])}: counts updates, and stays"
        for name in STEPS
        if number(form, values, name, 0) >= 1
    ]
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


def _scheduler(values: Values) -> str:
    kind = values.get("lr_scheduler_type")
    return str(getattr(kind, "value", kind))


@dataclass(frozen=True)
class Run:
    """How long the run and its warmup are, in the unit of the run."""

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
    end = number(form, more, "lr_end", 1e-7) / lr
    return Polynomial(power=number(form, more, "power", 1.0), end=end)


def _cosine(form: str, more: Values, lr: float, run: Run) -> Decay:
    low = number(form, more, "min_lr", 0.0) / lr
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
    adam = kinds.AdamW(
        beta1=number(form, values, "adam_beta1", 0.9),
        beta2=number(form, values, "adam_beta2", 0.999),
        epsilon=number(form, values, "adam_epsilon", 1e-8),
        weight_decay=decay,
    )
    if name.startswith("adamw_"):
        return adam, ""
    return adam, f"optim={shown(name)}: legw has no such optimizer, and takes it for adamw"


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return TrainingArguments of a scaled recipe, and what they cannot say; see `forms.Form`."""
    old = count("transformers", values, "per_device_train_batch_size", 8)
    size, times = passes(big.batch_size, old, processes)
    new = dict(values)
    new |= {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": times,
        "learning_rate": big.lr,
    }
    if big.unit == "steps":
        new["max_steps"] = updates(big)
    elif big.length != base.length:
        new["num_train_epochs"] = big.length
    if number("transformers", values, "warmup_steps", 0) >= 1:
        new["warmup_steps"] = warmup_updates(big)
    elif big.warmup / big.length != base.warmup / base.length:
        name = "warmup_ratio" if values.get("warmup_ratio") else "warmup_steps"
        new[name] = big.warmup / big.length  # below 1, warmup_steps is a share too
    if big.warmup and _scheduler(values) == "constant":
        new["lr_scheduler_type"] = "constant_with_warmup"  # the plain one ignores a warmup
    new |= _lowest_rates(values, big.lr / base.lr)
    new |= _scheduler_steps(new, big)
    _write_adam(new, base, big, {"beta1": "adam_beta1", "beta2": "adam_beta2",
                                 "epsilon": "adam_epsilon"})  # fmt: skip
    lost = []
    if big.warmup and _scheduler(new) in WITHOUT_WARMUP:
        lost.append(f"warmup_{big.unit}={big.warmup:g}: Trainer's {_scheduler(new)} has none; "
                    "legw.train.RecipeLR(after_warmup=...) would")  # fmt: skip
    elif big.warmup and big.warmup_from_lr:
        lost.append(f"warmup_from_lr={big.warmup_from_lr:g}: Trainer's warmup begins at rate 0")
    return new, lost


def _scheduler_steps(values: Values, big: Recipe) -> Fields:
    """Return the scheduler's values with what counts updates in them, for the scaled run."""
    more = by_name("transformers", values, SCHEDULER_VALUES)
    if isinstance(big.decay, WarmupStableDecay):
        more["num_decay_steps"] = round(big.decay.tail * updates(big))
    elif isinstance(big.decay, InverseSqrt) and more.get("timescale") is not None:
        more["timescale"] = round(scale_updates(big))
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
    """Write those settings of Adam that a rule has changed."""
    if base.optimizer != big.optimizer:
        new |= {theirs: getattr(big.optimizer, ours) for ours, theirs in names.items()}
