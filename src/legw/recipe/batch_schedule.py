"""Batch schedule as data: batch sizes that grow during the run, and the rate that follows them.

With ``B`` the recipe's batch size, ``b(x)`` the batch at position x and ``p`` the power, the
rate of an update that begins at x is that of the recipe times ``(b(x)/B)**p``. An update
belongs to the phase in which it begins. Positions are in examples, whatever their unit: so the
decay ends when the data do, and each phase begins after the same examples on every machine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from legw.errors import RecipeError, check_count, check_range, shown

MAX_PHASES = 1000
"""Most batch sizes of a schedule: more is taken for a mistake, or a hostile file."""


@dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """Batch sizes before the recipe's own, and the positions at which they end.

    Raises:
        RecipeError: the lists differ in length, do not ascend, or a value is out of range.

    >>> BatchSchedule(sizes=(128, 1024), until=(0.8, 3.2)).lr_power
    0.5
    """

    sizes: tuple[int, ...]
    """Batch sizes before the recipe's `batch_size`, ascending, all below it."""
    until: tuple[float, ...]
    """End of each of them, ascending, in the unit of the recipe's lengths. In files it is
    `until_epochs`, `until_examples` or `until_tokens`."""
    lr_power: float = 0.5
    """Power of ``b/batch_size`` that multiplies the rate at batch b; at least 0, at most 2."""

    def __post_init__(self) -> None:
        for name in ("sizes", "until"):
            given = getattr(self, name)
            if not isinstance(given, tuple | list):
                raise self._fault(name, "must be a list, like [128, 1024]")
            object.__setattr__(self, name, tuple(given))
        if not 1 <= len(self.sizes) <= MAX_PHASES:
            raise RecipeError(
                f"batch_schedule: sizes: has {len(self.sizes)} batch sizes; give 1 to {MAX_PHASES}"
            )
        if len(self.sizes) != len(self.until):
            raise RecipeError(
                f"batch_schedule: sizes: has {len(self.sizes)} batch sizes and until "
                f"{len(self.until)} ends; give one end for each"
            )
        for size in self.sizes:
            check_count("batch_schedule", "sizes", size)
        for end in self.until:
            check_range("batch_schedule", "until", end, 0, above=True)
        check_range("batch_schedule", "lr_power", self.lr_power, 0, 2, closed=True)
        for name in ("sizes", "until"):
            if any(b <= a for a, b in itertools.pairwise(getattr(self, name))):
                raise self._fault(name, "must ascend; sort them, and leave none twice")

    def _fault(self, name: str, rule: str) -> RecipeError:
        return RecipeError(f"batch_schedule: {name}={shown(getattr(self, name))}: {rule}")

    def stretched(self, times: float, over: float = 1) -> BatchSchedule:
        """Return the same schedule with each position ``until * times / over``.

        Args:
            times: factor of each position, above 0.
            over: divisor of the product, above 0.

        >>> BatchSchedule(sizes=(8,), until=(0.5,)).stretched(1000).until
        (500.0,)
        """
        ends = tuple(end * times / over for end in self.until)
        return BatchSchedule(sizes=self.sizes, until=ends, lr_power=self.lr_power)

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Return plain values, the positions named by their unit.

        Args:
            unit: of the recipe's lengths.

        >>> BatchSchedule(sizes=(8,), until=(0.5,)).to_dict("epochs")
        {'sizes': (8,), 'until_epochs': (0.5,), 'lr_power': 0.5}
        """
        return {"sizes": self.sizes, f"until_{unit}": self.until, "lr_power": self.lr_power}
