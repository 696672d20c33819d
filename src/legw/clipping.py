"""Whether a recipe's clipping acts alike at every batch size.

A rule scales the rate. Where a gradient is clipped, the step is rate times clip norm, however
large the gradient was. A small batch's gradient has a larger norm, since it has more noise in
it: a base that is clipped at nearly every update, and a large batch that hardly ever is, take
steps that grow by less than the rate. Arithmetic on records; no torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from legw.recipe import Recipe
from legw.records import Run, Update
from legw.study import Row

MOSTLY = 0.5
"""Share of clipped updates from which on clipping says how long a base's steps are."""

LESS = 0.5
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


def notes(runs: Iterable[tuple[Row, Run]]) -> list[str]:
    """Return a line for each batch size that is clipped far more seldom than its base."""
    shares: dict[tuple[str, int, str], list[float]] = {}
    for row, run in runs:
        share = clipped_share(run.manifest.recipe, run.updates)
        if share is not None:
            shares.setdefault((row.variant, row.batch_size, row.rule), []).append(share)
    means = {key: fmean(found) for key, found in shares.items()}
    bases = {variant: share for (variant, _, rule), share in means.items() if rule == "base"}
    return [
        f"Batch {size}, {' '.join(filter(None, (rule, variant)))}: {share:.0%} of the updates "
        f"are clipped, of the base's {bases[variant]:.0%}: steps grow by less than the rate"
        for (variant, size, rule), share in means.items()
        if variant in bases and bases[variant] >= MOSTLY and share < LESS * bases[variant]
    ]
