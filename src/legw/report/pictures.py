"""Pictures of a report's charts, for papers: SVG or PNG, on white."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from legw.analysis.evidence import Evidence
from legw.analysis.targets import usual
from legw.report import plots

SCALE = 2.0
"""Pixels of a PNG for each of a chart's units."""


def files(
    everything: Sequence[Evidence], suffix: str, target: float | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each chart's file.

    Args:
        everything: at least one study; of several, names begin with their number.
        suffix: svg or png.
        target: the metric that costs are counted to; None takes the usual one.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import vl_convert

    for number, evidence in enumerate(everything, start=1):
        if not evidence.runs:
            continue
        first = f"{number}-" if len(everything) > 1 else ""
        aim = usual(evidence.table) if target is None else target
        for name, spec in _charts(evidence, aim):
            if suffix == "png":
                yield f"{first}{name}.png", vl_convert.vegalite_to_png(spec, scale=SCALE)
            else:
                yield f"{first}{name}.svg", vl_convert.vegalite_to_svg(spec).encode()


def _charts(evidence: Evidence, target: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "metric", plots.overview(evidence).figure
    names = [f"{unit}-to-target" for unit in ("updates", "examples", "seconds")]
    if target is not None:
        yield from zip(names, (plot.figure for plot in plots.costs(evidence, target)), strict=False)
    for _, draw in plots.FURTHER:
        yield from ((name, plot.figure) for name, plot in draw(evidence).items())
    for size, drawn in plots.panels(evidence):
        yield from ((f"{plot.name}-at-{size}", plot.figure) for plot in drawn)
