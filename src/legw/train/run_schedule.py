"""Run schedule: a run's length and learning rates, by its recipe or by a steering rule."""

from __future__ import annotations

from typing import Any, Literal

from legw import rules, schedule
from legw.errors import RunError
from legw.recipe import Recipe
from legw.train.accumulation import Accumulation, Gradient
from legw.train.adascale import AdaScale, MicroGradients, micro_gradient
from legw.train.branch import Branch
from legw.train.dist import World
from legw.train.lanes import LanedAccumulation, tried
from legw.train.task import Task


class RunSchedule:
    """The updates of a run.

    Args:
        task: gives the number of examples.
        recipe: the recipe to train.
        base: the recipe before scaling.
        rule: the name of the rule that scaled it; only AdaScale changes rates during the run.
        branch: start from another run's checkpoint; None for a run from fresh weights.

    Raises:
        RunError: a steering rule is to start from another run's checkpoint.
    """

    def __init__(
        self, task: Task, recipe: Recipe, base: Recipe, rule: str, branch: Branch | None = None
    ) -> None:
        self.task, self.recipe, self.base = task, recipe, base
        self.steered = rules.steers(rule, recipe, base)
        self.branch = branch
        if branch is not None and self.steered:
            raise RunError(f"branch: rule={rule}: sets rates during the whole run; "
                           "choose one that acts before it")  # fmt: skip
        if branch is not None and not (branch.base.batch_schedule is recipe.batch_schedule is None):
            raise RunError(
                f"branch: {recipe.name}: has a batch_schedule, or its start's recipe has one; "
                "branch from a constant batch to a constant batch"
            )
        self.base_examples = task.num_examples(base.batch_size) if self.steered else 0
        if self.steered and not (base.batch_schedule is recipe.batch_schedule is None):
            raise RunError(
                f"{base.name}: {rule}: changes the rates of a constant batch as it runs; give "
                "recipes without a batch_schedule, or choose another rule"
            )
        self.num_examples = task.num_examples(recipe.batch_size)
        most = recipe.with_lengths(rules.MAX_LENGTH * recipe.length, recipe.warmup)
        longest = most if self.steered else recipe
        self.progress = schedule.Progress(longest, task.num_examples)
        """Batch sizes and positions of the updates."""
        self.updates = self.progress.updates
        """Updates of the run; for a steered run an upper bound, until it has ended."""
        if self.steered:
            self._lr = schedule.in_steps(base, self.base_examples)
        else:
            self._lr = schedule.in_steps(recipe, task.num_examples)
        self._each = 0
        self._adascale: AdaScale | None = None

    def epochs(self, updates: int) -> float:
        """Return the passes over the data that so many updates make."""
        return self.progress.epochs(updates)

    def until(self, wanted: int | None) -> int:
        """Return the number of updates to make: the wanted ones (None is all), at most all."""
        return self.updates if wanted is None else min(wanted, self.updates)

    def passes(self, span_epochs: float, update: int) -> bool:
        """Say whether a multiple of a number of epochs, above 0, is reached within an update."""
        return self.progress.passes(span_epochs, update)

    def ends_epoch(self, update: int) -> bool:
        """Say whether an epoch, or the run, ends within an update."""
        return self.passes(1, update) or update + 1 == self.updates

    def prepare(self, group: int) -> int:
        """Take the model's batch-norm group; return the most examples of a micro-batch.

        Raises:
            RunError: the rule steers, and the groups leave fewer than two micro-gradients.
        """
        if not self.steered:
            return self.recipe.batch_size
        self._each = micro_gradient(self.base, self.recipe, group)
        self._adascale = AdaScale(
            scale=self.recipe.batch_size / self.base.batch_size,
            count=-(-self.recipe.batch_size // self._each),
            base_updates=schedule.updates(self.base, self.base_examples),
        )
        return self._each

    def lanes(
        self, asked: int | Literal["auto"], world: World, group: int, *, compiled: bool
    ) -> tuple[int, ...]:
        """Return the numbers of lanes from which the run may choose.

        A steering rule needs the micro-gradients one after the other.

        Raises:
            RunError: more than one is asked for where there can be only one.
        """
        return tried(asked, self.task, world, group, barred=compiled or self.steered)

    def accumulation(self, lanes: int = 1) -> Accumulation:
        """Return the gradient accumulation; a steering rule's also measures micro-gradients."""
        if self.steered:
            return MicroGradients(self._each)
        return LanedAccumulation(lanes) if lanes > 1 else Accumulation()

    def rate(self, update: int, gradient: Gradient) -> float:
        """Return the learning rate of an update whose gradient is formed."""
        if self._adascale is None:
            share = 1.0 if self.branch is None else self.branch.share_of_rate(update)
            return self._lr(update) * share
        rate = self._adascale.rate(gradient, self._lr)
        if self._adascale.done:
            self.updates = update + 1
        return rate

    def said(self, updates: int) -> str:
        """Return how a steered run ended after so many updates; empty for the others."""
        if self._adascale is None:
            return ""
        base = schedule.in_unit(self.base, "epochs", self.base_examples)
        return self._adascale.said(self.epochs(updates), base.length)

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain values for a checkpoint; None where nothing is steered."""
        return None if self._adascale is None else self._adascale.to_dict()

    def restore(self, data: dict[str, Any] | None, updates: int) -> None:
        """Resume from the values of `to_dict` after a number of updates."""
        if data is not None:
            self._adascale = AdaScale(**data)
            if self._adascale.done:
                self.updates = updates
