"""Figures as tables of README and docs write them."""

from math import floor, log10

from legw.analysis import stats
from legw.analysis.table import Cell


def figure(cell: Cell) -> str:
    """Return a cell's metric with its interval, or why it has none."""
    return cell.reason or "-" if cell.estimate is None else with_interval(cell.estimate)


def with_interval(estimate: stats.Estimate) -> str:
    """Return a mean and half its 95 % interval, to two digits of the interval.

    A share has at most 4 decimals, a perplexity or BLEU at most 2; a single run has those.
    """
    digits = 4 if abs(estimate.mean) < 1.5 else 2
    if estimate.half_width is None:
        return f"{estimate.mean:.{digits}f}"
    if estimate.half_width > 0:
        digits = min(digits, max(0, 1 - floor(log10(estimate.half_width))))
    return f"{estimate.mean:.{digits}f} ± {estimate.half_width:.{digits}f}"
