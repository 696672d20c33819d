"""A study: a grid of rule x batch size x seed, as values.

    Study --plan--> runs --pending(folder)--> what is left to run --rows(folder)--> table

At ``k = 1`` every rule returns the base recipe, so that all rules share one run
there; it is called `base` and trained once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from legw import records, rules
from legw.errors import RecipeError, RunError, unknown_name
from legw.recipe import Recipe, from_dict, to_dict

BASE = "base"
"""What the run at the base batch is called, whatever the rule."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared.

    >>> base = Recipe(name="mine", batch_size=16, lr=0.1, epochs=10, warmup_epochs=0.1)
    >>> study = Study(task="mine", base=base, batch_sizes=(16, 64), rules=("legw", "sqrt"))
    >>> [run.name for run in plan(study).runs]
    ['base-b16-s0', 'legw-b64-s0', 'sqrt-b64-s0']
    """

    task: str
    """The application's name, or ``module:attribute``."""
    base: Recipe
    """The recipe that is carried over."""
    batch_sizes: tuple[int, ...]
    """Target batch sizes, in the order in which they are run."""
    rules: tuple[str, ...] = ("legw",)
    """Names of the rules."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; three at least for a claim."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Fields of the base recipe to vary, each with its values; ``optimizer.momentum``
    reaches into a part. Every combination is a base of its own."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study."""

    name: str
    """Its folder's name, a function of what it is."""
    variant: str
    """The combination of the grid, such as ``lr=0.1``; empty without a grid."""
    rule: str
    """The rule's name, or `base` at k = 1."""
    base: Recipe
    recipe: Recipe
    seed: int


@dataclass(frozen=True, kw_only=True)
class Undefined:
    """A cell of the grid that its rule does not define, and why."""

    variant: str
    rule: str
    batch_size: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a study, in the order in which they are run."""

    runs: tuple[Planned, ...]
    undefined: tuple[Undefined, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run in `table.json`."""

    recipe: str
    rule: str
    batch_size: int
    seed: int
    metric: float | None
    status: str
    """finished, diverged, interrupted, running, or missing."""
    updates: int | None
    seconds: float | None
    variant: str = ""
    final_loss: float | None = None
    lr: float | None = None
    warmup_epochs: float | None = None


def plan(study: Study) -> Plan:
    """Return every run of a study, base batch first, and the cells that are undefined.

    Raises:
        RecipeError: an unknown rule or field, or a base that cannot be.
    """
    runs: dict[str, Planned] = {}
    undefined = []
    for rule in study.rules:
        rules.find(rule)
    for variant, base in variants(study.base, study.grid):
        for batch_size, rule, seed in itertools.product(
            study.batch_sizes, study.rules, study.seeds
        ):
            try:
                recipe = rules.apply(base, batch_size, rules.find(rule))
            except RecipeError as error:
                if seed == study.seeds[0]:
                    undefined.append(
                        Undefined(
                            variant=variant, rule=rule, batch_size=batch_size, reason=str(error)
                        )
                    )
                continue
            run = _planned(variant, base, recipe, rule, seed)
            runs.setdefault(run.name, run)
    return Plan(runs=tuple(runs.values()), undefined=tuple(undefined))


def _planned(variant: str, base: Recipe, recipe: Recipe, rule: str, seed: int) -> Planned:
    rule = BASE if recipe.batch_size == base.batch_size else rule
    name = f"{rule}-b{recipe.batch_size}-s{seed}"
    if variant:
        name = f"{variant.replace(' ', '_').replace('/', '_')}_{name}"
    return Planned(name=name, variant=variant, rule=rule, base=base, recipe=recipe, seed=seed)


def variants(base: Recipe, grid: Mapping[str, Sequence[Any]]) -> list[tuple[str, Recipe]]:
    """Return every combination of a grid as (label, recipe).

    Raises:
        RecipeError: an unknown field, or a value that cannot be.

    >>> base = Recipe(batch_size=16, lr=0.1, epochs=10)
    >>> [(label, recipe.lr) for label, recipe in variants(base, {"lr": (0.1, 0.2)})]
    [('lr=0.1', 0.1), ('lr=0.2', 0.2)]
    """
    found = []
    for values in itertools.product(*grid.values()):
        recipe = base
        for name, value in zip(grid, values, strict=True):
            recipe = with_field(recipe, name, value)
        label = " ".join(f"{n}={_short(v)}" for n, v in zip(grid, values, strict=True))
        found.append((label, recipe))
    return found


def with_field(recipe: Recipe, name: str, value: Any) -> Recipe:
    """Return the recipe with one field changed; ``optimizer.momentum`` reaches into a part.

    Raises:
        RecipeError: there is no such field, or the value cannot be.

    >>> recipe = Recipe(batch_size=16, lr=0.1, epochs=10)
    >>> with_field(recipe, "optimizer.momentum", 0.9).optimizer.momentum
    0.9
    """
    head, _, tail = name.partition(".")
    values: dict[str, Any] = to_dict(recipe)
    if head not in Recipe.__dataclass_fields__:
        raise RecipeError(f"{recipe.name}: {unknown_name('field', head, values)}")
    if tail:
        values[head] = {**values[head], tail: value}
    else:
        values[head] = value
    return from_dict({n: v for n, v in values.items() if v is not None})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def pending(runs: Sequence[Planned], folder: str | Path) -> list[Planned]:
    """Return the runs that have neither finished nor diverged in a study's folder.

    Raises:
        RunError: a run's folder is damaged.
    """
    return [run for run in runs if status(run, folder) not in ("finished", "diverged")]


def status(run: Planned, folder: str | Path) -> str:
    """Return how far a run is: finished, diverged, interrupted, running or missing."""
    place = Path(folder) / "runs" / run.name
    if not (place / "manifest.json").exists():
        return "missing"
    summary = records.read_summary(place)
    return summary.status if summary else "running"


def rows(runs: Sequence[Planned], folder: str | Path) -> list[Row]:
    """Return the table of a study, one row a run; what is not there yet says so.

    Raises:
        RunError: a run's folder is damaged, or holds a run of another recipe.
    """
    return [_row(run, Path(folder) / "runs" / run.name) for run in runs]


def _row(run: Planned, place: Path) -> Row:
    row = Row(
        recipe=run.recipe.name,
        rule=run.rule,
        batch_size=run.recipe.batch_size,
        seed=run.seed,
        metric=None,
        status="missing",
        updates=None,
        seconds=None,
        variant=run.variant,
        lr=run.recipe.lr,
        warmup_epochs=run.recipe.warmup_epochs,
    )
    if not (place / "manifest.json").exists():
        return row
    found = records.read_manifest(place)
    if replace(found.recipe, source="") != replace(run.recipe, source=""):
        raise RunError(
            f"{place}: holds a run of another recipe; choose another --out, or move it away"
        )
    summary = records.read_summary(place)
    if summary is None:
        return replace(row, status="running")
    return replace(
        row,
        metric=summary.metric.get("value"),
        status=summary.status,
        updates=summary.updates,
        seconds=summary.seconds,
        final_loss=summary.final_loss,
    )


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return a grid from texts like ``lr=0.1,0.2`` and ``clip_norm=none,1``.

    Raises:
        RecipeError: a text has no name or no values.

    >>> parse_grid(["lr=0.1,0.2", "clip_norm=none,1"])
    {'lr': [0.1, 0.2], 'clip_norm': [None, 1]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if not name or not values:
            raise RecipeError(f"--grid {text!r}: must read field=value,value,...")
        grid[name.strip().replace("-", "_")] = [_value(value) for value in values.split(",")]
    return grid


def _value(text: str) -> Any:
    text = text.strip()
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


