"""Options that `legw train` and `legw study` share, and what they mean.

torch is imported by the functions that need it, so that a mistake is told at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from tyro.conf import arg

from legw import presets
from legw.cli import inputs
from legw.errors import RecipeError, RunError, unknown_name
from legw.recipe import Recipe

if TYPE_CHECKING:
    from legw.train import Settings, Task


# ruff: noqa: UP045 (as in inputs: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How and on what to train: batch, rates, data order stay; rounding and dropout may differ."""

    micro_batch_size: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Examples per forward and backward pass; auto measures which is fastest here."""
    lanes: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Micro-batches at once on a CPU; auto measures it along with the micro-batch."""
    memory_limit: Annotated[Optional[str], arg(metavar="SIZE", help_behavior_hint="")] = None
    """Most memory for auto's micro-batches, as in 6GiB; 80 % of what is free if not given."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16: matrix products in bf16, weights and optimizer state in fp32."""
    checkpoint_seconds: float = 60.0
    """Training time between two checkpoints."""
    checkpoint_epochs: inputs.Number = None
    """Epochs between two checkpoints, beside those by time."""
    compile: inputs.Flag = False
    """Compile the model with torch.compile: slow to start, faster on a GPU."""
    patience_seconds: float = 600.0
    """Time without a word from another process after which it is taken as lost."""

    def settings(self, resume: bool) -> Settings:
        """Return them as the loop takes them."""
        from legw.train import Settings

        return Settings(
            micro_batch_size=_count("micro-batch-size", self.micro_batch_size),
            lanes=_count("lanes", self.lanes),
            memory_limit=None if self.memory_limit is None else read_bytes(self.memory_limit),
            device=self.device,
            precision=self.precision,
            checkpoint_seconds=self.checkpoint_seconds,
            checkpoint_epochs=self.checkpoint_epochs,
            compile=self.compile,
            resume=resume,
            patience_seconds=self.patience_seconds,
        )


def _count(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise RunError(f"--{option}={text}: must be auto or a whole number, at least 1")
    return int(text)


def read_bytes(text: str) -> int:
    """Return a size in bytes, as in 6GiB, 500MB or 1000000.

    Raises:
        RunError: it is not a size above 0.

    >>> read_bytes("6GiB"), read_bytes("1.5kB")
    (6442450944, 1500)
    """
    units = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
    units |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = units.get(found.group(2).lower()) if found else None
    if found is None or unit is None or float(found.group(1)) <= 0:
        raise RunError(f"--memory-limit={text}: must be a size above 0, for example 6GiB")
    return int(float(found.group(1)) * unit)


def base_recipe(app: str, recipe: str | None) -> Recipe:
    """Return the base: the named or given recipe, or the application's own.

    Raises:
        RecipeError: no such recipe, or the application has none of its own.
    """
    if recipe is not None:
        return inputs.find_recipe(recipe)
    if app in presets.RECIPES:
        return presets.RECIPES[app]
    if ":" in app:
        raise RecipeError(f"{app}: --recipe is missing; your own task needs a base recipe")
    raise RecipeError(unknown_name("application", app, presets.RECIPES))


def check_app(app: str) -> None:
    """Refuse the name of an application that there is not, before anything is made for it.

    Raises:
        RunError: no such application.
    """
    from legw.apps import APPS

    if ":" not in app and app not in APPS:
        raise RunError(unknown_name("application", app, APPS) + "; your own task is module:name")


def task_of(
    app: str,
    data: Path | None,
    holdout: Literal["test", "validation"],
    *,
    vocabulary: int | None = None,
    source: str | None = None,
    target: str | None = None,
    skip_broken: bool = False,
    workers: int | None = None,
    made_up: bool = False,
) -> Task:
    """Return the task with its data read.

    Raises:
        RunError: no such application.
        DataError: its data are not to be found.
    """
    from legw import apps

    options = apps.Options(
        data=data,
        holdout=holdout,
        vocabulary=vocabulary,
        source=source,
        target=target,
        skip_broken=skip_broken,
        workers=workers,
        made_up=made_up,
    )
    return apps.find(app, options)


def too_few(task: Task, recipe: Recipe) -> list[str]:
    """Return a note if the data at hand, unlike the recipe's, are fewer than one batch."""
    count = task.num_examples(recipe.batch_size)
    if recipe.batch_size <= count or count == recipe.epoch_examples:
        return []
    return [
        f"{task.name}: the batch ({recipe.batch_size}) is larger than the data given ({count}), "
        "so an update takes examples of several epochs; choose a smaller batch"
    ]
