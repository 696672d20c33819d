"""Branch: a run that starts from a checkpoint of another run, at another batch size.

It takes over the weights, the optimizer's state and the position in the data. Its updates have the
numbers that they would have if the whole run had had its batch size: a branch of 8 times the batch
from update 800 of another run begins at its own update 100. So order of examples, draws and decay
follow from the position, as in every run.

The optimizer's state is taken over unchanged: momentum, and the moments and step counts of Adam;
the settings of its groups are the branch's own. Adam's second moments are those of the other
batch's noise until they have forgotten it, after about ``1 / (1 - beta2)`` updates. The rate rises
again in `warmup_updates` updates to that of the branch's recipe, and may fall to 0 at its end.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from legw.errors import RunError, check_count, check_range
from legw.recipe import Recipe
from legw.recipe.branch_rate import MAX_COOLDOWN, share_of_rate
from legw.runs import files, reading
from legw.train import checkpoint, optim
from legw.train.checkpoint_content import Expected
from legw.train.task import Task

KEPT = "branch-{:09d}.pt"
"""Name of a checkpoint that is kept for branches; a run drops only its own."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Start of a run from a kept checkpoint of another run."""

    checkpoint: Path
    """File that `keep` returned."""
    base: Recipe
    """Recipe of the other run."""
    base_updates: int
    """Updates of the other run up to the checkpoint, at least 1."""
    first: int
    """Number of the branch's first update, at least 0: its position in examples over its batch
    size."""
    warmup_updates: int
    """Updates in which the rate rises again to the recipe's, at least 0."""
    updates: int
    """Updates of the whole branch, at least 1."""
    cooldown: float = 0.0
    """Share of them over which the rate falls linearly to 0, in [0, 0.9]."""
    order_batch_size: int
    """Batch size whose order of examples is read: the other run's, so that the examples are the
    same, or for streams the branch's own."""

    def __post_init__(self) -> None:
        check_count("branch", "base_updates", self.base_updates)
        check_count("branch", "first", self.first, 0)
        check_count("branch", "warmup_updates", self.warmup_updates, 0)
        check_count("branch", "updates", self.updates)
        check_range("branch", "cooldown", self.cooldown, 0, MAX_COOLDOWN, closed=True)

    def identity(self) -> dict[str, Any]:
        """Return plain values on which the branch's result depends, for its manifest."""
        return {
            "at": self.base_updates,
            "checkpoint": _digest(self.checkpoint),
            "first": self.first,
            "warmup_updates": self.warmup_updates,
            "updates": self.updates,
            "cooldown": self.cooldown,
        }

    @property
    def earlier_updates(self) -> int:
        """Steps of the optimizer beyond those that the branch's own position counts."""
        return self.base_updates - self.first

    def share_of_rate(self, update: int) -> float:
        """Return the factor of an update's rate, in (0, 1]."""
        return share_of_rate(
            update - self.first,
            self.updates,
            warmup_updates=self.warmup_updates,
            cooldown=self.cooldown,
        )


def keep(folder: Path, updates: int) -> Path:
    """Keep a run's checkpoint after a number of updates for branches, and return its file.

    Args:
        folder: the run folder.
        updates: at which the run has just stopped, or did before its checkpoint was kept.

    Raises:
        RunError: the run is past it and has kept none, or the disk is full.
    """
    kept = folder / KEPT.format(updates)
    if reading.there(kept):
        return kept
    own = folder / f"checkpoint-{updates:09d}.pt"
    if not reading.there(own):
        raise RunError(
            f"{folder}: has no checkpoint of update {updates} any more, from which a branch is to "
            "start; choose the points and the budget of its start, or another folder"
        )
    with own.open("rb") as source, files.atomic(kept) as target:
        shutil.copyfileobj(source, target)
    return kept


def read(branch: Branch, task: Task, model: nn.Module) -> dict[str, Any]:
    """Return the checked content of a branch's checkpoint.

    Raises:
        RunError: the checkpoint is damaged, or of another model.
    """
    expected = Expected(
        model=model,
        optimizer=optim.for_task(task, branch.base, model),
        batch_size=branch.base.batch_size,
        most_updates=branch.base_updates,
        steering=None,
        carried=lambda: None,
    )
    return checkpoint.read_stateless(branch.checkpoint, branch.base_updates, expected)


def load(content: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """Load another run's weights and optimizer state; the groups' settings stay as they are."""
    groups = optimizer.state_dict()["param_groups"]
    model.load_state_dict(content["model"])
    optimizer.load_state_dict({**content["optimizer"], "param_groups": groups})


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
