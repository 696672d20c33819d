"""Gradient clipping: whether a recipe's clipping acts alike at every batch size.

A rule scales the rate. Where a gradient is clipped, the step is rate times clip norm, however
large the gradient was. A small batch's gradient has a larger norm, since it has more noise in
it: a base that is clipped at nearly every update, and a large batch that hardly ever is, take
steps that grow by less than the rate. Arithmetic on records; no torch here.
"""

from __future__ import annotations

from collections.abc import Sequence

from legw.recipe import Recipe
from legw.runs.records import Update

CLIPPED_MOSTLY = 0.5
"""Share of clipped updates from which on clipping says how long a base's steps are."""

CLIPPED_RARELY = 0.5
"""Times the base's share below which a larger batch is clipped seldom."""


def clipped_share(recipe: Recipe, updates: Sequence[Update]) -> float | None:
    """Return the share of updates whose gradient was clipped, 0 to 1.

    None without clipping, without updates, and for optimizers whose step does not depend on
    the gradient's length (all but SGD).

    Args:
        recipe: its optimizer and clip norm.
        updates: all of a run's, or evenly spaced ones.
    """
    norms = [row.grad_norm for row in updates if row.grad_norm is not None]
    if recipe.clip_norm is None or recipe.optimizer.kind != "sgd" or not norms:
        return None
    return sum(norm > recipe.clip_norm for norm in norms) / len(norms)


def on_base_alone(base: float, share: float) -> bool:
    """Say whether clipping makes the base's steps, and seldom those of another batch.

    Args:
        base: share of clipped updates at the base's batch.
        share: at the other batch.

    >>> on_base_alone(0.98, 0.12), on_base_alone(0.98, 0.6), on_base_alone(0.3, 0.0)
    (True, False, False)
    """
    return base >= CLIPPED_MOSTLY and share < CLIPPED_RARELY * base
