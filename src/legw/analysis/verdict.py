"""Verdict on a cell of a study: whether it keeps the base's metric, within a tolerance.

With Welch's interval of the loss (how much worse the cell's mean is than the base's):

    keeps           the whole interval lies at or below the tolerance
    loses           the whole interval lies above the tolerance, or a run diverged
    cannot tell     the interval holds the tolerance, or there is one run only
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from legw.analysis.stats import Difference
from legw.errors import LegwError, given, one_line

Outcome = Literal["keeps", "loses", "cannot tell"]

USUAL = "1%"
"""The tolerance of a study that states none."""


@dataclass(frozen=True)
class Tolerance:
    """Largest loss against the base that counts as keeping its metric."""

    value: float
    """In the metric's unit, or a share of the base's mean; above 0."""
    relative: bool
    """Whether it is a share of the base's mean."""

    def absolute(self, base: float) -> float:
        """Return the tolerance in the metric's unit, for a base's mean."""
        return self.value * abs(base) if self.relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"

    def of(self, metric: str) -> str:
        """Return the tolerance of a metric in words: of an accuracy in points.

        >>> Tolerance(0.015, relative=False).of("accuracy")
        '1.5 points'
        """
        if self.relative:
            return str(self)
        return points(self.value) if metric == "accuracy" else f"{self} {metric}"


def points(share: float) -> str:
    """Return a share in points.

    >>> points(0.01), points(0.0123)
    ('1 point', '1.2 points')
    """
    number = f"{100 * share:.2g}"
    return f"{number} point{'' if number == '1' else 's'}"


def read_tolerance(text: str, *, name: str = "tolerance", of: str = "metric") -> Tolerance:
    """Read a tolerance as users write it.

    Args:
        text: a number in the metric's unit, or a share of the base's mean in percent.
        name: the setting that has it, for errors.
        of: the quantity that it is a tolerance of, for errors.

    Raises:
        LegwError: it is no such number above 0.

    >>> print(read_tolerance("0.001"), read_tolerance("3%"))
    0.001 3 %
    """
    number = text.strip().removesuffix("%")
    relative = number != text.strip()
    try:
        value = float(number) / (100 if relative else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise LegwError(
            f"{given(name, one_line(text, 40))}: must be a number above 0 in the {of}'s unit, "
            "or a share of the base's as in 1%"
        )
    return Tolerance(value, relative)


USUAL_TOLERANCE = read_tolerance(USUAL)


@dataclass(frozen=True)
class Verdict:
    """The verdict of a comparison."""

    outcome: Outcome
    loss: float
    """Difference of the mean from the base's, in the metric's unit, above 0 where it is worse."""
    base: float
    """The base's mean."""
    metric: str

    def __str__(self) -> str:
        return f"loses {self.amount}" if self.outcome == "loses" else self.outcome

    @property
    def amount(self) -> str:
        """The loss in words: accuracies in points, others in their unit and as a share.

        >>> Verdict("loses", 0.0123, 0.98, "accuracy").amount
        '1.2 points'
        >>> Verdict("loses", 3.15, 34.79, "BLEU").amount
        '3.15 BLEU (9.1 %)'
        """
        if self.metric == "accuracy":
            return points(self.loss)
        percent = 100 * self.loss / abs(self.base) if self.base else 0.0
        share = f" ({percent:.{0 if percent >= 10 else 1}f} %)" if self.base else ""
        return f"{self.loss:.3g} {self.metric}{share}"


def judge(
    difference: Difference, base: float, tolerance: Tolerance, *, metric: str, better_is_more: bool
) -> Verdict:
    """Return the verdict of an interval.

    Args:
        difference: the cell's mean less the base's, with its interval.
        base: the base's mean.
        tolerance: largest loss that counts as keeping the metric.
        metric: name of the metric.
        better_is_more: True where a larger metric is better.

    >>> lost = Difference(mean=-0.02, low=-0.03, high=-0.01)
    >>> print(judge(lost, 0.98, read_tolerance("0.001"), metric="accuracy", better_is_more=True))
    loses 2 points
    """
    low, high = difference.low, difference.high
    least, most = (-high, -low) if better_is_more else (low, high)
    allowed = tolerance.absolute(base)
    outcome: Outcome = "cannot tell"
    if most <= allowed:
        outcome = "keeps"
    elif least > allowed:
        outcome = "loses"
    loss = -difference.mean if better_is_more else difference.mean
    return Verdict(outcome, loss, base, metric)
