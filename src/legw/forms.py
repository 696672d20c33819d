"""What two libraries call things: Hugging Face TrainingArguments, and timm's arguments.

A form reads a recipe's fields from a library's values, naming what does not go into a
recipe, and writes a scaled recipe back under the library's names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from legw import optimizers as kinds
from legw.decays import Constant, Cosine, Decay, Exponential, Polynomial, Step
from legw.errors import RecipeError, shown
from legw.recipe import Recipe
from legw.schedule import updates, warmup_updates

Values = Mapping[str, Any]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One library's names."""

    known_by: tuple[str, ...]
    """Names of which at least one is there."""
    read: Callable[[Values, int | None, int], tuple[Fields, list[str]]]
    """(values, num_examples, processes) -> (the recipe's fields, what is left out)."""
    write: Callable[[Values, Recipe, Recipe, int], Fields]
    """(values, base, scaled, processes) -> new values."""


def recognise(values: Values) -> str:
    """Return the form of values: "transformers" or "timm".

    Raises:
        RecipeError: neither's names are there.

    >>> recognise({"learning_rate": 0.1}), recognise({"sched": "cosine"})
    ('transformers', 'timm')
    """
    for name, form in FORMS.items():
        if any(key in values for key in form.known_by):
            return name
    raise RecipeError(
        "from_config: is neither of Hugging Face TrainingArguments (learning_rate, "
        "per_device_train_batch_size) nor of timm (sched, lr, opt); give one of these"
    )


def _number(form: str, values: Values, name: str, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    try:
        return float(value)  # YAML reads 1e-5 as text
    except (TypeError, ValueError):
        raise RecipeError(f"{form}: {name}={shown(value)}: must be a number") from None


def _count(form: str, values: Values, name: str, default: int) -> int:
    value = values.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{form}: {name}={shown(value)}: must be a whole number, at least 1")
    return value


def _examples(form: str, name: str, value: Any, num_examples: int | None) -> int:
    if num_examples is None:
        raise RecipeError(
            f"{form}: {name}={shown(value)}: counts updates; give num_examples, to have epochs"
        )
    return num_examples


def passes(batch_size: int, micro_batch_size: int, processes: int) -> tuple[int, int]:
    """Return (examples per pass on one device, passes per update) that make a batch.

    Args:
        batch_size: examples per update, a multiple of `processes`.
        micro_batch_size: most examples per pass, at least 1.
        processes: at least 1.

    >>> passes(2048, 16, 4), passes(96, 64, 1), passes(8, 16, 1)
    ((16, 32), (48, 2), (8, 1))
    """
    share = batch_size // processes
    size = next(n for n in range(min(micro_batch_size, share), 0, -1) if share % n == 0)
    return size, share // size


# Hugging Face ---------------------------------------------------------------------

STEPS = ("eval_steps", "save_steps", "logging_steps", "torch_empty_cache_steps")
"""Settings that count updates, and have no say in what is trained."""


def _read_transformers(
    values: Values, num_examples: int | None, processes: int
) -> tuple[Fields, list[str]]:
    form = "transformers"
    left_out: list[str] = []
    batch = (
        _count(form, values, "per_device_train_batch_size", 8)
        * _count(form, values, "gradient_accumulation_steps", 1)
        * processes
    )
    lr = _number(form, values, "learning_rate", 5e-5)
    epochs = _number(form, values, "num_train_epochs", 3.0)
    steps = _number(form, values, "max_steps", -1)
    if steps > 0:
        epochs = steps * batch / _examples(form, "max_steps", int(steps), num_examples)
    warmup = _number(form, values, "warmup_ratio", 0.0) * epochs
    given = _number(form, values, "warmup_steps", 0)
    if 0 < given < 1:
        warmup = given * epochs
    elif given:
        warmup = given * batch / _examples(form, "warmup_steps", given, num_examples)
    decay, reason = _transformers_decay(values, lr)
    if reason:
        left_out.append(reason)
    if values.get("lr_scheduler_type") == "constant" and warmup:
        left_out.append("lr_scheduler_type='constant': does not warm up; "
                        "constant_with_warmup would")  # fmt: skip
        warmup = 0.0
    optimizer, reason = _transformers_optimizer(values)
    if reason:
        left_out.append(reason)
    if warmup:
        left_out.append("warmup: Trainer's first update has rate 0 (ramp='start' in legw)")
    left_out += [
        f"{name}={shown(values[name])}: counts updates, and stays"
        for name in STEPS
        if _number(form, values, name, 0) >= 1
    ]
    clip = _number(form, values, "max_grad_norm", 1.0)
    return {
        "batch_size": batch,
        "lr": lr,
        "epochs": epochs,
        "warmup_epochs": warmup,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip if clip > 0 else None,
    }, left_out


def _transformers_decay(values: Values, lr: float) -> tuple[Decay, str]:
    kind = str(getattr(values.get("lr_scheduler_type"), "value", values.get("lr_scheduler_type")))
    more = values.get("lr_scheduler_kwargs") or {}
    if kind in ("None", "linear"):
        return Polynomial(power=1), ""
    if kind == "cosine" and not more:
        return Cosine(), ""
    if kind == "cosine_with_min_lr" and set(more) <= {"min_lr", "min_lr_rate"}:
        end = more["min_lr_rate"] if "min_lr_rate" in more else more.get("min_lr", 0.0) / lr
        return Cosine(end=end), ""
    if kind == "polynomial":
        end = more.get("lr_end", 1e-7) / lr
        return Polynomial(power=more.get("power", 1.0), end=end), ""
    if kind in ("constant", "constant_with_warmup"):
        return Constant(), ""
    return Constant(), f"lr_scheduler_type={shown(kind)}: legw has no such decay; it stays"


def _transformers_optimizer(values: Values) -> tuple[kinds.Optimizer, str]:
    name = str(getattr(values.get("optim"), "value", values.get("optim") or "adamw_torch"))
    form = "transformers"
    decay = _number(form, values, "weight_decay", 0.0)
    if name == "sgd":
        return kinds.SGD(weight_decay=decay), ""
    adam = kinds.AdamW(
        beta1=_number(form, values, "adam_beta1", 0.9),
        beta2=_number(form, values, "adam_beta2", 0.999),
        epsilon=_number(form, values, "adam_epsilon", 1e-8),
        weight_decay=decay,
    )
    if name.startswith("adamw_"):
        return adam, ""
    return adam, f"optim={shown(name)}: legw has no such optimizer, and takes it for adamw"


def _write_transformers(values: Values, base: Recipe, big: Recipe, processes: int) -> Fields:
    old = _count("transformers", values, "per_device_train_batch_size", 8)
    size, count = passes(big.batch_size, old, processes)
    new = dict(values)
    new |= {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": count,
        "learning_rate": big.lr,
    }
    if _number("transformers", values, "max_steps", -1) > 0:
        new["max_steps"] = updates(big)
    elif big.epochs != base.epochs:
        new["num_train_epochs"] = big.epochs
    steps = _number("transformers", values, "warmup_steps", 0)
    if base.warmup_epochs != big.warmup_epochs or base.epochs != big.epochs:
        if steps >= 1:
            new["warmup_steps"] = warmup_updates(big)
        else:
            name = "warmup_ratio" if values.get("warmup_ratio") else "warmup_steps"
            new[name] = big.warmup_epochs / big.epochs  # below 1, warmup_steps is a share too
    elif steps >= 1:
        new["warmup_steps"] = math.ceil(steps * base.batch_size / big.batch_size - 1e-9)
    more, kind = dict(values.get("lr_scheduler_kwargs") or {}), values.get("lr_scheduler_type")
    if str(getattr(kind, "value", kind)) == "polynomial":
        more.setdefault("lr_end", 1e-7)  # Transformers' own, which is not relative to the rate
    for name in ("min_lr", "lr_end"):
        if name in more:
            more[name] = more[name] * big.lr / base.lr
            new["lr_scheduler_kwargs"] = more
    _write_adam(new, base, big, {"beta1": "adam_beta1", "beta2": "adam_beta2",
                                 "epsilon": "adam_epsilon"})  # fmt: skip
    return new


def _write_adam(new: Fields, base: Recipe, big: Recipe, names: dict[str, str]) -> None:
    """Write those settings of Adam that a rule has changed."""
    if base.optimizer != big.optimizer:
        new |= {theirs: getattr(big.optimizer, ours) for ours, theirs in names.items()}


# timm -----------------------------------------------------------------------------

NOT_CARRIED = {
    "cooldown_epochs": 0, "lr_noise": None, "lr_cycle_limit": 1, "lr_k_decay": 1.0,
    "layer_decay": None,
}  # fmt: skip
"""What changes timm's rates and has no word in a recipe, with the value that does nothing."""


def _read_timm(
    values: Values, num_examples: int | None, processes: int
) -> tuple[Fields, list[str]]:
    del num_examples  # timm counts in epochs
    form = "timm"
    left_out = [
        f"{name}={shown(values[name])}: has no place in a recipe, and stays"
        for name, nothing in NOT_CARRIED.items()
        if values.get(name, nothing) not in (nothing, None)
    ]
    batch = (
        _count(form, values, "batch_size", 128)
        * _count(form, values, "grad_accum_steps", 1)
        * processes
    )
    lr = _timm_lr(values, batch)
    warmup = _number(form, values, "warmup_epochs", 5)
    epochs = _number(form, values, "epochs", 300)
    low = _number(form, values, "warmup_lr", 1e-5)
    if values.get("warmup_prefix"):
        epochs += warmup
    decay, reason = _timm_decay(values, lr)
    left_out += [reason] if reason else []
    optimizer, reason = _timm_optimizer(values)
    left_out += [reason] if reason else []
    clip = _number(form, values, "clip_grad", 0.0)
    if clip and values.get("clip_mode", "norm") != "norm":
        left_out.append(f"clip_mode={shown(values['clip_mode'])}: only norm has a word; it stays")
        clip = 0.0
    if warmup and isinstance(decay, Cosine | Polynomial) and not decay.after_warmup:
        left_out.append("warmup: timm's decay begins with a jump at its end, legw's has begun "
                        "at epoch 0; warmup_prefix agrees")  # fmt: skip
    if isinstance(decay, Step):
        left_out.append("decay_milestones: timm's come one update early")
    if warmup and not values.get("sched_on_updates"):
        left_out.append("sched_on_updates: off, so timm's warmup moves once an epoch; "
                        "the scaled file has it on")  # fmt: skip
    return {
        "batch_size": batch,
        "lr": lr,
        "epochs": epochs,
        "warmup_epochs": warmup,
        "warmup_from_lr": min(low, lr) if warmup else 0.0,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip or None,
    }, left_out


def _timm_lr(values: Values, batch: int) -> float:
    """Return lr; where none is given, timm's own from `lr_base`, by its rule for the optimizer."""
    if values.get("lr") is not None:
        return _number("timm", values, "lr", 0.0)
    ratio = batch / _number("timm", values, "lr_base_size", 256)
    opt = str(values.get("opt") or "sgd").lower()
    by = values.get("lr_base_scale") or ("sqrt" if "ada" in opt or "lamb" in opt else "linear")
    return _number("timm", values, "lr_base", 0.1) * (math.sqrt(ratio) if by == "sqrt" else ratio)


def _timm_decay(values: Values, lr: float) -> tuple[Decay, str]:
    form, kind = "timm", str(values.get("sched") or "cosine")
    late = bool(values.get("warmup_prefix"))
    rate, end = _number(form, values, "decay_rate", 0.1), _number(form, values, "min_lr", 0.0) / lr
    every = _number(form, values, "decay_epochs", 90)
    if kind == "cosine":
        return Cosine(end=end, after_warmup=late), ""
    if kind == "poly":
        return Polynomial(power=rate, end=end, after_warmup=late), ""
    if kind == "step":
        return Exponential(
            rate=rate, constant_epochs=every, every_epochs=every, after_warmup=late
        ), ""
    if kind == "multistep":
        milestones = tuple(values.get("decay_milestones") or (90, 180, 270))
        return Step(milestones_epochs=milestones, rate=rate, after_warmup=late), ""
    if kind in ("constant", "none"):
        return Constant(), ""
    return Constant(), f"sched={shown(kind)}: legw has no such decay; it stays"


def _timm_optimizer(values: Values) -> tuple[kinds.Optimizer, str]:
    form, name = "timm", str(values.get("opt") or "sgd").lower()
    decay = _number(form, values, "weight_decay", 2e-5)
    momentum = _number(form, values, "momentum", 0.9)
    betas = values.get("opt_betas") or (0.9, 0.999)
    adam = {"beta1": betas[0], "beta2": betas[1], "weight_decay": decay}
    if values.get("opt_eps") is not None:
        adam["epsilon"] = _number(form, values, "opt_eps", 1e-8)
    if name in ("sgd", "nesterov"):
        return kinds.SGD(momentum=momentum, nesterov=momentum > 0, weight_decay=decay), ""
    if name == "momentum":
        return kinds.SGD(momentum=momentum, weight_decay=decay), ""
    if name == "lars":
        return kinds.LARS(momentum=momentum, weight_decay=decay), ""
    families = {"adam": kinds.Adam, "adamw": kinds.AdamW, "lamb": kinds.LAMB}
    if name in families:
        return families[name](**adam), ""
    return kinds.SGD(), f"opt={shown(name)}: legw has no such optimizer, and takes it for sgd"


def _write_timm(values: Values, base: Recipe, big: Recipe, processes: int) -> Fields:
    old = _count("timm", values, "batch_size", 128)
    size, count = passes(big.batch_size, old, processes)
    prefix = big.warmup_epochs if values.get("warmup_prefix") else 0.0
    new = dict(values)
    new |= {
        "batch_size": size,
        "grad_accum_steps": count,
        "lr": big.lr,  # given, so that timm does not scale lr_base by itself
        "epochs": _whole(big.epochs - prefix),
        "warmup_epochs": _whole(big.warmup_epochs),
        "warmup_lr": big.warmup_from_lr,
        "sched_on_updates": True,
    }
    if values.get("min_lr"):
        new["min_lr"] = _number("timm", values, "min_lr", 0.0) * big.lr / base.lr
    if isinstance(big.decay, Step):
        new["decay_milestones"] = list(big.decay.milestones_epochs)
    if isinstance(big.decay, Exponential):
        new["decay_epochs"] = _whole(big.decay.every_epochs)
    if isinstance(big.optimizer, kinds.Adam) and big.optimizer != base.optimizer:
        new |= {
            "opt_betas": [big.optimizer.beta1, big.optimizer.beta2],
            "opt_eps": big.optimizer.epsilon,
        }
    return new


def _whole(value: float) -> float:
    """Return an int where the value is one: timm's command line wants it so."""
    return int(value) if value == int(value) else value


FORMS = {
    "transformers": Form(
        ("per_device_train_batch_size", "learning_rate", "num_train_epochs"),
        _read_transformers,
        _write_transformers,
    ),
    "timm": Form(("sched", "opt", "lr_base", "grad_accum_steps"), _read_timm, _write_timm),
}
"""The forms that are known, by name."""
