"""Rule `stretch`: its law, what it stretches and what it leaves, in every unit; golden values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import legw
from expect import error_line
from legw import Cosine, Exponential, Recipe, Step, in_unit, rules
from legw.decays import UNITS
from legw.recipe import from_dict, to_dict
from legw.rules import LEGW, STRETCH, apply, stretched_by
from legw.schedule import updates, warmup_updates
from legw.study import plan as study
from strategies import recipes

BASE = Recipe(
    name="mine",
    batch_size=128,
    lr=0.1,
    epochs=25,
    warmup_epochs=0.1,
    num_examples=60_000,
    tokens_per_example=28,
    decay=Step(milestones_epochs=(10, 20)),
    noise_batch=3840,
)
"""Its noise batch is 30 times its batch."""
SIZES = st.integers(16, 2**14)
NOISES = st.floats(1, 1e6)


@pytest.mark.parametrize(
    ("batch", "factor", "wanted", "milestones", "run"),
    [
        (256, 32.06 / 31, (0.1414213562, 0.2, 25.85483871), (10.341935484, 20.683870968), 6060),
        (3968, 62.8 / 31, (0.5567764363, 3.1, 50.645161290), (20.258064516, 40.516129032), 766),
        (8192, 97.78 / 31, (0.8, 6.4, 78.854838710), (31.541935484, 63.083870968), 578),
    ],
)
def test_golden_values(
    batch: int, factor: float, wanted: tuple[float, ...], milestones: tuple[float, ...], run: int
) -> None:
    """By hand: s = (1 + B/3840) / (1 + 128/3840), and s + 0.002 * (k - s), as half of the warmup of
    0.1 of 25 epochs is lost; then rate, warmup and epochs."""
    big = legw.scale(BASE, batch_size=batch, rule="stretch")
    assert stretched_by(BASE, batch, STRETCH) == pytest.approx(factor, rel=1e-12)
    assert (big.lr, big.warmup_epochs, big.epochs) == pytest.approx(wanted)
    assert isinstance(big.decay, Step)
    assert big.decay.milestones_epochs == pytest.approx(milestones)
    assert updates(big) == run and warmup_updates(big) == warmup_updates(BASE)


def lengths(recipe: Recipe) -> dict[str, float]:
    decay = vars(recipe.decay)
    found = {"run": recipe.length}
    for name, value in decay.items():
        if name.endswith(UNITS) and value is not None:
            each = value if isinstance(value, tuple) else (value,)
            found |= {f"{name}-{i}": one for i, one in enumerate(each)}
    return found


@given(base=recipes(epochs=st.floats(1e3, 1e4)), batch=st.integers(1, 2**20), noise=NOISES)
def test_epochs_and_the_decays_lengths_are_stretched_and_all_else_is_legws(
    base: Recipe, batch: int, noise: float
) -> None:
    base = replace(base, noise_batch=noise)
    k, factor = batch / base.batch_size, (noise + batch) / (noise + base.batch_size)
    half = (1 - base.warmup_from_lr / base.lr) * base.warmup / base.length / 2
    factor += half * (k - factor)
    assume(k != 1 and base.warmup * k < 0.9 * base.length * min(factor, 1.0))
    big, plain = apply(base, batch, STRETCH), apply(base, batch, LEGW)
    for name, length in lengths(plain).items():
        assert lengths(big)[name] == pytest.approx(length * factor, rel=1e-12)
    assert big.warmup == plain.warmup and big.lr == plain.lr
    same = big.with_lengths(plain.length, plain.warmup)
    assert replace(same, decay=plain.decay) == plain


@given(one=SIZES, other=SIZES, noise=NOISES)
def test_it_is_1_at_the_base_and_grows_with_the_batch_but_slower(
    one: int, other: int, noise: float
) -> None:
    base = replace(BASE, noise_batch=noise)
    assert stretched_by(base, base.batch_size, STRETCH) == 1
    small, large = (stretched_by(base, size, STRETCH) for size in sorted((one, other)))
    assert small <= large * (1 + 1e-12)
    assert large / small <= max(one, other) / min(one, other) * (1 + 1e-12)


@pytest.mark.parametrize("noise", [1e-9, 1e14])
def test_its_limits_are_the_same_updates_and_the_same_epochs(noise: float) -> None:
    base = replace(BASE, noise_batch=noise)
    factor = stretched_by(base, 1280, STRETCH)
    assert factor == pytest.approx(10 if noise < 1 else 1 + 9 * 0.1 / 2 / 25, rel=1e-6)


@given(middle=SIZES, target=SIZES, noise=NOISES)
def test_scaling_twice_is_scaling_once_and_scaling_back_returns_the_base(
    middle: int, target: int, noise: float
) -> None:
    base = replace(BASE, noise_batch=noise)
    once, twice = (
        apply(base, target, STRETCH),
        apply(apply(base, middle, STRETCH), target, STRETCH),
    )
    back = apply(once, base.batch_size, STRETCH)
    for one, other in ((once, twice), (base, back)):
        assert one.noise_batch == other.noise_batch
        for name, value in lengths(one).items():
            assert math.isclose(value, lengths(other)[name], rel_tol=1e-12)
        assert math.isclose(one.lr, other.lr, rel_tol=1e-12)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "decay", [Step(milestones_epochs=(10, 20)), Exponential(constant_epochs=5), Cosine()]
)
def test_it_is_the_same_run_in_every_unit(unit: Any, decay: Any) -> None:
    base = replace(BASE, decay=decay)
    wanted = apply(base, 1024, STRETCH)
    found = in_unit(apply(in_unit(base, unit), 1024, STRETCH), "epochs")
    for name, value in lengths(wanted).items():
        assert lengths(found)[name] == pytest.approx(value, rel=1e-12)
    assert found.warmup == pytest.approx(wanted.warmup, rel=1e-12)
    assert updates(found) == updates(wanted)


def test_without_the_number_it_says_where_it_comes_from() -> None:
    line = error_line(legw.scale, replace(BASE, noise_batch=None), 1024, "stretch")
    assert "legw probe critical measures it" in line
    assert apply(replace(BASE, noise_batch=None), 128, STRETCH).batch_size == 128


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "many", True])
def test_a_noise_batch_that_cannot_be(value: Any) -> None:
    error_line(replace, BASE, noise_batch=value)


def test_a_file_has_the_number_and_a_run_is_not_another_for_it() -> None:
    assert from_dict(to_dict(BASE)) == BASE
    assert to_dict(replace(BASE, noise_batch=None)).get("noise_batch") is None


def test_a_warmup_past_the_end_is_told_with_what_fits() -> None:
    base = replace(BASE, warmup_epochs=2, decay=Cosine())
    line = error_line(apply, base, 16384, STRETCH)
    size = int(line.partition("the largest batch that fits is ")[2].partition(";")[0])
    assert apply(base, size, STRETCH).warmup < apply(base, size, STRETCH).length
    error_line(apply, base, size + 1, STRETCH)
    longest = float(line.partition("a base warmup of ")[2].partition(" ")[0])
    assert apply(replace(base, warmup_epochs=longest), 16384, STRETCH).epochs


def test_a_base_without_warmup_is_no_twin_of_another_rule() -> None:
    base = replace(BASE, warmup_epochs=0)
    (line,) = rules.cautions(base, apply(base, 1024, STRETCH), STRETCH)
    assert line == "mine: the base recipe has no warmup; give the base one"


def test_a_study_compares_it_and_leaves_out_what_is_too_long() -> None:
    compared = study.Study(
        task="mine", base=BASE, batch_sizes=(1024, 8192, 32768), rules=("legw", "stretch")
    )
    found = study.plan(compared)
    names = [run.name for run in found.runs]
    assert names == ["legw-b1024-s0", "stretch-b1024-s0", "legw-b8192-s0", "stretch-b8192-s0"]
    assert {cell.rule for cell in found.undefined} == {"legw", "stretch"}
