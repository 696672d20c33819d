"""Scheduler: the schedule as a torch scheduler, for loops with an optimizer object.

The rates come from `legw.schedule`, a closed form in the number of the update. This module writes
them into the optimizer's groups, and keeps them right over restarts.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from legw import schedule
from legw.decays import Constant
from legw.errors import LegwWarning, RecipeError, check_count, shown
from legw.recipe import Recipe
from legw.train import param_groups
from legw.train.several import SeveralOptimizers

EXAMPLES = "examples"
"""Name in a state of the examples seen, which a batch that grows needs beside the updates."""


class RecipeLR(LRScheduler):
    """The rate of each update as the recipe has it: call `step` after each optimizer update.

    With ``lr(s)`` the recipe's schedule (`schedule.in_steps`), update ``s`` runs at::

        rate = lr(s) * ratio        ratio = the group's lr / the optimizer's lr

    from construction on: update 0 has its own rate. The recipe decides the rate, whatever
    `lr` the optimizer was built with; that one only says which group has which ratio. If no
    group has the optimizer's `lr` (each was given its own), ratios are to the recipe's `lr`,
    and one group must have that; or say what they are to with `base` or `reference_lr`. Where
    groups have several peaks, these are printed once, to stderr. A group that joins later
    has the ratio of its own `lr`. After the end of the run the last rate stays, with a
    warning. Of torch's names, `last_epoch` is the update that comes next, `base_lrs` are the
    groups' peaks.

    An *update* is one ``optimizer.step()`` on the global batch: call `step` once for all
    its micro-batches, and once on each process.

    `after_warmup` puts a torch scheduler of yours in the place of the recipe's decay. Build
    it first, on the same optimizer; then step it, at your rhythm, through `step_after_warmup`
    only. The warmup multiplies what it asks for: ``rate = its rate * lr(s)/peak``. Absolute
    numbers in it (`eta_min`, `min_lr`) are on the scale of the optimizer's `lr`.

    Tensor rates are filled in place, so a compiled step sees them: build its optimizer with
    ``lr=torch.tensor(big.lr)``, as torch may compile a float in, again for each new one.
    The state_dict is plain data (``weights_only=True``), and loads before or after the
    optimizer's. It holds position and ratios. Where the recipe, given here, has another
    batch, or batches that grow otherwise, the position is converted by the examples seen, with a
    warning that says so. Where the batch grows, the loop takes each update's size from
    `legw.batches` or from `legw.train.RecipeBatches`.

    An optimizer that tells of a skipped step (`step_was_skipped`, as accelerate's) does not
    move the schedule; with a GradScaler of torch's own, leave `step` out where its scale fell.

    Args:
        optimizer: its groups' `lr` are overwritten: here, by `step`, and after a load. Or a
            list of optimizers that are stepped together.
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own. Only
            lengths in epochs need it.
        updates_per_epoch: updates that the loop makes in an epoch, at least 1, in place of
            num_examples; `legw.updates_per_epoch` counts them.
        base: the recipe before scaling: ratios are to its `lr`, which a group must have.
        reference_lr: the rate that has the ratio 1, above 0, in place of `base`.
        after_warmup: torch scheduler that follows the warmup, `ReduceLROnPlateau`, too;
            the recipe's own decay must be `Constant`.
        ramp: point of an update at which the warmup is read, "end" or "start" (`schedule.lr_at`).
        last_epoch: last update made, from 0, to go on without a state_dict; -1: none.

    Raises:
        RecipeError: the number of examples is not known, no group to take ratios to, two
            decays, or `after_warmup` belongs to another optimizer.

    Reference: You et al. 2019, arXiv 1901.08256, section 3.

    >>> import torch, legw
    >>> big = legw.scale(legw.Recipe(batch_size=8, lr=0.1, epochs=4, warmup_epochs=0.1), 32)
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=big.lr)
    >>> scheduler = RecipeLR(optimizer, big, num_examples=800)
    >>> for update in range(legw.updates(big, num_examples=800)):
    ...     optimizer.step()  # after zero_grad() and backward()
    ...     scheduler.step()

    The same schedule in torch's `LambdaLR`, or in another framework:

    >>> lr = legw.in_steps(big, num_examples=800)
    >>> same = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: lr(s) / big.lr)
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        recipe: Recipe,
        num_examples: int | None = None,
        *,
        updates_per_epoch: int | None = None,
        base: Recipe | None = None,
        reference_lr: float | None = None,
        after_warmup: LRScheduler | None = None,
        ramp: schedule.Ramp = "end",
        last_epoch: int = -1,
    ) -> None:
        self.recipe, self.ramp, self.after_warmup = recipe, ramp, after_warmup
        if updates_per_epoch is not None:
            check_count(recipe.name, "updates_per_epoch", updates_per_epoch)
            if num_examples is not None:
                raise RecipeError(
                    f"{recipe.name}: updates_per_epoch={updates_per_epoch}: says how many "
                    "examples an epoch has; leave num_examples out"
                )
            if recipe.batch_schedule is not None:
                raise RecipeError(
                    f"{recipe.name}: updates_per_epoch={updates_per_epoch}: changes as the batch "
                    "grows; give num_examples"
                )
            num_examples = updates_per_epoch * recipe.batch_size
        if base is not None and reference_lr is not None:
            raise RecipeError(
                f"{recipe.name}: reference_lr={shown(reference_lr)}: the base says it, "
                f"{base.lr:g}; leave one out"
            )
        if isinstance(optimizer, Sequence):
            optimizer = SeveralOptimizers(optimizer)
        self.num_examples = num_examples
        self._progress = schedule.Progress(recipe, num_examples)
        self.updates = self._progress.updates
        self.warmup_updates = schedule.warmup_updates(recipe, num_examples)
        self._past = False
        self._lr(last_epoch + 1)  # refuses what is out of range before anything is changed
        if after_warmup is not None:
            self._check_after_warmup(after_warmup, optimizer, last_epoch)
        self._reference = param_groups.reference(
            optimizer, recipe.lr, stated=reference_lr, base_lr=None if base is None else base.lr,
            built=None if after_warmup is None else type(after_warmup).__name__,
        )  # fmt: skip
        self._own = built = param_groups.built_with(optimizer)
        if after_warmup is not None and param_groups.REFERENCE not in optimizer.param_groups[0]:
            self._own = param_groups.read(optimizer)  # it may begin below its base, as LinearLR
        self._stepped = _position(after_warmup)
        for group, rate in zip(optimizer.param_groups, built, strict=True):
            group.setdefault("initial_lr", rate)
            group[param_groups.REFERENCE] = self._reference
        param_groups.trust_order(optimizer)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = [_rescaled(rate, recipe.lr, self._reference) for rate in built]
        param_groups.after_loads(optimizer, self._write)
        self._say_peaks()

    def step(self, epoch: int | None = None) -> None:
        """Move on to the next update's rate; call it after ``optimizer.step()``.

        Raises:
            RecipeError: an argument is given, the optimizer has fewer groups, or new ones
                where there is an `after_warmup`, or that was stepped by itself.

        Warns:
            LegwWarning: an update was made past the end of the schedule; once.
        """
        if epoch is not None:
            raise RecipeError(
                f"RecipeLR.step({shown(epoch)}): takes no argument; call step() after each "
                "update (a metric goes to step_after_warmup, a position to last_epoch=)"
            )
        self._check_stepped()
        if getattr(self.optimizer, "step_was_skipped", False) and not self._is_initial:
            return
        before = self.last_epoch, self._step_count
        try:
            super().step()
        except BaseException:  # a step that is refused is none
            self.last_epoch, self._step_count = before
            raise
        if self.last_epoch > self.updates and not (self._past or self._is_initial):
            self._past = True
            warnings.warn(
                f"{self.recipe.name}: RecipeLR: update {self.last_epoch} is past the end of the "
                f"schedule, {self.updates} updates: the last rate stays; give the length that "
                "the loop has (updates_per_epoch=, or steps in the recipe)",
                LegwWarning,
                stacklevel=2,
            )

    def step_after_warmup(self, *args: Any) -> None:
        """Step the wrapped scheduler, per epoch or per update, as you would step it alone.

        A call counts once an update has been made after the warmup. Earlier ones do
        nothing, and what metrics they bring is left out: it begins where the warmup ends.

        Args:
            args: those of its own `step`: a metric for `ReduceLROnPlateau`, else none.

        Raises:
            RecipeError: there is no such scheduler, or it was stepped by itself.
        """
        if self.after_warmup is None:
            raise RecipeError(
                "RecipeLR.step_after_warmup: there is no scheduler to step; "
                "give one to RecipeLR as after_warmup="
            )
        self._check_stepped()
        if self.last_epoch <= self.warmup_updates:
            return
        param_groups.write(self.optimizer, self._own)  # it computes from its own rates, not ours
        try:
            self.after_warmup.step(*args)
            self._own = param_groups.read(self.optimizer)
        finally:
            self._stepped = _position(self.after_warmup)
            self._write()

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's rate for the update `last_epoch`."""
        self._take_in()
        self._check_groups(self._own)
        lr = self._lr(self.last_epoch)
        return [_rescaled(own, lr, self._reference) for own in self._own]

    def state_dict(self) -> dict[str, Any]:
        """Return position and ratios as plain data, with the wrapped scheduler's state."""
        after = self.after_warmup
        return {
            "last_epoch": self.last_epoch,
            "batch_size": self.recipe.batch_size,
            "own_lrs": list(self._own),
            "reference_lr": self._reference,
            "after_warmup": after and after.state_dict(),
            **({EXAMPLES: self._progress.seen(self.last_epoch)} if self._grows else {}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a state_dict was made; the optimizer gets the rates of its next update.

        Args:
            state_dict: values that `state_dict` returned.

        Raises:
            RecipeError: it is of another scheduler or other groups.

        Warns:
            LegwWarning: it is of another batch size; the line says where the run goes on.
        """
        self._check_state(state_dict)
        if self.after_warmup is not None:
            self.after_warmup.load_state_dict(state_dict["after_warmup"])
            self._stepped = _position(self.after_warmup)
        self.last_epoch = self._position_of(state_dict)
        self._step_count = self.last_epoch + 1
        self._own, self._reference = list(state_dict["own_lrs"]), state_dict["reference_lr"]
        self._write()

    @property
    def _grows(self) -> bool:
        return self.recipe.batch_schedule is not None

    def _lr(self, update: int) -> float:
        return float(schedule.lr_at(self.recipe, update, self.num_examples, ramp=self.ramp))

    def _write(self) -> None:
        self._last_lr = param_groups.write(self.optimizer, self.get_lr())

    def _take_in(self) -> None:
        """Give groups that joined since the last step their ratio; theirs is their own `lr`."""
        found = self.optimizer.param_groups
        if self.after_warmup is not None or len(found) <= len(self._own):
            return
        known = iter(self._own)
        rates = param_groups.built_with(self.optimizer)
        try:
            own = [
                next(known) if param_groups.REFERENCE in group else rate
                for group, rate in zip(found, rates, strict=True)
            ]
        except StopIteration:
            return  # what was loaded has groups of another run, and is refused
        for group, rate in zip(found, own, strict=True):
            group.setdefault("initial_lr", rate)
            group[param_groups.REFERENCE] = self._reference
        self._own = own
        self.base_lrs = [_rescaled(rate, self.recipe.lr, self._reference) for rate in own]
        self._say_peaks()

    def _say_peaks(self) -> None:
        """Print the groups' peaks where there are several, on the first process."""
        said = param_groups.peaks([float(rate) for rate in self.base_lrs])
        if ", " in said and os.environ.get("RANK", "0") == "0":
            print(
                f"RecipeLR: {self.recipe.name}: peaks {said}; lr={self._reference:.5g} of the "
                "groups has the ratio 1",
                file=sys.stderr,
            )

    def _position_of(self, state: dict[str, Any]) -> int:
        """Return the update that comes next, by the examples seen, and say so if it moved."""
        made, old, new = int(state["last_epoch"]), int(state["batch_size"]), self.recipe.batch_size
        if self._grows or EXAMPLES in state:
            return self._position_after(made, int(state.get(EXAMPLES, made * old)))
        if old == new:
            return made
        here = round(made * old / new)
        warnings.warn(
            f"{self.recipe.name}: RecipeLR: after {made} updates of {old} examples the run goes "
            f"on at batch {new} as after {here} updates: so many hold the same examples",
            LegwWarning,
            stacklevel=3,
        )
        return here

    def _position_after(self, made: int, examples: int) -> int:
        """Return the update that comes next after so many examples, and say so if it moved."""
        if self._progress.seen(made) == examples:
            return made
        here = self._progress.updates_to(examples)
        warnings.warn(
            f"{self.recipe.name}: RecipeLR: after {made} updates, which saw {examples} examples, "
            f"the run goes on as after {here} updates: so many see the same",
            LegwWarning,
            stacklevel=4,
        )
        return here

    def _check_after_warmup(
        self, scheduler: LRScheduler, optimizer: Optimizer, last_epoch: int
    ) -> None:
        what = f"{self.recipe.name}: after_warmup={type(scheduler).__name__}"
        steps = getattr(scheduler, "optimizer", None)  # perhaps inside a wrapper, as accelerate's
        if steps is None or steps.param_groups is not optimizer.param_groups:
            raise RecipeError(f"{what}: must be a torch scheduler, built on the same optimizer")
        if not isinstance(self.recipe.decay, Constant):
            raise RecipeError(
                f"{what}: the recipe has a decay of its own, {self.recipe.decay.kind}; "
                "leave one out (decay=Constant())"
            )
        if last_epoch != -1:
            raise RecipeError(
                f"{what}: last_epoch={last_epoch}: does not say where that scheduler was; "
                "go on with load_state_dict instead"
            )

    def _check_stepped(self) -> None:
        if _position(self.after_warmup) != self._stepped:
            raise RecipeError(
                f"{self.recipe.name}: after_warmup={type(self.after_warmup).__name__}: was "
                "stepped by itself; call RecipeLR.step_after_warmup() in place of its step()"
            )

    def _check_groups(self, rates: list[float]) -> None:
        count = len(self.optimizer.param_groups)
        if count != len(rates):
            raise RecipeError(
                f"RecipeLR: param_groups: the optimizer has {count}, the schedule is for "
                f"{len(rates)}; build RecipeLR when all groups are there"
            )

    def _check_state(self, state: dict[str, Any]) -> None:
        what = "RecipeLR.load_state_dict"
        for name in self.state_dict():
            if name not in state and name != EXAMPLES:
                raise RecipeError(
                    f"{what}: {name} is missing; give what RecipeLR.state_dict() returned"
                )
        check_count(what, "batch_size", state["batch_size"])
        if EXAMPLES in state:
            check_count(what, EXAMPLES, state[EXAMPLES], least=0)
        self._check_groups(state["own_lrs"])
        if (state["after_warmup"] is None) != (self.after_warmup is None):
            raise RecipeError(
                f"{what}: after_warmup: only one of state and scheduler has it; "
                "build RecipeLR as it was"
            )


def _rescaled(own: float, lr: float, reference: float) -> float:
    """Return ``lr * own/reference``, without rounding where two of them are equal."""
    return own if lr == reference else own / reference * lr


def _position(scheduler: LRScheduler | None) -> int | None:
    """Return how often a scheduler was stepped; None if it does not say."""
    return getattr(scheduler, "last_epoch", None)
