"""Units of length: a recipe's epochs, steps, examples or tokens converted to another.

A conversion to or from epochs needs the number of examples in one, and one to or from tokens needs
the tokens in an example.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from legw.decays import Constant
from legw.errors import RecipeError, shown
from legw.lengths import UNITS, Unit
from legw.recipe import Recipe
from legw.schedule import update_length


def in_unit(recipe: Recipe, unit: Unit, num_examples: int | None = None) -> Recipe:
    """Return the same recipe with its lengths, and those of its decay, in another unit.

    Args:
        recipe: what is trained.
        unit: "epochs", "steps", "examples" or "tokens".
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the unit is unknown, or the number of examples in an epoch, or of tokens in an
            example, which the conversion needs.

    >>> base = Recipe(batch_size=100, lr=1, epochs=90, warmup_epochs=5)
    >>> in_unit(base, "steps", num_examples=1000).warmup_steps
    50.0
    """
    if unit not in UNITS:
        raise RecipeError(f"{recipe.name}: unit={shown(unit)}: must be one of {', '.join(UNITS)}")
    if unit == recipe.unit:
        return recipe
    if unit == "tokens" and recipe.example_tokens is None:
        raise RecipeError(f"{recipe.name}: tokens_per_example is not known; give it")
    empty: dict[str, Any] = {name: None for old in UNITS for name in (old, f"warmup_{old}")}
    each, one = update_length(recipe, num_examples)
    other = replace(recipe, **(empty | {unit: 1.0, "decay": Constant()}))
    new, new_one = update_length(other, num_examples)
    times, over = one * new, each * new_one
    lengths = {unit: recipe.length * times / over, f"warmup_{unit}": recipe.warmup * times / over}
    decay = recipe.decay.in_unit(unit, times, over)
    return replace(recipe, **(empty | lengths), decay=decay)


def epochs_of(recipe: Recipe, num_examples: int | None = None) -> tuple[float | None, float | None]:
    """Return the warmup and the run in passes over the data; None each where not known.

    >>> epochs_of(Recipe(batch_size=100, lr=1, steps=90, warmup_steps=5), num_examples=1000)
    (0.5, 9.0)
    >>> epochs_of(Recipe(batch_size=100, lr=1, steps=90))
    (None, None)
    """
    if recipe.unit != "epochs" and num_examples is None and recipe.epoch_examples is None:
        return None, None
    found = in_unit(recipe, "epochs", num_examples)
    return found.warmup, found.length


def with_lengths(
    recipe: Recipe,
    *,
    epochs: float | None = None,
    warmup_epochs: float | None = None,
    steps: float | None = None,
    warmup_steps: float | None = None,
) -> Recipe:
    """Return the recipe with the given lengths, and all its lengths in their unit.

    Args:
        recipe: what is trained.
        epochs: of the run, in passes over the data; None keeps the recipe's length.
        warmup_epochs: of the warmup; None keeps the recipe's.
        steps: of the run, in updates, in place of epochs.
        warmup_steps: of the warmup, in updates.

    Raises:
        RecipeError: lengths are given in two units, one is out of range, or the recipe is in the
            other unit and the number of examples is not known.

    >>> with_lengths(Recipe(batch_size=100, lr=1, epochs=90), steps=500, warmup_steps=50).length
    500
    """
    run: dict[Unit, float | None] = {"epochs": epochs, "steps": steps}
    ramp: dict[Unit, float | None] = {"epochs": warmup_epochs, "steps": warmup_steps}
    given: list[Unit] = [u for u in run if run[u] is not None or ramp[u] is not None]
    if not given:
        return recipe
    if len(given) > 1:
        raise RecipeError(
            f"{recipe.name}: lengths are given in epochs and in steps; give both in one unit"
        )
    unit = given[0]
    length, warmup = run[unit], ramp[unit]
    whole = length is not None and (warmup is not None or recipe.warmup == 0)
    if whole and recipe.decay.unit is None:  # nothing of the recipe's own has to be converted
        empty: dict[str, Any] = {name: None for u in UNITS for name in (u, f"warmup_{u}")}
        return replace(recipe, **(empty | {unit: length, f"warmup_{unit}": warmup}))
    here = in_unit(recipe, unit)
    return here.with_lengths(
        here.length if length is None else length, here.warmup if warmup is None else warmup
    )
