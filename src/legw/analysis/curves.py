"""Curves: long ones reduced to a few points that look the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]
"""A curve: (x, y), x ascending."""

MAX_POINTS = 500
"""Most points of a curve in a page."""


def thin(points: Points, most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` points of a curve: of each stretch its lowest and its highest.

    Both ends stay, and so does every peak that is the highest of its stretch.

    Args:
        points: the curve.
        most: most points that come back, at least 4.

    >>> thin([(x, 1.0 if x == 30 else 0.0) for x in range(100)], most=6)
    [(0, 0.0), (1, 0.0), (30, 1.0), (50, 0.0), (99, 0.0)]
    """
    if len(points) <= most:
        return list(points)
    inner, kept = points[1:-1], [points[0]]
    for piece in _pieces(inner, (most - 2) // 2):
        extremes = {min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])}
        kept += sorted(extremes)
    return [*kept, points[-1]]


def means(points: Points, most: int) -> list[tuple[float, float]]:
    """Return the means of at most `most` equal stretches, each at the end of its stretch.

    Args:
        points: the curve.
        most: most points that come back, at least 1.

    >>> means([(1, 4.0), (2, 2.0), (3, 1.0), (4, 1.0)], most=2)
    [(2, 3.0), (4, 1.0)]
    """
    return [
        (piece[-1][0], math.fsum(y for _, y in piece) / len(piece))
        for piece in _pieces(points, most)
    ]


def corners(points: Points, tolerance: float = 1e-3) -> list[tuple[float, float]]:
    """Return the points without which straight lines would miss the curve.

    Args:
        points: the curve.
        tolerance: largest distance in y that may be missed, as a share of its range.

    Reference: Douglas and Peucker 1973, "Algorithms for the reduction of the number of
    points required to represent a digitized line".

    >>> corners([(0, 0.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)])
    [(0, 0.0), (2, 2.0), (4, 2.0)]
    """
    if len(points) < 3:
        return list(points)
    values = [y for _, y in points]
    limit = tolerance * (max(values) - min(values))
    kept, stretches = {0, len(points) - 1}, [(0, len(points) - 1)]
    while stretches:
        first, last = stretches.pop()
        far, distance = first, limit
        for i in range(first + 1, last):
            missed = abs(points[i][1] - _between(points[first], points[last], points[i][0]))
            if missed > distance:
                far, distance = i, missed
        if far != first:
            kept.add(far)
            stretches += [(first, far), (far, last)]
    return [points[i] for i in sorted(kept)]


def _between(first: tuple[float, float], last: tuple[float, float], x: float) -> float:
    """Return y at x on the line through two points."""
    share = (x - first[0]) / (last[0] - first[0]) if last[0] != first[0] else 0.0
    return first[1] + share * (last[1] - first[1])


def _pieces(points: Points, most: int) -> list[Points]:
    """Cut a curve into at most `most` stretches of nearly equal length."""
    count = min(most, len(points))
    cuts = [round(i * len(points) / count) for i in range(count + 1)] if count else []
    return [points[low:high] for low, high in itertools.pairwise(cuts)]
