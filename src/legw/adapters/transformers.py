"""Transformers: a `Trainer` whose updates use the recipe's learning rates.

    arguments = TrainingArguments("out", **trainer_arguments(big, micro_batch_size=32))
    Trainer(model, arguments, optimizers=trainer_optimizers(model, big, num_examples), ...)

A `Trainer` steps its scheduler once an update, under any accumulation and number of processes, so
it takes `legw.train.RecipeLR` unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from legw.errors import LegwWarning, RecipeError, check_count, shown
from legw.recipe import Recipe
from legw.schedule import updates
from legw.train import optim
from legw.train.scheduler import RecipeLR


def trainer_optimizers(
    model: Module,
    recipe: Recipe,
    num_examples: int | None = None,
    *,
    output: str | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
) -> tuple[Optimizer, RecipeLR]:
    """Return `Trainer`'s argument `optimizers`: the recipe's optimizer and its schedule.

    Muon and the AdamW beside it are one optimizer, whose groups keep the ratio of their rates.
    Biases and norms are not decayed, as in `Trainer`'s own optimizer.

    Args:
        model: on any device; `Trainer` moves it without making new parameters.
        recipe: the recipe to train; its batch size is the global one.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        output: name of the model's output layer, which Muon leaves to AdamW; None is the
            linear layer that was registered last (see `legw.train.muon_groups`).
        exclude: names of parameters or modules that Muon leaves to AdamW, too; may hold ``*``.
        split: matrices in a parameter, at least 1, by the parameter's name, for modules that Muon
            does not know (see `legw.train.muon_groups`).

    Raises:
        RecipeError: the number of examples is not known, or the model has nothing of a name.
    """
    optimizer = optim.build(
        recipe.optimizer, model, recipe.lr, output=output, exclude=exclude, split=split
    )
    _without_decay(optimizer, model)
    return optimizer, RecipeLR(optimizer, recipe, num_examples)


def _without_decay(optimizer: Optimizer, model: Module) -> None:
    """Give biases and norms a group without weight decay, as `Trainer` itself does.

    An optimizer with several groups, as of LARS, LAMB and Muon, has them already.

    Args:
        optimizer: of the model's parameters, not stepped yet.
        model: whose parameters `Trainer` names by their layers and names.
    """
    if len(optimizer.param_groups) > 1 or not optimizer.param_groups[0]["weight_decay"]:
        return
    from transformers import Trainer

    looked_up: Any = Trainer.get_decay_parameter_names  # it looks at the model alone
    names = set(looked_up(None, model))
    decayed = {id(weight) for name, weight in model.named_parameters() if name in names}
    (group,) = optimizer.param_groups
    others = [weight for weight in group["params"] if id(weight) not in decayed]
    if others and len(others) < len(group["params"]):
        group["params"] = [weight for weight in group["params"] if id(weight) in decayed]
        optimizer.param_groups.append({**group, "params": others, "weight_decay": 0.0})
    elif others:
        group["weight_decay"] = 0.0


def trainer_arguments(
    recipe: Recipe,
    num_examples: int | None = None,
    *,
    micro_batch_size: int | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Return the `TrainingArguments` of a recipe: batch, accumulation, length, clipping.

    The rates are not among them: `trainer_optimizers` has the schedule. `Trainer` averages no
    weights: `ema_decay` is for a callback of yours.

    Args:
        recipe: the recipe to train; its batch size is the global one.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        micro_batch_size: examples per device and pass, at least 1; None is the share of a
            process, in one pass.
        processes: number of processes that train together, at least 1.

    Raises:
        RecipeError: the batch is not a whole number of micro-batches on every process, or it
            grows during the run.

    Warns:
        LegwWarning: the recipe has an `ema_decay`.
    """
    check_count(recipe.name, "processes", processes)
    if recipe.ema_decay is not None:
        warnings.warn(
            f"{recipe.name}: ema_decay={recipe.ema_decay:g}: Trainer averages no weights; "
            "torch.optim.swa_utils.AveragedModel does, in a callback",
            LegwWarning,
            stacklevel=2,
        )
    if recipe.batch_schedule is not None:
        raise RecipeError(
            f"{recipe.name}: batch_schedule: Trainer's batch is constant; give a recipe without "
            "one, or train in a loop with legw.batches"
        )
    size = micro_batch_size or max(recipe.batch_size // processes, 1)
    return {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation(recipe, size, processes),
        "max_steps": updates(recipe, num_examples),
        "max_grad_norm": recipe.clip_norm or 0.0,
        "learning_rate": recipe.lr,
    }


def accumulation(recipe: Recipe, micro_batch_size: int, processes: int = 1) -> int:
    """Return the passes that make one update: ``batch_size / (micro_batch_size * processes)``.

    Args:
        recipe: the recipe to train; its batch size is the global one.
        micro_batch_size: examples per device and pass, at least 1.
        processes: number of processes that train together, at least 1.

    Raises:
        RecipeError: that is not a whole number.
    """
    check_count(recipe.name, "micro_batch_size", micro_batch_size)
    passes, rest = divmod(recipe.batch_size, micro_batch_size * processes)
    if rest:
        raise RecipeError(
            f"{recipe.name}: micro_batch_size={shown(micro_batch_size)}: {processes} process(es) "
            f"of it do not divide batch_size={recipe.batch_size}; choose one that does"
        )
    return passes
