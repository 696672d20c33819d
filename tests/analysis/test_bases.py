"""Contenders of a grid, and their ranking."""

from __future__ import annotations

import pytest

from legw.analysis import bases
from legw.analysis.bases import ORDER, contenders, ranked
from legw.analysis.carrying import Predictors
from legw.analysis.table import Cell, Table
from legw.analysis.verdict import read_tolerance
from messages import said

ONE_PERCENT = read_tolerance("1%")


def cell(name: str, *metrics: float, **more: int) -> Cell:
    return Cell(variant=name, rule="base", batch_size=16, metrics=metrics, **more)


def names(*cells: Cell, tolerance: str = "1%", higher_is_better: bool = True) -> list[str]:
    table = Table(cells=cells, higher_is_better=higher_is_better)
    return [each.variant for each in contenders(table, 16, read_tolerance(tolerance))]


def base(lr: float, **known: float) -> Predictors:
    return Predictors(lr=lr, optimizer="sgd", **known)


# Contenders -------------------------------------------------------------------------------


def test_contenders_are_those_whose_interval_of_the_difference_includes_0() -> None:
    best = cell("a", 0.95, 0.96, 0.97)
    near, far = cell("b", 0.93, 0.95, 0.96), cell("c", 0.90, 0.91, 0.90)
    assert names(far, near, best) == ["b", "a"]  # in the order of the grid
    # A difference far within the tolerance counts where the seeds can tell it.
    exact = cell("d", 0.9501, 0.9501, 0.9501)
    assert names(cell("a", 0.951, 0.951, 0.951), exact) == ["a"]


def test_the_best_of_a_loss_is_the_lowest() -> None:
    cells = cell("a", 100.0, 101.0), cell("b", 150.0, 151.0)
    assert names(*cells, higher_is_better=False) == ["a"]
    assert names(*cells) == ["b"]


def test_single_seeds_are_compared_by_the_tolerance() -> None:
    cells = cell("a", 0.95), cell("b", 0.945), cell("c", 0.93)
    assert names(*cells) == ["a", "b"]
    assert names(*cells, tolerance="0.001") == ["a"]
    assert names(*cells, tolerance="0.03") == ["a", "b", "c"]
    assert names(cell("a", 0.95, 0.951), cell("b", 0.945)) == ["a", "b"]  # one side has one


def test_a_point_with_a_diverged_or_missing_run_is_no_contender() -> None:
    whole = cell("a", 0.90, 0.91)
    assert names(whole, cell("b", 0.95, diverged=1), cell("c", 0.95, missing=1)) == ["a"]
    assert names(cell("b", 0.95, diverged=1)) == []
    assert names() == []


def test_another_batch_size_is_none_of_the_base() -> None:
    other = Cell(variant="b", rule="legw", batch_size=64, metrics=(0.99, 0.99))
    assert names(cell("a", 0.90, 0.91), other) == ["a"]


def test_a_base_far_below_the_best_is_told_of() -> None:
    table = Table(cells=(cell("a", 0.95, 0.96), cell("b", 0.70, 0.90)), metric="accuracy")
    assert names(*table.cells) == ["a", "b"]  # so wide is the interval of two seeds
    line = bases.below_best(table, 16, "b", 2, ONE_PERCENT)
    assert "0.8000" in said(line) and "0.9550" in line
    assert bases.below_best(table, 16, "a", 2, ONE_PERCENT) == ""


# The ranking ------------------------------------------------------------------------------


def test_the_order_is_the_one_that_the_documents_state() -> None:
    assert [(each.predictor, each.more) for each in ORDER] == [
        ("headroom", True), ("lr", False), ("clipped_share", False), ("gap", False),
        ("noise_scale", True),
    ]  # fmt: skip


def test_headroom_comes_first() -> None:
    found = {"slow": base(0.1, headroom=2.0), "fast": base(0.2, headroom=8.0)}
    ranking = ranked(found)
    assert ranking.order == ("fast", "slow")
    said(ranking.why)
    assert any("learning rate alone would choose slow" in said(line) for line in ranking.notes)


def test_of_equals_the_smaller_rate_is_taken() -> None:
    found = {"fast": base(0.2, headroom=4.0), "slow": base(0.1, headroom=4.0)}
    assert ranked(found).order == ("slow", "fast")
    assert said(ranked(found).why).startswith("among equals it has the smallest learning rate")


def test_what_is_not_known_of_all_ranks_none() -> None:
    found = {"fast": base(0.2, headroom=8.0), "slow": base(0.1)}
    ranking = ranked(found)
    assert ranking.order == ("slow", "fast")
    assert "headroom" in said(ranking.notes[0])
    assert ranking.why.startswith("it has the smallest learning rate")  # nothing came before


def test_equal_rates_are_told_apart_by_what_follows() -> None:
    clipped = {"a": base(0.1, clipped_share=0.9), "b": base(0.1, clipped_share=0.4)}
    assert ranked(clipped).order == ("b", "a")
    near = {"a": base(0.1, clipped_share=0.42), "b": base(0.1, clipped_share=0.40)}
    assert ranked(near).order == ("a", "b")  # in tenths
    unclipped = {"a": base(0.1, clipped_share=0.4), "b": base(0.1)}
    assert ranked(unclipped).order == ("b", "a")  # no step is shortened
    gap = {
        "a": base(0.1, train_loss=0.0, held_out_loss=0.5),
        "b": base(0.1, train_loss=0.3, held_out_loss=0.4),
    }
    assert ranked(gap).order == ("b", "a")
    noise = {"a": base(0.1, noise_scale=10.0), "b": base(0.1, noise_scale=20.0)}
    assert ranked(noise).order == ("b", "a")


def test_rates_of_two_optimizers_are_not_compared() -> None:
    muon = Predictors(lr=0.001, optimizer="muon", noise_scale=10.0)
    found = {"sgd": base(0.1, noise_scale=20.0), "muon": muon}
    assert ranked(found).order == ("sgd", "muon")
    assert any("learning rate" in said(line) for line in ranked(found).notes)


def test_the_order_can_be_changed_in_one_place() -> None:
    found = {"a": base(0.1, headroom=8.0, noise_scale=1.0), "b": base(0.2, noise_scale=2.0)}
    assert ranked(found, ORDER[-1:]).order == ("b", "a")


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_difference_the_grids_order_counts(count: int) -> None:
    found = {name: base(0.1) for name in ("z", "a")[:count]}
    ranking = ranked(found)
    assert ranking.order == tuple(found)
    said(ranking.why)
