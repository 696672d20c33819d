"""Long curves as few points."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legw.analysis import curves

CURVES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400).map(
    lambda values: [(float(x), y) for x, y in enumerate(values)]
)


@given(CURVES, st.integers(4, 100))
def test_a_thinned_curve_keeps_its_ends_its_peaks_and_its_order(
    points: list[tuple[float, float]], most: int
) -> None:
    thin = curves.thin(points, most)
    assert len(thin) <= max(most, 1)
    assert set(thin) <= set(points)
    assert thin == sorted(thin)
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    values, kept = [y for _, y in points], [y for _, y in thin]
    assert (min(values), max(values)) == (min(kept), max(kept))


def test_a_short_curve_is_left_alone() -> None:
    assert curves.thin([(0, 1.0), (1, 2.0)]) == [(0, 1.0), (1, 2.0)]
    assert curves.thin([]) == []


@given(CURVES, st.integers(1, 100))
def test_means_lie_within_the_curve(points: list[tuple[float, float]], most: int) -> None:
    means = curves.means(points, most)
    assert len(means) == min(most, len(points))
    assert means[-1][0] == points[-1][0]
    values = [y for _, y in points]
    low, high = min(values), max(values)
    assert all(low - 1e-6 <= y <= high + 1e-6 for _, y in means)


def test_no_curve_has_no_means() -> None:
    assert curves.means([], 10) == []


@given(CURVES)
def test_straight_lines_between_corners_miss_little(points: list[tuple[float, float]]) -> None:
    kept = curves.corners(points, tolerance=0.01)
    values = [y for _, y in points]
    limit = 0.01 * (max(values) - min(values)) + 1e-6
    for (x0, y0), (x1, y1) in itertools.pairwise(kept):
        for x, y in points:
            if x0 <= x <= x1:
                assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=limit)
