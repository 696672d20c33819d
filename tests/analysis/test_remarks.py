"""What moves beside rate and warmup, and what is said of it: remarks, evidence, notebooks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import legw
from expect import error_line
from legw import LAMB, LARS, SGD, Adam, AdamW, Cosine, Muon, Optimizer, Recipe, Rule
from legw.analysis.remarks import decay_sum_factor, evidence, remarks
from legw.recipe.cautions import short_memory
from legw.rules import LEGW, LEGW_TIMESCALES, apply

GPT = Recipe(
    name="gpt", batch_size=480, lr=6e-4, steps=100_000, warmup_steps=1000,
    optimizer=AdamW(beta2=0.95, weight_decay=0.1), decay=Cosine(end=0.1),
)  # fmt: skip


# A rule's other powers -------------------------------------------------------


def test_time_scales_in_examples_are_kept() -> None:
    big = apply(replace(GPT, optimizer=AdamW(beta2=0.999, weight_decay=0.1)), 7680, LEGW_TIMESCALES)
    optimizer: Any = big.optimizer
    assert (big.lr, big.warmup_steps) == (pytest.approx(6e-4 * 4), 1000)
    assert optimizer.weight_decay == pytest.approx(0.4)
    assert optimizer.beta2 == pytest.approx(0.999**16)
    forgotten = [r.batch_size / (r.lr * r.optimizer.weight_decay) for r in (GPT, big)]  # type: ignore[attr-defined]
    assert forgotten[0] == pytest.approx(forgotten[1], rel=1e-12)
    assert decay_sum_factor(GPT, big) == pytest.approx(1, rel=1e-12)
    halves = [r / math.log(b) for r, b in ((480, 0.999), (7680, optimizer.beta2))]
    assert halves[0] == pytest.approx(halves[1], rel=1e-9)


def test_beta2_has_a_floor_and_a_lower_one_stays() -> None:
    assert apply(GPT, 1920, LEGW_TIMESCALES).optimizer.beta2 == 0.9  # type: ignore[attr-defined]
    low = replace(GPT, optimizer=AdamW(beta2=0.8))
    assert apply(low, 1920, LEGW_TIMESCALES).optimizer.beta2 == 0.8  # type: ignore[attr-defined]


@given(st.integers(100, 2000), st.integers(100, 2000))
def test_these_powers_compose_and_come_back(middle: int, end: int) -> None:
    rule = Rule(name="mine", lr_power=0.5, weight_decay_power=0.5, beta2_power=1.0,
                clip_norm_power=-0.25, ema_power=1.0)  # fmt: skip
    base = replace(GPT, clip_norm=1.0, ema_decay=0.99, optimizer=AdamW(beta2=0.999))
    once, twice = apply(base, end, rule), apply(apply(base, middle, rule), end, rule)
    back = apply(once, 480, rule)
    for one, two in ((once, twice), (back, base)):
        for name in ("beta2", "weight_decay"):
            assert getattr(one.optimizer, name) == pytest.approx(
                getattr(two.optimizer, name), rel=1e-12
            )
        assert one.clip_norm == pytest.approx(two.clip_norm, rel=1e-12)
        assert one.ema_decay == pytest.approx(two.ema_decay, rel=1e-12)


def test_muons_two_decays_move_and_coupled_ones_stay() -> None:
    muon = apply(replace(GPT, optimizer=Muon(weight_decay=0.1, adamw_weight_decay=0.2)), 1920,
                 LEGW_TIMESCALES).optimizer  # fmt: skip
    assert (muon.weight_decay, muon.adamw_weight_decay) == (0.2, 0.4)  # type: ignore[attr-defined]
    for optimizer in (SGD(weight_decay=0.1), Adam(weight_decay=0.1), LARS(weight_decay=0.1),
                      LAMB(weight_decay=0.1)):  # fmt: skip
        big = apply(replace(GPT, optimizer=optimizer), 1920, LEGW_TIMESCALES)
        assert big.optimizer.weight_decay == 0.1  # type: ignore[attr-defined]


def test_clipping_moves_where_there_is_some() -> None:
    rule = Rule(name="mine", lr_power=0.5, clip_norm_power=0.5)
    assert apply(replace(GPT, clip_norm=1.0), 1920, rule).clip_norm == 2
    assert apply(GPT, 1920, rule).clip_norm is None


def test_a_weight_average_spans_the_same_examples_where_the_rule_says_so() -> None:
    base = replace(GPT, ema_decay=0.999)
    big = apply(base, 7680, LEGW_TIMESCALES)
    assert big.ema_decay == pytest.approx(0.999**16, rel=1e-12)
    assert apply(big, 480, LEGW_TIMESCALES).ema_decay == pytest.approx(0.999, rel=1e-12)
    assert apply(GPT, 7680, LEGW_TIMESCALES).ema_decay is None
    left = apply(base, 7680, LEGW)
    assert left.ema_decay == 0.999
    line = "ema_decay 0.999 averages over 16 times the examples: legw-timescales takes 0.9841"
    assert line in remarks(base, left, LEGW)
    assert not any("ema_decay" in line for line in remarks(base, big, LEGW_TIMESCALES))
    hoffer = legw.rules.HOFFER  # as many updates: the average's share of the run stays
    assert not any("ema_decay" in line for line in remarks(base, apply(base, 7680, hoffer), hoffer))


@pytest.mark.parametrize(
    "field", ["weight_decay_power", "beta2_power", "clip_norm_power", "ema_power"]
)
def test_a_power_out_of_range(field: str) -> None:
    error_line(Rule, name="mine", lr_power=1, **{field: 9})
    error_line(Rule, name="mine", lr_power=1, beta2_floor=1)


# Remarks ---------------------------------------------------------------------


def test_what_legw_leaves_at_32_times_the_batch() -> None:
    assert remarks(GPT, apply(GPT, 15_360, LEGW), LEGW) == [
        "the warmup is 32% of the run; try a shorter one of the base (`warmup_steps`): "
        "legw probe curvature says what the base needs",
        "summed over the run, lr*weight_decay falls 5.7 times; legw-timescales keeps it",
        "min_lr stays 0.1 of the peak: 6e-05 → 0.0003394",
    ]
    assert remarks(GPT, GPT, LEGW) == []
    fine = replace(GPT, decay=Cosine(), warmup_steps=10)
    assert remarks(fine, apply(fine, 960, LEGW), LEGW) == [], "sqrt(2) does not matter"
    for scaled in (apply(fine, 15_360, LEGW_TIMESCALES),):
        assert remarks(fine, scaled, LEGW_TIMESCALES) == []


def test_a_smaller_batch_grows_the_sum() -> None:
    base = replace(GPT, decay=Cosine(), warmup_steps=0)
    assert remarks(base, apply(base, 48, LEGW), LEGW) == [
        "summed over the run, lr*weight_decay grows 3.2 times; legw-timescales keeps it"
    ]


def test_weight_decay_that_grows_into_a_bound_is_told() -> None:
    base = replace(GPT, optimizer=AdamW(weight_decay=0.5))
    line = (
        "weight_decay 2.83 holds AdamW's weights below about 0.35 (the base's: 2); on our base "
        "that cost far more than it kept"
    )
    assert line in remarks(base, apply(base, 480 * 32, LEGW_TIMESCALES), LEGW_TIMESCALES)
    for rule, size in ((LEGW, 480 * 32), (LEGW_TIMESCALES, 480 * 4)):
        assert not any("holds" in each for each in remarks(base, apply(base, size, rule), rule))


def test_weight_decay_that_a_rule_cannot_scale() -> None:
    base = replace(GPT, decay=Cosine(), warmup_steps=0, optimizer=SGD(weight_decay=1e-4))
    assert decay_sum_factor(base, base) is None
    assert remarks(base, apply(base, 960, LEGW_TIMESCALES), LEGW_TIMESCALES) == [
        "sgd's weight decay is added to the gradient, and stays as it is"
    ]


@pytest.mark.parametrize(
    ("optimizer", "start"),
    [(SGD(), "momentum SGD: "), (Adam(), "Adam: "), (AdamW(), "Adam: "), (Muon(), "Muon: "),
     (LARS(), "LARS and LAMB: "), (LAMB(), "LARS and LAMB: ")],
)  # fmt: skip
def test_the_evidence_of_every_family_is_one_line(optimizer: Optimizer, start: str) -> None:
    line = evidence(optimizer)
    assert line.startswith(start)
    assert line.isprintable()
    assert len(line) < 200


def test_an_optimizer_that_nobody_has_published_about() -> None:
    class Own(Optimizer):
        kind = "own"

    assert evidence(Own()) == ("own: we know of nothing in print; take the rate as one of several")


# Rows and notebooks ----------------------------------------------------------


def test_a_notebook_shows_both_recipes_side_by_side() -> None:
    base = replace(GPT, name="<gpt>", warmup_steps=10)
    html = legw.scale(base, 1920)._repr_html_()
    assert "<th>base</th><th>scaled</th>" in html
    assert "&lt;gpt&gt;" in html and "<gpt>" not in html
    assert '0.0006</td><td style="text-align:right"><b>0.0012</b>' in html
    alone = base._repr_html_()
    assert "<th>recipe</th>" in alone and "<b>" not in alone
    assert legw.scale(base, 1920) == apply(base, 1920, LEGW), "what it came from is no part of it"


def test_rows_are_plain_and_fill_a_data_frame() -> None:
    rows = legw.scale_table(GPT, [480, 960, 10**7], rules=["legw", "linear"])
    assert [(row["rule"], row["batch_size"], row["error"] is None) for row in rows] == [
        ("legw", 480, True), ("legw", 960, True), ("legw", 10**7, False),
        ("linear", 480, True), ("linear", 960, True), ("linear", 10**7, True),
    ]  # fmt: skip
    assert rows[1]["lr"] == pytest.approx(6e-4 * math.sqrt(2))
    assert rows[1]["warmup_share"] == 0.02
    assert {type(value) for row in rows for value in row.values()} <= {
        int, float, str, bool, type(None)
    }  # fmt: skip
    error_line(legw.scale_table, GPT, [960], rules=["lgew"])
    outcome = legw.ladder(GPT, [960])[0]
    assert "<th>scaled</th>" in outcome._repr_html_()
    assert legw.ladder(GPT, [10**7])[0]._repr_html_().startswith("<p>gpt: batch_size=10000000")


# A memory too short for rare words -------------------------------------------


STREAMS = Recipe(
    name="words", batch_size=20, lr=1e-3, epochs=13, warmup_epochs=0.03,
    num_tokens=929_589, window_tokens=20, optimizer=Muon(beta2=0.95),
)  # fmt: skip


def test_a_short_memory_is_told_with_a_longer_one() -> None:
    scaled = apply(STREAMS, 640, LEGW)
    assert remarks(STREAMS, scaled, LEGW) == [
        "beta2=0.95 averages over 20 updates, 8,000 tokens: words that come less often are "
        "learned badly; try beta2=0.999 of the base"
    ]


@pytest.mark.parametrize(
    ("beta2", "batch_size", "proposed"),
    [
        (0.95, 16, "0.999"), (0.99, 12, "0.999"), (0.95, 4, "0.9999"), (0.0, 1, "0.9999"),
        (0.95, 64, "0.99"), (0.95, 78, "0.99"), (0.95, 79, None), (0.99, 16, None),
    ],
)  # fmt: skip
def test_the_memory_is_counted_in_tokens(
    beta2: float, batch_size: int, proposed: str | None
) -> None:
    base = replace(GPT, batch_size=batch_size, tokens_per_example=64, optimizer=AdamW(beta2=beta2))
    line = short_memory(base)
    assert line.partition("try beta2=")[2].partition(" ")[0] == (proposed or "")


def test_no_memory_is_told_where_tokens_are_not_known_or_nothing_is_averaged() -> None:
    assert not short_memory(replace(GPT, batch_size=1, optimizer=AdamW(beta2=0.9)))
    assert not short_memory(replace(STREAMS, optimizer=SGD()))
