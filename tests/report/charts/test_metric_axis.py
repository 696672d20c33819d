"""The metric's axis: what came near the base sets it, what failed is an arrow at its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from legw.analysis.table import Cell, Table
from legw.report.charts.comparison import metric_by_batch
from legw.report.charts.metric_axis import axis_of


def table(*, higher: bool = True, **metrics: tuple[float, ...]) -> Table:
    cells = [
        Cell(variant="", rule=rule, batch_size=16 if rule == "base" else 512, metrics=values)
        for rule, values in metrics.items()
    ]
    return Table(cells=tuple(cells), metric="accuracy", higher_is_better=higher)


FAILED = {"base": (0.976, 0.978), "legw": (0.97, 0.972), "linear": (0.95,), "fixed": (0.72,)}


def test_a_rule_that_failed_does_not_set_the_axis() -> None:
    axis = axis_of(table(**FAILED))
    assert 0.94 < axis.low < 0.95
    assert 0.978 < axis.high < 0.985
    assert list(axis.outside) == [("", "fixed", 512)]
    assert axis.low < axis.outside["", "fixed", 512] < 0.95


def test_several_that_failed_are_written_below_each_other_the_worst_at_the_end() -> None:
    axis = axis_of(table(**FAILED, goyal=(0.5,), none=(0.6,)))
    places = [axis.outside["", rule, 512] for rule in ("fixed", "none", "goyal")]
    assert places == sorted(places, reverse=True)
    assert axis.low < places[-1]


def test_where_lower_is_better_they_are_at_the_top() -> None:
    axis = axis_of(table(higher=False, base=(100.0, 101.0), legw=(102.0,), fixed=(900.0,)))
    assert 102 < axis.outside["", "fixed", 512] < axis.high < 115
    assert axis.low < 100


@pytest.mark.parametrize("metrics", [
    {"base": (0.9,), "legw": (0.1,)},
    {"legw": (0.9,), "fixed": (0.1,)},
    {"base": (0.9,), "legw": (0.5,), "fixed": (0.1,)},
    {"base": (0.5, 0.9), "legw": (0.7,), "fixed": (0.1,)},
    {"base": ()},
])  # fmt: skip
def test_without_a_rule_that_came_near_the_axis_covers_all(
    metrics: dict[str, tuple[float, ...]],
) -> None:
    """One rule alone, no base, or seeds that differ as much as the rules."""
    axis = axis_of(table(**metrics))
    assert axis.outside == {}
    assert all(axis.low < m < axis.high for values in metrics.values() for m in values)


def test_the_arrow_names_the_rule_and_its_mean() -> None:
    pytest.importorskip("altair")
    rows = metric_by_batch(table(**FAILED))["datasets"]["cells"]
    told = {row["name"]: row["arrow"] for row in rows if row["outside"] is not None}
    assert told == {"fixed": "fixed \u2193 0.7200"}


def test_a_name_is_left_out_where_it_would_lie_on_its_neighbour() -> None:
    pytest.importorskip("altair")
    sizes = [
        Cell(variant="", rule="legw", batch_size=size, metrics=(0.97,))
        for size in (32, 64, 128, 256, 1024)
    ]
    found = table(**FAILED)
    rows = metric_by_batch(replace(found, cells=(*found.cells, *sizes)))["datasets"]["cells"]
    assert {row["arrow"] for row in rows if row["outside"] is not None} == {"\u2193 0.7200"}


def test_lines_on_each_other_differ_in_dashes_and_marks() -> None:
    pytest.importorskip("altair")
    text = str(metric_by_batch(table(**FAILED)))
    assert "strokeDash" in text
    assert "triangle-up" in text
