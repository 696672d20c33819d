"""Plots of a study's page, as Vega-Lite specifications."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from legw.analysis.curves import MAX_POINTS, corners, means, thin
from legw.analysis.evidence import Evidence
from legw.analysis.table import Table
from legw.analysis.targets import reached
from legw.analysis.trials import best_trials, shown_as
from legw.errors import LegwError
from legw.report.charts import comparison, targets
from legw.report.charts.comparison import Curve
from legw.report.charts.schedule import Point, grown, points
from legw.report.charts.style import COLORS
from legw.rules import STEERING
from legw.runs.records import Run
from legw.schedule import in_unit
from legw.study.plan import BASE

PANELS = 8
"""Most batch sizes with curves: the smallest, the largest, and some between."""

ALL_POINTS = 40_000
"""Approximate number of points in all curves of a page together, which keeps the page small."""

SMOOTH = 60
"""Most points of a smoothed curve; each is the mean of at least 8 updates."""


class Plot(NamedTuple):
    """One chart of the page."""

    figure: dict[str, Any]
    """Vega-Lite specification of the chart by itself."""
    label: str
    """Description of the chart, for screen readers."""
    name: str = ""
    """Beginning of the name of a panel's file."""

    @property
    def spec(self) -> dict[str, Any]:
        """The figure as wide as its place in the page, with CSS variables for colors."""
        return _spec(self.figure)


def across(table: Table) -> str:
    """Return the horizontal axis of the metric's chart."""
    if len(table.batch_sizes) > 1:
        return "against batch size"
    return "of each variant" if len(table.variants) > 1 else f"at batch {table.batch_sizes[0]}"


def overview(evidence: Evidence) -> Plot:
    """Return the chart of metric against batch size."""
    table = best_trials(evidence.table)
    if len(table.batch_sizes) == 1:
        return Plot(comparison.metric_by_variant(table), f"{table.metric} {across(table)}")
    chart = comparison.metric_by_batch(table)
    return Plot(chart, f"{table.metric} against batch size, one line a rule")


def costs(evidence: Evidence, target: float) -> list[Plot]:
    """Return the charts of the costs to reach a target; none where no cell reached it."""
    table = best_trials(evidence.table)
    found = reached(evidence, target)
    if len(table.batch_sizes) < 2 or not any(each.updates for each in found):
        return []
    units = [unit for unit in targets.UNITS if any(each.costs[unit] for each in found)]
    charts = [(unit, targets.to_target(found, table, unit=unit)) for unit in units]
    said = f"to {table.metric} {table.number(target)} against batch size, one line a rule"
    return [Plot(chart, f"{unit} {said}") for unit, chart in charts]


def recipes(evidence: Evidence) -> dict[str, Plot]:
    """Return the charts of peak rate and warmup against batch size."""
    table = best_trials(evidence.table)
    if len(table.batch_sizes) < 2:
        return {}
    rows = [
        replace(row, rule=name)
        for row in evidence.rows
        if (name := shown_as(evidence.table, row.rule, row.batch_size, row.variant))
    ]
    fields = {
        "learning-rate-by-batch": ("lr", "peak learning rate"),
        "warmup-by-batch": ("warmup_epochs", "warmup"),
    }
    return {
        name: Plot(targets.recipe_by_batch(rows, table, field=field), f"{what} against batch size")
        for name, (field, what) in fields.items()
    }


FURTHER: list[tuple[str, Callable[[Evidence], dict[str, Plot]]]] = [
    ("Learning rate and warmup against batch size", recipes),
]
"""Charts that stand below the metric's and the costs': a title, and study -> charts by the names of
their files; none where there is nothing to draw."""


def panels(evidence: Evidence) -> Iterator[tuple[int, list[Plot]]]:
    """Yield for each batch size its charts of training loss, rate, and batch where one grows."""
    table = best_trials(evidence.table)
    most = max(20, min(MAX_POINTS, ALL_POINTS // max(1, len(evidence.runs))))
    for size in _chosen(table.batch_sizes):
        plots = []
        loss = _losses(evidence, table, size, most)
        if loss:
            chart = comparison.loss_by_epoch(loss, names=table.names, title=f"Loss at batch {size}")
            plots.append(Plot(chart, f"training loss against epoch at batch size {size}", "loss"))
        schedules = _schedules(evidence, table, size)
        rates = _rates(schedules)
        if rates:
            chart = comparison.lr_by_epoch(
                rates, names=table.names, title=f"Learning rate at batch {size}"
            )
            label = f"learning rate against epoch at batch size {size}"
            plots.append(Plot(chart, label, "learning-rate"))
        growing = _batch_sizes(schedules)
        if growing:
            chart = comparison.batch_size_by_epoch(
                growing, names=table.names, title=f"Batch size on the way to {size}"
            )
            label = f"batch size against epoch on the way to {size}"
            plots.append(Plot(chart, label, "batch-size"))
        if plots:
            yield size, plots


def _chosen(sizes: list[int]) -> list[int]:
    if len(sizes) <= PANELS:
        return sizes
    return [sizes[round(i * (len(sizes) - 1) / (PANELS - 1))] for i in range(PANELS)]


def _losses(evidence: Evidence, table: Table, size: int, most: int) -> list[Curve]:
    """Return each run's smoothed curve, with the raw one behind it where the two differ.

    Every panel also has the base's smoothed curves, for comparison.
    """
    curves = []
    for row, run in evidence.runs:
        points = [
            (u.epoch, u.loss) for u in run.updates if u.loss is not None and math.isfinite(u.loss)
        ]
        here = row.batch_size == size
        rule = shown_as(evidence.table, row.rule, row.batch_size, row.variant)
        if not points or rule is None or not (here or row.rule == BASE):
            continue
        smooth = means(points, max(8, min(SMOOTH, len(points) // 8)))
        curve = Curve(
            table.name(row.variant, rule),
            run.folder.name,
            smooth,
            diverged=here and row.status == "diverged",
            updates=_updates_an_epoch(run),
            seconds=run.updates[-1].seconds / run.updates[-1].epoch,
        )
        curves.append(curve)
        if here and len(points) > len(smooth):
            curves.append(curve._replace(points=thin(points, most), diverged=False, faint=True))
    return curves


def _updates_an_epoch(run: Run) -> float:
    """Return the updates of an epoch; where the batch grows, their mean so far."""
    recipe, last = run.manifest.recipe, run.updates[-1]
    if recipe.batch_schedule is not None:
        return (last.update + 1) / last.epoch
    return run.manifest.num_examples / recipe.batch_size


def _schedules(evidence: Evidence, table: Table, size: int) -> dict[str, list[Point]]:
    """Return by name the schedules of a batch size, one a rule, and the base's."""
    found: dict[str, list[Point]] = {}
    for row, run in evidence.runs:
        rule = shown_as(evidence.table, row.rule, row.batch_size, row.variant)
        name = table.name(row.variant, rule or "")
        if rule is None or rule in STEERING:
            continue  # the rates of a rule that steers are not in its recipe
        if (row.batch_size == size or row.rule == BASE) and name not in found:
            found[name] = _schedule(run)
    return {name: line for name, line in found.items() if line}


def _schedule(run: Run) -> list[Point]:
    """Return the points of a run's schedule, the last at its end."""
    manifest = run.manifest
    recipe = manifest.recipe.with_num_examples(manifest.num_examples)
    try:
        line = points(recipe)
        return [*line, line[-1]._replace(epoch=in_unit(recipe, "epochs").length)]
    except LegwError:  # a folder that was tampered with: its curve is left out
        return []


def _rates(schedules: dict[str, list[Point]]) -> list[Curve]:
    """Return the learning rates of some schedules."""
    return [
        Curve(name, name, corners([(point.epoch, point.lr) for point in line]))
        for name, line in schedules.items()
    ]


def _batch_sizes(schedules: dict[str, list[Point]]) -> list[Curve]:
    """Return the batch sizes of some schedules; nothing where none of them grows."""
    if not any(map(grown, schedules.values())):
        return []
    return [
        Curve(name, name, [(point.epoch, float(point.batch_size)) for point in _steps(line)])
        for name, line in schedules.items()
    ]


def _steps(line: list[Point]) -> list[Point]:
    """Return the points at which the batch grows, with the first and the last."""
    pairs = itertools.pairwise(line)
    return [line[0], *(b for a, b in pairs if a.batch_size != b.batch_size), line[-1]]


def _without_legend(part: dict[str, Any]) -> dict[str, Any]:
    """Remove the legend: the page has its own, which wraps on a narrow screen."""
    return part | {"legend": None} if "legend" in part else part


def _spec(chart: dict[str, Any]) -> dict[str, Any]:
    """Return a specification in the page's looks instead of its own."""
    datasets = chart["datasets"]
    text = json.dumps({key: v for key, v in chart.items() if key not in ("datasets", "config")})
    for i, color in enumerate(COLORS):
        text = text.replace(f'"{color}"', f'"var(--c{i})"')
    spec: dict[str, Any] = json.loads(text, object_hook=_without_legend)
    return spec | {
        "datasets": datasets,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
