"""Configuration of torchvision's classification reference, and its differences from a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable

from legw import optimizers as kinds
from legw.adapters.fields import Fields, Values, below_lr, count, number, positive
from legw.adapters.forms import CARRIED, KEPT, Form, Named, Usual, all_of
from legw.adapters.optimizer_names import other
from legw.decays import Constant, Cosine, Decay, Exponential
from legw.errors import RecipeError, shown
from legw.recipe import Recipe


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return the recipe's fields in the reference's arguments, and the settings left out."""
    del num_examples  # the reference counts in epochs
    form = "torchvision"
    lr = positive(form, values, "lr", 0.1)
    warmup = number(form, values, "lr_warmup_epochs", 0)
    method = str(values.get("lr_warmup_method") or "constant")
    if warmup and method != "linear":
        raise RecipeError(
            f"{form}: lr_warmup_method={shown(method)}: a warmup at one rate has no word in a "
            "recipe; 'linear' has"
        )
    decay, left_out = _decay(values, lr)
    optimizer, reason = _optimizer(values)
    left_out += [reason] if reason else []
    if warmup:
        left_out.append("lr_warmup_epochs: the reference's warmup moves once an epoch")
    clip = number(form, values, "clip_grad_norm", 0.0)
    start = number(form, values, "lr_warmup_decay", 0.01)
    if warmup and not 0 <= start <= 1:
        raise RecipeError(f"{form}: lr_warmup_decay={start:g}: must be 0 to 1")
    return {
        "batch_size": count(form, values, "batch_size", 32) * processes,
        "lr": lr,
        "epochs": positive(form, values, "epochs", 90),
        "warmup_epochs": warmup,
        "warmup_from_lr": start * lr if warmup else 0.0,
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip or None,
    }, left_out


def _decay(values: Values, lr: float) -> tuple[Decay, list[str]]:
    form, kind = "torchvision", _kind(values)
    if kind == "steplr":
        each = positive(form, values, "lr_step_size", 30)
        rate = positive(form, values, "lr_gamma", 0.1)
        return Exponential(
            rate=rate, constant_epochs=each, every_epochs=each, after_warmup=True
        ), []
    if kind == "exponentiallr":
        rate = positive(form, values, "lr_gamma", 0.1)
        return Exponential(rate=rate, after_warmup=True), []
    if kind == "cosineannealinglr":
        return Cosine(end=below_lr(form, values, "lr_min", 0.0, lr)), [
            "lr_scheduler='cosineannealinglr': the reference's moves once an epoch"
        ]
    return Constant(), [f"lr_scheduler={shown(kind)}: legw has no such decay; it stays"]


def _kind(values: Values) -> str:
    return str(values.get("lr_scheduler") or "steplr").lower()


def _optimizer(values: Values) -> tuple[kinds.Optimizer, str]:
    form, name = "torchvision", str(values.get("opt") or "sgd").lower()
    decay = number(form, values, "weight_decay", 1e-4)
    if name.startswith("sgd"):
        return kinds.SGD(
            momentum=number(form, values, "momentum", 0.9),
            nesterov="nesterov" in name,
            weight_decay=decay,
        ), ""
    return (kinds.AdamW(weight_decay=decay), "") if name == "adamw" else other("opt", name)


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return the reference's arguments of a scaled recipe, and notes on what they lack."""
    size, lost = big.batch_size // processes, []
    if size > count("torchvision", values, "batch_size", 32):
        lost.append(f"batch_size={size}: is one pass on a device, for torchvision's references do "
                    "not accumulate; more processes make it smaller")  # fmt: skip
    new = dict(values)
    new |= {"batch_size": size, "lr": big.lr, "epochs": _whole("epochs", big.length, lost)}
    if big.warmup:
        new |= {
            "lr_warmup_epochs": _whole("lr_warmup_epochs", big.warmup, lost),
            "lr_warmup_method": "linear",
            "lr_warmup_decay": big.warmup_from_lr / big.lr,
        }
        if not big.warmup_from_lr:
            lost.append("lr_warmup_decay=0: torch refuses a warmup from 0; write 0.001, say")
    if big.clip_norm != base.clip_norm:
        new["clip_grad_norm"] = big.clip_norm
    if values.get("lr_min"):
        new["lr_min"] = number("torchvision", values, "lr_min", 0.0) * big.lr / base.lr
    if isinstance(big.decay, Exponential) and _kind(values) == "steplr":
        new["lr_step_size"] = _whole("lr_step_size", big.decay.every_epochs or 1.0, lost)
    decay = getattr(big.optimizer, "weight_decay", None)
    if decay != getattr(base.optimizer, "weight_decay", None):
        new["weight_decay"] = decay
    return new, lost


def _whole(name: str, value: float, lost: list[str]) -> int:
    """Return whole epochs, rounded up with a note."""
    whole = math.ceil(value - 1e-9)
    if abs(whole - value) > 1e-9:
        lost.append(f"{name}={value:g}: the reference takes whole epochs; {whole} is written")
    return whole


def _scheduled(*kinds: str) -> Callable[[Values], bool]:
    return lambda values: _kind(values) in kinds


FORM = Form(
    title="torchvision",
    known_by=(
        ("lr_step_size",), ("lr_warmup_method",), ("lr_warmup_decay",), ("lr_warmup_epochs",),
        ("lr_gamma",),
    ),
    settings={
        **all_of(
            "batch_size epochs opt lr momentum weight_decay lr_scheduler lr_warmup_epochs "
            "lr_warmup_method lr_warmup_decay lr_step_size lr_gamma lr_min clip_grad_norm "
            "world_size",
            CARRIED,
        ),
        **all_of(
            "norm_weight_decay bias_weight_decay transformer_embedding_decay",
            Named("is the weight decay of some weights alone, and stays"),
        ),
        "model_ema": Named("averages the weights every model_ema_steps updates, by a decay that "
                           "the reference fits to the batch itself"),
        "ra_sampler": Named("has each image several times in a batch (ra_reps), and stays"),
        "resume": Named("goes on with a run, whose batch and place it has"),
        "start_epoch": Named("begins in the middle of the schedule, and stays"),
        **all_of(
            "data_path model device workers label_smoothing mixup_alpha cutmix_alpha print_freq "
            "output_dir cache_dataset sync_bn test_only pretrained auto_augment ra_magnitude "
            "augmix_severity random_erase amp dist_url model_ema_steps model_ema_decay "
            "use_deterministic_algorithms interpolation val_resize_size val_crop_size "
            "train_crop_size ra_reps weights weights_backbone backend use_v2 use_deterministic "
            "distributed gpu rank dist_backend",
            KEPT,
        ),
    },
    usual=(
        Usual("batch", ("batch_size",), "batch_size=32"),
        Usual("rate", ("lr",), "lr=0.1"),
        Usual("length", ("epochs",), "epochs=90"),
        Usual("warmup", ("lr_warmup_epochs",), "lr_warmup_epochs=0"),
        Usual("schedule", ("lr_scheduler",), "lr_scheduler='steplr'"),
        Usual("schedule", ("lr_step_size",), "lr_step_size=30", _scheduled("steplr")),
        Usual("schedule", ("lr_gamma",), "lr_gamma=0.1", _scheduled("steplr", "exponentiallr")),
        Usual("optimizer", ("opt",), "opt='sgd'"),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""Arguments of torchvision's `references/classification/train.py`."""
