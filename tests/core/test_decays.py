"""Decays: each against its formula, the exact place of its jumps, its end, its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expect import error_line
from legw.decays import (
    EPOCH_GUARD,
    Constant,
    Cosine,
    Decay,
    Exponential,
    Halving,
    Polynomial,
    Step,
)  # fmt: skip
from legw.recipe import kinds
from strategies import BELOW_ONE, SHARES, decays

SHIPPED = {
    "constant": Constant, "step": Step, "exponential": Exponential,
    "polynomial": Polynomial, "cosine": Cosine, "halving": Halving,
}  # fmt: skip
EPOCHS = st.floats(0.5, 1000)
PLACE = st.floats(0, 1)


def test_the_shipped_kinds() -> None:
    assert kinds(Decay) | SHIPPED == kinds(Decay)


def test_the_base_class_is_no_decay() -> None:
    with pytest.raises(NotImplementedError):
        Decay().factor(0, 1)


def test_whether_a_decay_waits_for_the_warmup_is_a_field_with_a_known_default() -> None:
    waits = {kind for kind, cls in SHIPPED.items() if cls().after_warmup}
    assert waits == {"polynomial", "cosine"}
    for cls in SHIPPED.values():
        assert cls(after_warmup=True).after_warmup
        assert not cls(after_warmup=False).after_warmup


@given(decays(), EPOCHS, PLACE, PLACE)
def test_any_decay_is_a_share_that_never_rises(
    decay: Decay, epochs: float, one: float, two: float
) -> None:
    assume(getattr(decay, "half_cycles", 1) <= 1)  # more of them rise again, as they should
    early, late = sorted([one * epochs, two * epochs])
    assert 0 <= decay.factor(late, epochs) <= decay.factor(early, epochs) + 1e-15 <= 1 + 1e-15


@given(st.floats(0.1, 5), BELOW_ONE, EPOCHS, PLACE)
def test_polynomial(power: float, end: float, epochs: float, place: float) -> None:
    decay = Polynomial(power=power, end=end)
    expected = end + (1 - end) * (1 - place) ** power
    assert math.isclose(decay.factor(place * epochs, epochs), expected, abs_tol=1e-7)
    assert decay.factor(0, epochs) == pytest.approx(1, abs=1e-15)
    assert decay.factor(epochs, epochs) == decay.factor(epochs + 1, epochs) == end


@given(BELOW_ONE, EPOCHS, PLACE)
def test_cosine(end: float, epochs: float, place: float) -> None:
    decay = Cosine(end=end)
    expected = end + (1 - end) * (1 + math.cos(math.pi * place)) / 2
    assert math.isclose(decay.factor(place * epochs, epochs), expected, abs_tol=1e-12)
    assert decay.factor(0, epochs) == pytest.approx(1, abs=1e-15)
    assert decay.factor(epochs, epochs) == decay.factor(epochs + 1, epochs) == end


def test_cosine_is_not_zero_before_the_end_of_a_billion_updates() -> None:
    last = Cosine().factor(1 - 1e-9, 1)
    assert last == pytest.approx((math.pi / 2 * 1e-9) ** 2, rel=1e-6, abs=0)


@given(SHARES, st.integers(0, 1000), st.integers(0, 1000))
def test_exponential_at_whole_epochs(rate: float, constant: int, epoch: int) -> None:
    """Zaremba et al. 2014: `rate ** max(i + 1 - constant, 0)` all through epoch i."""
    decay = Exponential(rate=rate, constant_epochs=constant)
    expected = rate ** max(epoch + 1 - constant, 0)
    for within in (0, 1e-9, 0.5, 1 - 1e-9):
        assert decay.factor(epoch + within, 1001) == expected


def test_exponential_stairs_of_other_lengths() -> None:
    decay = Exponential(rate=0.5, constant_epochs=1, every_epochs=0.25)
    epochs = [0, 0.99, 1, 1.24, 1.25, 1.5, 2]
    assert [decay.factor(e, 9) for e in epochs] == [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 8, 1 / 32]


def test_exponential_from_the_start() -> None:
    decay = Exponential(rate=0.5, constant_epochs=0)
    assert [decay.factor(e, 9) for e in (0, 0.99, 1)] == [0.5, 0.5, 0.25]


def test_step() -> None:
    decay = Step(milestones_epochs=(30, 60, 80), rate=0.1)
    assert [decay.factor(e, 90) for e in (0, 29.999, 30, 59.999, 60, 80, 90)] == (
        [1, 1, 0.1, 0.1, 0.1**2, 0.1**3, 0.1**3]
    )
    assert Step().factor(5, 9) == 1
    assert Step(milestones_epochs=[1, 1]).milestones_epochs == (1, 1)  # type: ignore[arg-type]


def test_halving_is_mlperfs() -> None:
    """NVIDIA's `WarmupMultiStepLR`, MLPerf's GNMT, transcribed: 4 halvings from 2/3 on."""
    iterations, remain, times = 1200, 800, 4
    interval = (iterations - remain) // times
    decay = Halving(begin=2 / 3, times=times)
    for iteration in range(iterations + 1):
        halvings = 0
        if iteration >= remain:
            halvings = min((iteration - remain) // interval + 1, times)
        assert decay.factor(iteration / 100, iterations / 100) == 0.5**halvings, iteration


def test_halving_does_tensorflow_nmts_luong10() -> None:
    """TensorFlow NMT's `_get_learning_rate_decay`, transcribed, as our docstring translates it."""
    steps = 1000
    start = steps // 2
    decay_steps = (steps - start) // 10
    decay = Halving(begin=0.55, times=9)
    for step in range(steps):  # its tenth halving would fall on step 1000
        halvings = 0 if step < start else (step - start) // decay_steps
        assert decay.factor(step / 100, steps / 100) == 0.5**halvings, step


@pytest.mark.parametrize("epoch", [1, 7, 999, 10_000])
@pytest.mark.parametrize(
    "drop", [lambda e: Step(milestones_epochs=(e,)), lambda e: Exponential(constant_epochs=e)]
)
def test_a_jump_is_met_through_rounding_but_not_an_example_early(drop: Any, epoch: int) -> None:
    decay = drop(epoch)
    assert decay.factor(math.nextafter(epoch, 0), 10**5) < 1
    assert decay.factor(epoch, 10**5) < 1
    assert decay.factor(epoch - 1e-9, 10**5) == 1  # one example of a billion before
    assert decay.factor(epoch - 2 * EPOCH_GUARD, 10**5) == 1


@given(decays(), st.floats(0.01, 100), EPOCHS, PLACE)
def test_stretched_decays_have_the_same_shape(
    decay: Decay, k: float, epochs: float, place: float
) -> None:
    there = decay.factor(place * epochs, epochs)
    near = [decay.factor(place * epochs * (1 + d), epochs) for d in (-1e-12, 1e-12)]
    if near[0] - near[1] > 1e-9:
        return  # at a jump, to rounding, either side is right
    stretched = decay.stretched(k).factor(place * epochs * k, epochs * k)
    assert stretched == pytest.approx(there, abs=1e-6)


def test_stretching_moves_milestones() -> None:
    assert Step(milestones_epochs=(30, 60)).stretched(2) == Step(milestones_epochs=(60, 120))
    assert Exponential(constant_epochs=4, every_epochs=1).stretched(8) == (
        Exponential(constant_epochs=32, every_epochs=8)
    )
    for shares in (Constant(), Polynomial(), Cosine(), Halving()):
        assert shares.stretched(8) == shares


def test_first_drop() -> None:
    assert Step(milestones_epochs=(30, 60)).first_drop(90) == 30
    assert Exponential(constant_epochs=4).first_drop(13) == 4
    assert Halving(begin=0.5).first_drop(8) == 4
    for smooth in (Constant(), Polynomial(), Cosine(), Step()):
        assert smooth.first_drop(90) is None
    for flat in (Step(milestones_epochs=(3,), rate=1), Exponential(rate=1), Halving(rate=1)):
        assert flat.first_drop(90) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "1", 10**400])
@pytest.mark.parametrize("field", ["constant_epochs", "every_epochs"])
def test_a_length_out_of_range(field: str, value: object) -> None:
    error_line(Exponential, **{field: value})


def test_a_length_that_is_not_given_is_one_epoch() -> None:
    assert Exponential() == Exponential(constant_epochs=1, every_epochs=None)


NOT_NUMBERS = [float("nan"), float("inf"), -1, True, "1", None, 10**400]


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (Step, "rate"),
        (Exponential, "rate"),
        (Polynomial, "power"),
        (Polynomial, "end"),
        (Cosine, "end"),
        (Halving, "begin"),
        (Halving, "times"),
        (Halving, "rate"),
    ],
)
def test_a_setting_out_of_range(cls: type[Any], field: str, value: object) -> None:
    error_line(cls, **{field: value})


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_milestone_out_of_range(value: object) -> None:
    error_line(Step, milestones_epochs=(value,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Step(milestones_epochs=(60, 30)),
        lambda: Step(milestones_epochs=30),
        lambda: Step(rate=0),
        lambda: Step(rate=1.5),
        lambda: Exponential(rate=0.0),
        lambda: Halving(rate=2),
        lambda: Exponential(every_epochs=0),
        lambda: Polynomial(power=0),
        lambda: Polynomial(end=1),
        lambda: Cosine(end=1.0),
        lambda: Halving(begin=1),
        lambda: Halving(times=0),
        lambda: Halving(times=2.5),  # type: ignore[arg-type]
    ],
)
def test_every_line(make: Any) -> None:
    error_line(make)
