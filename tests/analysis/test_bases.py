"""Contenders of a grid, and their ranking."""

from __future__ import annotations

import math
from pathlib import Path

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
    page = (Path(__file__).parents[2] / "docs" / "tune.md").read_text(encoding="utf-8")
    table = next(part for part in page.split("\n\n") if part.startswith("| predictor "))
    rows = [row.split("|")[1:5] for row in table.splitlines() if row.startswith("| ")][1:]
    said = [(row[0].strip(), row[3].strip()) for row in rows if "shown alone" not in row[3]]
    assert said == [
        ("loss at 4x over 1x", "the largest"), ("loss of the first tenth", "the smallest"),
        ("learning rate", "the largest"),
    ]  # fmt: skip
    assert [(each.predictor, each.more) for each in ORDER] == [
        ("fast_loss_ratio", True), ("early_loss", False), ("lr", True),
    ]  # fmt: skip


def test_the_rate_that_could_not_be_larger_comes_first() -> None:
    found = {
        "fast": base(0.2, fast_loss_ratio=0.5, early_loss=1.0),
        "slow": base(0.1, fast_loss_ratio=1.5, early_loss=2.0),
    }
    ranking = ranked(found)
    assert ranking.order == ("slow", "fast")
    said(ranking.why)
    notes = [said(line) for line in ranking.notes]
    assert any("first tenth alone would choose fast (1; slow: 2)" in line for line in notes)
    assert any("learning rate alone would choose fast" in line for line in notes)


def test_a_rate_that_diverges_when_it_is_larger_comes_first() -> None:
    found = {"a": base(0.2, fast_loss_ratio=3.0), "b": base(0.1, fast_loss_ratio=math.inf)}
    assert ranked(found).order == ("b", "a")
    assert "(inf; a: 3)" in said(ranked(found).why)


def test_of_equals_the_larger_rate_is_taken() -> None:
    found = {"slow": base(0.1, fast_loss_ratio=1.2), "fast": base(0.2, fast_loss_ratio=1.2)}
    assert ranked(found).order == ("fast", "slow")
    assert said(ranked(found).why).startswith("among equals it has the largest learning rate")


def open_lines(**ratios: float) -> list[str]:
    found = {name: base(0.1, fast_loss_ratio=ratio) for name, ratio in ratios.items()}
    return [line for line in ranked(found).notes if "open" in line]


def test_bases_that_one_seed_does_not_tell_apart_are_named() -> None:
    (line,) = open_lines(a=1.50, b=1.48, c=1.40)
    assert "(a: 1.5, b: 1.48)" in said(line)
    (line,) = open_lines(a=1.50, b=1.48, c=1.49)
    assert "(a: 1.5, c: 1.49, b: 1.48)" in line
    assert open_lines(a=1.50, b=1.46) == open_lines(a=1.50) == []
    assert open_lines(a=1.40, b=1.50, c=1.39) == [], "only what is near the first matters"
    assert open_lines(a=math.inf, b=math.inf) == [], "both diverge: another predictor decides"


def test_a_small_difference_of_the_grids_own_runs_is_not_called_open() -> None:
    found = {"a": base(0.1, early_loss=1.0), "b": base(0.1, early_loss=1.001)}
    assert not any("open" in line for line in ranked(found).notes)


def test_what_is_not_known_of_all_ranks_none() -> None:
    found = {"slow": base(0.1, fast_loss_ratio=8.0), "fast": base(0.2)}
    ranking = ranked(found)
    assert ranking.order == ("fast", "slow")
    assert "loss at 4 times the rate" in said(ranking.notes[0])
    assert ranking.why.startswith("it has the largest learning rate")  # nothing came before


def test_what_was_not_seen_to_predict_ranks_none() -> None:
    shown = {"headroom": 8.0, "clipped_share": 0.1, "noise_scale": 90.0, "held_out_loss": 0.1}
    found = {"a": base(0.1), "b": base(0.1, train_loss=0.1, **shown)}
    assert ranked(found).order == ("a", "b")


def test_two_optimizers_are_compared_by_their_early_loss_alone() -> None:
    muon = Predictors(lr=0.001, optimizer="muon", fast_loss_ratio=1.0, early_loss=0.9)
    found = {"sgd": base(0.1, fast_loss_ratio=2.0, early_loss=1.1), "muon": muon}
    assert ranked(found).order == ("muon", "sgd")
    line = next(line for line in ranked(found).notes if line.startswith("not compared"))
    assert "learning rate" in said(line) and "4 times" in line


def test_the_order_can_be_changed_in_one_place() -> None:
    found = {"a": base(0.1, early_loss=1.0), "b": base(0.2, early_loss=2.0)}
    assert ranked(found).order == ("a", "b")
    assert ranked(found, ORDER[-1:]).order == ("b", "a")


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_difference_the_grids_order_counts(count: int) -> None:
    found = {name: base(0.1) for name in ("z", "a")[:count]}
    ranking = ranked(found)
    assert ranking.order == tuple(found)
    said(ranking.why)
