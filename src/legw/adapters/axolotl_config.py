"""Configuration of axolotl: its own names for settings of Hugging Face's Trainer."""

from __future__ import annotations

import re
from typing import Any

from legw.adapters import transformers_config
from legw.adapters.fields import Fields, Values, count, number
from legw.adapters.forms import CARRIED, COUNTS, KEPT, Form, Named, Usual, all_of
from legw.decays import Cosine
from legw.errors import RecipeError, shown
from legw.recipe import Recipe

NAMES = {
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
}
"""Axolotl's words, and Trainer's."""

USUAL = {
    "micro_batch_size": 1, "num_epochs": 1.0, "lr_scheduler": "cosine",
    "optimizer": "adamw_torch_fused",
}  # fmt: skip
"""Axolotl's defaults."""

WARMUP_SHARE, MAX_WARMUP = 0.03, 100
"""Its default warmup: a share of the run, and the most updates of it."""


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return a recipe's fields from axolotl's values, and settings left out; see `forms.Form`."""
    if values.get("learning_rate") is None:
        raise RecipeError("axolotl: learning_rate is not given; give it")
    theirs = _theirs(values)
    if not _warmup_given(values):
        theirs["warmup_steps"] = _usual_warmup(values, theirs, num_examples, processes)
    fields, left_out = _in_its_words(transformers_config.read, theirs, num_examples, processes)
    low = number("axolotl", values, "cosine_min_lr_ratio", 0.0)
    if low and theirs["lr_scheduler_type"] == "cosine":
        if values.get("cosine_constant_lr_ratio"):
            left_out.append(f"cosine_constant_lr_ratio={values['cosine_constant_lr_ratio']}: legw "
                            "has no such decay; it stays")  # fmt: skip
        else:
            if not 0 < low < 1:
                raise RecipeError(f"axolotl: cosine_min_lr_ratio={low:g}: must be below 1")
            fields["decay"] = Cosine(end=low)
    if values.get("warmup_steps") == 0 and not values.get("warmup_ratio"):
        left_out.append("warmup_steps=0: newer axolotl takes this for none given, and warms up "
                        "over 3 % of the run; legw takes it for no warmup")  # fmt: skip
    if values.get("sequence_len") is not None:
        fields["tokens_per_example"] = count("axolotl", values, "sequence_len", 1)
    if values.get("sample_packing"):
        left_out.append("sample_packing: an example is a packed sequence, of which num_examples "
                        "counts those of an epoch")  # fmt: skip
    return fields, left_out


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return axolotl's values of a scaled recipe, and notes on what they lack; see `forms.Form`."""
    theirs = _theirs(values)
    if not _warmup_given(values):
        key = "warmup_steps" if base.unit == "steps" else "warmup_ratio"
        theirs[key] = base.warmup if base.unit == "steps" else base.warmup / base.length
    changed, lost = _in_its_words(
        lambda *args: transformers_config.write(*args, own_version=False),
        theirs, base, big, processes,
    )  # fmt: skip
    back = {theirs_name: own for own, theirs_name in NAMES.items()}
    written = {"per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"}
    if not _warmup_given(values):
        written |= {"warmup_steps", "warmup_ratio"}
    new = dict(values)
    if new.pop("batch_size", None) is not None:
        lost.append("batch_size: is written as micro_batch_size and gradient_accumulation_steps")
    for name, value in changed.items():
        if name in written or value != theirs.get(name):
            new[back.get(name, name)] = value
    return new, lost


def _theirs(values: Values) -> dict[str, Any]:
    """Return the values in Trainer's words."""
    given = {name: value for name, value in values.items() if value is not None}
    found = {NAMES.get(name, name): value for name, value in (USUAL | given).items()}
    if given.get("batch_size") is not None:
        size = count("axolotl", values, "batch_size", 1)
        micro = count("axolotl", USUAL | given, "micro_batch_size", 1)
        if given.get("gradient_accumulation_steps") is not None or size % micro:
            raise RecipeError(
                f"axolotl: batch_size={shown(size)}: is an old word for micro_batch_size times "
                "gradient_accumulation_steps; give these two"
            )
        found["gradient_accumulation_steps"] = size // micro
    found.pop("batch_size", None)
    return found


def _warmup_given(values: Values) -> bool:
    return any(values.get(name) is not None for name in ("warmup_steps", "warmup_ratio"))


def _usual_warmup(
    values: Values, theirs: Values, num_examples: int | None, processes: int
) -> float:
    updates = number("axolotl", values, "max_steps", -1)
    if updates <= 0 and num_examples is not None:
        batch = (
            count("axolotl", USUAL | dict(values), "micro_batch_size", 1)
            * count("axolotl", theirs, "gradient_accumulation_steps", 1)
            * processes
        )
        updates = num_examples / batch * number("axolotl", values, "num_epochs", 1.0)
    if updates <= 0:
        raise RecipeError(
            "axolotl: warmup_steps is not given, and is then 3 % of the run and at most 100 "
            "updates; give it, or warmup_ratio, or num_examples"
        )
    return int(min(WARMUP_SHARE * updates, MAX_WARMUP))


def _in_its_words(function: Any, *args: Any) -> Any:
    """Return the result of a function for Trainer's names, its lines with axolotl's names."""
    try:
        found, lines = function(*args)
    except RecipeError as error:
        raise RecipeError(_own(str(error))) from None
    return found, [_own(line) for line in lines]


def _own(line: str) -> str:
    for own, theirs in NAMES.items():
        line = re.sub(rf"\b{theirs}\b", own, line)
    return re.sub(r"^transformers:", "axolotl:", line)


SHARES = Named("lets several devices share one batch; processes are those with one of their own",
               (1,))  # fmt: skip
OTHER_RATE = Named("sets rates of its own, which stay")

FORM = Form(
    title="axolotl",
    known_by=(
        ("micro_batch_size", "num_epochs"), ("base_model", "micro_batch_size"), ("sample_packing",),
        ("base_model", "datasets"),
    ),
    settings={
        **all_of(
            "micro_batch_size gradient_accumulation_steps batch_size num_epochs max_steps "
            "warmup_steps warmup_ratio learning_rate lr_scheduler lr_scheduler_kwargs optimizer "
            "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm cosine_min_lr_ratio "
            "cosine_constant_lr_ratio sequence_len sample_packing world_size",
            CARRIED,
        ),
        **all_of(
            "eval_steps save_steps logging_steps gc_steps profiler_steps jagged_restart_steps "
            "jagged_restart_warmup_steps relora_steps relora_warmup_steps relora_prune_ratio",
            COUNTS,
        ),
        **all_of("sequence_parallel_degree context_parallel_size tensor_parallel_size", SHARES),
        **all_of(
            "lr_groups loraplus_lr_ratio loraplus_lr_embedding embedding_lr embedding_lr_scale",
            OTHER_RATE,
        ),
        "lr_quadratic_warmup": Named("warms up along a parabola, legw's along a line"),
        "lr_div_factor": Named("is of the one-cycle schedule, which legw does not have"),
        "optim_args": Named("changes settings of the optimizer, and stays"),
        "deepspeed": Named("may have a batch, an optimizer and a scheduler of its own; they stay"),
        "accelerator_config": Named("may split the batch of a device (split_batches)"),
        "resume_from_checkpoint": Named("goes on with a run, whose batch and place it has"),
        **all_of(
            "base_model evals_per_epoch saves_per_epoch save_total_limit val_set_size "
            "pad_to_sequence_len eval_sample_packing sample_packing_sequentially "
            "sample_packing_group_size sample_packing_bin_size multipack_real_batches "
            "eval_batch_size early_stopping_patience num_workers dataset_processes "
            "optim_target_modules lora_dropout lora_r lora_alpha",
            KEPT,
        ),
    },
    usual=(
        Usual("batch", ("micro_batch_size", "batch_size"), "micro_batch_size=1"),
        Usual(
            "accumulation", ("gradient_accumulation_steps", "batch_size"),
            "gradient_accumulation_steps=1",
        ),
        Usual(
            "length", ("num_epochs",), "num_epochs=1",
            when=lambda values: number("axolotl", values, "max_steps", -1) <= 0,
        ),
        Usual("warmup", ("warmup_steps", "warmup_ratio"), "warmup_steps=3 %, at most 100"),
        Usual("schedule", ("lr_scheduler",), "lr_scheduler='cosine'"),
        Usual("optimizer", ("optimizer",), "optimizer='adamw_torch_fused'"),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""Axolotl's YAML files."""
