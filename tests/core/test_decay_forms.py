"""Warmup-stable-decay, inverse square root, and cosines of several half waves: by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from legw import Cosine, Exponential, InverseSqrt, Recipe, Step, WarmupStableDecay, in_steps
from legw.recipe import from_dict, to_dict

SHAPES = ["linear", "cosine", "1-sqrt"]


@pytest.mark.parametrize(
    ("shape", "halfway", "quarter"),
    [("linear", 0.5, 0.75), ("cosine", 0.5, (1 + math.cos(math.pi / 4)) / 2),
     ("1-sqrt", 1 - math.sqrt(0.5), 0.5)],
)  # fmt: skip
def test_the_tails(shape: Any, halfway: float, quarter: float) -> None:
    decay = WarmupStableDecay(tail=0.2, shape=shape)
    assert [decay.factor(s, 100) for s in (0, 79, 80)] == [1, 1, 1]
    assert decay.factor(85, 100) == pytest.approx(quarter, rel=1e-12)
    assert decay.factor(90, 100) == pytest.approx(halfway, rel=1e-12)
    assert decay.factor(100, 100) == 0
    floor = WarmupStableDecay(tail=0.2, shape=shape, end=0.1)
    assert floor.factor(90, 100) == pytest.approx(0.1 + 0.9 * halfway, rel=1e-12)
    assert floor.factor(100, 100) == pytest.approx(0.1)
    assert decay.first_drop(100) == 80


@given(st.sampled_from(SHAPES), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_a_trapezoid_never_rises(shape: Any, tail: float, at: float, end: float) -> None:
    decay = WarmupStableDecay(tail=tail, shape=shape, end=end)
    here, later = decay.factor(at * 50, 50), decay.factor(min(at * 50 + 1, 50), 50)
    assert end - 1e-12 <= later <= here <= 1


def test_the_transformers_schedule_is_an_inverse_square_root() -> None:
    """Vaswani et al. 2017: ``min(step**-0.5, step * warmup**-1.5)``, steps from 1."""
    warmup, peak = 4000, 7e-4
    recipe = Recipe(
        batch_size=256, lr=peak, steps=100_000, warmup_steps=warmup,
        decay=InverseSqrt(time_scale_steps=warmup),
    )  # fmt: skip
    lr = in_steps(recipe)
    for step in (1, 2, 1000, 3999, 4000):
        assert lr(step - 1) == pytest.approx(peak * step / warmup, rel=1e-12)
    for s in (4000, 4001, 16_000, 99_999):
        assert lr(s) == pytest.approx(peak * math.sqrt(warmup / s), rel=1e-12)


def test_an_inverse_square_root_stops_at_its_floor() -> None:
    decay = InverseSqrt(time_scale_epochs=1, end=0.5)
    assert [decay.factor(x, 99) for x in (0, 3, 8)] == [1, 0.5, 0.5]


def test_waves() -> None:
    three = Cosine(half_cycles=3, end=0.2)
    assert [round(three.factor(x, 3), 12) for x in (0, 1, 2, 3)] == [1, 0.2, 1, 0.2]
    one, whole = Cosine(), Cosine(half_cycles=1.0)
    assert one == whole
    for x in range(11):
        almost = Cosine(half_cycles=1 + 1e-13).factor(x, 10)
        assert one.factor(x, 10) == pytest.approx(almost, abs=1e-11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupStableDecay(tail=0),
        lambda: WarmupStableDecay(end=1),
        lambda: WarmupStableDecay(shape="sqrt"),
        lambda: Cosine(half_cycles=0),
        lambda: InverseSqrt(time_scale_steps=0),
        lambda: Step(milestones_steps=[3, 2]),
        lambda: Step(milestones_tokens=5),
    ],
)
def test_every_line(make: Any) -> None:
    error_line(make)


def test_old_recipes_mean_what_they_meant() -> None:
    """As run folders have them, written before lengths had units."""
    old = {
        "name": "ptb", "batch_size": 20, "lr": 1.0, "epochs": 13, "warmup_epochs": 0.1,
        "decay": {"kind": "exponential", "after_warmup": False, "rate": 0.5,
                  "constant_epochs": 4, "every_epochs": 1.0},
    }  # fmt: skip
    recipe = from_dict(old)
    assert recipe.decay == Exponential(rate=0.5, constant_epochs=4)
    assert to_dict(recipe)["decay"] == old["decay"]
    assert "steps" not in to_dict(recipe)
    step = {"kind": "step", "after_warmup": False, "milestones_epochs": [30.0], "rate": 0.1}
    assert to_dict(from_dict(old | {"decay": step}))["decay"] == step | {
        "milestones_epochs": (30.0,)
    }
