"""Statistics of a few seeds: mean, spread, and the interval of a difference.

With ``n`` values of mean ``m`` and standard deviation ``s`` (divisor ``n - 1``):

    interval of the mean    m +- t * s / sqrt(n)        t: Student's, n - 1 degrees of freedom

A single value has no spread and no interval: they are None, never 0.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Confidence level of every interval in our tables and charts."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, with its interval."""

    mean: float
    """Mean of the values, in their unit."""
    deviation: float | None
    """Sample standard deviation (divisor n - 1), in the same unit; None for n = 1."""
    half_width: float | None
    """Half the width of the confidence interval, in the same unit; None for n = 1."""
    n: int
    """Number of values, at least 1."""

    @property
    def low(self) -> float | None:
        """Lower end of the interval; None for n = 1."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval; None for n = 1."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two means, with its interval."""

    mean: float
    """First mean minus the second, in their unit."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Return the mean over seeds with its interval: ``m +- t * s / sqrt(n)``.

    Args:
        values: finite numbers, at least one.
        level: confidence level, in (0, 1).

    Raises:
        statistics.StatisticsError: there are no values.

    Reference: Student 1908, "The probable error of a mean".

    >>> found = estimate([0.95, 0.96, 0.97])
    >>> round(found.mean, 9), round(found.deviation, 9), round(found.half_width, 6), found.n
    (0.96, 0.01, 0.024841, 3)
    >>> estimate([0.95]).half_width is None
    True
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Estimate(mean=mean, deviation=None, half_width=None, n=1)
    deviation = statistics.stdev(values)
    half_width = t_quantile(level, n - 1) * deviation / math.sqrt(n)
    return Estimate(mean=mean, deviation=deviation, half_width=half_width, n=n)


def welch(
    first: Sequence[float], second: Sequence[float], level: float = LEVEL
) -> Difference | None:
    """Return the difference of two means with Welch's interval; None where one has n = 1.

    With ``v = s**2 / n`` of either side, the interval is ``m1 - m2 +- t * sqrt(v1 + v2)``
    with ``(v1 + v2)**2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))`` degrees of freedom: the
    two sides may have different spreads and numbers of values.

    Args:
        first: finite numbers, at least one.
        second: finite numbers in the unit of `first`, at least one.
        level: confidence level, in (0, 1).

    Raises:
        statistics.StatisticsError: one side has no values.

    Reference: Welch 1947, "The generalization of Student's problem when several
    different population variances are involved".

    >>> found = welch([0.95, 0.96, 0.97], [0.90, 0.92, 0.94])
    >>> [round(x, 5) for x in (found.mean, found.low, found.high)]
    [0.04, -0.00155, 0.08155]
    """
    mean = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return None
    parts = [(statistics.variance(side) / len(side), len(side) - 1) for side in (first, second)]
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return Difference(mean=mean, low=mean, high=mean)
    # As shares of the whole, the squares of small variances do not underflow.
    freedom = 1 / sum((v / variance) ** 2 / df for v, df in parts)
    half_width = t_quantile(level, freedom) * math.sqrt(variance)
    return Difference(mean=mean, low=mean - half_width, high=mean + half_width)


@functools.lru_cache(maxsize=256)
def t_quantile(level: float, freedom: float) -> float:
    """Return t such that Student's distribution has the share `level` in [-t, t].

    With ``t = sqrt(f) * tan(a)`` the share is the integral of ``cos(x)**(f - 1)`` from 0
    to ``a``, over its value at ``a = pi / 2``: a smooth integrand on a short stretch.

    Args:
        level: two-sided share, in (0, 1).
        freedom: degrees of freedom, at least 1; may be fractional.

    >>> [round(t_quantile(0.95, freedom), 6) for freedom in (1, 2, 4, 1000)]
    [12.706205, 4.302653, 2.776445, 1.962339]
    """

    def density(angle: float) -> float:
        return math.pow(math.cos(angle), freedom - 1)

    half_beta = math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)
    missing = level * math.sqrt(math.pi) / 2 * math.exp(half_beta)
    angle, step = 0.0, missing
    # Newton's method from 0: the integral is concave, so that no step goes too far.
    while step > 1e-15:
        missing -= _integral(density, angle, angle + step)
        angle += step
        step = missing / density(angle)
    return math.sqrt(freedom) * math.tan(angle)


def _integral(function: Callable[[float], float], low: float, high: float) -> float:
    """Integrate a smooth function by Simpson's rule."""
    pieces = 200
    width = (high - low) / pieces
    inner = sum((2 + 2 * (i % 2)) * function(low + i * width) for i in range(1, pieces))
    return (function(low) + inner + function(high)) * width / 3
