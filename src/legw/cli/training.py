"""Options that `legw train` and `legw study` share, and what they mean.

torch is imported by the functions that need it, so that a mistake is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from legw import recipes
from legw.cli import inputs
from legw.errors import RecipeError, RunError, unknown_name
from legw.recipe import Recipe

if TYPE_CHECKING:
    from legw.train import Settings, Task


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How and on what to train; nothing here changes the result."""

    micro_batch_size: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Examples per forward and backward pass, at least 1."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16: matrix products in bf16, weights and optimizer state in fp32."""
    checkpoint_seconds: float = 60.0
    """Training time between two checkpoints."""
    checkpoint_epochs: float | None = None
    """Epochs between two checkpoints, beside those by time."""

    def settings(self, resume: bool) -> Settings:
        """Return them as the loop takes them."""
        from legw.train import Settings

        return Settings(
            micro_batch_size="auto" if self.micro_batch_size is None else self.micro_batch_size,
            device=self.device,
            precision=self.precision,
            checkpoint_seconds=self.checkpoint_seconds,
            checkpoint_epochs=self.checkpoint_epochs,
            resume=resume,
        )


def base_recipe(app: str, recipe: str | None) -> Recipe:
    """Return the base: the named or given recipe, or the application's own.

    Raises:
        RecipeError: no such recipe, or the application has none of its own.
    """
    if recipe is not None:
        return inputs.find_recipe(recipe)
    if app in recipes.RECIPES:
        return recipes.RECIPES[app]
    if ":" in app:
        raise RecipeError(f"{app}: --recipe is missing; your own task needs a base recipe")
    raise RecipeError(unknown_name("application", app, recipes.RECIPES))


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
    vocabulary: int | None = None,
) -> Task:
    """Return the task with its data read.

    Raises:
        RunError: no such application.
        DataError: its data are not to be found.
    """
    from legw import apps

    return apps.find(app, apps.Options(data=data, holdout=holdout, vocabulary=vocabulary))


def overridden(
    base: Recipe, *, epochs: float | None = None, warmup_epochs: float | None = None
) -> Recipe:
    """Return the base recipe with the values given on the command line.

    Raises:
        RecipeError: a value cannot be.
    """
    given = {"epochs": epochs, "warmup_epochs": warmup_epochs}
    return replace(base, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
