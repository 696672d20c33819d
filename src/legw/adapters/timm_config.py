"""Configuration of timm: its names, and its schedules' differences from a recipe's."""

from __future__ import annotations

import math
from collections.abc import Callable

from legw import optimizers as kinds
from legw.adapters.fields import (
    Fields,
    Values,
    below_lr,
    count,
    few_at_once,
    number,
    numbers,
    passes,
    positive,
)
from legw.adapters.forms import Form, Usual
from legw.adapters.optimizer_names import other
from legw.adapters.timm_fields import SETTINGS
from legw.decays import (
    Constant,
    Cosine,
    Decay,
    Exponential,
    Polynomial,
    Step,
    Tail,
    WarmupStableDecay,
)
from legw.errors import RecipeError, shown
from legw.recipe import Recipe

NOT_CARRIED = {
    "cooldown_epochs": 0, "lr_noise": None, "lr_cycle_limit": 1, "lr_k_decay": 1.0,
    "layer_decay": None,
}  # fmt: skip
"""Settings that change timm's learning rates and that no recipe has, with the value without an
effect."""


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return a recipe's fields from timm's arguments, and settings left out; see `forms.Form`."""
    form = "timm"
    left_out = [
        f"{name}={shown(values[name])}: has no place in a recipe, and stays"
        for name, nothing in NOT_CARRIED.items()
        if values.get(name, nothing) not in (nothing, None)
    ]
    batch = (
        count(form, values, "batch_size", 128)
        * count(form, values, "grad_accum_steps", 1)
        * processes
    )
    lr = _lr(values, batch)
    warmup = number(form, values, "warmup_epochs", 5)
    epochs = number(form, values, "epochs", 300)
    low = number(form, values, "warmup_lr", 1e-5)
    if warmup and values.get("sched") == "none":
        left_out.append("sched='none': does not warm up; constant would")
        warmup = 0.0
    if values.get("warmup_prefix"):
        epochs += warmup
    decay, reason = _decay(values, lr, epochs - warmup)
    left_out += [reason] if reason else []
    optimizer, reason = _optimizer(values)
    left_out += [reason] if reason else []
    clip = number(form, values, "clip_grad", 0.0)
    if clip and values.get("clip_mode", "norm") != "norm":
        left_out.append(f"clip_mode={shown(values['clip_mode'])}: only norm has a word; it stays")
        clip = 0.0
    if warmup and isinstance(decay, Cosine | Polynomial) and not decay.after_warmup:
        left_out.append("warmup: timm's decay begins with a jump at its end, legw's has begun "
                        "at epoch 0; warmup_prefix agrees")  # fmt: skip
    if isinstance(decay, WarmupStableDecay):
        fall = decay.tail * (epochs - warmup) * (num_examples or 0) / batch
        if not fall or not math.isfinite(fall) or abs(fall - round(fall)) > 1e-6:
            left_out.append("decay_epochs: timm rounds its fall to whole updates, legw does not")
    if isinstance(decay, Step):
        left_out.append(_early(bool(values.get("sched_on_updates"))))
    if warmup and not values.get("sched_on_updates"):
        left_out.append("sched_on_updates: off, so timm's warmup moves once an epoch; "
                        "the scaled file has it on")  # fmt: skip
    elif isinstance(decay, WarmupStableDecay) and not values.get("sched_on_updates"):
        left_out.append("sched_on_updates: off, so timm's fall moves once an epoch; "
                        "the scaled file has it on")  # fmt: skip
    average = number(form, values, "model_ema_decay", 0.9998) if values.get("model_ema") else None
    if average is not None and values.get("model_ema_warmup"):
        left_out.append("model_ema_warmup: the recipe's ema_decay is the same in all updates")
    return {
        "batch_size": batch,
        "lr": lr,
        "epochs": epochs,
        "warmup_epochs": warmup,
        "warmup_from_lr": min(low, lr) if warmup else 0.0,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip or None,
        "ema_decay": average,
    }, left_out


def _early(on_updates: bool) -> str:
    """Return a note that timm's milestones come early: its counter, from 0, is one ahead."""
    if on_updates:
        return "decay_milestones: timm's come one update early"
    return ("decay_milestones: sched_on_updates is off, so timm's come one epoch early; "
            "in the scaled file, one update")  # fmt: skip


def _lr(values: Values, batch: int) -> float:
    """Return lr; where none is given, timm's own from `lr_base`, by its rule for the optimizer."""
    if values.get("lr") is not None:
        return positive("timm", values, "lr", 0.1)
    ratio = batch / positive("timm", values, "lr_base_size", 256)
    opt = str(values.get("opt") or "sgd").lower()
    by = values.get("lr_base_scale") or ("sqrt" if "ada" in opt or "lamb" in opt else "linear")
    lr = positive("timm", values, "lr_base", 0.1)
    return lr * (math.sqrt(ratio) if by == "sqrt" else ratio)


def _decay(values: Values, lr: float, span: float) -> tuple[Decay, str]:
    """Return the decay over the epochs after the warmup, and what is left out of it."""
    form, kind = "timm", str(values.get("sched") or "cosine")
    late = bool(values.get("warmup_prefix"))
    rate = number(form, values, "decay_rate", 0.1)
    end = below_lr(form, values, "min_lr", 0.0, lr) if kind in FALLING else 0.0
    every = number(form, values, "decay_epochs", 90)
    if kind == "cosine":
        return Cosine(end=end, after_warmup=late), ""
    if kind == "poly":
        return Polynomial(power=rate, end=end, after_warmup=late), ""
    if kind == "step":
        return Exponential(
            rate=rate, constant_epochs=every, every_epochs=every, after_warmup=late
        ), ""
    if kind == "multistep":
        milestones = numbers(form, values, "decay_milestones", (90, 180, 270))
        return Step(milestones_epochs=milestones, rate=rate, after_warmup=late), ""
    if kind in ("constant", "none"):
        return Constant(), ""
    return _newer_decay(kind, values, end, span)


def _newer_decay(kind: str, values: Values, end: float, span: float) -> tuple[Decay, str]:
    if kind == "wsd" and str(values.get("lr_decay_fn") or "1-sqrt") in TAILS:
        return _trapezoid(values, end, span), ""
    if kind == "wsd":
        return Constant(), (
            f"sched='wsd': legw's has no lr_decay_fn={shown(values['lr_decay_fn'])}; it stays"
        )
    if kind == "rsqrt":
        return Constant(), (
            "sched='rsqrt': timm's falls to min_lr in its last decay_epochs, which legw's "
            "inverse-sqrt does not; it stays"
        )
    return Constant(), f"sched={shown(kind)}: legw has no such decay; it stays"


FALLING = ("cosine", "poly", "wsd")
"""Schedules that fall to min_lr."""

TAILS: dict[str, Tail] = {
    "1-sqrt": "1-sqrt", "linear": "linear", "cosine": "cosine", "power": "1-sqrt",
}  # fmt: skip
"""timm's falls, of which its arguments leave power at a half."""


def _trapezoid(values: Values, end: float, span: float) -> Decay:
    """Return warmup-stable-decay; where timm steps once an epoch, its fall is whole epochs."""
    given = positive("timm", values, "decay_epochs", 0.2)  # below 1, a share
    tail = given if given < 1 else given / span if span > 0 else math.inf
    if not values.get("sched_on_updates") and tail <= 1:
        tail = round(tail * span) / span
    if not 0 < tail <= 1:
        raise RecipeError(
            f"timm: decay_epochs={given:g}: wsd falls in {tail * span:g} of {span:g} epochs after "
            "the warmup, and timm refuses that; choose more than 0 and at most all"
        )
    kind = TAILS[str(values.get("lr_decay_fn") or "1-sqrt")]
    return WarmupStableDecay(tail=tail, shape=kind, end=end, after_warmup=True)


def _optimizer(values: Values) -> tuple[kinds.Optimizer, str]:
    form, name = "timm", str(values.get("opt") or "sgd").lower()
    decay = number(form, values, "weight_decay", 2e-5)
    momentum = number(form, values, "momentum", 0.9)
    if name in ("sgd", "nesterov"):
        return kinds.SGD(momentum=momentum, nesterov=momentum > 0, weight_decay=decay), ""
    if name == "momentum":
        return kinds.SGD(momentum=momentum, weight_decay=decay), ""
    if name == "lars":
        return kinds.LARS(momentum=momentum, weight_decay=decay), ""
    families = {"adam": kinds.Adam, "adamw": kinds.AdamW, "lamb": kinds.LAMB}
    if name in families:
        return families[name](weight_decay=decay, **_adam(values)), ""
    if name == "muon":
        return kinds.Muon(momentum=momentum, weight_decay=decay), (
            "opt='muon': timm's measures its step by lr in its own way; the recipe's lr is that one"
        )
    return other("opt", name)


def _adam(values: Values) -> dict[str, float]:
    betas = numbers("timm", values, "opt_betas", (0.9, 0.999))
    if len(betas) != 2:
        raise RecipeError(f"timm: opt_betas={shown(values['opt_betas'])}: must be two numbers, "
                          "like [0.9, 0.999]")  # fmt: skip
    adam = {"beta1": betas[0], "beta2": betas[1]}
    if values.get("opt_eps") is not None:  # timm's own is each optimizer's
        adam["epsilon"] = number("timm", values, "opt_eps", 1e-8)
    return adam


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return timm's arguments of a scaled recipe, and notes on what they lack; see `forms.Form`."""
    old = count("timm", values, "batch_size", 128)
    size, times = passes(big.batch_size, old, processes)
    lost = few_at_once(size, times, old, "grad_accum_steps")
    prefix = big.warmup if values.get("warmup_prefix") else 0.0  # timm counts in epochs
    new = dict(values)
    new |= {
        "batch_size": size,
        "grad_accum_steps": times,
        "lr": big.lr,  # given, so that timm does not scale lr_base by itself
        "epochs": _whole(big.length - prefix),
        "warmup_epochs": _whole(big.warmup),
        "warmup_lr": big.warmup_from_lr,
        "sched_on_updates": True,
    }
    if big.clip_norm != base.clip_norm:
        new["clip_grad"] = big.clip_norm
    if big.ema_decay != base.ema_decay:
        new["model_ema_decay"] = big.ema_decay
    if big.warmup and values.get("sched") == "none":
        new["sched"] = "constant"  # none has no warmup either
    if values.get("min_lr"):
        new["min_lr"] = number("timm", values, "min_lr", 0.0) * big.lr / base.lr
    if isinstance(big.decay, Step):
        new["decay_milestones"] = [_whole(epoch) for epoch in big.decay.milestones_epochs]
    if isinstance(big.decay, Exponential) and big.decay.every_epochs is not None:
        new["decay_epochs"] = _whole(big.decay.every_epochs)
    if isinstance(big.decay, WarmupStableDecay):
        span = big.length - big.warmup  # below 1, decay_epochs is a share of it
        new["decay_epochs"] = big.decay.tail if big.decay.tail < 1 else _whole(span)
        if span < 1 == big.decay.tail:
            lost.append(f"decay_epochs={span:g}: timm takes it for a share; the whole of less than "
                        "an epoch has no word there")  # fmt: skip
    if values.get("sched") == "rsqrt" and base.warmup and not values.get("lr_stable_timescale"):
        new["lr_stable_timescale"] = _whole(base.warmup)  # timm's own is the warmup, which grows
    if isinstance(big.optimizer, kinds.Adam) and big.optimizer != base.optimizer:
        new |= {
            "opt_betas": [big.optimizer.beta1, big.optimizer.beta2],
            "opt_eps": big.optimizer.epsilon,
        }
    decay = getattr(big.optimizer, "weight_decay", None)
    if decay != getattr(base.optimizer, "weight_decay", None):
        new["weight_decay"] = decay
    return new, lost


def _whole(value: float) -> float:
    """Return an int where the value is one: timm's command line wants it so."""
    return int(value) if value == int(value) else value


def _averages(values: Values) -> bool:
    return bool(values.get("model_ema"))


def _has_sched(*kinds: str) -> Callable[[Values], bool]:
    return lambda values: str(values.get("sched") or "cosine") in kinds


FORM = Form(
    title="timm",
    known_by=(
        ("sched",), ("lr_base",), ("sched_on_updates",), ("lr_k_decay",),
        ("grad_accum_steps", "opt"),
    ),
    settings=SETTINGS,
    usual=(
        Usual("batch", ("batch_size",), "batch_size=128"),
        Usual("accumulation", ("grad_accum_steps",), "grad_accum_steps=1"),
        Usual("rate", ("lr", "lr_base"), "lr_base=0.1"),
        Usual("rate", ("lr", "lr_base_size"), "lr_base_size=256"),
        Usual("length", ("epochs",), "epochs=300"),
        Usual("warmup", ("warmup_epochs",), "warmup_epochs=5"),
        Usual("schedule", ("sched",), "sched='cosine'"),
        Usual("schedule", ("decay_epochs",), "decay_epochs=90", _has_sched("step")),
        Usual("schedule", ("decay_epochs",), "decay_epochs=0.2", _has_sched("wsd", "rsqrt")),
        Usual(
            "schedule", ("decay_milestones",), "decay_milestones=[90, 180, 270]",
            _has_sched("multistep"),
        ),
        Usual(
            "schedule", ("decay_rate",), "decay_rate=0.1", _has_sched("step", "multistep", "poly")
        ),
        Usual("optimizer", ("opt",), "opt='sgd'"),
        Usual("count", ("model_ema_decay",), "model_ema_decay=0.9998", _averages),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""Arguments of timm's training script, as its YAML files have them."""
