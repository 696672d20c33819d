"""Peaks of the curvature, the exponent of their position, and warmups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legw.analysis.curvature import peak, power_law, smoothed, suggested_warmup
from legw.runs.measurements import Curvature


def curve(*values: float | None, every: int = 1) -> list[Curvature]:
    return [
        Curvature(update=i * every, epoch=i * every / 10, curvature=c, negative=False, lr=0.1)
        for i, c in enumerate(values)
    ]


def test_the_peak_is_that_of_the_smoothed_curve() -> None:
    """One wild measurement is no peak."""
    rows = curve(1, 1, 99, 1, 1, 2, 5, 6, 7, 6, 5, 2, 1)
    found = peak(rows, batch_size=50, num_examples=1000)
    assert found is not None
    assert (found.update, found.curvature) == (8, 6)
    assert found.epoch == pytest.approx(9 * 50 / 1000)


def test_lost_measurements_are_left_out() -> None:
    assert smoothed(curve(1.0, None, 3.0), width=1) == [(0, 1.0), (2, 3.0)]
    assert peak(curve(None, None), 1, 10) is None
    assert peak([], 1, 10) is None


@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_a_power_law_gives_its_exponent_back(exponent: float, factor: float) -> None:
    points = [(x, factor * x**exponent) for x in (1.0, 2.0, 5.0, 40.0)]
    found = power_law(points)
    assert found is not None and found.low is not None and found.high is not None
    assert found.exponent == pytest.approx(exponent, abs=1e-9)
    assert found.factor == pytest.approx(factor, rel=1e-9)
    assert found.high - found.low < 1e-6


def test_the_exponents_interval_is_students_of_a_slope() -> None:
    """Against scipy's regression."""
    scipy_stats = pytest.importorskip("scipy.stats")
    import math

    points = [(128, 0.07), (512, 0.30), (2048, 0.82), (8192, 1.91)]
    found = power_law(points)
    line = scipy_stats.linregress(*zip(*[(math.log(x), math.log(y)) for x, y in points]))  # noqa: B905
    half = scipy_stats.t.ppf(0.975, 2) * line.stderr
    assert found is not None
    assert (found.exponent, found.low, found.high) == pytest.approx(
        (line.slope, line.slope - half, line.slope + half), rel=1e-6
    )


def test_one_batch_size_has_no_exponent_and_two_points_no_interval() -> None:
    assert power_law([(8, 1.0), (8, 2.0)]) is None
    found = power_law([(8, 1.0), (16, 2.0)])
    assert found is not None and found.low is None and found.exponent == pytest.approx(1.0)


def test_the_warmup_ends_where_the_curvature_stays_below_the_inverse_rate() -> None:
    heights = (1, 1, 20, 20, 20, 20, 1, 1, 1, 20, 20, 20, *[1] * 7)
    rows = curve(*heights, every=2)
    assert suggested_warmup(rows, lr=0.1) == 24
    assert suggested_warmup(rows, lr=0.01) == 0
    assert suggested_warmup(rows, lr=2.0) is None


def test_a_curvature_that_has_only_just_fallen_may_rise_again() -> None:
    """The last update above is 22; below for good is from 24 on, until 36."""
    heights = (1, 1, 20, 20, 20, 20, 1, 1, 1, 20, 20, 20)
    assert suggested_warmup(curve(*heights, *[1] * 6, every=2), lr=0.1) is None


def test_a_lost_curvature_counts_as_above_the_inverse_rate() -> None:
    """A run that blows up asks for a warmup, however low its curvature was before."""
    assert suggested_warmup(curve(*[None] * 50), lr=0.1) is None
    assert suggested_warmup(curve(*[1.0] * 30, *[None] * 20), lr=0.1) is None
    assert suggested_warmup(curve(*[1.0] * 30, None), lr=0.1) is None
    assert suggested_warmup(curve(1.0, None, None, *[1.0] * 30), lr=0.1) == 3
