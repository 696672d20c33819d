"""Lightning: the result of `configure_optimizers`, with a schedule that moves every update.

    def configure_optimizers(self):
        return recipe_optimizers(torch.optim.SGD(self.parameters(), lr=big.lr), big, 60000)
        return recipe_optimizers(self, big, 60000)  # or this: the recipe's own, also Muon

Lightning steps a scheduler once an epoch by default: a warmup would become a stair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from legw.errors import RecipeError
from legw.recipe import Recipe
from legw.train import optim
from legw.train.scheduler import RecipeLR


def recipe_optimizers(
    optimizer: Optimizer | Module,
    recipe: Recipe,
    num_examples: int | None = None,
    *,
    output: str | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return optimizer and schedule as Lightning takes them, stepped once an update.

    With `accumulate_grad_batches` the recipe's batch size is ``batch * accumulate_grad_batches *
    devices``.

    Args:
        optimizer: yours, or the module, for which the recipe's optimizer is built. Muon and
            the AdamW beside it are one, whose groups keep the ratio of their rates.
        recipe: the recipe to train; its batch size is the global one.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        output: name of the module's output layer, which Muon leaves to AdamW; None is the
            linear layer that was registered last (see `legw.train.muon_groups`).
        exclude: names of parameters or modules that Muon leaves to AdamW, too; may hold ``*``.
        split: matrices in a parameter, at least 1, by the parameter's name, for modules that Muon
            does not know (see `legw.train.muon_groups`).

    Raises:
        RecipeError: the number of examples is not known, the module has nothing of a name,
            or names are given for an optimizer of yours, whose groups are made.
    """
    if isinstance(optimizer, Module):
        model = optimizer
        optimizer = optim.build(
            recipe.optimizer, model, recipe.lr, output=output, exclude=exclude, split=split
        )
    elif output is not None or exclude or split:
        raise RecipeError(
            f"{recipe.name}: output, exclude and split choose the groups of an optimizer "
            "that is built here; give the module in place of yours, or leave them out"
        )
    schedule = RecipeLR(optimizer, recipe, num_examples)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1},
    }
