"""Batch schedules: exact sums and positions, one phase as a constant batch, refusals, growth."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from legw import (
    BatchSchedule,
    Constant,
    Cosine,
    Exponential,
    Muon,
    Polynomial,
    Recipe,
    Rule,
    Step,
    batches,
    in_steps,
    in_unit,
    updates,
    warmup_updates,
)
from legw.presets import RECIPES
from legw.recipe import from_dict, growth, read, to_dict, to_json, to_toml
from legw.rules import LEGW_RAMP, LEGW_RAMP_LINEAR, NOISE_RAMP, SEESAW, SMITH, apply
from legw.schedule import Progress, phases
from legw.study import grid
from strategies import recipes

GROWN = Recipe(
    name="grown", batch_size=100, lr=0.8, epochs=2, warmup_epochs=0.25, num_examples=1000,
    decay=Step(milestones_epochs=(1,)),
    batch_schedule=BatchSchedule(sizes=(25, 50), until=(0.5, 1.0)),
)  # fmt: skip
STREAMS = Recipe(
    name="streams", batch_size=40, lr=1, epochs=4, num_tokens=1003, window_tokens=5,
    batch_schedule=BatchSchedule(sizes=(10, 20), until=(1, 3)),
)  # fmt: skip


@st.composite
def grown_recipes(draw: st.DrawFn) -> tuple[Recipe, int]:
    """Any batch schedule, its positions in thousandths of an epoch, and the examples of one."""
    size = 1000 * draw(st.integers(1, 50))
    sizes = sorted(draw(st.sets(st.integers(1, 3000), min_size=2, max_size=6)))
    count = len(sizes) - 1
    ends = sorted(draw(st.sets(st.integers(1, 5000), min_size=count + 1, max_size=count + 1)))
    plan = BatchSchedule(
        sizes=tuple(sizes[:-1]),
        until=tuple(end / 1000 for end in ends[:-1]),
        lr_power=draw(st.sampled_from([0, 0.5, 1])),
    )
    recipe = Recipe(
        batch_size=sizes[-1], lr=1, epochs=ends[-1] / 1000, batch_schedule=plan,
        warmup_epochs=draw(st.integers(0, ends[-1] - 1)) / 1000,
    )  # fmt: skip
    return recipe, size


# Laws --------------------------------------------------------------------------


@given(grown_recipes())
def test_the_batches_are_those_of_a_loop_over_examples(found: tuple[Recipe, int]) -> None:
    """The closed form against the plain definition, in integers."""
    recipe, size = found
    plan = recipe.batch_schedule
    assert plan is not None
    ends = [round(end * 1000) * size // 1000 for end in plan.until]
    length = round(recipe.length * 1000) * size // 1000
    expected, seen = [], 0
    while seen < length:
        place = sum(seen >= end for end in ends)
        expected.append((*plan.sizes, recipe.batch_size)[place])
        seen += expected[-1]
    assert list(batches(recipe, size)) == expected
    assert updates(recipe, size) == len(expected)
    starts = [0, *itertools.accumulate(expected)]
    ramp = round(recipe.warmup * 1000) * size // 1000
    assert warmup_updates(recipe, size) == sum(start < ramp for start in starts[:-1])
    run = Progress(recipe, size)
    assert [run.seen(update) for update in range(len(starts))] == starts
    assert [run.updates_to(start) for start in starts] == list(range(len(starts)))
    assert [run.epochs(update) for update in range(len(starts))] == [s / size for s in starts]


@given(grown_recipes())
def test_the_rate_follows_the_batch(found: tuple[Recipe, int]) -> None:
    """That of the examples seen, times a power of the batch; the last warmup update's is whole."""
    recipe, size = found
    plan = recipe.batch_schedule
    assert plan is not None
    lr, run = in_steps(recipe, size), Progress(recipe, size)
    ramp = warmup_updates(recipe, size)
    for update in {0, ramp - 1, ramp, run.updates // 2, run.updates - 1} & set(range(run.updates)):
        batch = run.batch_size(update)
        share = (batch / recipe.batch_size) ** plan.lr_power
        done = Fraction(run.seen(update) + batch) / (Fraction(str(recipe.warmup)) * size or 1)
        expected = share * (float(done) if update < ramp - 1 else 1.0)
        assert lr(update) == pytest.approx(expected, rel=1e-12)
        assert 0 < lr(update) <= recipe.lr


@given(recipes(), st.integers(1, 10**6), st.sampled_from(["end", "start", "between"]))
def test_one_phase_is_the_constant_batch_bit_for_bit(recipe: Recipe, size: int, ramp: Any) -> None:
    """The formulas that `legw.schedule` states for a constant batch, word for word."""
    (phase,) = phases(recipe, size)
    assert (phase.batch_size, phase.first, phase.seen) == (recipe.batch_size, 0, 0)
    batch, warmup, decay = recipe.batch_size, recipe.warmup, recipe.decay
    start = warmup if decay.after_warmup else 0.0
    ramp_updates = warmup_updates(recipe, size)
    shift, gap = int(ramp != "start"), batch if ramp == "between" else 0
    lr = in_steps(recipe, size, ramp=ramp)
    for update in (0, 1, ramp_updates - 2, ramp_updates, phase.updates - 1, phase.updates + 5):
        if update < 0:
            continue
        top = recipe.lr
        if update < ramp_updates - (ramp == "end"):
            low = recipe.warmup_from_lr
            top = low + (top - low) * ((update + shift) * batch / (warmup * size + gap))
        position = min(update * batch / size, recipe.length)
        expected = top * decay.factor(max(position - start, 0.0), recipe.length - start)
        assert lr(update) == expected


def test_the_golden_values_of_one_schedule() -> None:
    assert list(batches(GROWN)) == [25] * 20 + [50] * 10 + [100] * 10
    assert (updates(GROWN), warmup_updates(GROWN)) == (40, 10)
    lr = in_steps(GROWN)
    assert [round(lr(s), 12) for s in (0, 8, 9, 19)] == [0.04, 0.36, 0.4, 0.4]
    assert [round(lr(s), 12) for s in (20, 29)] == [round(0.8 / math.sqrt(2), 12)] * 2
    assert [round(lr(s), 12) for s in (30, 39, 100)] == [0.08] * 3, "the decay is where it was"


def test_streams_change_their_batch_between_epochs() -> None:
    """1003 tokens in windows of 5: 19 updates of 10 streams, 9 of 20, 4 of 40."""
    assert list(batches(STREAMS)) == [10] * 19 + [20] * 18 + [40] * 4
    run = Progress(STREAMS)
    assert [run.epochs(update) for update in (19, 28, 37, 41)] == [1, 2, 3, 4]
    assert [run.begin(update) for update in (0, 18, 19, 37)] == [
        (0, 190), (180, 190), (180, 180), (480, 160),
    ]  # fmt: skip
    assert [run.order_size(epoch) for epoch in range(4)] == [10, 20, 20, 40]
    assert run.seen(41) == 190 + 360 + 160


def test_positions_keep_in_other_units() -> None:
    grown = replace(GROWN, tokens_per_example=7)
    for unit in ("examples", "tokens"):
        other = in_unit(grown, unit)  # type: ignore[arg-type]
        assert list(batches(other)) == list(batches(grown))
        assert [in_steps(other)(s) for s in range(40)] == pytest.approx(
            [in_steps(grown)(s) for s in range(40)], rel=1e-12
        )
    back = in_unit(in_unit(grown, "tokens"), "epochs")
    assert back.batch_schedule == grown.batch_schedule


def test_a_phase_in_which_no_update_begins_is_left_out() -> None:
    plan = BatchSchedule(sizes=(100, 200), until=(0.5, 0.52))
    wide = replace(GROWN, batch_size=400, batch_schedule=plan)
    assert [(each.batch_size, each.updates) for each in phases(wide, 190)] == [(100, 1), (400, 1)]
    short = replace(wide, epochs=0.6, warmup_epochs=0)
    assert list(batches(short, 1)) == [100]


# Files ---------------------------------------------------------------------------


def test_a_file_names_the_unit(tmp_path: Any) -> None:
    for recipe in (GROWN, in_unit(GROWN, "examples"), replace(GROWN, noise_scales=((0.5, 9.0),))):
        file = tmp_path / "grown.toml"
        file.write_text(to_toml(recipe), encoding="utf-8")
        assert f"until_{recipe.unit} = [" in file.read_text()
        assert read(file) == recipe
        (tmp_path / "grown.json").write_text(to_json(recipe), encoding="utf-8")
        assert read(tmp_path / "grown.json") == recipe
        assert from_dict(to_dict(recipe)) == recipe
    assert "batch_schedule" not in to_dict(replace(GROWN, batch_schedule=None))


def test_a_notebook_shows_it_and_a_grid_reaches_into_it() -> None:
    assert "<td" in GROWN._repr_html_() and "batch_schedule.until_epochs" in GROWN._repr_html_()
    other = grid.with_field(GROWN, "batch_schedule.lr_power", 1)
    assert other.batch_schedule == BatchSchedule(sizes=(25, 50), until=(0.5, 1.0), lr_power=1)
    assert grid.differences(GROWN, other) == {"batch_schedule.lr_power": 1}
    constant = replace(GROWN, batch_schedule=None)
    assert grid.differences(GROWN, constant) == {"batch_schedule": None}
    assert grid.label(grid.differences(constant, GROWN)) == (
        "batch_schedule.sizes=(25, 50) batch_schedule.until_epochs=(0.5, 1.0) "
        "batch_schedule.lr_power=0.5"
    )
    error_line(grid.with_field, constant, "batch_schedule.lr_power", 1)


@pytest.mark.parametrize(
    "table",
    [
        {"sizes": [25]},
        {"until": [1]},
        {"sizes": [], "until": []},
        {"sizes": [25], "until_examples": [500]},
        {"sizes": [25], "until": [0.5], "until_epochs": [0.5]},
        {"sizes": [25], "until": [0.5], "power": 1},
        {"sizes": [25.5], "until": [0.5]},
        {"sizes": 25, "until": 0.5},
        {"sizes": [25, 50], "until": [0.5]},
        {"sizes": [50, 25], "until": [0.5, 1]},
        {"sizes": [25, 50], "until": [1, 1]},
        {"sizes": [0], "until": [1]},
        {"sizes": [25], "until": [0]},
        {"sizes": [25], "until": [2]},
        {"sizes": [100], "until": [1]},
        {"sizes": [25], "until": [1], "lr_power": 3},
        {"sizes": list(range(1, 1002)), "until": list(range(1, 1002))},
        "doubling",
    ],
    ids=str,
)
def test_a_table_that_is_wrong(table: Any) -> None:
    error_line(from_dict, {**to_dict(GROWN), "batch_schedule": table})


def test_a_setting_that_is_not_in_its_table() -> None:
    for name in ("until_epochs", "sizes"):
        error_line(from_dict, {"batch_size": 100, "lr": 1, "epochs": 2, name: [1]})


def test_values_that_are_wrong() -> None:
    error_line(replace, GROWN, batch_schedule=(25, 0.5))
    error_line(BatchSchedule, sizes=25, until=(1,))
    error_line(BatchSchedule, sizes=(25,), until=(math.nan,))
    error_line(in_unit, GROWN, "steps")
    error_line(replace, STREAMS, batch_schedule=BatchSchedule(sizes=(10,), until=(1.5,)))
    error_line(phases, STREAMS, 200)
    error_line(phases, replace(GROWN, batch_schedule=BatchSchedule(sizes=(25,), until=(0.5,))),
               lambda batch: 1000 + batch)  # fmt: skip
    error_line(phases, replace(GROWN, num_examples=None))
    for pairs in ((), ((1, 2), (1, 3)), ((-1, 2),), ((1, 0),), ((1,),), 5, ((1, "2"),)):
        error_line(replace, GROWN, noise_scales=pairs)


# Growth ---------------------------------------------------------------------------

BASE = Recipe(
    name="base", batch_size=100, lr=0.5, epochs=90, warmup_epochs=0.75, warmup_from_lr=0.1,
    decay=Step(milestones_epochs=(30, 60), rate=0.25),
)  # fmt: skip


def plan_of(base: Recipe, batch_size: int, rule: Rule) -> tuple[Any, Any]:
    plan = apply(base, batch_size, rule).batch_schedule
    assert plan is not None and plan.lr_power == rule.lr_power
    return plan.sizes, plan.until


def test_the_ramps() -> None:
    assert plan_of(BASE, 800, LEGW_RAMP) == ((100, 200, 400), (2.0, 4.0, 6.0))
    ends = pytest.approx((6 / 7, 18 / 7, 6), rel=1e-11)
    assert plan_of(BASE, 800, LEGW_RAMP_LINEAR) == ((100, 200, 400), ends)
    assert plan_of(BASE, 300, LEGW_RAMP) == ((100, 200), pytest.approx((2.25 / math.log2(3), 2.25)))


@pytest.mark.parametrize("rule", [LEGW_RAMP, LEGW_RAMP_LINEAR], ids=lambda rule: rule.name)
@given(base=recipes(batch_size=100, epochs=90, warmup_epochs=0.5), batch=st.integers(101, 10_000))
def test_a_ramp_begins_as_the_base_and_ends_as_legw(base: Recipe, batch: int, rule: Rule) -> None:
    """Its first phase has the base's rates, with the whole warmup; its end is LEGW's warmup's."""
    ramp = apply(base, batch, rule)
    first = phases(ramp, 1000)[0]
    assert first.updates * 100 >= 500, "the base's warmup lies in the first phase"
    lr, expected = in_steps(ramp, 1000), in_steps(base, 1000)
    for update in range(min(first.updates, 6)):
        assert lr(update) == pytest.approx(expected(update), rel=1e-12)
    assert ramp.batch_schedule is not None
    assert ramp.batch_schedule.until[-1] == pytest.approx(0.5 * batch / 100, rel=1e-11)
    assert ramp.lr == pytest.approx(base.lr * math.sqrt(batch / 100), rel=1e-15)


def test_growth_in_place_of_a_decay() -> None:
    """SGD's rate stays where a stair would fall; with the square root it falls by the root."""
    assert plan_of(BASE, 800, SMITH) == ((100, 400), (30.0, 60.0))
    smith, seesaw = apply(BASE, 1600, SMITH), apply(BASE, 1600, SEESAW)
    assert [in_steps(smith, 1000)(s) for s in (100, 310, 380, 393)] == [0.5] * 4
    assert [in_steps(seesaw, 1000)(s) for s in (100, 310, 380)] == [0.5, 0.25, 0.125]
    capped = apply(BASE, 800, SMITH)
    assert in_steps(capped, 1000)(updates(capped, 1000) - 1) == 0.25, (
        "past the cap the decay goes on"
    )
    linear = replace(BASE, decay=Polynomial(), optimizer=Muon())
    assert plan_of(linear, 400, SEESAW) == ((100, 200), (45.375, 67.6875))
    stairs = replace(BASE, batch_size=20, decay=Exponential(rate=1 / 1.15, constant_epochs=14))
    assert plan_of(stairs, 100, SEESAW) == ((20, 40, 80), (18.0, 23.0, 25.0))


def test_growth_with_the_measured_noise() -> None:
    noisy = replace(BASE, noise_scales=((1, 150), (3, 250), (4, 120), (9, 1000)))
    assert plan_of(noisy, 800, NOISE_RAMP) == (
        (100, 200, 400), (2.0, pytest.approx(4 + 5 * 280 / 880), pytest.approx(4 + 5 * 680 / 880))
    )  # fmt: skip
    known = replace(BASE, noise_scales=((1, 5000),))
    assert apply(known, 800, NOISE_RAMP).batch_schedule is None, "it is there from the start"
    assert plan_of(replace(known, noise_scales=((1, 500), (9, 5000))), 800, NOISE_RAMP)[0] == (400,)


def test_a_recipe_in_steps_is_counted_in_examples() -> None:
    base = Recipe(batch_size=100, lr=1, steps=1000, warmup_steps=10)
    ramp = apply(base, 400, LEGW_RAMP)
    assert (ramp.examples, ramp.warmup_examples) == (100_000, 1000)
    assert plan_of(base, 400, LEGW_RAMP) == ((100, 200), (2000.0, 4000.0))


def test_streams_grow_with_the_next_epoch() -> None:
    small = RECIPES["ptb-small"]
    assert plan_of(small, 640, LEGW_RAMP) == ((20, 40, 160, 320), (1, 2, 3, 4))
    muon = RECIPES["ptb-small-muon"]
    assert plan_of(muon, 640, SEESAW) == ((20, 40, 80), (7, 10, 12)), "at the latest with the last"


@pytest.mark.parametrize(
    ("rule", "changes", "batch"),
    [
        (LEGW_RAMP, {}, 50),
        (LEGW_RAMP, {"warmup_epochs": 0, "warmup_from_lr": 0}, 400),
        (LEGW_RAMP, {}, 12_000),
        (LEGW_RAMP_LINEAR, {}, 12_001),
        (SEESAW, {"decay": Constant()}, 400),
        (SEESAW, {"decay": Cosine(half_cycles=3)}, 400),
        (SEESAW, {"decay": Cosine(end=0.1)}, 2000),
        (SMITH, {"optimizer": Muon()}, 400),
        (NOISE_RAMP, {}, 400),
        (NOISE_RAMP, {"noise_scales": ((1, 50), (9, 300))}, 400),
        (LEGW_RAMP, {"batch_size": 200, "batch_schedule": GROWN.batch_schedule}, 400),
        (Rule(name="own", lr_power=0.5, growth=lambda base, batch: []), {}, 400),
    ],
    ids=[
        "smaller",
        "no warmup",
        "too long",
        "too long for a line",
        "no decay",
        "a wave",
        "a floor",
        "not for muon",
        "no noise",
        "noise that stays low",
        "twice",
        "no law",
    ],
)
def test_growth_that_cannot_be(rule: Rule, changes: dict[str, Any], batch: int) -> None:
    error_line(apply, replace(BASE, **changes), batch, rule)


def test_a_law_of_your_own() -> None:
    def at_once(base: Recipe, batch_size: int) -> list[growth.Begin]:
        return [growth.Begin(base.batch_size, 0), growth.Begin(batch_size, base.length / 2)]

    assert plan_of(BASE, 700, Rule(name="half", lr_power=1, growth=at_once)) == ((100,), (45.0,))
