"""Durations of a study's runs, estimated from runs measured on this machine.

The throughput is that of the study's finished run with the nearest batch size. Where none has
finished, it is the best of the task's micro-batch measurements, which contain neither the
optimizer's step nor the evaluations. Without both there is no estimate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from legw import rules, schedule
from legw.errors import RecipeError
from legw.runs.cache import MICRO_BATCHES, cache_folder
from legw.study.plan import Planned, Row


@dataclass(frozen=True)
class Rates:
    """Throughput by batch size, and its source."""

    of: dict[int, float]
    """Batch size -> examples a second; 0 stands for every batch size."""
    source: str
    """Source of the throughput, in a few words."""

    def at(self, batch_size: int) -> float:
        """Return the rate at the nearest batch size.

        >>> Rates({16: 100.0, 1024: 400.0}, "").at(512)
        400.0
        """
        nearest = min(self.of, key=lambda size: abs(math.log2(max(size, 1) / batch_size)))
        return self.of[nearest]


def measured(task: str, rows: Sequence[Row], cache: Path | None = None) -> Rates | None:
    """Return a task's known throughput on this machine; None where it is unknown.

    Args:
        task: the application's name.
        rows: of the study, as far as it is.
        cache: folder of the micro-batch measurements; None is ``~/.cache/legw``.
    """
    seen: dict[int, tuple[float, float]] = {}
    for row in rows:
        if row.status == "finished" and row.updates and row.seconds and not _grows(row.rule):
            examples, seconds = seen.get(row.batch_size, (0.0, 0.0))
            seen[row.batch_size] = (
                examples + row.updates * row.batch_size, seconds + row.seconds
            )  # fmt: skip
    if seen:
        return Rates({size: e / s for size, (e, s) in seen.items()}, "the runs that have ended")
    return _from_micro_batches(task, (cache or cache_folder()) / MICRO_BATCHES)


def _from_micro_batches(task: str, path: Path) -> Rates | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {
            key: max(float(rate) for rate in table.values())
            for key, table in content.items()
            if key.startswith(f"{task} | ") and table
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if not found or max(found.values()) <= 0:
        return None
    key = max(found, key=lambda name: found[name])
    return Rates({0: found[key]}, f"the micro-batch measured before ({key.split(' | ')[2]})")


def seconds(run: Planned, rates: Rates) -> float | None:
    """Return the duration of a whole run; None where its examples are unknown."""
    try:
        phases = schedule.phases(run.recipe)
    except RecipeError:
        return None
    return sum(each.updates * each.batch_size / rates.at(each.batch_size) for each in phases)


def _grows(rule: str) -> bool:
    """Say whether a rule's runs have several batch sizes, each with a throughput of its own."""
    known = rules.RULES.get(rule)
    return known is not None and known.growth is not None
