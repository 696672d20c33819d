"""Scalars of a run: the names and values under which trackers show its rows."""

from __future__ import annotations

import re
from typing import Any

from legw.errors import clean
from legw.recipe import to_dict
from legw.recipe.notebook import flat
from legw.runs.records import Evaluation, Manifest, Summary, Update

ABOUT = (
    "task", "rule", "seed", "num_examples", "updates", "micro_batch_size", "lanes", "precision",
    "world_size", "device", "metric", "data",
)  # fmt: skip
"""Fields of a manifest that belong to a run's configuration, beside its recipes."""

VERSIONS = ("legw", "python", "torch")
"""Versions that belong to it, too."""


def of_update(row: Update) -> dict[str, float]:
    """Return the scalars of an update; what is not known is left out, NaN is not.

    >>> of_update(Update(update=0, epoch=0.5, loss=2.5, lr=0.1))
    {'train/loss': 2.5, 'train/lr': 0.1}
    """
    return _known({
        "train/loss": row.loss,
        "train/lr": row.lr,
        "train/grad_norm": row.grad_norm,
        "train/examples_per_second": row.examples_per_second,
    })  # fmt: skip


def of_evaluation(row: Evaluation, metric: str) -> dict[str, float]:
    """Return the scalars of an evaluation.

    >>> of_evaluation(Evaluation(update=9, epoch=1.0, metric=0.5, loss=1.0), "accuracy")
    {'evaluation/accuracy': 0.5}
    """
    return _known({f"evaluation/{name_of(metric)}": row.metric})


def of_summary(summary: Summary) -> dict[str, float]:
    """Return the scalars of a run's end."""
    metric = str(summary.metric.get("name") or "metric")
    found: dict[str, float | None] = {
        "final/loss": summary.final_loss,
        f"final/{name_of(metric)}": summary.metric.get("value"),
        "final/seconds": summary.seconds,
        "final/wall_seconds": summary.wall_seconds,
        "final/examples": summary.examples,
        "final/epochs": summary.epochs,
    }
    found |= {f"final/{name_of(name)}": value for name, value in summary.metrics.items()}
    return _known(found)


def configuration(manifest: Manifest) -> dict[str, Any]:
    """Return a run's configuration: its recipe under its own names, the base's as ``base.lr``."""
    found = flat(to_dict(manifest.recipe))
    found |= {f"base.{name}": value for name, value in flat(to_dict(manifest.base)).items()}
    found |= {name: getattr(manifest, name) for name in ABOUT}
    found |= {name: manifest.environment.get(name) for name in VERSIONS}
    return {
        name_of(name): clean(value) if isinstance(value, str) else value
        for name, value in found.items()
        if value not in (None, "") and name.rpartition(".")[2] != "source"
    }


def name_of(text: str) -> str:
    """Return a name that every tracker takes: ASCII letters, digits and ``._-``.

    >>> name_of("top 5 %"), name_of("")
    ('top-5', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:100].strip("-") or "unnamed"


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
