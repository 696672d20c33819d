"""Comparison charts of a study, from cells and curves to Vega-Lite specifications.

Colors belong to rules: the base is grey, and a rule keeps its color in every chart.
Altair builds the specifications and checks them; the data go in afterwards, because
checking thousands of points takes a hundred times longer than drawing them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from legw.analysis.table import Cell, Table
from legw.errors import clean
from legw.report.charts.metric_axis import axis_of
from legw.report.charts.style import COLORS, DASHES, SHAPES, styled
from legw.study.plan import BASE

DODGE = 0.05
"""Shift of each rule beside its batch size, in powers of 2, so that bars do not overlap."""

NAMED_FROM = 0.2
"""Share of the chart's width between two batch sizes from which a rule's name has room there."""

CROSS = "M-1,-1L1,1M-1,1L1,-1"
"""The mark of a diverged run, as an SVG path."""


UNITS = ("epochs", "updates", "seconds")
"""Units of the loss chart's horizontal axis; the first is the default."""

AT = "datum.x * (unit == 'updates' ? datum.u : unit == 'seconds' ? datum.s : 1)"
"""Position of a point in the unit, from its epoch."""


class Curve(NamedTuple):
    """The curve of one run, or of one schedule."""

    name: str
    """Name in the legend: its rule, or its variant of the grid."""
    run: str
    """Name of the run."""
    points: Sequence[tuple[float, float]]
    """(epoch, value), epochs ascending."""
    faint: bool = False
    """Whether it lies behind a smoothed curve of the same run."""
    diverged: bool = False
    """Whether the run diverged at its end."""
    updates: float = 0.0
    """Updates of an epoch."""
    seconds: float = 0.0
    """Training time of an epoch, the mean over the run."""


def metric_by_batch(table: Table, *, title: str = "") -> dict[str, Any]:
    """Return the chart of metric against batch size, one line a rule.

    Lines join the means over finished runs and begin at the base; bars are 95 %
    intervals, cut off at the chart's edge; small points are single runs; crosses at the
    worse end are cells in which runs diverged, and arrows those too far from the base to be drawn.

    Args:
        table: the study's cells.
        title: above the chart.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    ends = [min(table.batch_sizes), max(table.batch_sizes)]  # before any run has ended, too
    across = alt.X("x:Q", title="batch size")
    across = across.scale(type="log", base=2, nice=False, padding=24, domain=ends)
    across = across.axis(values=table.batch_sizes, format="d", grid=False)
    lines = (
        alt.Chart()
        .transform_filter("isValid(datum.mean)")
        .mark_line(strokeWidth=2, clip=True)
        .encode(across, _metric(table, "mean:Q"), dashes(table.names), order="batch:Q")
    )
    return _metrics(table, across, [lines], legend=True, title=title)


def metric_by_variant(table: Table, *, title: str = "") -> dict[str, Any]:
    """Return the chart of metric for each variant of a grid, at a single batch size.

    Args and Raises as for `metric_by_batch`.
    """
    import altair as alt

    across = alt.X("name:N", title=None, sort=table.names).axis(labelAngle=-35, labelLimit=160)
    return _metrics(table, across, [], legend=False, title=title)


def loss_by_epoch(
    curves: Sequence[Curve], *, names: Sequence[str], title: str = ""
) -> dict[str, Any]:
    """Return the chart of training loss against epoch, one line a run.

    The scale is logarithmic where all losses are above 0. A cross ends a diverged run. The
    parameter `unit` of the specification (epochs, updates or seconds) is the horizontal axis's
    unit.

    Args:
        curves: of each run a smoothed curve, and the raw one as a faint curve behind it.
        names: recipes of the legend, each with a color of its own, the base first.
        title: above the chart.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    upward = _losses(curves)
    across = alt.X("at:Q", title=UNITS[0]).scale(nice=False, zero=True).axis(grid=False)
    color = color_scale(names, {curve.name for curve in curves})
    faint = _lines("faint", AT, strokeWidth=0.7, opacity=0.25, clip=True)
    plain = _lines("plain", AT, strokeWidth=2)
    faint = faint.encode(across, upward, color)
    plain = plain.encode(
        across,
        upward,
        color,
        dashes(names),
        tooltip=["name:N", "run:N", alt.Tooltip("x:Q", title="epoch"), "y:Q"],
    )
    layers = [faint, plain] if any(curve.faint for curve in curves) else [plain]
    diverged = [curve for curve in curves if curve.diverged and curve.points]
    if diverged:
        ends = alt.Chart(alt.NamedData("diverged")).transform_calculate(at=AT)
        ends = ends.encode(across, upward, color)
        layers.append(_crosses(ends, tooltip=["name:N", "run:N", "x:Q"]))
    chart = alt.layer(*layers).properties(title=alt.Title(title), width=620, height=260)
    chart = chart.add_params(alt.param(name="unit", value=UNITS[0]))
    return with_data(
        chart,
        faint=[_arrays(curve) for curve in curves if curve.faint],
        plain=[_arrays(curve) for curve in curves if not curve.faint],
        diverged=[
            _arrays(c) | {"x": _short(c.points[-1][0]), "y": _short(c.points[-1][1])}
            for c in diverged
        ],
    )


def lr_by_epoch(
    curves: Sequence[Curve], *, names: Sequence[str], title: str = ""
) -> dict[str, Any]:
    """Return the chart of learning rate against epoch, one line a schedule.

    Args:
        curves: the schedules; where two are equal, the later one is drawn over the other.
        names: recipes of the legend, each with a color of its own, the base first.
        title: above the chart.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    upward = alt.Y("y:Q", title="learning rate").scale(zero=True).axis(tickCount=5, format="~g")
    return _schedules(curves, _lines("plain", strokeWidth=2), upward, names, title)


def batch_size_by_epoch(
    curves: Sequence[Curve], *, names: Sequence[str], title: str = ""
) -> dict[str, Any]:
    """Return the chart of batch size against epoch, one line a schedule, on a log scale.

    Args:
        curves: the batch sizes, each from its epoch on, and the last once more at the end.
        names: recipes of the legend, each with a color of its own, the base first.
        title: above the chart.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    upward = alt.Y("y:Q", title="batch size").scale(type="log", base=2).axis(format="d")
    steps = _lines("plain", strokeWidth=2, interpolate="step-after")
    return _schedules(curves, steps, upward, names, title)


def _schedules(
    curves: Sequence[Curve], lines: Any, upward: Any, names: Sequence[str], title: str
) -> dict[str, Any]:
    import altair as alt

    chart = lines.encode(
        _epochs(curves),
        upward,
        color_scale(names, {curve.name for curve in curves}),
        dashes(names),
        tooltip=["name:N", "x:Q", "y:Q"],
    )
    chart = chart.properties(title=alt.Title(title), width=620, height=260)
    return with_data(chart, plain=[_arrays(curve) for curve in curves])


# The metric's marks -----------------------------------------------------------------


def _metrics(
    table: Table, across: Any, lines: list[Any], *, legend: bool, title: str
) -> dict[str, Any]:
    """Return lines with the marks of all cells on them."""
    import altair as alt

    rows = _cell_rows(table)
    color = color_scale(table.names, {row["name"] for row in rows} if legend else ())
    tooltip = [
        alt.Tooltip("name:N", title="rule" if legend else "variant"),
        alt.Tooltip("batch:Q", title="batch size"),
        alt.Tooltip("lr:Q", title="peak lr", format=".4~g"),
        alt.Tooltip("said:N", title=table.metric),
    ]
    cells = alt.Chart().transform_filter("isValid(datum.mean) && !datum.anchor")
    layers = [
        *lines,
        cells.mark_rule(strokeWidth=1.5, opacity=0.6, clip=True).encode(
            across, _metric(table, "low:Q"), y2="high:Q"
        ),
        cells.transform_flatten(["metrics"])
        .mark_circle(size=18, opacity=0.6, clip=True)
        .encode(across, _metric(table, "metrics:Q")),
        cells.mark_point(size=70, opacity=1, filled=True, clip=True).encode(
            across, _metric(table, "mean:Q"), shapes(table.names), tooltip=tooltip
        ),
    ]
    if any(row["outside"] is not None for row in rows):
        arrows = alt.Chart().transform_filter("isValid(datum.outside)")
        arrows = arrows.mark_text(align="right", dx=4, fontSize=12)
        layers.append(
            arrows.encode(across, _metric(table, "outside:Q"), text="arrow:N", tooltip=tooltip)
        )
    if any(row["diverged"] for row in rows):
        diverged = alt.Chart().transform_filter("datum.diverged > 0").encode(across)
        diverged = diverged.encode(y=alt.YDatum(axis_of(table).diverged))
        layers.append(_crosses(diverged, tooltip=tooltip))
    chart = alt.layer(*layers, data=alt.NamedData("cells")).encode(color)
    chart = chart.resolve_scale(shape="independent")
    chart = chart.properties(title=alt.Title(title), width=620, height=320)
    return with_data(chart, cells=rows)


def _metric(table: Table, field: str) -> Any:
    """Return the metric's axis, the same for every mark."""
    import altair as alt

    axis = axis_of(table)
    return alt.Y(field, title=table.metric).scale(domain=[axis.low, axis.high], nice=False)


def _cell_rows(table: Table) -> list[dict[str, Any]]:
    """Return one row a cell, and at the start of each rule's line the base as its anchor."""
    rows = []
    anchored = {BASE}
    outside = axis_of(table).outside
    for cell in (cell for cell in table.cells if not cell.reason):
        name = table.name(cell.variant, cell.rule)
        place = outside.get((cell.variant, cell.rule, cell.batch_size))
        rows.append(_cell_row(table, cell) | {"name": name, "outside": place})
        base = table.base_of(cell.variant)
        if base is not None and cell.rule != BASE and name not in anchored:
            anchored.add(name)
            start = {"name": name, "anchor": True, "diverged": 0, "outside": None}
            rows.append(_cell_row(table, base) | start)
    return rows


def _cell_row(table: Table, cell: Cell) -> dict[str, Any]:
    found = cell.estimate
    return {
        "x": _short(cell.batch_size * 2 ** _beside(table, cell)),
        "batch": cell.batch_size,
        "mean": found.mean if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "metrics": list(cell.metrics),
        "diverged": cell.diverged,
        "anchor": False,
        "lr": cell.lr,
        "said": ", ".join(table.text(cell)),
        "arrow": _arrow(table, cell),
    }


def _arrow(table: Table, cell: Cell) -> str:
    """Return the text of a cell that lies beyond the axis: an arrow and its mean.

    The name stands before it where neighbouring batch sizes leave room for it.
    """
    if cell.estimate is None:
        return ""
    way = "\u2193" if table.higher_is_better else "\u2191"
    name = f"{table.name(cell.variant, cell.rule)} " if _is_wide(table) else ""
    return f"{name}{way} {table.number(cell.estimate.mean)}"


def _is_wide(table: Table) -> bool:
    """Whether batch sizes lie so far apart on the chart that a name fits between them."""
    places = sorted(math.log2(size) for size in table.batch_sizes)
    gaps = [after - before for before, after in itertools.pairwise(places)]
    return not gaps or min(gaps) >= NAMED_FROM * sum(gaps)


def _beside(table: Table, cell: Cell) -> float:
    """Return a cell's shift beside its batch size, in powers of 2; 0 for the base."""
    names = [name for name in table.names if name != BASE]
    if cell.rule == BASE:
        return 0.0
    return DODGE * (names.index(table.name(cell.variant, cell.rule)) - (len(names) - 1) / 2)


# Parts ---------------------------------------------------------------------------


def _epochs(curves: Sequence[Curve]) -> Any:
    import altair as alt

    end = max((x for curve in curves for x, _ in curve.points), default=1.0)
    return alt.X("x:Q", title="epoch").scale(domain=[0, end], nice=False).axis(grid=False)


def color_of(name: str, names: Sequence[str]) -> int:
    """Return which of `COLORS` a line has: 0 is the base's, the others take turns.

    Args:
        name: the line's.
        names: of all lines, the base's first if it is there.

    >>> [color_of(name, ["base", "legw", "linear"]) for name in ("base", "legw", "linear")]
    [0, 1, 2]
    """
    if name == BASE:
        return 0
    others = [other for other in names if other != BASE]
    return 1 + others.index(name) % (len(COLORS) - 1)


def dash_of(name: str, names: Sequence[str]) -> tuple[float, ...]:
    """Return a line's dashes: strokes and gaps in pixels; lines that lie on each other differ."""
    return DASHES[color_of(name, names)]


def dashes(names: Sequence[str]) -> Any:
    """Return the dashes of all lines, the same in every chart."""
    import altair as alt

    domain = [BASE, *(name for name in names if name != BASE)]
    found = [list(dash_of(name, names)) for name in domain]
    return alt.StrokeDash("name:N", legend=None).scale(domain=domain, range=found)


def shapes(names: Sequence[str]) -> Any:
    """Return the marks of all rules' points, the same in every chart."""
    import altair as alt

    domain = [BASE, *(name for name in names if name != BASE)]
    found = [SHAPES[color_of(name, names)] for name in domain]
    return alt.Shape("name:N", legend=None).scale(domain=domain, range=found)


def color_scale(names: Sequence[str], shown: Collection[str]) -> Any:
    """Return the colors of all lines, which do not depend on those that are shown."""
    import altair as alt

    domain = [BASE, *(name for name in names if name != BASE)]
    colors = [COLORS[color_of(name, names)] for name in domain]
    listed = [name for name in domain if name in shown]
    legend = alt.Legend(
        orient="top", symbolType="stroke", symbolStrokeWidth=4, symbolOpacity=1, values=listed
    )
    return alt.Color("name:N", title=None, legend=legend if listed else None).scale(
        domain=domain, range=colors
    )


def _losses(curves: Sequence[Curve]) -> Any:
    """Return the losses' axis: it shows every peak, and of the noise below as much as fits."""
    import altair as alt

    low = min((y for curve in curves if not curve.faint for _, y in curve.points), default=0.1)
    high = max((y for curve in curves for _, y in curve.points), default=1.0)
    axis = alt.Y("y:Q", title="training loss")
    if low <= 0 or not math.isfinite(high / low):
        return axis.scale(zero=False).axis(tickCount=5, format="~g")
    low, high = low / 1.5, high * 1.2
    ticks = powers(low, high)
    return axis.scale(type="log", domain=[low, high]).axis(values=ticks, format="~g")


def powers(low: float, high: float) -> list[float]:
    """Return powers of ten between two numbers above 0; with 2 and 5 where they are few.

    >>> powers(0.5, 40.0)
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(exponents) < 5 else (1,)
    found = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
    return [tick for tick in found if low <= tick <= high]


def _lines(dataset: str, at: str = "datum.x", **looks: Any) -> Any:
    """Return lines from curves that are one row each: names, and all x and y."""
    import altair as alt

    chart = alt.Chart(alt.NamedData(dataset)).transform_flatten(["x", "y"])
    chart = chart.transform_calculate(at=at)
    return chart.mark_line(strokeJoin="round", **looks).encode(detail="run:N", order="x:Q")


def _arrays(curve: Curve) -> dict[str, Any]:
    """Return a curve as one row, which is a quarter of the size of one row a point."""
    return {
        "name": curve.name,
        "run": curve.run,
        "x": [_short(x) for x, _ in curve.points],
        "y": [_short(y) for _, y in curve.points],
        "u": _short(curve.updates),
        "s": _short(curve.seconds),
    }


def _crosses(chart: Any, *, tooltip: list[Any]) -> Any:
    """Return a layer of crosses with a legend of its own."""
    import altair as alt

    shape = alt.Shape("end:N", title=None).scale(domain=["diverged"], range=[CROSS])
    marks = chart.transform_calculate(end="'diverged'").mark_point(
        size=70, strokeWidth=2.5, filled=False, opacity=1
    )
    return marks.encode(shape=shape.legend(orient="top", symbolSize=80), tooltip=tooltip)


def with_data(chart: Any, **datasets: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = styled(chart).to_dict()
    found: dict[str, Any] = _cleaned(spec | {"datasets": datasets})
    return found


def _cleaned(value: Any) -> Any:
    """Return a specification in which every text was passed through `clean`."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(name): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) if isinstance(item, str | dict | list) else item for item in value]
    return value


def _short(value: float) -> float:
    """Return a number with five digits: more are not visible, and the page is smaller."""
    return float(f"{value:.5g}")
