"""What Hugging Face TrainingArguments call things, and where Trainer differs from a recipe."""

from __future__ import annotations

import json
import math

from legw import optimizers as kinds
from legw.adapters.fields import Fields, Values, by_name, count, examples, number, passes, positive
from legw.decays import Constant, Cosine, Decay, Polynomial
from legw.errors import shown
from legw.recipe import Recipe
from legw.schedule import updates, warmup_updates

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
    epochs = number(form, values, "num_train_epochs", 3.0)
    steps = number(form, values, "max_steps", -1)
    if steps > 0:
        epochs = steps * batch / examples(form, "max_steps", int(steps), num_examples)
    warmup = number(form, values, "warmup_ratio", 0.0) * epochs
    given = number(form, values, "warmup_steps", 0)
    if 0 < given < 1:
        warmup = given * epochs
    elif given:
        warmup = given * batch / examples(form, "warmup_steps", given, num_examples)
    decay, reason = _decay(values, lr)
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
        "epochs": epochs,
        "warmup_epochs": warmup,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip if clip > 0 else None,
    }, left_out


def _scheduler(values: Values) -> str:
    kind = values.get("lr_scheduler_type")
    return str(getattr(kind, "value", kind))


def _decay(values: Values, lr: float) -> tuple[Decay, str]:
    form, kind = f"transformers: {SCHEDULER_VALUES}", _scheduler(values)
    more = by_name("transformers", values, SCHEDULER_VALUES)
    if kind in ("None", "linear"):
        return Polynomial(power=1), ""
    if kind == "cosine" and not more:
        return Cosine(), ""
    if kind == "cosine_with_min_lr" and set(more) <= {"min_lr", "min_lr_rate"}:
        low = number(form, more, "min_lr", 0.0) / lr
        return Cosine(end=number(form, more, "min_lr_rate", low)), ""
    if kind == "polynomial":
        end = number(form, more, "lr_end", 1e-7) / lr
        return Polynomial(power=number(form, more, "power", 1.0), end=end), ""
    if kind in ("constant", "constant_with_warmup"):
        return Constant(), ""
    return Constant(), f"lr_scheduler_type={shown(kind)}: legw has no such decay; it stays"


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
    if number("transformers", values, "max_steps", -1) > 0:
        new["max_steps"] = updates(big)
    elif big.epochs != base.epochs:
        new["num_train_epochs"] = big.epochs
    steps = number("transformers", values, "warmup_steps", 0)
    if base.warmup_epochs != big.warmup_epochs or base.epochs != big.epochs:
        if steps >= 1:
            new["warmup_steps"] = warmup_updates(big)
        else:
            name = "warmup_ratio" if values.get("warmup_ratio") else "warmup_steps"
            new[name] = big.warmup_epochs / big.epochs  # below 1, warmup_steps is a share too
    elif steps >= 1:
        new["warmup_steps"] = math.ceil(steps * base.batch_size / big.batch_size - 1e-9)
    if big.warmup_epochs and _scheduler(values) == "constant":
        new["lr_scheduler_type"] = "constant_with_warmup"  # the plain one ignores a warmup
    new |= _lowest_rates(values, big.lr / base.lr)
    _write_adam(new, base, big, {"beta1": "adam_beta1", "beta2": "adam_beta2",
                                 "epsilon": "adam_epsilon"})  # fmt: skip
    lost = []
    if big.warmup_epochs and _scheduler(new) in WITHOUT_WARMUP:
        lost.append(f"warmup_epochs={big.warmup_epochs:g}: Trainer's {_scheduler(new)} has none; "
                    "legw.train.RecipeLR(after_warmup=...) would")  # fmt: skip
    elif big.warmup_epochs and big.warmup_from_lr:
        lost.append(f"warmup_from_lr={big.warmup_from_lr:g}: Trainer's warmup begins at rate 0")
    return new, lost


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
