"""Accelerate: one step of the schedule for each update, on any number of processes.

    scheduler = recipe_scheduler(accelerator, optimizer, big, num_examples)

in place of ``accelerator.prepare(scheduler)``. Unless batches are split, that one steps a scheduler
`num_processes` times an update: it assumes a schedule for one process. A recipe's schedule is for
the global batch, for any number of processes.

The recipe's own optimizer, also Muon with its AdamW, is
``legw.train.optim.build(big.optimizer, model, big.lr)``: build it before `prepare`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.optim import Optimizer

from legw.errors import RecipeError
from legw.recipe import Recipe
from legw.train.scheduler import RecipeLR

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.scheduler import AcceleratedScheduler


def recipe_scheduler(
    accelerator: Accelerator, optimizer: Optimizer, recipe: Recipe, num_examples: int | None = None
) -> AcceleratedScheduler:
    """Return a prepared scheduler: call its `step` after each ``optimizer.step()``.

    It does nothing while gradients are accumulated, or where the optimizer's step was
    skipped, and is part of ``accelerator.save_state``.

    Args:
        accelerator: has prepared the optimizer.
        optimizer: as ``accelerator.prepare`` returned it.
        recipe: the scaled recipe; its batch size is the global one, over all processes.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the optimizer was not prepared, or the number of examples is not known.
    """
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler

    if not isinstance(optimizer, AcceleratedOptimizer):
        raise RecipeError(
            f"{recipe.name}: optimizer={type(optimizer).__name__}: must be a prepared one; "
            "give what accelerator.prepare(optimizer) returned"
        )
    schedule = RecipeLR(optimizer.optimizer, recipe, num_examples)
    # With split_batches a wrapped scheduler moves on once an update.
    scheduler = AcceleratedScheduler(schedule, [optimizer], split_batches=True)
    scheduler._is_accelerate_prepared = True  # so that `prepare` registers it as it is
    accelerator.prepare_scheduler(scheduler)
    return scheduler
