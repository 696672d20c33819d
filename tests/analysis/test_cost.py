"""The time model: what an update costs over batch sizes, micro-batches and devices."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from legw import rules
from legw.analysis import cost
from legw.analysis.cost import Network, Option
from legw.analysis.noise import NoiseScale
from legw.errors import LegwError, RecipeError
from legw.recipe import Recipe
from legw.recipe.rule import Rule
from legw.runs.measurements import Speed

BASE = Recipe(name="mine", batch_size=128, lr=0.1, epochs=25, warmup_epochs=0.1, num_examples=60000)
SPEED = Speed(
    passes={16: 0.004, 64: 0.008, 256: 0.040}, step_seconds=0.001, gradient_bytes=4_000_000,
    spread=0.1,
)  # fmt: skip
GIGABIT = Network(devices=2, bandwidth=125e6, latency_seconds=1e-4)
NUMBERS = 2e-4 + cost.NUMBERS_BYTES / 125e6  # the second all-reduce of an update


def noise(value: float, low: float | None = None, high: float | None = None) -> NoiseScale:
    return NoiseScale(value=value, low=low, high=high, from_epoch=0.0, to_epoch=1.0, n=9)


def options(
    *sizes: int, network: Network | None = None, rule: Rule = rules.LEGW, **more: object
) -> list[Option]:
    return cost.options(
        BASE, rule, sizes, speed=SPEED, network=network or Network(),
        num_examples=dict.fromkeys(sizes, 60000), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_fastest_micro_batch_is_taken() -> None:
    """64 examples cost 8 ms, 256 cost 40: four passes of 64 are faster than one of 256."""
    found = cost.timing(SPEED, 256, Network())
    assert found.micro_batch_size == 64
    assert found.seconds == pytest.approx(4 * 0.008 + 0.001)


def test_a_short_last_piece_costs_what_such_a_pass_costs() -> None:
    found = cost.timing(SPEED, 208, Network())
    assert found.compute_seconds == pytest.approx(3 * 0.008 + 0.004)
    assert cost.timing(SPEED, 40, Network()).micro_batch_size == 40


def test_lanes_are_taken_where_they_are_faster_and_by_a_single_process_only() -> None:
    laned = replace(SPEED, rounds={(64, 2): 0.009, (128, 2): 0.04})
    found = cost.timing(laned, 512, Network())
    assert (found.micro_batch_size, found.lanes) == (64, 2)
    assert found.compute_seconds == pytest.approx(4 * 0.009)
    assert cost.timing(laned, 512 + 32, Network()).compute_seconds == pytest.approx(4.5 * 0.009)
    assert cost.timing(laned, 512 + 96, Network()).compute_seconds == pytest.approx(5 * 0.009)
    assert cost.timing(laned, 512, GIGABIT) == cost.timing(SPEED, 512, GIGABIT)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_larger_batches_never_cost_less(one: int, other: int) -> None:
    small, large = sorted((one, other))
    times = [cost.timing(SPEED, size, Network()).seconds for size in (small, large)]
    assert times[0] <= times[1] * (1 + 1e-9)


def test_the_largest_share_decides() -> None:
    found = cost.timing(SPEED, 129, GIGABIT)
    assert found.compute_seconds == cost.timing(SPEED, 65, Network()).compute_seconds


def test_in_a_ring_one_device_of_each_node_has_the_link_and_in_a_tree_they_share_it() -> None:
    four_nodes = Network(devices=32, devices_per_node=8, bandwidth=12.5e9, latency_seconds=5e-5)
    ring = 2 * 31 * (5e-5 + 400e6 / 32 / 12.5e9)
    assert cost.sync_seconds(400e6, four_nodes) == pytest.approx(ring)
    thousand = Network(devices=1024, devices_per_node=8, bandwidth=1e9, latency_seconds=1e-4)
    assert cost.sync_seconds(1e3, thousand) == pytest.approx(2 * 10 * 1e-4 + 8 * 2e-6)


def test_within_one_node_synchronisation_is_free() -> None:
    one_node = Network(devices=8, devices_per_node=8, bandwidth=125e6, latency_seconds=1e-4)
    assert cost.sync_seconds(400e6, one_node) == 0.0
    assert cost.timing(SPEED, 128, one_node).sync_seconds == 0.0


def test_two_devices_exchange_all_bytes_once_each_way_and_then_some_numbers() -> None:
    found = cost.timing(SPEED, 128, GIGABIT)
    assert found.sync_seconds == pytest.approx(4e6 / 125e6 + 2e-4 + NUMBERS)


def test_a_ring_moves_less_and_a_tree_waits_less() -> None:
    big, small = 1e9, 1e3
    four = Network(devices=4, bandwidth=1e9, latency_seconds=1e-4)
    assert cost.sync_seconds(big, four) == pytest.approx(2 * 3 * (1e-4 + 0.25))
    thousand = Network(devices=1024, bandwidth=1e9, latency_seconds=1e-4)
    assert cost.sync_seconds(small, thousand) == pytest.approx(2 * 10 * 1e-4 + 2e-6)


@given(st.floats(0, 1))
def test_overlap_hides_synchronisation_behind_the_last_backward_pass(overlap: float) -> None:
    network = Network(devices=2, bandwidth=125e6, latency_seconds=1e-4, overlap=overlap)
    plain = cost.timing(SPEED, 128, GIGABIT).sync_seconds
    hidden = cost.timing(SPEED, 128, network).sync_seconds
    assert hidden == pytest.approx(max(plain - NUMBERS - overlap * 2 / 3 * 0.008, 0) + NUMBERS)


def test_measured_synchronisation_replaces_the_model() -> None:
    network = Network(devices=2, sync_seconds=0.5)
    assert cost.timing(SPEED, 128, network).sync_seconds == 0.5


def test_equal_epochs_take_updates_times_their_time() -> None:
    (one,) = options(8192)
    assert one.updates == 184 and one.timing is not None
    assert one.seconds == pytest.approx(184 * one.timing.seconds)
    assert one.quality_seconds is None
    (two,) = options(8192, network=GIGABIT)
    assert two.device_hours == pytest.approx(two.seconds * 2 / 3600)


def test_the_noise_scale_multiplies_the_examples() -> None:
    base, large = options(128, 1024, noise=noise(256.0, low=128.0, high=1e9))
    assert base.factor == 1.0 and large.factor == pytest.approx((1 + 4) / (1 + 0.5))
    assert large.quality_seconds == pytest.approx(large.seconds * large.factor)
    assert large.quality_range is not None
    low, high = large.quality_range
    assert low == pytest.approx(large.seconds / 1.1, rel=1e-4)
    assert high == pytest.approx(large.seconds * (1 + 8) / (1 + 1) * 1.1)


def test_a_rule_that_stretches_the_epochs_still_starts_from_those_of_the_base() -> None:
    """Hoffer's 200 epochs reach the base's loss where LEGW's 25, times the factor, do."""
    (plain,) = options(1024, noise=noise(200.0))
    (stretched,) = options(1024, rule=rules.HOFFER, noise=noise(200.0, low=100.0, high=300.0))
    assert stretched.recipe is not None and stretched.recipe.epochs == 200.0
    assert stretched.seconds == pytest.approx(8 * plain.seconds, rel=1e-3)
    assert stretched.quality_seconds == pytest.approx(plain.quality_seconds, rel=1e-3)
    assert stretched.quality_seconds is not None and stretched.quality_range is not None
    low, high = stretched.quality_range
    assert low < stretched.quality_seconds < high < stretched.seconds


@pytest.mark.parametrize("ends", [(0.1, 0.9), (0.0, 0.9), (1e-310, 0.5)])
@pytest.mark.parametrize("size", [16, 1024])
def test_a_noise_scale_below_one_example_lies_in_its_own_range(
    size: int, ends: tuple[float, float]
) -> None:
    (one,) = options(size, noise=noise(0.5, *ends))
    assert one.quality_seconds is not None and one.quality_range is not None
    inner = one.quality_range[0] * 1.1, one.quality_range[1] / 1.1  # without the passes' spread
    assert inner[0] <= one.quality_seconds * (1 + 1e-9)
    assert one.quality_seconds <= inner[1] * (1 + 1e-9)
    at_ends = sorted(one.seconds * (end + size) / (end + 128) for end in ends)
    assert inner == pytest.approx(at_ends)


def test_what_the_rule_refuses_is_an_option_without_a_recipe() -> None:
    possible, impossible = options(128, 38400)
    assert possible.recipe is not None and impossible.recipe is None
    assert "the largest batch that fits is 31999" in impossible.notes[0]
    assert cost.recommend([possible, impossible]) is possible
    error_line(cost.recommend, [impossible], kind=RecipeError)


def test_more_devices_than_examples_is_said() -> None:
    error_line(cost.timing, SPEED, 128, Network(devices=129), kind=LegwError)


def test_of_those_close_to_the_least_time_the_smallest_is_recommended() -> None:
    """On one device, passes of 64 cost the same however many there are of them in a batch."""
    found = options(128, 256, 512, 1024)
    times = [one.seconds for one in found]
    best = cost.recommend(found)
    assert best.seconds <= 1.1 * min(times)
    assert all(one.seconds > 1.1 * min(times) for one in found if one.batch_size < best.batch_size)


def test_a_slow_network_asks_for_a_larger_batch() -> None:
    slow = Network(devices=2, bandwidth=12.5e6, latency_seconds=1e-3)
    sizes = (128, 256, 512, 1024, 2048, 4096)
    fast = cost.recommend(options(*sizes, network=GIGABIT, noise=noise(2000.0)))
    assert cost.recommend(options(*sizes, network=slow, noise=noise(2000.0))).batch_size > (
        fast.batch_size
    )


def test_batches_far_past_the_noise_scale_are_noted() -> None:
    from dataclasses import replace

    base = replace(BASE, noise_scale=256.0)
    scaled = rules.apply(base, 8192, rules.LEGW)
    assert rules.cautions(base, scaled, rules.LEGW) == [
        "mine: the batch is 32 times the measured noise scale (256 examples), which predicts "
        "22 times the base's examples to the same loss; choose a smaller batch, or see what a "
        "study says"
    ]
    near = rules.apply(base, 1024, rules.LEGW)
    assert rules.cautions(base, near, rules.LEGW) == []


@pytest.mark.parametrize(
    "values",
    [
        {"devices": 0},
        {"devices_per_node": 0},
        {"devices": 8, "devices_per_node": 3},
        {"bandwidth": 0.0},
        {"bandwidth": math.nan},
        {"latency_seconds": -1.0},
        {"latency_seconds": math.nan},
        {"latency_seconds": math.inf},
        {"overlap": 1.5},
        {"overlap": math.nan},
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_said(values: dict[str, float]) -> None:
    error_line(Network, kind=LegwError, **values)
