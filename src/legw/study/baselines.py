"""Tuned optimizers of a study: each gets a grid of settings at the large batch itself.

Untuned LEGW is compared with the best of the grid, chosen by the very metric that is
shown, which favours the tuned optimizer. Its cost is that of the whole grid.

    "adam lr=0.001,0.002" --read--> {"adam": {"lr": (0.001, 0.002)}} --trials--> recipes
    Table with a cell a trial --best--> Table with a cell a tuned optimizer
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from legw.errors import RecipeError, given, one_line, setting, unknown_name
from legw.optimizers import Optimizer
from legw.recipe import Recipe, kinds
from legw.study import grid
from legw.study.grid import Grid

PREFIX = "tuned-"
"""Prefix of a tuned optimizer's name: ``tuned-adam`` is tuned Adam, ``tuned-adam lr=0.1`` one
trial of it."""

TunedGrids = Mapping[str, Grid]
"""Kinds of optimizers, each with the fields that are tuned."""


def read(texts: Sequence[str]) -> dict[str, Grid]:
    """Return grids of tuned optimizers from texts like ``adam lr=0.001,0.002``.

    Raises:
        RecipeError: an unknown optimizer, no field, or a field that cannot be read.

    >>> read(["adam lr=0.001,0.002 warmup_epochs=0"])
    {'adam': {'lr': (0.001, 0.002), 'warmup_epochs': (0,)}}
    """
    found: dict[str, Grid] = {}
    for text in texts:
        kind, *fields = text.split() or [""]
        here = given("tuned", one_line(text, 80))
        if kind not in kinds(Optimizer):
            raise RecipeError(f"{here}: {unknown_name('optimizer', kind, kinds(Optimizer))}")
        if kind in found:
            raise RecipeError(f"{here}: {kind} is given twice; put all its values into one")
        if not fields:
            raise RecipeError(f"{here}: must read OPTIMIZER FIELD=VALUE,VALUE,...")
        found[kind] = grid.parse(fields)
    return found


def trials(base: Recipe, tuned: TunedGrids, batch_size: int) -> Iterator[tuple[str, Recipe]]:
    """Yield each trial at a batch size: its name, and the base recipe with its settings.

    The optimizer has its usual settings, or the base's own where it is of the same kind.

    Raises:
        RecipeError: an unknown field, or a value that cannot be.
    """
    for kind, fields in tuned.items():
        start = base if base.optimizer.kind == kind else grid.with_field(base, "optimizer", kind)
        for label, recipe in grid.variants(start, fields):
            yield f"{PREFIX}{kind} {label}", replace(recipe, batch_size=batch_size)


def check_apart(what: str, trials: Iterable[tuple[str, str, Recipe]]) -> None:
    """Refuse grids that set a field of the study's grid: a trial would count several times.

    Args:
        what: the base's name.
        trials: of each its combination of the grid, its name and its recipe.

    Raises:
        RecipeError: a trial is the same under two combinations of the grid.
    """
    found: dict[tuple[str, int], list[tuple[str, Recipe]]] = {}
    for variant, name, recipe in trials:
        twins = found.setdefault((name, recipe.batch_size), [])
        for other, twin in twins:
            if twin == recipe:
                raise RecipeError(
                    f"{what}: {name} is the same under {other} and {variant} "
                    "of the grid; choose the base first, or vary fields that "
                    f"{setting('tuned')} does not set"
                )
        twins.append((variant, recipe))


def tuned_optimizer(rule: str) -> str:
    """Return the tuned optimizer to which a trial belongs; empty for a rule that is no trial.

    >>> tuned_optimizer("tuned-adam lr=0.1"), tuned_optimizer("legw")
    ('tuned-adam', '')
    """
    name, _, settings = rule.partition(" ")
    return name if rule.startswith(PREFIX) and settings else ""
