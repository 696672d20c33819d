"""Divergence: a loss that is not finite, or far above its earlier level."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

WINDOW = 50
"""Updates over which the loss is averaged to detect divergence."""


@dataclass
class Divergence:
    """Detects divergence: a loss that is not finite, or far above its earlier level.

    A run has diverged if the mean over 50 updates is above 4 times the lowest such mean, and above
    the first update's loss. For a loss that may be below 0, such as that of a density, the mean
    must exceed the lowest by more than 3 times the larger of ``|lowest|`` and ``|first loss|``.

    >>> watch = Divergence()
    >>> watch.add(2.0), watch.add(float("nan"))
    ('', 'the loss is not finite')
    """

    first: float | None = None
    lowest: float = math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, loss: float) -> str:
        """Take the next update's loss; return why the run has diverged, or an empty text."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if self.first is None:
            self.first = loss
        self.recent.append(loss)
        if len(self.recent) < WINDOW:
            return ""
        mean = sum(self.recent) / WINDOW
        lowest = self.lowest = min(self.lowest, mean)
        rose = f"the mean loss over {WINDOW} updates rose to {mean:.4g}, "
        if lowest > 0:
            diverged = mean > 4 * lowest and mean > self.first
            return f"{rose}over 4 times its lowest ({lowest:.4g})" if diverged else ""
        diverged = mean - lowest > 3 * max(-lowest, abs(self.first))
        return f"{rose}far above its lowest ({lowest:.4g}) and the first" if diverged else ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"first": self.first, "lowest": self.lowest, "recent": list(self.recent)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Divergence:
        """Return the state that `to_dict` wrote."""
        return cls(data["first"], data["lowest"], deque(data["recent"], maxlen=WINDOW))
