"""Large-batch training without tuning again: LEGW and its rivals, for any loop.

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

from legw.decays import Constant, Cosine, Decay, Exponential, Halving, Polynomial, Step
from legw.errors import (
    DataError,
    DivergedError,
    LegwError,
    LegwWarning,
    RecipeError,
    RunError,
)
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Optimizer
from legw.recipe import Recipe
from legw.rules import Rule, scale
from legw.schedule import in_steps, lr_at, updates, warmup_updates

if TYPE_CHECKING:
    from legw import train as train

__version__ = "0.1.0"

__all__ = [
    "LAMB", "LARS", "SGD", "Adam", "AdamW", "Constant", "Cosine", "DataError", "Decay",
    "DivergedError", "Exponential", "Halving", "LegwError", "LegwWarning", "Optimizer",
    "Polynomial", "Recipe", "RecipeError", "Rule", "RunError", "Step", "in_steps", "lr_at",
    "scale", "updates", "warmup_updates",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import `legw.train` when it is first asked for: it needs torch."""
    if name == "train":
        import importlib

        return importlib.import_module("legw.train")
    raise AttributeError(f"module 'legw' has no attribute {name!r}")
