"""Statistics over seeds, against scipy's."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from legw.analysis import stats


@pytest.fixture(scope="module")
def scipy_stats() -> Any:
    """scipy's, which takes a second to import: one process alone does."""
    from scipy import stats as found

    return found


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("freedom", [1, 1.3, 2, 2.5, 3, 4, 7.7, 30, 1000, 1e6])
def test_quantiles_are_scipys(scipy_stats: Any, level: float, freedom: float) -> None:
    expected = scipy_stats.t.ppf((1 + level) / 2, freedom)
    assert stats.t_quantile(level, freedom) == pytest.approx(expected, rel=1e-6)


@given(VALUES)
def test_mean_and_interval_are_scipys(scipy_stats: Any, values: list[float]) -> None:
    assume(statistics.stdev(values) > 1e-6)
    found = stats.estimate(values)
    error = scipy_stats.sem(values)
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), error)
    assert found.mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.deviation == pytest.approx(statistics.stdev(values))
    assert found.n == len(values)


@given(VALUES, VALUES)
def test_welchs_interval_is_scipys(
    scipy_stats: Any, first: list[float], second: list[float]
) -> None:
    assume(min(statistics.stdev(first), statistics.stdev(second)) > 1e-6)
    found = stats.welch(first, second)
    expected = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found is not None
    scale = max(map(abs, (*first, *second)))
    assert found.low == pytest.approx(expected.low, rel=1e-6, abs=1e-6 * scale)
    assert found.high == pytest.approx(expected.high, rel=1e-6, abs=1e-6 * scale)
    assert found.mean == pytest.approx((found.low + found.high) / 2, abs=1e-9 * scale)


@given(VALUES, VALUES)
def test_the_other_way_round_is_the_opposite(first: list[float], second: list[float]) -> None:
    there, back = stats.welch(first, second), stats.welch(second, first)
    assert there is not None
    assert back is not None
    assert (there.mean, there.low, there.high) == pytest.approx(
        (-back.mean, -back.high, -back.low), abs=1e-9
    )


def test_one_value_has_no_interval() -> None:
    found = stats.estimate([0.9])
    assert (found.mean, found.n) == (0.9, 1)
    assert (found.deviation, found.half_width, found.low, found.high) == (None,) * 4
    assert stats.welch([0.9], [0.8, 0.7]) is None
    assert stats.welch([0.8, 0.7], [0.9]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert stats.estimate([0.9, 0.9]).half_width == 0
    found = stats.welch([0.5, 0.5], [0.25, 0.25])
    assert found == stats.Difference(mean=0.25, low=0.25, high=0.25)


def test_one_side_without_spread_leaves_the_other_sides_freedom() -> None:
    found = stats.welch([0.5, 0.5, 0.5], [0.1, 0.3])
    assert found is not None
    alone = stats.estimate([0.1, 0.3]).half_width
    assert found.high - found.mean == pytest.approx(alone)


def test_tiny_spreads_do_not_underflow() -> None:
    found = stats.welch([1.0, 1.0 + 1e-15], [2.0, 2.0 + 1e-15])
    assert found is not None
    assert math.isfinite(found.low)


def test_no_values_are_an_error() -> None:
    with pytest.raises(statistics.StatisticsError):
        stats.estimate([])
