"""Probe charts, one function each: measured values in, an Altair chart out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from legw.analysis import critical, probed
from legw.analysis.curvature import Peak
from legw.analysis.noise import NoiseScale
from legw.report.charts.style import COLORS, styled

BAR_FACTOR = 10.0
"""An interval is drawn up to this multiple of its value, and down to the value divided by it."""

CurvePoints = Sequence[tuple[float, float]]


def curvature_by_epoch(
    curves: Mapping[int, Sequence[CurvePoints]],
    peaks: Mapping[int, Sequence[Peak]],
    *,
    title: str = "",
    subtitle: str = "",
) -> Any:
    """Return the chart of curvature against epochs, a line a run, a color a batch size.

    Both axes are logarithmic: a peak that moves in proportion to the batch moves by equal
    steps. Dots are the peaks.

    Args:
        curves: for each batch size its runs, as (epoch, curvature), both above 0.
        peaks: for each batch size where its runs' curvature is highest.
        title: text above the chart; empty for none.
        subtitle: smaller text below the title; empty for none.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    rows = [
        {"batch": str(size), "run": f"{size}-{number}", "epoch": x, "curvature": y}
        for size, runs in curves.items()
        for number, points in enumerate(runs)
        for x, y in points
        if y > 0
    ]
    dots = [
        {"batch": str(size), "epoch": one.epoch, "curvature": one.curvature, "update": one.update}
        for size, found in peaks.items()
        for one in found
    ]
    across = alt.X("epoch:Q", title="epoch").scale(type="log", nice=False).axis(format="~g")
    upward = alt.Y("curvature:Q", title="curvature along the gradient").scale(type="log")
    color = _by_batch([str(size) for size in curves])
    lines = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.4, opacity=0.75)
        .encode(across, upward.axis(format="~g"), color, detail="run:N", order="epoch:Q")
    )
    marks = (
        alt.Chart(alt.Data(values=dots))
        .mark_point(size=90, filled=True, opacity=1, stroke="white", strokeWidth=1)
        .encode(across, upward, color, tooltip=["batch:N", "update:Q", "epoch:Q", "curvature:Q"])
    )
    chart = alt.layer(lines, marks).properties(width=620, height=320)
    return styled(chart.properties(title=alt.Title(title, subtitle=subtitle)))


def noise_by_epoch(
    scales: Mapping[str, Sequence[NoiseScale]],
    *,
    batch_size: int,
    title: str = "",
    subtitle: str = "",
) -> Any:
    """Return the chart of noise scale against epochs, a line a run, bars for 95 % intervals.

    The axis is logarithmic and an interval may begin at 0: a bar ends at a tenth of the value
    and at ten times it, and where it is cut, or where there is no interval, the dot is hollow.
    A triangle at the upper edge is a stretch without an estimate: its gradient is lost in noise.

    Args:
        scales: label and stretches of each run.
        batch_size: of the runs; a dashed line.
        title: text above the chart; empty for none.
        subtitle: smaller text below the title; empty for none.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    rows = [
        {
            "run": name,
            "epoch": (one.from_epoch + one.to_epoch) / 2,
            "noise": one.value or None,  # which breaks the line
            **_bar(one),
        }
        for name, found in scales.items()
        for one in found
    ]
    across = alt.X("epoch:Q", title="epoch").scale(zero=True, nice=False)
    upward = alt.Y("noise:Q", title="noise scale, examples").scale(type="log").axis(format="~g")
    color = _by_batch(list(scales))
    base = alt.Chart(alt.Data(values=rows))
    layers = [
        base.mark_line(strokeWidth=2).encode(across, upward, color, order="epoch:Q"),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, opacity=0.6)
        .encode(across, alt.Y("low:Q"), color, y2="high:Q"),
        *(
            base.transform_filter(f"isValid(datum.noise) && {which}")
            .mark_point(size=50, opacity=1, **look)
            .encode(across, upward, color, tooltip=["run:N", "epoch:Q", "noise:Q"])
            for which, look in (
                ("!datum.cut", {"filled": True}),
                ("datum.cut", {"filled": False, "fill": "white"}),
            )
        ),
        base.transform_filter("!isValid(datum.noise)")
        .mark_point(size=60, shape="triangle-up")
        .encode(across, color, y=alt.value(8), tooltip=["run:N", "epoch:Q"]),
        alt.Chart(alt.Data(values=[{"noise": batch_size}]))
        .mark_rule(strokeDash=[5, 4], color=COLORS[0])
        .encode(upward),
    ]
    chart = alt.layer(*layers).properties(width=620, height=300)
    return styled(chart.properties(title=alt.Title(title, subtitle=subtitle)))


def excess_by_batch(
    points: Mapping[str, Sequence[tuple[int, float, float]]],
    *,
    tolerance: float,
    predicted: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    critical_batch: float | None = None,
    share: bool = True,
    title: str = "",
    subtitle: str | list[str] = "",
) -> Any:
    """Return the chart of a branch's loss above the base's against batch size, a line a point.

    Bars are 95 % intervals, dashed lines of a point's color what the noise batch predicts; the
    tolerance is a level line, the critical batch an upright one.

    Args:
        points: label of each point, and its branches as (batch size, excess, half-width).
        tolerance: of the excess.
        predicted: label of each point, and its branches as (batch size, predicted excess).
        critical_batch: in examples; None marks none.
        share: True for an excess that is a share of the base's loss, False for one in its unit.
        title: text above the chart; empty for none.
        subtitle: smaller text below the title, or lines of it; empty for none.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    rows = [
        {"run": name, "batch": size, "excess": excess, "low": excess - half, "high": excess + half}
        for name, found in points.items()
        for size, excess, half in found
    ]
    foretold = [
        {"run": name, "batch": size, "excess": excess}
        for name, found in (predicted or {}).items()
        for size, excess in found
    ]
    across = alt.X("batch:Q", title="batch size, examples").scale(type="log", base=2, nice=False)
    sizes = sorted({size for found in points.values() for size, _, _ in found})
    across = across.axis(values=sizes, labelOverlap=True)
    form = ".1%" if share else "~g"
    upward = alt.Y("excess:Q", title="loss above the base's").axis(format=form)
    color = _by_batch(list(points))
    base = alt.Chart(alt.Data(values=rows))
    layers = [
        base.mark_line(strokeWidth=2).encode(across, upward, color),
        base.mark_rule(strokeWidth=1.5, opacity=0.6).encode(
            across, alt.Y("low:Q"), color, y2="high:Q"
        ),
        base.mark_point(size=50, filled=True, opacity=1).encode(
            across, upward, color, tooltip=["run:N", "batch:Q", "excess:Q"]
        ),
        alt.Chart(alt.Data(values=foretold))
        .mark_line(strokeWidth=1.5, strokeDash=[2, 3])
        .encode(across, upward, color),
        alt.Chart(alt.Data(values=[{"excess": tolerance}]))
        .mark_rule(strokeDash=[5, 4], color=COLORS[0])
        .encode(upward),
    ]
    if critical_batch is not None:
        mark = alt.Chart(alt.Data(values=[{"batch": critical_batch, "word": "critical batch"}]))
        layers += [
            mark.mark_rule(strokeDash=[5, 4], color=COLORS[0]).encode(across),
            mark.mark_text(align="left", dx=4, fontSize=11).encode(
                across, y=alt.value(8), text="word:N"
            ),
        ]
    chart = alt.layer(*layers).properties(width=620, height=300)
    return styled(chart.properties(title=alt.Title(title, subtitle=subtitle)))


def curvature_chart(found: dict[str, Any]) -> Any:
    """Return the chart of the JSON that `legw probe curvature` prints."""
    lines: dict[int, list[Any]] = {}
    tops: dict[int, list[Peak]] = {}
    for row in found["runs"]:
        lines.setdefault(row["batch_size"], []).append(row["curve"])
        if row["peak"]:
            tops.setdefault(row["batch_size"], []).append(Peak(**row["peak"]))
    return curvature_by_epoch(
        lines,
        tops,
        title=f"{found['app']}: curvature along the gradient, by {found['rule']}",
        subtitle=probed.exponent_line(found),
    )


def noise_chart(found: dict[str, Any]) -> Any:
    """Return the chart of the JSON that `legw probe noise` prints."""
    scales = {
        f"seed {row['seed']}": [NoiseScale(**part) for part in row["stretches"]]
        for row in found["runs"]
    }
    return noise_by_epoch(
        scales,
        batch_size=found["batch_size"],
        title=f"{found['app']}: noise scale at batch {found['batch_size']}",
        subtitle=probed.noise_lines(found)[0],
    )


def critical_chart(found: dict[str, Any]) -> Any:
    """Return the chart of the JSON that `legw probe critical` prints."""
    points = {
        f"epoch {point['epoch']:.3g}": [
            (one["batch_size"], one["excess"], one["half_width"] or 0.0)
            for one in point["branches"]
            if one["excess"] is not None
        ]
        for point in found["points"]
    }
    predicted = {
        f"epoch {point['epoch']:.3g}": [
            (one["batch_size"], one["predicted"])
            for one in point["branches"]
            if one.get("predicted") is not None
        ]
        for point in found["points"]
    }
    return excess_by_batch(
        points,
        tolerance=found["tolerance"],
        predicted=predicted,
        critical_batch=found["critical_batch"]["value"],
        share=not found["absolute"],
        title=f"{found['app']}: loss of branches over equal examples, by {found['rule']}",
        subtitle=critical.critical_lines(found)[0].split("; "),
    )


def _bar(one: NoiseScale) -> dict[str, Any]:
    """Return the drawn ends of an interval, and whether one was cut or is missing."""
    if not one.value or one.low is None or one.high is None:
        return {"low": None, "high": None, "cut": True}
    low, high = max(one.low, one.value / BAR_FACTOR), min(one.high, one.value * BAR_FACTOR)
    return {"low": low, "high": high, "cut": (low, high) != (one.low, one.high)}


def _by_batch(names: Sequence[str]) -> Any:
    """Return the colors of lines that are ordered, from pale to dark."""
    import altair as alt

    legend = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=4)
    scale = alt.Scale(domain=list(names), scheme="viridis")
    field = "batch:N" if all(name.isdecimal() for name in names) else "run:N"
    return alt.Color(field, title=None, legend=legend).scale(scale)
