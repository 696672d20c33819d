"""LEGW: large-batch training without tuning again, with other scaling rules, for any loop.

>>> from legw import Recipe, scale, in_steps
>>> base = Recipe(batch_size=128, lr=0.1, epochs=25, warmup_epochs=0.1)
>>> big = scale(base, batch_size=8192)
>>> lr = in_steps(big, num_examples=60000)
>>> round(lr(1000), 12)
0.8

Importing this module imports neither torch nor numpy; `legw.train` does, on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from legw.decays import (
    Constant,
    Cosine,
    Decay,
    Exponential,
    Halving,
    InverseSqrt,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from legw.errors import (
    DataError,
    DivergedError,
    LegwError,
    LegwWarning,
    RecipeError,
    RunError,
)
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Muon, Optimizer
from legw.presets import find as preset
from legw.recipe import Recipe
from legw.recipe import read as read_recipe
from legw.recipe.batch_schedule import BatchSchedule
from legw.recipe.rule import Rule
from legw.rules import scale
from legw.schedule import (
    batches,
    in_steps,
    in_unit,
    lr_at,
    updates,
    updates_per_epoch,
    warmup_updates,
    with_lengths,
)

if TYPE_CHECKING:
    from legw import train as train
    from legw.adapters.configs import Config, from_config
    from legw.analysis.evidence import compare
    from legw.analysis.scaled import all_rules, ladder, scale_table

__version__ = "0.1.0"

__all__ = [
    "LAMB", "LARS", "SGD", "Adam", "AdamW", "BatchSchedule", "Config", "Constant", "Cosine",
    "DataError", "Decay", "DivergedError", "Exponential", "Halving", "LegwError", "LegwWarning",
    "InverseSqrt", "Muon", "Optimizer", "Polynomial", "Recipe", "RecipeError", "Rule", "RunError",
    "Step", "WarmupStableDecay", "all_rules", "batches", "compare", "from_config",
    "in_steps", "in_unit", "ladder", "lr_at", "preset", "read_recipe", "scale",
    "scale_table", "updates", "updates_per_epoch", "warmup_updates", "with_lengths",
]  # fmt: skip


LATER = {
    "Config": "legw.adapters.configs",
    "from_config": "legw.adapters.configs",
    "all_rules": "legw.analysis.scaled",
    "compare": "legw.analysis.evidence",
    "ladder": "legw.analysis.scaled",
    "scale_table": "legw.analysis.scaled",
}
"""Names that are rarely needed, and the modules that they are imported from when asked for."""


def __getattr__(name: str) -> Any:
    """Import what is rarely needed, or needs torch, when it is first asked for."""
    import importlib

    if name == "train":
        return importlib.import_module("legw.train")
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'legw' has no attribute {name!r}")
