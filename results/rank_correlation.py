"""Spearman's rank correlation within groups, with a permutation test.

The ranks of a group of m values, divided by m + 1, less their mean, are correlated over all
groups. With one group that is the usual coefficient. p is that of a permutation test, two-sided,
with permutations within the groups alone.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

MAX_ORDERS = 50_000
"""Most permutations that are all made; of more, `DRAWS` are drawn."""

DRAWS = 10_000
"""Random permutations of a test."""

Pairs = Sequence[tuple[float, float]]
"""Of one group: predictor and loss of each base."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation within groups, with its permutation test."""

    value: float
    """In [-1, 1]; above 0: the more of the predictor, the more is lost."""
    p: float
    """Share of the permutations whose correlation is at least as far from 0."""
    n: int
    """Bases in all groups."""


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1 on; equal values share the mean of theirs.

    >>> ranks([0.3, 0.1, 0.3])
    [2.5, 1.0, 2.5]
    """
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def correlate(groups: Sequence[Pairs]) -> Correlation | None:
    """Return the rank correlation within groups; None where it is not defined.

    A group in which the predictor or the loss does not vary tells nothing and is left out. Fewer
    than three bases in all are too few.

    >>> correlate([[(1, 1), (2, 2), (3, 3), (4, 5), (5, 4)]])
    Correlation(value=0.9, p=0.08333333333333333, n=5)
    """
    told = [each for each in groups if all(len(set(side)) > 1 for side in zip(*each, strict=True))]
    count = sum(map(len, told))
    if count < 3:
        return None
    sides = [[_centred(side) for side in zip(*each, strict=True)] for each in told]
    x, y = (numpy.concatenate(side) for side in zip(*sides, strict=True))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    value = float(x @ y) / scale
    orders, every = _permuted([own for _, own in sides])
    as_far = int((numpy.abs(orders @ x) / scale >= abs(value) - 1e-9).sum())
    p = as_far / len(orders) if every else (as_far + 1) / (len(orders) + 1)
    return Correlation(value=round(value, 12), p=p, n=count)


def _centred(values: Sequence[float]) -> numpy.ndarray:
    """Return ranks over their number plus one, less their mean."""
    found = numpy.array(ranks(values)) / (len(values) + 1)
    return found - found.mean()


def _permuted(groups: Sequence[numpy.ndarray]) -> tuple[numpy.ndarray, bool]:
    """Return orders of all groups, each permuted within itself, and whether these are all."""
    if math.prod(math.factorial(len(each)) for each in groups) <= MAX_ORDERS:
        single = [list(itertools.permutations(each)) for each in groups]
        return numpy.array([sum(one, ()) for one in itertools.product(*single)]), True
    random = numpy.random.default_rng(0)
    drawn = [random.permuted(numpy.tile(each, (DRAWS, 1)), axis=1) for each in groups]
    return numpy.concatenate(drawn, axis=1), False
