"""Gradient clipping: whether a recipe's clipping acts alike at every batch size.

A rule scales the learning rate. The step of a clipped gradient is the learning rate times the clip
norm, for a gradient of any size. A small batch's gradient has a larger norm, since it contains more
noise. If the base is clipped at nearly every update and a large batch hardly ever, their steps
differ by less than their learning rates. This module computes from records and needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from legw.recipe import Recipe
from legw.runs.records import Update

CLIPPED_MOSTLY = 0.5
"""Share of clipped updates from which on clipping determines the length of a base's steps."""

CLIPPED_RARELY = 0.5
"""Factor of the base's share below which a larger batch counts as rarely clipped."""


def clipped_share(recipe: Recipe, updates: Sequence[Update]) -> float | None:
    """Return the share of updates whose gradient was clipped, 0 to 1.

    None without clipping, without updates, and for optimizers whose step does not depend on
    the gradient's length (all but SGD).

    Args:
        recipe: its optimizer and clip norm count.
        updates: all of a run's, or evenly spaced ones.
    """
    norms = [row.grad_norm for row in updates if row.grad_norm is not None]
    if recipe.clip_norm is None or recipe.optimizer.kind != "sgd" or not norms:
        return None
    return sum(norm > recipe.clip_norm for norm in norms) / len(norms)


def on_base_alone(base: float, share: float) -> bool:
    """Say whether clipping shortens the base's steps, and rarely those of another batch.

    Args:
        base: share of clipped updates at the base's batch, in [0, 1].
        share: share of clipped updates at the other batch, in [0, 1].

    >>> on_base_alone(0.98, 0.12), on_base_alone(0.98, 0.6), on_base_alone(0.3, 0.0)
    (True, False, False)
    """
    return base >= CLIPPED_MOSTLY and share < CLIPPED_RARELY * base
