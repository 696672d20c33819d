"""Configuration of nanoGPT's training script: its names, and its differences from a recipe."""

from __future__ import annotations

from legw import optimizers as kinds
from legw.adapters.fields import (
    Fields,
    Values,
    below_lr,
    count,
    few_at_once,
    number,
    passes,
    positive,
    rounded,
)
from legw.adapters.forms import CARRIED, COUNTS, KEPT, Form, Named, Usual, all_of
from legw.decays import Constant, Cosine
from legw.errors import RecipeError, shown
from legw.recipe import Recipe
from legw.schedule import updates, warmup_updates


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return a recipe's fields from nanoGPT's values, and settings left out; see `forms.Form`."""
    del num_examples  # nanoGPT counts in updates
    form, left_out = "nanogpt", []
    accumulated = count(form, values, "gradient_accumulation_steps", 40)
    if accumulated % processes:
        raise RecipeError(
            f"{form}: gradient_accumulation_steps={accumulated}: is shared out among processes="
            f"{processes}, and leaves a rest; give a number of processes that divides it"
        )
    lr = positive(form, values, "learning_rate", 6e-4)
    steps = positive(form, values, "max_iters", 600_000)
    falls, warmup = _falls(values), 0.0
    if falls:
        warmup = number(form, values, "warmup_iters", 2000)
        ends = positive(form, values, "lr_decay_iters", 600_000)
        if warmup:
            left_out.append("warmup: nanoGPT's ramp is (s+1)/(n+1) (ramp='between' in legw)")
        if ends != steps:
            left_out.append(f"lr_decay_iters={ends:g}: is not max_iters={steps:g}; a recipe's "
                            "cosine ends with the run, the file's where it did")  # fmt: skip
    else:
        left_out.append("decay_lr=False: the rate is constant, and neither warms up nor falls")
    clip = number(form, values, "grad_clip", 1.0)
    return {
        "batch_size": count(form, values, "batch_size", 12) * accumulated,
        "lr": lr,
        "steps": steps,
        "warmup_steps": warmup,
        "decay": Cosine(end=below_lr(form, values, "min_lr", 6e-5, lr)) if falls else Constant(),
        "optimizer": kinds.AdamW(
            beta1=number(form, values, "beta1", 0.9),
            beta2=number(form, values, "beta2", 0.95),
            weight_decay=number(form, values, "weight_decay", 0.1),
        ),
        "clip_norm": clip if clip > 0 else None,
        "tokens_per_example": count(form, values, "block_size", 1024),
    }, left_out


def _falls(values: Values) -> bool:
    given = values.get("decay_lr", True)
    if not isinstance(given, bool):
        raise RecipeError(f"nanogpt: decay_lr={shown(given)}: must be True or False")
    return given


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return nanoGPT's values of a scaled recipe, and notes on what they lack; see `forms.Form`."""
    old = count("nanogpt", values, "batch_size", 12)
    size, times = passes(big.batch_size, old, processes)
    lost = few_at_once(size, times, old, "gradient_accumulation_steps")
    new = dict(values)
    new |= {
        "batch_size": size,
        "gradient_accumulation_steps": times * processes,
        "learning_rate": big.lr,
        "max_iters": updates(big),
    }
    if _falls(values):
        ends = number("nanogpt", values, "lr_decay_iters", 600_000)
        new |= {
            "warmup_iters": warmup_updates(big),
            "lr_decay_iters": rounded("nanogpt", "lr_decay_iters", ends * big.length / base.length)
            if ends != base.length
            else updates(big),
            "min_lr": number("nanogpt", values, "min_lr", 6e-5) * big.lr / base.lr,
        }
    elif big.warmup:
        lost.append(f"warmup_steps={big.warmup:g}: has no word where decay_lr is False")
    if big.clip_norm != base.clip_norm:
        new["grad_clip"] = big.clip_norm
    if isinstance(big.optimizer, kinds.Adam) and big.optimizer != base.optimizer:
        new |= {
            "beta1": big.optimizer.beta1,
            "beta2": big.optimizer.beta2,
            "weight_decay": big.optimizer.weight_decay,
        }
        if big.optimizer.epsilon != getattr(base.optimizer, "epsilon", None):
            lost.append(f"epsilon={big.optimizer.epsilon:g}: nanoGPT has no word for it")
    return new, lost


FORM = Form(
    title="nanoGPT",
    known_by=(
        ("lr_decay_iters",), ("decay_lr",), ("warmup_iters", "max_iters"),
        ("block_size", "max_iters"), ("block_size", "gradient_accumulation_steps"),
    ),
    settings={
        **all_of(
            "batch_size gradient_accumulation_steps learning_rate max_iters warmup_iters "
            "lr_decay_iters min_lr decay_lr beta1 beta2 weight_decay grad_clip block_size "
            "world_size",
            CARRIED,
        ),
        **all_of(
            "eval_interval log_interval",
            COUNTS),
        "init_from": Named("goes on with a run, whose batch and place it has",
                           ("scratch", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")),
        **all_of(
            "out_dir eval_iters eval_only always_save_checkpoint wandb_log wandb_project "
            "wandb_run_name dataset n_layer n_head n_embd dropout bias backend device dtype "
            "compile",
            KEPT,
        ),
    },
    usual=(
        Usual("batch", ("batch_size",), "batch_size=12"),
        Usual("accumulation", ("gradient_accumulation_steps",), "gradient_accumulation_steps=40"),
        Usual("rate", ("learning_rate",), "learning_rate=0.0006"),
        Usual("length", ("max_iters",), "max_iters=600000"),
        Usual("warmup", ("warmup_iters",), "warmup_iters=2000", _falls),
        Usual("schedule", ("lr_decay_iters",), "lr_decay_iters=600000", _falls),
        Usual("schedule", ("min_lr",), "min_lr=6e-05", _falls),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""nanoGPT's configuration files, in Python, and the `config` in its checkpoints."""
