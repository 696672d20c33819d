"""Ladders and rules side by side, as calls: each row is what `scale` gives."""

from __future__ import annotations

import pytest

import legw
from legw import Rule, preset, rules
from legw.analysis.scaled import all_rules, doublings, ladder
from legw.errors import RecipeError


def test_a_ladder_is_scale_at_every_rung() -> None:
    base = preset("mnist-lstm")
    rungs = doublings(128, 16384)
    found = ladder(base, rungs, "legw")
    assert [one.batch_size for one in found] == rungs == [128 * 2**i for i in range(8)]
    assert [one.scaled for one in found] == [rules.apply(base, size, rules.LEGW) for size in rungs]
    assert all(one.error is None for one in found) and found[0].scaled == base


def test_a_ladder_keeps_the_order_that_it_is_given_and_names_what_is_undefined() -> None:
    found = ladder(preset("mnist-lstm"), [38400, 128])
    assert [one.batch_size for one in found] == [38400, 128]
    assert found[0].scaled is None and "legw would warm up for 30 of 25" in (found[0].error or "")


def test_a_rule_of_ones_own_has_a_ladder() -> None:
    mine = Rule(name="cube-root", lr_power=1 / 3)
    (one,) = ladder(preset("mnist-lstm"), [1024], mine)
    assert one.scaled is not None and one.scaled.lr == pytest.approx(0.2)
    with pytest.raises(RecipeError, match="rule 'lgew' is unknown"):
        ladder(preset("mnist-lstm"), [1024], "lgew")


def test_all_rules_are_there_once() -> None:
    base = preset("mnist-lstm")
    found = all_rules(base, 8192)
    assert [one.rule.name for one in found] == list(rules.RULES)
    for one in found:
        assert (one.scaled is None) == (one.error is not None)
        assert one.scaled is None or one.scaled == rules.apply(base, 8192, one.rule)


def test_doublings_end_at_the_last() -> None:
    assert doublings(3, 3) == [3]
    assert doublings(128, 1000) == [128, 256, 512, 1000]


def test_they_are_at_the_top_level() -> None:
    assert legw.ladder is ladder and legw.all_rules is all_rules
