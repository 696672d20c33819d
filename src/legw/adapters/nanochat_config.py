"""Configuration of nanochat's base training: its names, and its differences from a recipe.

nanochat scales its rates by itself: with the root of the batch over 2**19 tokens.
"""

from __future__ import annotations

import math

from legw import optimizers as kinds
from legw.adapters.fields import (
    Fields,
    Values,
    count,
    few_at_once,
    number,
    passes,
    positive,
)
from legw.adapters.forms import CARRIED, COUNTS, KEPT, Form, Named, Usual, all_of
from legw.decays import Constant, Decay, WarmupStableDecay
from legw.errors import RecipeError, shown
from legw.recipe import Recipe
from legw.recipe.words import batch_size
from legw.schedule import updates, warmup_updates

REFERENCE = 2**19
"""Tokens of the batch for which nanochat's rates are given."""

RATES = {"matrix_lr": 0.02, "embedding_lr": 0.3, "unembedding_lr": 0.008, "scalar_lr": 0.5}
"""Its learning rates, each of a group of weights, with their defaults."""


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return a recipe's fields from nanochat's values, and settings left out; see `forms.Form`."""
    del num_examples, processes  # nanochat counts in updates, and its batch is the global one
    form = "nanochat"
    if values.get("warmup_ratio") is not None:
        raise RecipeError(
            "nanochat: warmup_ratio: is of a version that may or may not scale its rates by "
            "itself; give the values of one with warmup_steps"
        )
    for name, what in (("total_batch_size", "the batch"), ("num_iterations", "the length")):
        if number(form, values, name, -1) <= 0:
            raise RecipeError(
                f"nanochat: {name}={shown(values.get(name, -1))}: {what} is then worked out from "
                "the model; give the number that the run prints"
            )
    each = count(form, values, "max_seq_len", 2048)
    tokens = count(form, values, "total_batch_size", REFERENCE)
    tail = number(form, values, "warmdown_ratio", 0.65)
    decay: Decay = Constant()
    if tail:
        decay = WarmupStableDecay(tail=tail, end=number(form, values, "final_lr_frac", 0.05))
    return {
        "batch_size": batch_size(form, tokens, each),
        "lr": positive(form, values, "matrix_lr", RATES["matrix_lr"])
        * math.sqrt(tokens / REFERENCE),
        "steps": count(form, values, "num_iterations", 1),
        "warmup_steps": number(form, values, "warmup_steps", 40),
        "decay": decay,
        "optimizer": kinds.Muon(),
        "tokens_per_example": each,
    }, [
        "matrix_lr: nanochat multiplies its rates by sqrt(total_batch_size/2**19) itself; the "
        "recipe's lr is the product",
        "weight_decay, momentum: nanochat moves them with the update, its momentum over the first "
        "400; they stay",
    ]


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return nanochat's values of a scaled recipe, and notes on them; see `forms.Form`."""
    old = count("nanochat", values, "device_batch_size", 32)
    size, times = passes(big.batch_size, old, processes)
    new = dict(values)
    new |= {
        "device_batch_size": size,
        "total_batch_size": big.batch_size * (big.example_tokens or 1),
        "num_iterations": updates(big),
        "warmup_steps": warmup_updates(big),
    }
    own = math.sqrt(big.batch_size / base.batch_size)
    factor = big.lr / base.lr / own
    if not math.isclose(factor, 1):
        new |= {
            name: number("nanochat", values, name, usual) * factor for name, usual in RATES.items()
        }
    return new, few_at_once(size, times, old, "accumulation")


FORM = Form(
    title="nanochat",
    known_by=(
        ("device_batch_size", "total_batch_size"), ("matrix_lr",), ("target_param_data_ratio",),
        ("warmdown_ratio",),
    ),
    settings={
        **all_of(
            "device_batch_size total_batch_size max_seq_len num_iterations matrix_lr "
            "embedding_lr unembedding_lr scalar_lr warmup_steps warmup_ratio warmdown_ratio "
            "final_lr_frac weight_decay world_size",
            CARRIED,
        ),
        **all_of(
            "eval_every core_metric_every sample_every save_every",
            COUNTS),
        "resume_from_step": Named("goes on with a run, whose batch and place it has", (-1,)),
        # num_iterations goes before these two, and is needed here
        **all_of(
            "target_flops target_param_data_ratio",
            KEPT),
        **all_of(
            "run device_type fp8 fp8_recipe depth aspect_ratio head_dim window_pattern "
            "eval_tokens core_metric_max_per_task model_tag",
            KEPT,
        ),
    },
    usual=(
        Usual("batch", ("device_batch_size",), "device_batch_size=32"),
        Usual("batch", ("max_seq_len",), "max_seq_len=2048"),
        Usual("rate", ("matrix_lr",), "matrix_lr=0.02"),
        Usual("warmup", ("warmup_steps",), "warmup_steps=40"),
        Usual("schedule", ("warmdown_ratio",), "warmdown_ratio=0.65"),
        Usual("schedule", ("final_lr_frac",), "final_lr_frac=0.05"),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""Arguments of nanochat's base training, as its checkpoints have them (`user_config`)."""
