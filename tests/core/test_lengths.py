"""Lengths in epochs, steps, examples and tokens: one schedule, one unit, kept as written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expect import error_line
from legw import (
    AdamW,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Polynomial,
    Recipe,
    Step,
    in_steps,
    in_unit,
    updates,
    warmup_updates,
    with_lengths,
)
from legw.decays import UNITS, edge, power_of
from legw.recipe import from_dict, read, to_dict, to_json, to_toml
from legw.rules import GOYAL, HOFFER, LEGW, LINEAR, RULES, SQRT, apply
from legw.schedule import epochs_of
from strategies import recipes_in_any_unit

GPT = Recipe(name="gpt", batch_size=480, lr=6e-4, steps=100_000, warmup_steps=2000,
             optimizer=AdamW(beta2=0.95, weight_decay=0.1), decay=Cosine(end=0.1))  # fmt: skip


# One schedule in every unit --------------------------------------------------


@given(recipes_in_any_unit(), st.sampled_from(UNITS), st.data())
def test_the_schedule_is_the_same_in_every_unit(
    recipe: Recipe, unit: Any, data: st.DataObject
) -> None:
    """To 1e-12, except where a jump lies within rounding of an update."""
    other = in_unit(recipe, unit)
    count = updates(recipe)
    assume(count < 10**12)
    assert abs(updates(other) - count) <= 1e-12 * count + 1e-9 * (count > 10**6) or (
        updates(other) == count
    )
    update = data.draw(st.integers(0, count))
    one, two = in_steps(recipe), in_steps(other)
    near = [one(s) for s in (max(update - 1, 0), update, update + 1)]
    close = [
        math.isclose(two(update), rate, rel_tol=1e-9, abs_tol=1e-9 * recipe.lr) for rate in near
    ]
    assert any(close)


@pytest.mark.parametrize("unit", UNITS)
def test_resnet50_in_every_unit_to_1e_12(unit: Any) -> None:
    epochs = Recipe(
        batch_size=256, lr=0.1, epochs=90, warmup_epochs=5, num_examples=1_281_167,
        tokens_per_example=196, decay=Step(milestones_epochs=(30, 60, 80)),
    )  # fmt: skip
    other = in_unit(epochs, unit)
    assert other.unit == unit
    assert other.decay.unit == unit
    assert (updates(other), warmup_updates(other)) == (updates(epochs), warmup_updates(epochs))
    one, two = in_steps(epochs), in_steps(other)
    for s in [*range(0, 450_000, 997), 150_136, 150_137, 300_273, 300_274, 400_364, 400_365]:
        assert math.isclose(one(s), two(s), rel_tol=1e-12), s


def test_a_unit_and_back_to_1e_12() -> None:
    base = Recipe(batch_size=7, lr=1, epochs=90.3, warmup_epochs=0.7, num_examples=1999,
                  tokens_per_example=3, decay=Exponential(constant_epochs=4))  # fmt: skip
    for unit in UNITS:
        back = in_unit(in_unit(base, unit), "epochs")
        assert back.length == pytest.approx(90.3, rel=1e-12)
        assert back.warmup == pytest.approx(0.7, rel=1e-12)
        assert back.decay._length("constant") == pytest.approx(4, rel=1e-12)


def test_what_two_units_hang_on_must_be_known() -> None:
    error_line(in_unit, GPT, "epochs")
    error_line(in_unit, GPT, "tokens")
    error_line(in_unit, GPT, "hours")
    assert in_unit(GPT, "examples").length == 48_000_000
    assert epochs_of(GPT) == (None, None)
    assert epochs_of(GPT, 480_000) == (2.0, 100.0)


def test_streams_count_tokens_by_their_windows() -> None:
    run = Recipe(batch_size=20, lr=1, tokens=40_000, warmup_tokens=400, num_tokens=929_589,
                 window_tokens=20)  # fmt: skip
    assert (warmup_updates(run), updates(run)) == (1, 100)
    assert updates(run.with_num_examples(46_460)) == 100


# Scaling without a number of examples ----------------------------------------


def test_steps_are_divided_and_legw_keeps_the_warmups() -> None:
    big = apply(GPT, 15_360, LEGW)
    assert (big.steps, big.warmup_steps) == (3125, 2000)
    assert big.num_examples is None
    assert big.lr == pytest.approx(6e-4 * math.sqrt(32), rel=1e-15)


def test_a_third_of_100_000_updates_is_the_next_whole_one() -> None:
    big = apply(GPT, 1440, LEGW)
    assert big.steps == 100_000 / 3
    assert updates(big) == 33_334
    assert updates(replace(GPT, steps=99_999.0 / 3)) == 33_333
    assert updates(replace(GPT, steps=33_333 + 1e-10)) == 33_333, "the design's guard"


@given(recipes_in_any_unit(), st.sampled_from([LEGW, LINEAR, SQRT, HOFFER]), st.integers(1, 2**16))
def test_scaling_commutes_with_the_unit(base: Recipe, rule: Any, batch: int) -> None:
    """Scaled in one unit and converted, or converted and scaled: the same recipe to 1e-9."""
    assume(base.warmup * (batch / base.batch_size) ** rule.warmup_power < 0.99 * base.length)
    first = in_unit(base, "epochs")
    one = in_unit(apply(base, batch, rule), "epochs")
    two = apply(first, batch, rule)
    assert math.isclose(one.length, two.length, rel_tol=1e-9)
    assert math.isclose(one.warmup, two.warmup, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(one.lr, two.lr, rel_tol=1e-12)


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 512), st.integers(1, 512))
def test_steps_come_back_and_scale_twice(steps: int, warmup: int, middle: int, end: int) -> None:
    base = Recipe(batch_size=32, lr=1, steps=steps * 1000, warmup_steps=min(warmup, steps) / 10,
                  decay=Step(milestones_steps=(steps / 3, steps)))  # fmt: skip
    once = apply(base, end, LEGW)
    twice = apply(apply(base, middle, LEGW), end, LEGW)
    back = apply(once, 32, LEGW)
    for one, two in ((once, twice), (back, base)):
        assert math.isclose(one.length, two.length, rel_tol=1e-12)
        assert one.warmup == two.warmup
        pairs = zip(one.decay.milestones_steps, two.decay.milestones_steps, strict=True)  # type: ignore[attr-defined]
        assert all(math.isclose(a, b, rel_tol=1e-12) for a, b in pairs)


def test_milestones_in_steps_are_divided_in_examples_they_stay() -> None:
    steps = Recipe(batch_size=100, lr=1, steps=900, decay=Step(milestones_steps=(300, 600)))
    assert apply(steps, 300, LINEAR).decay == Step(milestones_steps=(100, 200))
    assert apply(steps, 300, HOFFER).decay == Step(milestones_steps=(300, 600))
    examples = in_unit(steps, "examples")
    assert apply(examples, 300, LINEAR).decay == Step(milestones_examples=(30_000, 60_000))
    scale = Recipe(batch_size=100, lr=1, steps=900, decay=InverseSqrt(time_scale_steps=300))
    assert apply(scale, 300, LINEAR).decay == InverseSqrt(time_scale_steps=100)


def test_a_warmup_in_epochs_needs_the_number_of_examples() -> None:
    error_line(apply, GPT, 960, GOYAL)
    known = replace(GPT, num_examples=9600)
    assert apply(known, 960, GOYAL).warmup_steps == 50
    streams = Recipe(batch_size=20, lr=1, steps=50_000, num_tokens=929_589, window_tokens=20)
    assert apply(streams, 40, GOYAL).warmup_steps == 5 * ((929_589 // 40 - 1) // 20)


def test_a_warmup_past_the_end_in_steps() -> None:
    error_line(apply, GPT, 48_000, LEGW)
    assert apply(replace(GPT, warmup_steps=999), 48_000, LEGW).warmup_steps == 999


# As the user wrote it --------------------------------------------------------


@given(recipes_in_any_unit())
def test_the_unit_is_kept_in_toml_and_json(recipe: Recipe) -> None:
    assert from_dict(json.loads(to_json(recipe))) == recipe
    plain = to_dict(recipe)
    assert {unit for unit in UNITS if unit in plain} == {recipe.unit}
    assert {unit for unit in UNITS if f"warmup_{unit}" in plain} == {recipe.unit}


def test_toml_by_steps(tmp_path: Path) -> None:
    file = tmp_path / "gpt.toml"
    file.write_text(to_toml(GPT), encoding="utf-8")
    assert read(file) == GPT
    assert "steps = 100000\nwarmup_steps = 2000\n" in to_toml(GPT)
    assert "epochs" not in to_toml(GPT)
    for recipe in (replace(GPT, decay=Step(milestones_steps=(9,))),
                   replace(GPT, decay=InverseSqrt(time_scale_steps=2000))):  # fmt: skip
        file.write_text(to_toml(recipe), encoding="utf-8")
        assert read(file) == recipe


def test_the_usual_words_of_a_language_models_recipe() -> None:
    words = {
        "name": "gpt", "batch_tokens": 491_520, "tokens_per_example": 1024,
        "learning_rate": 6e-4, "max_steps": 100_000, "warmup_ratio": 0.02,
        "optimizer": {"kind": "adamw", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
        "decay": {"kind": "cosine", "min_lr": 6e-5},
    }  # fmt: skip
    assert from_dict(words) == replace(GPT, tokens_per_example=1024)
    top = {key: value for key, value in words.items() if key != "decay"}
    assert from_dict(top | {"min_lr": 6e-5, "decay": "cosine"}) == from_dict(words)
    assert from_dict(top | {"decay": "linear"}).decay == Polynomial()


def test_the_usual_words_of_an_image_models_recipe() -> None:
    words = {
        "batch_size": 256, "lr": 0.1, "epochs": 90,
        "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
        "decay": {"kind": "multistep", "milestones": [30, 60, 80], "gamma": 0.1},
    }  # fmt: skip
    assert from_dict(words).decay == Step(milestones_epochs=(30, 60, 80), rate=0.1)
    by_steps = {k: v for k, v in words.items() if k != "epochs"} | {"steps": 450_000}
    assert from_dict(by_steps).decay == Step(milestones_steps=(30, 60, 80), rate=0.1)


def test_a_lowest_rate_keeps_its_share_of_the_peak() -> None:
    assert GPT.min_lr == pytest.approx(6e-5, rel=1e-15)
    big = apply(GPT, 1920, LEGW)
    assert big.min_lr == pytest.approx(1.2e-4, rel=1e-15)
    assert in_steps(big)(updates(big)) == pytest.approx(big.min_lr, rel=1e-12)
    assert Recipe(batch_size=8, lr=1, epochs=2, decay=Cosine()).min_lr is None


# The user's mistakes ---------------------------------------------------------

MINE: dict[str, Any] = {"name": "mine", "batch_size": 8, "lr": 0.1, "steps": 100}


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 3},
        {"warmup_epochs": 0.1},
        {"warmup_steps": 100},
        {"steps": 0},
        {"steps": "9"},
        {"warmup_steps": -1},
        {"steps": None},
        {"steps": None, "tokens": 9},
        {"tokens_per_example": 9, "num_tokens": 999, "window_tokens": 9},
        {"tokens_per_example": 0},
    ],
)
def test_every_line_about_lengths(fields: dict[str, Any]) -> None:
    error_line(Recipe, **(MINE | fields))


def test_a_decay_in_another_unit() -> None:
    error_line(Recipe, **MINE, decay=Exponential())
    assert Recipe(**MINE, decay=Step()).decay == Step(), "no milestones are no length"


@pytest.mark.parametrize(
    "settings",
    [
        {"constant_epochs": 4, "every_steps": 10},
        {"constant_steps": 4},
    ],
)
def test_a_decay_in_two_units(settings: dict[str, Any]) -> None:
    error_line(Exponential, **settings)


def test_a_time_scale_is_needed() -> None:
    error_line(InverseSqrt)


@pytest.mark.parametrize(
    "data",
    [
        {"max_steps": 100},
        {"warmup_ratio": 1},
        {"warmup_ratio": 0.1, "warmup_steps": 3},
        {"warmup_ratio": 0.1, "steps": None},
        {"batch_tokens": 4096},
        {"min_lr": 0.01},
        {"decay": {"kind": "cosine", "min_lr": 0.2}},
        {"decay": {"kind": "cosine", "min_lr": 0.01, "end": 0.1}},
        {"optimizer": {"kind": "adam", "betas": 0.9}},
        {"betas": [0.9, 0.95]},
        {"milestones": [3]},
    ],
)  # fmt: skip
def test_every_line_about_words(data: dict[str, Any]) -> None:
    error_line(from_dict, MINE | data)


@pytest.mark.parametrize(
    "data",
    [
        {"batch_tokens": 4096},
        {"batch_tokens": 0, "tokens_per_example": 8},
        {"batch_tokens": 100, "tokens_per_example": 8},
    ],
)  # fmt: skip
def test_a_batch_in_tokens_that_cannot_be(data: dict[str, Any]) -> None:
    rest = {key: value for key, value in MINE.items() if key != "batch_size"}
    error_line(from_dict, rest | data)


def test_all_unknown_fields_of_a_file_are_told_at_once() -> None:
    error_line(
        from_dict,
        MINE | {
            "warmup_step": 9, "colour": "red", "momentum": 0.9,
            "decay": {"kind": "step", "milestone_steps": [3]},
            "optimizer": {"kind": "sgd", "nesterof": True},
        },
    )  # fmt: skip
    line = error_line(from_dict, MINE | {"decay": {"kind": "step", "milestone": [3]}})
    assert "did you mean 'milestones'?" in line, "in the recipe's own unit"


# Lengths from the command line -----------------------------------------------


def test_given_lengths() -> None:
    assert with_lengths(GPT) is GPT
    assert with_lengths(GPT, steps=500, warmup_steps=5).steps == 500
    known = replace(GPT, num_examples=48_000)
    assert with_lengths(known, epochs=90).warmup_epochs == 20
    both = with_lengths(GPT, epochs=90, warmup_epochs=1)  # nothing is left to convert
    assert (both.epochs, both.steps) == (90, None)
    error_line(with_lengths, GPT, epochs=9, warmup_steps=2)
    error_line(with_lengths, GPT, epochs=9)


def test_numbers() -> None:
    assert power_of(30_000, 7, -1) == 30_000 / 7
    assert power_of(1.0, 4, 0.5) == 2
    assert edge(1e13, 1e-11) == 0.01


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_keeps_the_unit(rule: Any) -> None:
    base = replace(GPT, num_examples=10**6, decay=Constant(), noise_batch=5000)
    if rule.growth is not None:  # a step would have other examples during the run
        base = replace(base, decay=Cosine(), noise_scales=((0, 50), (50_000, 5000)))
    if rule.needs is not None and not isinstance(base.optimizer, rule.needs):
        pytest.skip("for another optimizer")
    assert apply(base, 960, rule).unit == ("steps" if rule.growth is None else "examples")
