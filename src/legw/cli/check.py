"""`legw check`: whether LEGW's assumptions hold for a task, by a ladder of short runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Optional

from tyro.conf import arg

from legw.cli import probe

# ruff: noqa: UP045 (as in inputs: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options(probe.Runs):
    """Train a ladder of short runs, and say whether the rule's assumptions hold for a task.

    They are four: the loss falls at the rule's rates, with room above; the curvature along
    the gradient peaks at the same update for every batch; the largest batch is not far past
    the gradient's noise scale; clipping does not shorten the steps of the small batch alone.
    "cannot tell" is one of the verdicts.

    Example: legw check my_module:task --recipe my_recipe.toml
    """

    batch_sizes: Annotated[Optional[str], arg(metavar="N,N,...", help_behavior_hint="")] = None
    """Batch sizes; the base recipe's own, and 4 and 16 times it, if not given."""
    updates: Annotated[int, arg(metavar="N")] = 200
    """Updates of each run, or the whole recipe where that has fewer."""
    examples: Annotated[int, arg(metavar="N")] = 256
    """Examples in the curvature's probe batch."""


def run(options: Options) -> int:
    """Train, measure, judge, and show on what grounds."""
    from legw.cli import checking

    return checking.run(options)
