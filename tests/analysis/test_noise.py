"""Noise scales with their intervals, and what they say of a batch."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legw.analysis.noise import examples_against, in_stretches, jackknife_ratio, noise_scale
from legw.runs.measurements import Noise


def noise(pairs: list[tuple[float | None, float | None]]) -> list[Noise]:
    return [
        Noise(update=i, epoch=i / 10, trace=a, squared_norm=b, examples=4)
        for i, (a, b) in enumerate(pairs)
    ]


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    """With samples that are correlated over time, as those of consecutive updates are."""
    generator = random.Random(0)
    hits, trials = 0, 200
    for _ in range(trials):
        a, b, pairs = 0.0, 0.0, []
        for _ in range(400):
            a = 0.5 * a + generator.gauss(0, 1)
            b = 0.5 * b + generator.gauss(0, 1)
            pairs.append((50 + 5 * a, 2 + b))
        value, half = jackknife_ratio(pairs)
        assert value is not None and half is not None
        hits += abs(value - 25) <= half
    assert 0.9 <= hits / trials <= 0.99


def test_means_are_taken_apart_and_only_then_divided() -> None:
    found = noise_scale(noise([(10, 1), (30, 0.5), (None, None), (20, 1.5)] * 3))
    assert found.value == pytest.approx(60 / 3) and found.n == 9
    ratios = statistics.fmean([10 / 1, 30 / 0.5, 20 / 1.5])
    assert found.value != pytest.approx(ratios)


def test_a_gradient_lost_in_noise_has_no_scale() -> None:
    found = noise_scale(noise([(10, -1), (30, 0.5)] * 4))
    assert (found.value, found.low, found.high) == (None, None, None)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.integers(1, 12))
def test_stretches_keep_every_sample(epochs: list[float], count: int) -> None:
    rows = [
        Noise(update=i, epoch=epoch, trace=1.0, squared_norm=1.0, examples=2)
        for i, epoch in enumerate(sorted(epochs))
    ]
    found = in_stretches(rows, count)
    assert [row for stretch in found for row in stretch] == rows
    assert 1 <= len(found) <= count and all(found)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1, 1e6))
def test_examples_against_the_base_follow_from_the_two_factors(
    batch_size: int, base: int, scale: float
) -> None:
    found = examples_against(batch_size, base, scale)
    assert found == pytest.approx((1 + batch_size / scale) / (1 + base / scale))
    assert examples_against(base, base, scale) == 1.0
    assert examples_against(batch_size, base, None) is None


@pytest.mark.parametrize(
    ("pairs", "ratio"),
    [
        ([(1e300 * (i == 0), 1.0) for i in range(20)], 5e298),  # no variance holds this
        ([(1.7e308, 1.0)] * 20, None),  # no sum
        ([(1e300, 1e-300)] * 20, None),  # no ratio
    ],
)
def test_samples_that_no_float_sums_have_no_interval(
    pairs: list[tuple[float, float]], ratio: float | None
) -> None:
    """Found by the fuzzer: a traceback of an overflow."""
    assert jackknife_ratio(pairs) == (ratio if ratio is None else pytest.approx(ratio), None)
