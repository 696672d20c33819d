"""Noise batch fitted to branches: losses that follow its law, a quadratic, and each edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest

from analysis.test_critical import Quadratic
from legw.analysis import critical
from legw.analysis.noise import examples_against
from legw.analysis.noise_batch import (
    NoiseBatch,
    Window,
    noise_batch,
    over_run,
    predicted_excess,
    stands_for,
)

KS = (2, 4, 8, 16, 32)
UPDATES = 1024
FALL = 0.3 / UPDATES


def made(ratio: float, *, noise: float, seed: int = 0, fall: float = FALL) -> Window:
    """Return losses of the law itself: ``ratio`` is base batch over noise batch.

    Noise of the examples is shared by base and branches, as the examples are; each has more of its
    own from its weights.
    """
    numbers = numpy.random.default_rng(seed)
    shared = numbers.normal(size=UPDATES) * noise
    branches = []
    for k in KS:
        ramp = numpy.minimum(numpy.arange(1, UPDATES // k + 1) / 10, 1)
        seen = k * numpy.concatenate([[0], numpy.cumsum(ramp)[:-1]])
        loss = 2 - fall * seen * (1 + ratio) / (1 + k * ratio)
        own = numbers.normal(size=UPDATES // k) * noise / 5
        branches.append((k, list(loss + shared.reshape(-1, k).mean(1) + own)))
    return Window(list(2 - fall * numpy.arange(UPDATES) + shared), branches)


def cooled(
    ratio: float, *, noise: float = 0.0, seed: int = 0, by_rate: float = 0.0, cooldown: float = 0.5
) -> Window:
    """Return losses of the law where all branches cool down.

    A rate adds ``by_rate`` at the base's batch, and less at k times the batch, whose rate is
    sqrt(k) times as high: by 1 / sqrt(k).
    """
    numbers = numpy.random.default_rng(seed)
    shared = numbers.normal(size=UPDATES) * noise

    def branch(k: int) -> list[float]:
        count = UPDATES // k
        share = numpy.minimum((count - numpy.arange(count)) / (cooldown * count or 1e-9), 1)
        if k > 1:
            share *= numpy.minimum(numpy.arange(1, count + 1) / 10, 1)
        seen = k * numpy.concatenate([[0], numpy.cumsum(share)[:-1]])
        loss = 2 - FALL * seen * (1 + ratio) / (1 + k * ratio) + by_rate * share / k**0.5
        own = numbers.normal(size=count) * noise / 5
        return list(loss + shared.reshape(-1, k).mean(1) + own)

    line = 2 + by_rate - FALL * numpy.arange(UPDATES // 4, UPDATES * 5 // 4)
    line += numbers.normal(size=UPDATES) * noise
    return Window(branch(1), [(k, branch(k)) for k in KS], cooldown, list(line))


@pytest.mark.parametrize("cooldown", [0.1, 0.5, 0.9])
def test_of_branches_that_cool_down_it_is_exact(cooldown: float) -> None:
    window = cooled(0.1, cooldown=cooldown)
    found = noise_batch([window], 4, 10)
    assert found.value == pytest.approx(40.0, rel=0.02)  # an update of a branch is a straight line
    for k, losses in window.branches:
        run = (window.base, losses)
        excess = critical.rung(k, 4 * int(k), [run], absolute=True, cooldown=cooldown).excess
        assert predicted_excess(window, k, 4, found, 10) == pytest.approx(excess, abs=2e-3)


def test_what_only_a_rate_adds_hides_what_a_branch_is_behind_until_it_cools_down() -> None:
    """The larger batch adds less of it, and seems to be ahead of the base."""
    added = FALL * UPDATES
    steady = cooled(0.1, by_rate=added, cooldown=0.0)
    ahead = Window(steady.base, steady.branches)
    assert noise_batch([ahead], 4, 10).value is None
    for cooldown in (0.3, 0.5, 0.9):
        found = noise_batch([cooled(0.1, by_rate=added, cooldown=cooldown)], 4, 10)
        assert found.value == pytest.approx(40.0, rel=0.02)


def streams(
    ratio: float, *, noise: float = 0.0, of_seed: float = 0.0, seed: int = 0, cooldown: float = 0.5
) -> Window:
    """Return losses of the law over a text whose windows differ far more than the loss falls.

    Of each branch all losses are higher or lower by what its training adds, ``of_seed``.
    """
    numbers = numpy.random.default_rng(seed)
    text = numbers.normal(size=UPDATES)
    twice = 2 - FALL * numpy.arange(2 * UPDATES) + numpy.tile(text, 2)
    twice += numbers.normal(size=2 * UPDATES) * noise
    read = numbers.normal(size=64)
    ends, branches = [], []
    for k in (1, *KS):
        count = UPDATES // k
        share = numpy.minimum((count - numpy.arange(count)) / (cooldown * count or 1e-9), 1)
        if k > 1:
            share *= numpy.minimum(numpy.arange(1, count + 1) / 10, 1)
        behind = FALL * k * share.sum() * (1 + ratio) / (1 + k * ratio)
        own = numbers.normal() * of_seed + numbers.normal(size=64) * noise / 5
        ends.append(list(2 - behind + read + own))
        branches.append((k, [2.0] * count))  # of updates with other text: nothing comes of them
    return Window(branches[0][1], branches[1:], cooldown, list(twice), ends)


@pytest.mark.parametrize("cooldown", [0.0, 0.5])
def test_of_streams_it_is_exact_however_much_the_text_differs(cooldown: float) -> None:
    window = streams(0.1, cooldown=cooldown)
    found = noise_batch([window], 4, 10)
    assert found.value == pytest.approx(40.0, rel=1e-6)
    assert (found.low, found.high) == pytest.approx((40.0, 40.0), rel=0.06)  # a step of the search
    for (k, losses), end in zip(window.branches, window.ends[1:], strict=True):
        rung = critical.rung(
            k, 4 * int(k), [(window.base, losses)], absolute=True, cooldown=cooldown,
            ends=[(window.ends[0], end)],
        )  # fmt: skip
        assert (rung.updates, rung.half_width) == (len(losses), pytest.approx(0, abs=1e-9))
        assert predicted_excess(window, k, 4, found, 10) == pytest.approx(rung.excess, rel=1e-6)


@pytest.mark.parametrize(
    ("seeds", "of_seed"),
    [
        (1, 0.0),
        (2, 0.005),
        *(pytest.param(*each, marks=pytest.mark.ci) for each in ((2, 0.0), (3, 0.005), (5, 0.005))),
    ],
)
def test_of_streams_what_is_known_lies_in_both_intervals_in_nine_of_ten(
    seeds: int, of_seed: float
) -> None:
    """One seed cannot tell what a training adds by chance, two can."""
    noise_inside = excess_inside = ended = 0
    known = streams(0.1)
    excess = known.ends[3][0] - known.ends[0][0]  # of k = 8
    for start in range(0, 50 * seeds, seeds):
        windows = [
            streams(0.1, noise=0.01, of_seed=of_seed, seed=start + seed) for seed in range(seeds)
        ]
        found = noise_batch(windows, 4, 10)
        noise_inside += found.low <= 40 and (found.high is None or found.high >= 40)
        ended += found.high is not None
        runs = [(window.base, window.branches[2][1]) for window in windows]
        ends = [(window.ends[0], window.ends[3]) for window in windows]
        rung = critical.rung(8, 32, runs, absolute=True, cooldown=0.5, ends=ends)
        excess_inside += rung.low <= excess <= rung.high
    assert noise_inside >= 45 and excess_inside >= 45
    assert ended >= 45 or seeds == 2  # with two Student's quantile is 12.7


def test_branches_of_streams_that_end_in_nothing_finite_are_left_out() -> None:
    window = streams(0.1)
    for end in ([math.nan] * 64, []):
        broken = replace(window, ends=[*window.ends[:-1], end])
        assert noise_batch([broken], 4, 10).value == pytest.approx(40.0, rel=1e-6)
    run = (window.base, window.branches[0][1])
    rung = critical.rung(2, 8, [run], ends=[(window.ends[0], [math.nan] * 64)])
    assert (rung.excess, rung.half_width) == (None, None)


def test_a_run_has_the_mean_of_its_points() -> None:
    """A quarter of the run at 100 and the rest at 300: 1/Bn is 0.25/100 + 0.75/300."""
    early = NoiseBatch(value=100.0, low=80.0, high=120.0)
    late = NoiseBatch(value=300.0, low=200.0, high=600.0)
    found = over_run([(0.25, early), (0.75, late)], 16)
    rate = 0.25 / 100 + 0.75 / 300
    above = math.hypot(0.25 * (1 / 80 - 1 / 100), 0.75 * (1 / 200 - 1 / 300))
    below = math.hypot(0.25 * (1 / 100 - 1 / 120), 0.75 * (1 / 300 - 1 / 600))
    assert found.value == pytest.approx(1 / rate)
    assert found.low == pytest.approx(1 / (rate + above))
    assert found.high == pytest.approx(1 / (rate - below))
    bound = over_run([(0.5, early), (0.5, NoiseBatch(value=None, low=50.0, high=None))], 16)
    assert bound.value == pytest.approx(200) and 40 < bound.low < 80
    assert over_run([(1.0, early), (0.0, late)], 16).value == pytest.approx(100)
    assert stands_for([1.0, 3.0, 9.0], 30.0) == [2.0, 6.0, 30.0]


def test_a_point_that_tells_nothing_is_stood_for_by_the_one_before() -> None:
    early = NoiseBatch(value=100.0, low=80.0, high=120.0)
    late = NoiseBatch(value=300.0, low=0.0, high=600.0)
    blank = [(0.25, NoiseBatch(value=value, low=0.0, high=None)) for value in (None, 7.0)]
    a, b = blank
    assert over_run([a, (0.25, early), b, (0.25, late)], 16) == over_run(
        [(0.75, early), (0.25, late)], 16
    )
    nothing = over_run([(0.5, a[1]), (0.5, b[1])], 16)
    assert (nothing.value, nothing.low, nothing.high) == (None, 0.0, None)


@pytest.mark.ci
@pytest.mark.parametrize("make", [made, cooled])
@pytest.mark.parametrize("size", [8.0, 40.0, 200.0])
def test_a_known_noise_batch_lies_in_the_interval_in_nine_seeds_of_ten(
    size: float, make: Callable[..., Window]
) -> None:
    """Batch 4, and losses that follow the law of this noise batch; with and without a cooldown."""
    found = [noise_batch([make(4 / size, noise=0.1, seed=s)], 4, 10) for s in range(50)]
    within = [one.low <= size <= (one.high or math.inf) for one in found]
    assert sum(within) >= 45
    values = [one.value for one in found if one.value is not None]
    assert float(numpy.median(values)) == pytest.approx(size, rel=0.1)
    informative = [one.low > size / 3 and (one.high or math.inf) < 3 * size for one in found]
    assert sum(informative) >= 40  # the intervals are no excuse


def test_without_noise_it_is_exact_at_any_level_of_the_loss() -> None:
    window = made(0.1, noise=0.0)
    found = noise_batch([window], 4, 10)
    assert found.value == pytest.approx(40.0, rel=1e-6)
    scaled = Window(
        [9 * x for x in window.base], [(k, [9 * x for x in b]) for k, b in window.branches]
    )
    assert noise_batch([scaled], 4, 10).value == pytest.approx(40.0, rel=1e-6)


def test_the_warmup_of_a_branch_does_not_count_as_its_noise() -> None:
    window = made(1e-9, noise=0.0)
    assert (noise_batch([window], 4, 10).value or math.inf) > 4e6
    ignorant = noise_batch([window], 4, 0)
    assert ignorant.value is not None and ignorant.value < 4000


def test_points_and_seeds_are_fitted_together() -> None:
    windows = [made(0.1, noise=0.1, seed=s) for s in range(6)]
    alone, together = noise_batch(windows[:1], 4, 10), noise_batch(windows, 4, 10)
    assert together.value == pytest.approx(40, rel=0.15)
    assert alone.high and together.high and together.low > alone.low and together.high < alone.high


@pytest.mark.ci
def test_of_a_quadratic_it_is_what_the_expected_losses_have_in_nine_seeds_of_ten() -> None:
    known, seeds = Quadratic(), 50
    expected = {k: list(known.expected(k)) for k in (1, *KS)}
    exact = noise_batch([Window(expected[1], [(k, expected[k]) for k in KS])], 4, 10).value
    assert exact is not None
    z = numpy.random.default_rng(1).normal(size=(seeds, known.window * 4, 6)) * math.sqrt(known.c)
    runs = {k: known.train(k, z) for k in (1, *KS)}
    within = 0
    for seed in range(seeds):
        window = Window(list(runs[1][seed]), [(k, list(runs[k][seed])) for k in KS])
        found = noise_batch([window], 4, 10)
        within += found.low <= exact <= (found.high or math.inf)
    assert within >= 0.9 * seeds


def test_of_a_quadratic_it_predicts_the_examples_to_the_bases_loss() -> None:
    """Under the square root a branch that follows its gradient needs about sqrt(k) times the
    examples, which is not of this form: the nearest one is within 30 %."""
    known = Quadratic()
    expected = {k: known.expected(k) for k in (1, *KS)}
    window = Window(list(expected[1]), [(k, list(expected[k])) for k in KS])
    found = noise_batch([window], 4, 10)
    for k in KS:
        reached = int(numpy.argmax(expected[1] <= expected[k][-1]))  # the base is there before
        warmed = k * (len(expected[k]) - 1) - 4.5 * k  # updates at a smaller rate, by its share
        assert examples_against(4 * k, 4, found.value) == pytest.approx(warmed / reached, rel=0.3)


def test_the_predicted_excess_is_that_of_the_law() -> None:
    window = made(0.1, noise=0.0)
    found = noise_batch([window], 4, 10)
    for k, losses in window.branches:
        excess = critical.rung(k, 4 * int(k), [(window.base, losses)], absolute=True).excess
        assert predicted_excess(window, k, 4, found, 10) == pytest.approx(excess, abs=1e-6)
    assert predicted_excess(window, 64, 4, found, 10) is None
    none = NoiseBatch(value=None, low=0.0, high=None)
    assert predicted_excess(window, 2, 4, none) == pytest.approx(0)


@pytest.mark.parametrize("fall", [0.0, -1e-4])
def test_a_loss_that_does_not_fall_tells_nothing(fall: float) -> None:
    found = noise_batch([made(0.1, noise=0.0, fall=fall)], 4, 10)
    assert (found.value, found.low, found.high, found.cautious) == (None, 0.0, None, None)


def test_branches_that_diverged_are_left_out() -> None:
    window = made(0.1, noise=0.0)
    diverged = Window(window.base, [*window.branches, (64, [2.0] * 8 + [math.inf] * 8)])
    assert noise_batch([diverged], 4, 10).value == pytest.approx(40, rel=1e-6)
    assert noise_batch([Window(window.base, [(2, [math.inf] * 512)])], 4).value is None


def test_branches_ahead_of_the_base_have_no_value_but_a_bound() -> None:
    ahead = made(0.0, noise=0.05, seed=3)
    ahead = Window(ahead.base, [(k, [x - 0.01 for x in b]) for k, b in ahead.branches])
    found = noise_batch([ahead], 4, 10)
    assert found.value is None and found.high is None
    assert found.low > 0 and found.cautious == found.low


def test_a_branch_as_slow_in_updates_as_the_base_is_the_lower_limit() -> None:
    """It needs k times the examples and more: no noise batch is as small."""
    base = [2 - FALL * update for update in range(UPDATES)]
    found = noise_batch([Window(base, [(4, [2.0] * 256)])], 4)
    assert found.value == pytest.approx(0.004) and found.low == 0.0
