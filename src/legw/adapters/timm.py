"""Schedulers of timm: the recipe as one of them, with a warmup of any length.

timm's command line takes whole warmup epochs only, and moves its warmup once an epoch
unless ``--sched-on-updates`` is given. This scheduler has the recipe's rate for each
update, and keeps `lr_scale` of layer-wise decay.

The recipe's own optimizer, also Muon with its AdamW, is
``legw.train.optim.build(big.optimizer, model, big.lr)``.
"""

from __future__ import annotations

from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from legw.recipe import Recipe
from legw.schedule import in_steps


class RecipeScheduler(Scheduler):  # type: ignore[misc]  # timm has no types
    """A timm scheduler: call ``step_update(num_updates)`` after each update.

    The number is that of the updates made so far, as in timm's own training script;
    ``step(epoch)`` changes nothing. The rate of a group is::

        rate = lr(num_updates) * (group's lr / recipe's lr) * lr_scale

    where `lr_scale` is 1 if the group has none, as timm applies it.

    Args:
        optimizer: built with the recipe's `lr`; groups of another one keep their ratio to it.
        recipe: the recipe to train; its batch size is the global one.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the number of examples is not known.
    """

    def __init__(
        self, optimizer: Optimizer, recipe: Recipe, num_examples: int | None = None
    ) -> None:
        self.recipe = recipe
        lr = in_steps(recipe, num_examples)
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self._lr = lr
        self.step_update(0)  # update 0 has its own rate

    def _get_lr(self, t: int) -> list[float]:
        return [base / self.recipe.lr * self._lr(t) for base in self.base_values]

    def state_dict(self) -> dict[str, object]:
        """Return the groups' peaks: the position is given at every call."""
        return {"base_values": list(self.base_values)}
