"""Lightning: what `configure_optimizers` returns, with a schedule that moves every update.

    def configure_optimizers(self):
        return recipe_optimizers(torch.optim.SGD(self.parameters(), lr=big.lr), big, 60000)

Lightning steps a scheduler once an epoch unless told otherwise: a warmup would be a stair.
"""

from __future__ import annotations

from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from legw.recipe import Recipe
from legw.train import optim
from legw.train.scheduler import RecipeLR


def recipe_optimizers(
    optimizer: Optimizer | Module, recipe: Recipe, num_examples: int | None = None
) -> dict[str, Any]:
    """Return optimizer and schedule as Lightning takes them, stepped once an update.

    With `accumulate_grad_batches` an update is what all its batches make together, and the
    recipe's batch size is ``batch * accumulate_grad_batches * devices``.

    Args:
        optimizer: yours, or the module, for which the recipe's optimizer is built.
        recipe: what is trained; its batch size is the global one.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the number of examples is not known.
    """
    if isinstance(optimizer, Module):
        optimizer = optim.build(recipe.optimizer, optimizer, recipe.lr)
    schedule = RecipeLR(optimizer, recipe, num_examples)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1},
    }
