"""Learning-rate curves as text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from legw.report.charts.schedule import Point, end_epoch, points
from legw.study import baselines
from legw.study.plan import BASE, Plan

COLORS = ("gray", "blue+", "orange", "green", "magenta")
"""The base's color, then those of the others, by plotext's names."""


def lr_text(
    curves: Mapping[str, Sequence[Point]],
    *,
    width: int = 80,
    height: int = 20,
    color: bool = False,
    across: str = "epoch",
    value: Callable[[Point], float] = lambda point: point.lr,
) -> str:
    """Return learning rates over epochs as lines of text.

    Args:
        curves: label and points of each line; of several the first is the base's, dotted.
        width: columns, at least 20.
        height: lines, at least 8, with the legend.
        color: True adds ANSI colors.
        across: unit of the positions.
        value: returns what is drawn in place of the rate.
    """
    import plotext

    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height - 1)
    legend = []
    for i, (label, line) in enumerate(curves.items()):
        dotted = i == 0 and len(curves) > 1
        paint = COLORS[0] if dotted else COLORS[1:][(i - 1) % len(COLORS[1:])]
        marker = plotext.marker("·" if dotted else "braille", pixel=paint)
        signal = figure.signal([p.epoch for p in line], [value(p) for p in line], marker=marker)
        figure.draw(signal.lines())
        sample = plotext.colorize("···" if dotted else "⠒⠒⠒", paint).string(colorless=not color)
        legend.append(f"{sample} {label}")
    _rule(figure.ruler("x"), max(end_epoch(line) for line in curves.values()), width // 8)
    _rule(figure.ruler("y"), max(value(p) for line in curves.values() for p in line), height // 4)
    figure.axes(active=False, side=1)
    figure.label(across, "x")
    drawn = figure.build().string(colorless=not color).splitlines()
    return "\n".join(["   ".join(legend), *(row.rstrip() for row in drawn)])


def _rule(ruler: Any, high: float, count: int) -> None:
    """Scale an axis from 0 to `high`, with round numbers on it."""
    at = round_numbers(high, count)
    ruler.lim(0, high or 1.0)
    ruler.ticks(at, [f"{tick:g}" for tick in at])


def round_numbers(high: float, count: int) -> list[float]:
    """Return at most about `count` evenly spaced round numbers from 0 to `high`.

    >>> round_numbers(25, 8), round_numbers(0.0057, 5)
    ([0.0, 5.0, 10.0, 15.0, 20.0, 25.0], [0.0, 0.002, 0.004])
    """
    if high < 1e-300:  # rates that underflow have no figures to be rounded
        return [0.0]
    power = 10.0 ** math.floor(math.log10(high / count))
    step = next(step for step in (1, 2, 5, 10, 20) if high / (step * power) <= count) * power
    return [round(i * step, 12) for i in range(math.floor(high / step + 1e-6) + 1)]


def plan_curves(plan: Plan) -> tuple[int, dict[str, list[Point]]]:
    """Return the largest batch size, and the schedules of the base and of that size."""
    runs = [run for run in plan.runs if not run.variant or run.variant == plan.runs[0].variant]
    runs = [
        run for run in runs if not baselines.tuned_optimizer(run.rule) and run.recipe.epoch_examples
    ]
    largest = max((run.recipe.batch_size for run in runs), default=0)
    found: dict[str, list[Point]] = {}
    for run in runs:
        if run.rule == BASE or run.recipe.batch_size == largest:
            found.setdefault(run.rule, points(run.recipe))
    return largest, found
