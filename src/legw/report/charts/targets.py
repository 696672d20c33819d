"""Cost charts of larger batches, one function each.

As in `comparison`, a chart is a Vega-Lite specification, and colors belong to rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from legw.analysis.table import Table
from legw.analysis.targets import Reach
from legw.report.charts.comparison import color_scale, dashes, powers, shapes, with_data
from legw.study.plan import BASE, Row

UNITS = ("updates", "examples", "seconds")
"""Units of the cost of reaching a target."""


def to_target(
    found: Sequence[Reach], table: Table, *, unit: str, title: str = ""
) -> dict[str, Any]:
    """Return the chart of updates, examples or seconds to the target against batch size.

    Both scales are logarithmic. The dashed line is perfect scaling from the base: k times
    the batch, as many examples, a k-th of the updates, and of the seconds. Rules whose
    runs did not all reach the target have no point there.

    Args:
        found: cost of each cell.
        table: whose names and batch sizes are used.
        unit: one of `UNITS`.
        title: above the chart.

    Reference: Shallue et al. 2019, arXiv 1811.03600, figure 1.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    rows = _anchored([
        {
            "name": each.name, "batch": each.batch_size, "y": each.costs[unit], "anchor": False,
            "said": f"{each.reached} of {each.total} runs",
        }
        for each in found
        if each.costs[unit]
    ])  # fmt: skip
    perfect_rows = _perfect(found, table, unit)
    across = _batches(alt, table)
    upward = alt.Y("y:Q", title=f"{unit} to the target").scale(type="log", nice=False, padding=16)
    upward = upward.axis(
        format="~s" if unit == "examples" else "~g",
        values=_ticks([row["y"] for row in rows] + [row["y"] for row in perfect_rows]),
    )
    marks = alt.Chart(alt.NamedData("cells"))
    lines = marks.mark_line(strokeWidth=2)
    lines = lines.encode(across, upward, dashes(table.names), order="batch:Q")
    points = marks.transform_filter("!datum.anchor").mark_point(size=60, opacity=1, filled=True)
    points = points.encode(
        across,
        upward,
        shapes(table.names),
        tooltip=["name:N", "batch:Q", alt.Tooltip("y:Q", title=unit), "said:N"],
    )
    perfect = alt.Chart(alt.NamedData("perfect")).mark_line(
        strokeDash=[6, 4], color="#8c8c8c", strokeWidth=1.5
    )
    color = color_scale(table.names, {row["name"] for row in rows})
    chart = alt.layer(
        perfect.encode(across, upward, order="batch:Q"), (lines + points).encode(color)
    )
    chart = chart.properties(title=alt.Title(title), width=620, height=260)
    return with_data(chart, cells=rows, perfect=perfect_rows)


def _anchored(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let each rule's line begin at the base."""
    bases = [row for row in rows if row["name"] == BASE]
    names = dict.fromkeys(row["name"] for row in rows if row["name"] != BASE)
    return rows + [row | {"name": name, "anchor": True} for row in bases for name in names]


def _perfect(found: Sequence[Reach], table: Table, unit: str) -> list[dict[str, float]]:
    """Return the line of perfect scaling; empty where the base did not reach the target."""
    base = next((each for each in found if each.rule == BASE), None)
    cost = base.costs[unit] if base else None
    if base is None or not cost:
        return []
    power = 0 if unit == "examples" else 1
    return [
        {"batch": size, "y": cost * (base.batch_size / size) ** power} for size in table.batch_sizes
    ]


def recipe_by_batch(
    rows: Sequence[Row], table: Table, *, field: str, title: str = ""
) -> dict[str, Any]:
    """Return the chart of the peak rate, or of the warmup's length, against batch size.

    Both scales are logarithmic, so that a power of k is a straight line; a warmup of 0 lies
    on the bottom line.

    Args:
        rows: of one study; of several seeds the first counts.
        table: whose names and batch sizes are used.
        field: `lr` or `warmup_epochs`.
        title: above the chart.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    cells: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        value, name = getattr(row, field), table.name(row.variant, row.rule)
        if value is not None and name in table.names:
            cell = {"name": name, "batch": row.batch_size, "y": float(value), "anchor": False}
            cells.setdefault((name, row.batch_size), cell)
    shown = _anchored(list(cells.values()))
    what = {"lr": "peak learning rate", "warmup_epochs": "warmup, epochs"}[field]
    across = _batches(alt, table)
    above = [cell["y"] for cell in shown if cell["y"] > 0]
    upward = alt.Y("y:Q", title=what)
    if len(above) == len(shown):
        upward = upward.scale(type="log", nice=False, padding=16)
        upward = upward.axis(format="~g", values=_ticks(above))
    else:
        upward = upward.scale(type="symlog", constant=min(above, default=1.0)).axis(
            format="~g", tickCount=5
        )
    marks = alt.Chart(alt.NamedData("cells")).encode(across, upward)
    chart = alt.layer(
        marks.mark_line(strokeWidth=2).encode(dashes(table.names), order="batch:Q"),
        marks.transform_filter("!datum.anchor")
        .mark_point(size=60, opacity=1, filled=True)
        .encode(shapes(table.names), tooltip=["name:N", "batch:Q", alt.Tooltip("y:Q", title=what)]),
    ).encode(color_scale(table.names, {cell["name"] for cell in shown}))
    return with_data(chart.properties(title=alt.Title(title), width=620, height=220), cells=shown)


def _ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers around values above 0."""
    return powers(min(values, default=1.0) / 2, max(values, default=1.0) * 2)


def _batches(alt: Any, table: Table) -> Any:
    across = alt.X("batch:Q", title="batch size").scale(type="log", base=2, nice=False, padding=24)
    return across.axis(values=table.batch_sizes, format="d", grid=False)
