"""Weights: a run's model, read back from its newest checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from legw.errors import LegwWarning, RunError, one_line
from legw.runs import records
from legw.train.checkpoint import load_newest

Model = TypeVar("Model", bound=nn.Module)

TABLE = "embed.weight"
"""Weights whose number of rows is the size of the vocabulary."""


def newest(folder: Path) -> Any:
    """Return the newest checkpoint's weights, by name: averaged, where the run averages them.

    Raises:
        RunError: the run has diverged, or has no checkpoint.
    """
    summary = records.read_summary(folder)
    if summary is not None and summary.status == "diverged":
        raise RunError(
            f"{folder}: has diverged at update {summary.updates}: "
            f"{one_line(summary.reason, 100)}; give another run"
        )
    content = load_newest(folder, lambda line: warnings.warn(line, LegwWarning, 2))
    if content is None:
        raise RunError(f"{folder}: has no checkpoint; train it first, or wait for the first one")
    return content.get("average", content.get("model"))


def restored(folder: Path, task: str, make: Callable[[int], Model], weights: Any) -> Model:
    """Return the model with these weights.

    Args:
        folder: the run folder, for errors.
        task: name of the task in the manifest.
        make: returns a model with so many rows in its table.
        weights: of a checkpoint.

    Raises:
        RunError: they belong to another model, or are no numbers.
    """
    try:
        model = make(len(weights[TABLE]))
        model.load_state_dict(weights)
    except (LookupError, TypeError, RuntimeError):
        raise RunError(
            f"{folder}: its checkpoint is not of {task}, which manifest.json names: "
            "these do not belong together; give another run"
        ) from None
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise RunError(f"{folder}: has diverged: its weights are no numbers; give another run")
    return model
