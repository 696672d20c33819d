"""Learning-rate curves: the points of a schedule, which need no extra, and their chart.

A chart is an Altair specification, which `style.render` turns into SVG, PNG or HTML; both
need `legw[report]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from legw.recipe import Recipe
from legw.report.charts.style import COLORS, styled
from legw.schedule import Progress, Ramp, in_steps, updates, warmup_updates

EVEN_POINTS = 320
"""Number of evenly spaced points of a long curve, besides its corners."""


class Point(NamedTuple):
    """One update of a schedule."""

    update: int
    """Number of the update, from 0."""
    epoch: float
    """Position of its start in epochs; in examples seen where an epoch's examples are unknown."""
    lr: float
    """Its learning rate."""
    batch_size: int = 0
    """Its examples."""

    def plain(self, *, grown: bool) -> dict[str, Any]:
        """Return it by names; the batch size only where it grows, else it is the recipe's."""
        values = self._asdict()
        return values if grown else {k: v for k, v in values.items() if k != "batch_size"}


def grown(line: Sequence[Point]) -> bool:
    """Say whether the batch grows along a curve.

    >>> grown([Point(0, 0.0, 0.1, 8), Point(1, 0.5, 0.1, 16)]), grown([Point(0, 0.0, 0.1, 8)])
    (True, False)
    """
    return len({point.batch_size for point in line}) > 1


def all_points(recipe: Recipe, *, ramp: Ramp = "end") -> Iterator[Point]:
    """Yield every update of a recipe's schedule, with the exact learning rates.

    Args:
        recipe: the recipe to train; if in epochs, it must know its number of examples.
        ramp: as for `legw.schedule.lr_at`.

    Raises:
        RecipeError: the number of examples is not known.

    >>> run = Recipe(batch_size=5, lr=1.0, epochs=1, warmup_epochs=0.5, num_examples=20)
    >>> [tuple(point[:3]) for point in all_points(run)]
    [(0, 0.0, 0.5), (1, 0.25, 1.0), (2, 0.5, 1.0), (3, 0.75, 1.0)]
    """
    lr, progress = in_steps(recipe, ramp=ramp), Progress(recipe)
    yield from (_point(progress, lr, update) for update in range(progress.updates))


def points(recipe: Recipe, *, ramp: Ramp = "end") -> list[Point]:
    """Return the schedule's curve in at most 1000 points that keep its shape.

    The points are evenly spaced; added are the last updates of the warmup and, for
    each place where the rate jumps or the batch grows, the update before and the one after.

    Args and Raises as for `all_points`.

    >>> run = Recipe(batch_size=1, lr=1.0, epochs=9, warmup_epochs=0.5, num_examples=100_000)
    >>> 300 < len(points(run)) < 1000, max(points(run)).update
    (True, 899999)
    """
    count = updates(recipe)
    if count <= 3 * EVEN_POINTS:
        return list(all_points(recipe, ramp=ramp))
    lr, progress = in_steps(recipe, ramp=ramp), Progress(recipe)
    warmup = warmup_updates(recipe)
    even = {round(i * (count - 1) / (EVEN_POINTS - 1)) for i in range(EVEN_POINTS)}
    corners = {u for u in range(warmup - 2, warmup + 2) if 0 <= u < count}
    corners |= {u for phase in progress.phases[1:] for u in (phase.first - 1, phase.first)}
    kept = sorted(even | corners)
    falling = lr if recipe.decay.after_warmup else _without_warmup(recipe)
    jumps = {u for a, b in itertools.pairwise(kept) for u in _jump(falling, a, b)}
    return [_point(progress, lr, update) for update in sorted({*kept, *jumps})]


def axis(recipe: Recipe) -> str:
    """Return the unit of the positions of a recipe's points: epoch, or examples.

    >>> axis(Recipe(batch_size=8, lr=1.0, steps=100))
    'examples'
    """
    return "examples" if recipe.epoch_examples is None else "epoch"


def _point(progress: Progress, lr: Callable[[int], float], update: int) -> Point:
    phase = progress.phase(update)
    begin = phase.begin + (update - phase.first) * phase.batch_size
    return Point(update, begin / (phase.epoch_size or 1), lr(update), phase.batch_size)


def _without_warmup(recipe: Recipe) -> Callable[[int], float]:
    """Return the decay alone, whose jumps no ramp hides."""
    return in_steps(replace(recipe.with_lengths(recipe.length, 0.0), warmup_from_lr=0.0))


def _jump(lr: Callable[[int], float], low: int, high: int) -> tuple[int, ...]:
    """Return the updates on both sides of a jump between two others, by bisection.

    In a smooth piece both halves change about equally; a half with nearly all of the change
    contains a jump.
    """
    start = low, high
    while high - low > 1:
        middle = (low + high) // 2
        first, second = abs(lr(middle) - lr(low)), abs(lr(high) - lr(middle))
        if max(first, second) <= 0.9 * (first + second) or first == second:
            return ()
        low, high = (low, middle) if first > second else (middle, high)
    return (low, high) if (low, high) != start else ()


def end_epoch(line: Sequence[Point]) -> float:
    """Return the epoch at which the last update of a curve ends.

    >>> end_epoch([Point(0, 0.0, 0.1), Point(1, 0.5, 0.1)])
    1.0
    """
    last = line[-1]
    return last.epoch * (last.update + 1) / last.update if last.update else 1.0


def lr_curve(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str = "",
    subtitle: str = "",
    across: str = "epoch",
) -> Any:
    """Return the Altair chart of learning rates over epochs, one line a schedule.

    Where a batch grows, the batch sizes are drawn below.

    Args:
        curves: label and points of each line, in the order in which they are drawn;
            of several the first is the base's, in grey.
        title: above the chart.
        subtitle: below the title, smaller.
        across: unit of the positions.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import altair as alt

    colors = list(COLORS) if len(curves) > 1 else list(COLORS[1:])
    several = any(map(grown, curves.values()))
    rows = [
        {"recipe": label, **point.plain(grown=several)}
        for label, line in curves.items()
        for point in line
    ]
    end = max(end_epoch(line) for line in curves.values())
    along = alt.X("epoch:Q", title=across).scale(domain=[0, end], nice=False)
    color = alt.Color("recipe:N", title=None).scale(domain=list(curves), range=colors)
    shared: dict[str, Any] = {
        "x": along.axis(grid=False, tickCount=10, labelFlush=False),
        "color": color.legend(orient="top", symbolType="stroke", symbolStrokeWidth=4, offset=12),
        "order": "update:Q",
        "tooltip": ["recipe:N", "update:Q", alt.Tooltip("epoch:Q", title=across), "lr:Q"],
    }
    axis = {"tickCount": 6, "domain": False, "ticks": False, "labelPadding": 8}
    upward = alt.Y("lr:Q", title="learning rate").scale(zero=True).axis(**axis)
    chart = (
        alt.Chart(alt.Data(values=rows), width=620, height=300)
        .mark_line(strokeWidth=2.5, strokeJoin="round")
        .encode(y=upward, **shared)
        .properties(title=alt.Title(title, subtitle=subtitle, offset=12))
    )
    if not several:
        return styled(chart)
    sizes = alt.Y("batch_size:Q", title="batch size").scale(type="log", base=2).axis(**axis)
    shared["tooltip"] = [*shared["tooltip"], "batch_size:Q"]
    below = (
        alt.Chart(alt.Data(values=rows), width=620, height=140)
        .mark_line(strokeWidth=2.5, interpolate="step-after")
        .encode(y=sizes, **shared)
    )
    return styled(alt.vconcat(chart, below))
