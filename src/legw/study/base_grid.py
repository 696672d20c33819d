"""Grid of bases: a study at the base batch alone, by validation data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from legw.errors import LegwError, one_line, setting
from legw.recipe import Recipe
from legw.study.grid import Grid
from legw.study.plan import Study, plan

KEPT = ("batch_size", "batch_schedule")
"""Fields of a base that a grid at its own batch does not vary."""


def base_study(
    name: str,
    base: Recipe,
    grid: Grid,
    *,
    seeds: Sequence[int],
    command: str = "",
) -> Study:
    """Return the study that tunes a base at its own batch.

    Args:
        name: the application's, or ``module:attribute``.
        base: the recipe whose fields are varied.
        grid: fields, each with its values.
        seeds: one run each of every combination.
        command: the command line that makes it; empty outside of a command.

    Raises:
        LegwError: there is no grid, it has a single combination, or it varies the batch.
        RecipeError: an unknown field, or a value that cannot be.

    >>> base = Recipe(name="mine", batch_size=16, lr=0.1, epochs=10)
    >>> base_study("mine", base, {"lr": (0.1, 0.2)}, seeds=(0, 1)).batch_sizes
    (16,)
    """
    if not grid:
        raise LegwError(
            f"tune: {setting('grid')} is missing; give fields of the base with their values, "
            "for example lr=0.1,0.2"
        )
    for field in grid:
        if field.partition(".")[0] in KEPT:
            raise LegwError(
                f"tune: grid: {one_line(field, 60)}: a base is tuned at its own batch of "
                f"{base.batch_size}; leave it out, or compare batch sizes with legw study"
            )
    if math.prod(len(values) for values in grid.values()) < 2:
        raise LegwError(
            "tune: grid: has a single combination; give at least two to choose from"
        )  # fmt: skip
    asked = Study(
        task=name,
        base=base,
        batch_sizes=(base.batch_size,),
        seeds=tuple(seeds),
        grid=grid,
        holdout="validation",
        command=command,
    )
    plan(asked)  # says what cannot be
    return asked
