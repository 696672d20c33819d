"""Lengths of a run, its warmup and its decay: in epochs, steps, examples or tokens.

A recipe has one unit, and so have the lengths of its decay. In Python and in files the unit
is the end of a field's name: `warmup_steps`, `milestones_epochs`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

Unit = Literal["epochs", "steps", "examples", "tokens"]

UNITS: tuple[Unit, ...] = get_args(Unit)
"""The units: passes over the data, optimizer updates, examples seen, tokens seen."""


def power_of(value: float, k: float, power: float) -> float:
    """Return ``value * k**power``, dividing where the power is below 0.

    A division of whole numbers that has no rest is exact, where a product with the
    reciprocal may not be.

    Args:
        value: any finite number.
        k: target over base batch size, above 0.
        power: the exponent.

    >>> power_of(30000, 3, -1), power_of(391, 1.1, 0)
    (10000.0, 391.0)
    """
    return value * math.pow(k, power) if power >= 0 else value / math.pow(k, -power)


def edge(position: float, least: float) -> float:
    """Return the distance below a boundary at which a position counts as reaching it.

    Args:
        position: in any unit, at least 0.
        least: the guard of small positions.

    >>> edge(90, 1e-11), round(edge(1e9, 1e-11), 12)
    (1e-11, 1e-06)
    """
    return max(least, 1e-15 * position)
