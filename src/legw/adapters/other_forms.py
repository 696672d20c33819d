"""Configurations that are recognised but cannot be read, each by names that only it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from legw.adapters.fields import Values
from legw.adapters.forms import has
from legw.recipe import Recipe, words


@dataclass(frozen=True)
class OtherForm:
    """A configuration that is not read, and why."""

    what: str
    """Description, such as "a configuration of fairseq"."""
    known_by: tuple[tuple[str, ...], ...]
    """Sets of names of which one whole set must be present. A dot leads into a table."""
    why: str = "legw does not read these; write its numbers as a recipe"
    """The reason, and the remedy."""

    def refusal(self, values: Values) -> str:
        """Return what values are, the names that say so, and why they are not read."""
        names = next((names for names in self.known_by if has(values, names)), ())
        by = f" (it has {' and '.join(names)})" if names else ""
        return f"this is {self.what}{by}: {self.why}"


OTHERS = (
    OtherForm(
        "the state of a run, trainer_state.json", (("log_history", "global_step"),),
        "it is no configuration; give that run's TrainingArguments",
    ),
    OtherForm(
        "a model's configuration", (("architectures", "model_type"), ("model_type", "hidden_size")),
        "it says nothing of the training; give the training's",
    ),
    OtherForm(
        "a list of arguments of DeiT", (("unscale_lr",), ("distillation_type", "sched"),
                                        ("repeated_aug", "sched"), ("data_set", "sched")),
        "its lr is for 512 examples, and multiplied by the batch; write the rate that it prints "
        "as a recipe",
    ),
    OtherForm(
        "a list of arguments of ConvNeXt",
        (("update_freq", "warmup_steps"), ("update_freq", "opt")),
        "its warmup is warmup_steps where that is above 0, its weight decay has a schedule "
        "(weight_decay_end); write its numbers as a recipe",
    ),
    OtherForm(
        "a list of arguments of MAE", (("blr",), ("accum_iter", "warmup_epochs")),
        "its blr is for 256 examples, and multiplied by the batch; write the rate that it prints "
        "as a recipe",
    ),
    OtherForm(
        "a detection or segmentation reference of torchvision",
        (("aspect_ratio_group_factor",), ("rpn_score_thresh",), ("aux_loss", "lr_warmup_epochs")),
        "its schedule is one of its own; write its numbers as a recipe",
    ),
    OtherForm(
        "a configuration of fairseq",
        (("optimization.max_update",), ("optimization.update_freq",), ("max_update",),
         ("optimization.max_epoch",), ("dataset.max_tokens", "optimization")),
        "its batch is a number of tokens that differs in examples; write its numbers as a recipe",
    ),
    OtherForm(
        "a configuration of OpenNMT",
        (("accum_count",), ("decay_method",), ("train_steps", "valid_steps"),
         ("start_decay_steps",)),
        "its batch and its rate are in units of their own (batch_type, decay_method); write its "
        "numbers as a recipe",
    ),
    OtherForm(
        "a configuration of Megatron or GPT-NeoX",
        (("train_iters", "lr_decay_style"), ("train-iters",), ("lr_decay_style",),
         ("global-batch-size",)),
    ),
    OtherForm(
        "a configuration of DeepSpeed",
        (("train_micro_batch_size_per_gpu",), ("zero_optimization",)),
    ),
    OtherForm(
        "a configuration of Lightning",
        (("trainer.max_epochs",), ("trainer.accumulate_grad_batches",), ("trainer.max_steps",)),
    ),
    OtherForm("a configuration of Detectron2", (("SOLVER",),)),
    OtherForm(
        "a configuration of OpenMMLab", (("optim_wrapper",), ("param_scheduler",), ("lr_config",)),
    ),
    OtherForm(
        "a configuration of Ultralytics", (("lr0",), ("warmup_bias_lr",)),
        "it fits its batch and weight decay itself (nbs); write its numbers as a recipe",
    ),
    OtherForm(
        "a configuration of Composer",
        (("max_duration",), ("global_train_batch_size",), ("device_train_microbatch_size",)),
    ),
    OtherForm(
        "a configuration of torchtune",
        (("optimizer._component_",), ("lr_scheduler._component_",)),
    ),
    OtherForm(
        "a configuration of LitGPT", (("train.micro_batch_size",), ("train.lr_warmup_steps",)),
    ),
    OtherForm(
        "a list of arguments of Diffusers", (("max_train_steps", "train_batch_size"),),
    ),
)  # fmt: skip
"""The configurations of others that are refused by name."""


def not_read(values: Values) -> OtherForm | None:
    """Return the description of values that legw cannot read; None for other values.

    >>> not_read({"accum_count": [3], "train_steps": 100000}).what
    'a configuration of OpenNMT'
    """
    for form in OTHERS:
        if any(has(values, names) for names in form.known_by):
            return form
    if is_recipe(values):
        return OtherForm("a recipe of legw's own", (), "legw.read_recipe reads it")
    return None


def is_recipe(values: Values) -> bool:
    """Say whether values have the names of a recipe's file, and no others.

    >>> is_recipe({"batch_size": 128, "lr": 0.2, "epochs": 25}), is_recipe({"lr": 0.1})
    (True, False)
    """
    own = recipe_names()
    batch = {"batch_size", "batch_tokens", "global_batch_size"} & set(values)
    rate = {"lr", "learning_rate"} & set(values)
    flat = not isinstance(values.get("training"), Mapping)
    return bool(batch and rate and flat and set(values) <= own)


def recipe_names() -> set[str]:
    """Return the names that a recipe's file may have at its top: fields, and words for them.

    >>> {"batch_size", "num_train_epochs"} <= recipe_names()
    True
    """
    own = {field.name for field in fields(Recipe)} | set(words.FIELDS)
    return own | {"batch_tokens", "warmup_ratio", "min_lr"}
