"""Rules: each law of the design, each formula, each refusal and each caution."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expect import error_line
from legw import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    Decay,
    Exponential,
    Halving,
    LegwWarning,
    Optimizer,
    Polynomial,
    Recipe,
    Rule,
    Step,
    scale,
)
from legw.optimizers import LAMB, LARS, SGD
from legw.presets import RECIPES
from legw.rules import (
    ADAM_SDE,
    BETA2_HALF_LIFE,
    FIXED,
    GOYAL,
    HOFFER,
    LEGW,
    LINEAR,
    LINEAR_EPOCH,
    RULES,
    SQRT,
    apply,
    cautions,
    find,
)  # fmt: skip
from strategies import full_recipes, recipes

BASE = Recipe(
    name="mine",
    batch_size=100,
    lr=0.5,
    epochs=90,
    warmup_epochs=0.5,
    warmup_from_lr=0.1,
    decay=Step(milestones_epochs=(30, 60)),
    optimizer=Adam(),
)
POWERS = [LEGW, LINEAR, LINEAR_EPOCH, SQRT, FIXED, HOFFER, ADAM_SDE, BETA2_HALF_LIFE]
"""The rules that are powers of k (Goyal's, with its fixed warmup, is not)."""


# Formulas --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "lr", "warmup", "epochs"),
    [
        (LEGW, 2.0, 8.0, 90),
        (LINEAR, 8.0, 0.5, 90),
        (LINEAR_EPOCH, 8.0, 8.0, 90),
        (GOYAL, 8.0, 5.0, 90),
        (SQRT, 2.0, 0.5, 90),
        (FIXED, 0.5, 0.5, 90),
        (HOFFER, 2.0, 8.0, 1440),
        (BETA2_HALF_LIFE, 0.5, 0.5, 90),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_formulas_at_16_times_the_batch(
    rule: Rule, lr: float, warmup: float, epochs: float
) -> None:
    big = apply(BASE, 1600, rule)
    assert (big.batch_size, big.lr, big.warmup_epochs, big.epochs) == (1600, lr, warmup, epochs)
    start = 0.5 if rule is GOYAL else 0.1 * lr / 0.5
    assert big.warmup_from_lr == pytest.approx(start, rel=1e-15)
    milestones = (480, 960) if rule is HOFFER else (30, 60)
    assert big.decay == Step(milestones_epochs=milestones)
    optimizer = Adam(beta2=0.999**16) if rule is BETA2_HALF_LIFE else Adam()
    assert big.optimizer == optimizer
    untouched = ("name", "clip_norm", "norm_batch_size", "num_examples", "source")
    assert all(getattr(big, name) == getattr(BASE, name) for name in untouched)


def test_adam_sde() -> None:
    """Malladi et al. 2022: lr*sqrt(k), beta -> 1 - k*(1 - beta), epsilon/sqrt(k)."""
    big = apply(BASE, 400, ADAM_SDE)
    assert (big.lr, big.warmup_epochs, big.epochs) == (1.0, 0.5, 90)
    assert isinstance(big.optimizer, Adam)
    assert big.optimizer.beta1 == pytest.approx(0.6, rel=1e-15)
    assert big.optimizer.beta2 == pytest.approx(0.996, rel=1e-15)
    assert big.optimizer.epsilon == 5e-9


@pytest.mark.parametrize("rule", [ADAM_SDE, BETA2_HALF_LIFE], ids=lambda rule: rule.name)
@pytest.mark.parametrize("optimizer", [Adam(), AdamW(), LAMB()], ids=lambda o: o.kind)
def test_adams_rules_keep_the_family_and_the_weight_decay(rule: Rule, optimizer: Adam) -> None:
    after = apply(replace(BASE, optimizer=optimizer), 200, rule).optimizer
    assert type(after) is type(optimizer)
    assert isinstance(after, Adam)
    assert after.weight_decay == optimizer.weight_decay


def test_goyals_warmup_starts_at_the_base_rate() -> None:
    big = apply(replace(BASE, warmup_epochs=0, warmup_from_lr=0), 1600, GOYAL)
    assert (big.warmup_from_lr, big.lr, big.warmup_epochs) == (0.5, 8.0, 5.0)
    small = apply(BASE, 50, GOYAL)
    assert small.warmup_from_lr == small.lr == 0.25


def test_the_names_and_their_order() -> None:
    assert list(RULES) == [
        "legw", "legw-timescales", "linear", "linear-epoch", "goyal", "sqrt", "fixed", "hoffer",
        "adam-sde", "beta2-half-life", "adascale", "legw-ramp", "legw-ramp-linear", "smith",
        "seesaw", "noise-ramp", "stretch",
    ]  # fmt: skip
    assert all(name == rule.name and find(name) is rule for name, rule in RULES.items())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_states_its_formula_and_source(rule: Rule) -> None:
    assert rule.formula
    assert "arXiv" in rule.source or rule in (LINEAR_EPOCH, FIXED)


# Laws ------------------------------------------------------------------------


@given(full_recipes(), st.sampled_from(list(RULES.values())))
def test_at_k_1_every_rule_returns_the_recipe_unchanged(base: Recipe, rule: Rule) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scale(base, base.batch_size, rule) == base


SIZES = st.integers(16, 1024)
CARRIED = recipes(
    batch_size=128,
    epochs=10_000,
    warmup_epochs=0.5,
    optimizer=Adam(beta1=0.9, beta2=0.9375),
)


def assert_equal_to_1e_12(one: Recipe, two: Recipe) -> None:
    """Compare every number, relatively; betas, which lie below 1, absolutely."""

    def numbers(recipe: Recipe) -> list[tuple[str, float]]:
        parts = [vars(recipe), vars(recipe.decay), vars(recipe.optimizer)]
        values = [pair for part in parts for pair in part.items()]
        values += [("milestone", m) for m in getattr(recipe.decay, "milestones_epochs", ())]
        return [(name, value) for name, value in values if isinstance(value, int | float)]

    assert (one.decay.kind, one.optimizer.kind) == (two.decay.kind, two.optimizer.kind)
    for (name, left), (_, right) in zip(numbers(one), numbers(two), strict=True):
        absolute = 1e-12 if name.startswith("beta") else 1e-300
        assert math.isclose(left, right, rel_tol=1e-12, abs_tol=absolute), name


@pytest.mark.parametrize("rule", POWERS, ids=lambda rule: rule.name)
@given(base=CARRIED, middle=SIZES, target=SIZES)
def test_scaling_twice_is_scaling_once(base: Recipe, middle: int, target: int, rule: Rule) -> None:
    assume(rule is not ADAM_SDE or max(middle, target) < 1280)  # k < 1/(1 - beta1) = 10
    once = apply(base, target, rule)
    assert_equal_to_1e_12(apply(apply(base, middle, rule), target, rule), once)


@pytest.mark.parametrize("rule", POWERS, ids=lambda rule: rule.name)
@given(base=CARRIED, target=SIZES)
def test_scaling_back_returns_the_base(base: Recipe, target: int, rule: Rule) -> None:
    assert_equal_to_1e_12(apply(apply(base, target, rule), 128, rule), base)


def test_goyals_fixed_warmup_does_not_come_back() -> None:
    assert apply(apply(BASE, 200, GOYAL), 100, GOYAL).warmup_epochs == 5


@given(
    recipes(),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.integers(1, 2**20),
)
def test_a_rule_of_powers_does_what_it_says(
    base: Recipe, lr_power: float, warmup_power: float, batch: int
) -> None:
    k = batch / base.batch_size
    assume(k != 1)
    assume(base.warmup_epochs * k**warmup_power < base.epochs * 0.999)
    assume(1e-300 < base.lr * k**lr_power < 1e14)
    rule = Rule(name="mine", lr_power=lr_power, warmup_power=warmup_power)
    big = apply(base, batch, rule)
    assert math.isclose(big.lr, base.lr * k**lr_power, rel_tol=1e-12)
    assert math.isclose(big.warmup_from_lr, base.warmup_from_lr * k**lr_power, rel_tol=1e-12)
    assert math.isclose(big.warmup_epochs, base.warmup_epochs * k**warmup_power, rel_tol=1e-12)
    kept = {"lr": base.lr, "warmup_epochs": base.warmup_epochs, "batch_size": base.batch_size}
    assert replace(big, warmup_from_lr=base.warmup_from_lr * 0, **kept) == (
        replace(base, warmup_from_lr=0)
    )


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 10_000), st.floats(0.25, 2))
def test_the_largest_batch_that_fits_fits_and_the_next_does_not(
    batch: int, warmup: int, epochs: int, power: float
) -> None:
    assume(epochs > 1.001 * warmup / 1000)
    base = Recipe(batch_size=batch, lr=1, epochs=epochs, warmup_epochs=warmup / 1000)
    rule = Rule(name="mine", lr_power=0.5, warmup_power=power)
    limit = batch * (base.epochs / base.warmup_epochs) ** (1 / power)
    assume(limit < 1e9)
    line = error_line(apply, base, int(limit * 1.1) + 1, rule)
    largest = int(line.rpartition("the largest batch that fits is ")[2].partition(";")[0])
    assert batch <= largest < limit
    assert apply(base, largest, rule).batch_size == largest
    assert f"fits is {largest}; at this one" in error_line(apply, base, largest + 1, rule)


# Your own rule ---------------------------------------------------------------


def test_a_rule_of_your_own_in_one_line() -> None:
    big = scale(BASE, batch_size=800, rule=Rule(name="cube-root", lr_power=1 / 3, warmup_power=1))
    assert big.lr == pytest.approx(1.0, rel=1e-15)
    assert big.warmup_epochs == 4


def test_a_rule_of_your_own_for_the_optimizer() -> None:
    def more_decay(optimizer: Optimizer, k: float) -> Optimizer:
        assert isinstance(optimizer, AdamW)
        return replace(optimizer, weight_decay=optimizer.weight_decay * k)

    rule = Rule(name="mine", lr_power=0.5, optimizer=more_decay, needs=AdamW)
    big = apply(replace(BASE, optimizer=AdamW(weight_decay=0.01)), 800, rule)
    assert big.optimizer == AdamW(weight_decay=0.08)
    error_line(apply, BASE, 800, rule)


def test_an_optimizer_out_of_range_names_the_rule() -> None:
    rule = Rule(
        name="bad", lr_power=0, optimizer=lambda optimizer, k: replace(optimizer, epsilon=-k)
    )
    error_line(apply, BASE, 200, rule)


@pytest.mark.parametrize("field", ["lr_power", "warmup_power", "stretch_power"])
@pytest.mark.parametrize("value", [float("nan"), 8, -9, "0.5", True, None])
def test_a_power_out_of_range(field: str, value: Any) -> None:
    error_line(Rule, **({"name": "mine", "lr_power": 1} | {field: value}))


def test_a_fixed_warmup_out_of_range() -> None:
    error_line(Rule, name="mine", lr_power=1, warmup_epochs=-5)


@pytest.mark.parametrize("name", ["x" * 10_000, "a\nb", "\x1b[31m", "", None, 5])
def test_a_hostile_rule_name(name: Any) -> None:
    error_line(Rule, name=name, lr_power=1)


# Refusals --------------------------------------------------------------------


def test_a_warmup_past_the_end_says_how_large_a_batch_fits() -> None:
    """The example of the design, section 6."""
    mnist = Recipe(name="mnist-lstm", batch_size=128, lr=0.2, epochs=25, warmup_epochs=0.1)
    error_line(scale, mnist, 38400)
    assert apply(replace(mnist, warmup_epochs=0.0833), 38400, LEGW).warmup_epochs < 25
    error_line(scale, mnist, 32000)
    assert apply(mnist, 31999, LEGW).warmup_epochs < 25


def test_a_fixed_warmup_past_the_end() -> None:
    short = replace(BASE, epochs=4)
    error_line(apply, short, 200, GOYAL)


def test_a_shrinking_warmup_past_the_end_at_a_small_batch() -> None:
    rule = Rule(name="odd", lr_power=1, warmup_power=-1)
    error_line(apply, replace(BASE, epochs=4), 10, rule)


@pytest.mark.parametrize("optimizer", [SGD(), LARS()], ids=lambda o: o.kind)
@pytest.mark.parametrize("rule", [ADAM_SDE, BETA2_HALF_LIFE], ids=lambda rule: rule.name)
def test_adams_rules_need_adam(rule: Rule, optimizer: Optimizer) -> None:
    error_line(apply, replace(BASE, optimizer=optimizer), 200, rule)


@pytest.mark.parametrize("batch", [1000, 1001, 10**6])
def test_adam_sde_is_refused_from_its_limit_on(batch: int) -> None:
    error_line(apply, BASE, batch, ADAM_SDE)
    assert apply(BASE, 999, ADAM_SDE).batch_size == 999


def test_adam_sde_is_refused_for_beta2_too() -> None:
    odd = replace(BASE, optimizer=Adam(beta1=0.99, beta2=0.5))
    error_line(apply, odd, 200, ADAM_SDE)
    assert apply(odd, 199, ADAM_SDE).batch_size == 199


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("batch", [0, -1, 256.0, "256", True, None, float("nan")])
def test_a_batch_size_that_is_none(batch: Any, rule: Rule) -> None:
    error_line(scale, BASE, batch, rule)


@pytest.mark.parametrize("batch", [2**53 + 1, 10**400])
def test_a_batch_size_out_of_this_world(batch: int) -> None:
    error_line(scale, BASE, batch)


def test_a_rate_out_of_this_world() -> None:
    rule = Rule(name="odd", lr_power=7)
    error_line(apply, replace(BASE, warmup_epochs=0), 10**6, rule)


def test_more_streams_than_fit() -> None:
    base = replace(RECIPES["ptb-small"], warmup_epochs=0)
    error_line(scale, base, 10**6)
    assert apply(base, 44266, LEGW).epoch_examples == 44266


def test_an_unknown_rule() -> None:
    error_line(scale, BASE, 200, "lgew")
    error_line(find, "xyz")


@pytest.mark.parametrize("name", ["x" * 10_000, "le\ngw", "\x1b[31m", "\u2028", ""])
def test_a_hostile_name_for_a_rule(name: str) -> None:
    error_line(scale, BASE, 200, name)


# Cautions --------------------------------------------------------------------

QUIET = replace(BASE, decay=Constant(), optimizer=SGD(), warmup_epochs=0.1)
NO_WARMUP = replace(QUIET, warmup_epochs=0, warmup_from_lr=0)


def said(base: Recipe, batch: int, rule: Rule = LEGW) -> list[str]:
    """Return the cautions without the recipe's name, which each must start with."""
    lines = cautions(base, apply(base, batch, rule), rule)
    assert all(line.startswith(f"{base.name}: ") and line.isprintable() for line in lines)
    return [line.removeprefix(f"{base.name}: ") for line in lines]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nothing_is_said_of_a_good_recipe_or_at_k_1(rule: Rule) -> None:
    good = replace(QUIET, num_examples=60_000)
    if rule.growth is not None:
        good = replace(good, decay=Cosine(), noise_scales=((0, 50), (45, 5000)))
    if rule.stretch is not None:
        good = replace(good, noise_batch=500)
    if rule.needs is None:
        assert said(good, 200, rule) == []
    bad = replace(NO_WARMUP, num_examples=10, optimizer=Adam())
    assert said(bad, bad.batch_size, rule) == []


@pytest.mark.parametrize(
    ("rule", "twin"),
    [
        (LEGW, ", so legw equals sqrt here"),
        (LINEAR_EPOCH, ", so linear-epoch equals linear here"),
        (Rule(name="own", lr_power=1 / 3, warmup_power=1), ""),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_no_warmup_to_scale(rule: Rule, twin: str) -> None:
    expected = f"the base recipe has no warmup{twin}; give the base one"
    assert said(NO_WARMUP, 200, rule) == [expected]


def test_a_rule_that_steers() -> None:
    for k, length in ((2, 2), (32, 4)):
        (line,) = said(QUIET, k * QUIET.batch_size, RULES["adascale"])
        assert line == (
            f"adascale sets rate and length while the run goes on: up to {k} times this rate, "
            f"up to {length} times these updates"
        )


@pytest.mark.parametrize("name", ["sqrt", "linear"])
def test_without_warmup_the_twins_are_equal_indeed(name: str) -> None:
    rule = {"sqrt": LEGW, "linear": LINEAR_EPOCH}[name]
    assert apply(NO_WARMUP, 800, rule) == apply(NO_WARMUP, 800, RULES[name])


@pytest.mark.parametrize("rule", [LINEAR, SQRT, FIXED, GOYAL, HOFFER], ids=lambda rule: rule.name)
def test_no_warmup_is_fine_where_it_is_not_scaled(rule: Rule) -> None:
    assert said(NO_WARMUP, 200, rule) == []


@pytest.mark.parametrize(
    ("decay", "drop"),
    [
        (Step(milestones_epochs=(30, 60)), "30"),
        (Exponential(constant_epochs=14), "14"),
        (Halving(begin=1 / 3), "30"),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_warmup_past_the_first_decay(decay: Decay, drop: str) -> None:
    base = replace(QUIET, decay=decay)
    expected = (
        f"the warmup ends at epoch 32, after the first decay at epoch {drop}; "
        "choose a smaller batch"
    )
    assert said(base, 32_000) == [expected]
    assert said(base, int(drop) * 1000) == [], "ending on the milestone is fine"
    assert said(replace(base, decay=replace(decay, after_warmup=True)), 32_000) == []


@pytest.mark.parametrize("decay", [Constant(), Polynomial(), Cosine(after_warmup=False), Step()])
def test_smooth_decays_have_no_milestone_to_pass(decay: Decay) -> None:
    assert said(replace(QUIET, decay=decay), 32_000) == []


@pytest.mark.parametrize("rule", [LINEAR, LINEAR_EPOCH, GOYAL], ids=lambda rule: rule.name)
@pytest.mark.parametrize("optimizer", [Adam(), AdamW(), LAMB()], ids=lambda o: o.kind)
def test_linear_scaling_of_an_adaptive_optimizer(rule: Rule, optimizer: Optimizer) -> None:
    expected = (
        f"{rule.name} was made for SGD; with {optimizer.kind} the rate grows as sqrt(k): "
        "choose legw or sqrt"
    )
    assert said(replace(QUIET, optimizer=optimizer), 200, rule) == [expected]


@pytest.mark.parametrize("rule", [LEGW, SQRT, HOFFER, FIXED, ADAM_SDE], ids=lambda rule: rule.name)
def test_sqrt_scaling_of_an_adaptive_optimizer_is_fine(rule: Rule) -> None:
    assert said(replace(QUIET, optimizer=Adam()), 200, rule) == []


def test_a_batch_larger_than_the_data_set_or_a_few_updates_an_epoch() -> None:
    base = replace(QUIET, num_examples=1000)
    assert said(base, 200) == []
    few = "updates per epoch, fewer than 5; choose a smaller batch"
    assert said(base, 201) == [f"only 5.0 {few}"]
    assert said(base, 400) == [f"only 2.5 {few}"]
    assert said(base, 1000) == [f"only 1.0 {few}"]
    assert said(base, 1001) == [
        "the batch (1001) is larger than the data set (1000); choose a smaller batch"
    ]
    assert said(replace(QUIET, num_examples=None), 10_000) == []


def test_a_few_updates_an_epoch_of_streams() -> None:
    base = replace(RECIPES["ptb-small"], warmup_epochs=0.001)
    few = "only 4.0 updates per epoch, fewer than 5; choose a smaller batch"
    assert said(base, 10_000) == [few]


def test_several_cautions_at_once_in_a_fixed_order() -> None:
    base = replace(
        NO_WARMUP, decay=Step(milestones_epochs=(1,)), optimizer=Adam(), num_examples=150
    )
    lines = said(base, 200, GOYAL)
    assert [line[:9] for line in lines] == ["the warmu", "goyal was", "the batch"]


def test_scale_warns_of_each_caution_at_the_callers_line() -> None:
    base = replace(NO_WARMUP, num_examples=150)
    with pytest.warns(LegwWarning) as caught:
        big = scale(base, 200)
    assert [str(w.message) for w in caught] == cautions(base, big, LEGW)
    assert len(caught) == 2
    assert {Path(w.filename).name for w in caught} == {Path(__file__).name}
    assert big == apply(base, 200, LEGW)


def test_scale_takes_a_rule_or_its_name_and_legw_if_none_is_given() -> None:
    assert scale(QUIET, 200) == scale(QUIET, 200, LEGW) == scale(QUIET, 200, "legw")
    assert scale(QUIET, 200, "sqrt") == scale(QUIET, 200, SQRT) != scale(QUIET, 200)
