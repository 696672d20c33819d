"""Style of all charts: the looks and colors that they share, and their file formats."""

from __future__ import annotations

import io
from typing import Any

from legw.errors import LegwError

FORMATS = ("svg", "png", "html")
"""Suffixes of the files that `render` can write."""

COLORS = (
    "#8c8c8c", "#0072b2", "#d55e00", "#009e73", "#cc79a7",
    "#e69f00", "#56b4e9", "#7f3c8d", "#a5aa99", "#80ba5a",
)  # fmt: skip
"""Grey for the base, then Okabe and Ito's colors and three more for the other rules."""

DASHES = (
    (1, 0), (1, 0), (7, 3), (2, 2), (9, 3, 2, 3),
    (14, 4), (4, 4), (9, 2, 2, 2, 2, 2), (1, 4), (5, 2),
)  # fmt: skip
"""Strokes and gaps of each color's lines, in pixels: for lines that lie on each other, and for
readers who do not tell the colors apart."""

SHAPES = (
    "circle", "circle", "square", "triangle-up", "diamond",
    "triangle-down", "triangle-right", "triangle-left", "square", "triangle-up",
)  # fmt: skip
"""Mark of each color's points."""


def styled(chart: Any) -> Any:
    """Return an Altair chart in the style of all our charts."""
    return (
        chart.configure(font="Helvetica, Arial, sans-serif", background="white", padding=16)
        .configure_title(
            anchor="start", frame="group", fontSize=16, subtitleFontSize=12,
            subtitleColor="#555555", subtitlePadding=6,
        )
        .configure_axis(
            labelFontSize=12, titleFontSize=12, titleFontWeight="normal", titlePadding=10,
            gridColor="#e8e8e8", domainColor="#8c8c8c", tickColor="#8c8c8c",
            labelColor="#333333", titleColor="#333333",
        )
        .configure_legend(labelFontSize=12, labelLimit=300, symbolSize=300)
        .configure_view(stroke=None)
    )  # fmt: skip


def render(chart: Any, suffix: str) -> bytes:
    """Return an Altair chart as the bytes of a file; HTML is a page of still pictures.

    Args:
        chart: an Altair chart.
        suffix: one of `FORMATS`.

    Raises:
        LegwError: there is no such format.
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    if suffix not in FORMATS:
        raise LegwError(f"chart format {suffix!r} is unknown; choose one of {', '.join(FORMATS)}")
    import vl_convert  # noqa: F401 # here, where a missing one is told from a broken chart

    if suffix == "html":
        from legw.report.charts.chart_page import chart_page

        return chart_page(chart.to_dict(), COLORS).encode()
    buffer = io.BytesIO()
    if suffix == "png":
        chart.save(buffer, format="png", scale_factor=2)
        return buffer.getvalue()
    text = io.StringIO()
    chart.save(text, format="svg")
    return text.getvalue().encode()
