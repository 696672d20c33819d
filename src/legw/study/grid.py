"""Grids over the fields of a base recipe: ``lr=0.1,0.2`` -> one recipe a combination."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from legw.errors import RecipeError, given, one_line, setting, shown, unknown_name
from legw.recipe import Recipe, from_dict, to_dict

KNOWN_ABOUT = ("source", "noise_scale", "noise_scales", "noise_batch")
"""Fields of a recipe that are known about it, and that no run is made by."""

Grid = Mapping[str, Sequence[Any]]
"""Fields of a recipe, each with the values it takes; ``optimizer.momentum`` reaches
into a part."""


def parse(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return a grid from texts like ``lr=0.1,0.2`` and ``clip_norm=none,1``.

    Raises:
        RecipeError: a text has no name or no values, or one of them comes twice.

    >>> parse(["lr=0.1,0.2", "clip_norm=none,1"])
    {'lr': (0.1, 0.2), 'clip_norm': (None, 1)}
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        here = given("grid", one_line(text, 80))
        head, _, tail = text.partition("=")
        name = head.strip().replace("-", "_")
        values = tuple(_value(value) for value in tail.split(","))
        if not name or not all(value != "" for value in values):
            raise RecipeError(f"{here}: must read FIELD=VALUE,VALUE,...")
        if name in grid:
            raise RecipeError(
                f"{here}: {name} is given twice; put all its values into one {setting('grid')}"
            )
        if len(set(values)) < len(values):
            raise RecipeError(f"{here}: a value is given twice; leave one out")
        grid[name] = values
    return grid


def variants(base: Recipe, grid: Grid) -> list[tuple[str, Recipe]]:
    """Return every combination of a grid as (label, recipe); one without a label for no grid.

    Raises:
        RecipeError: an unknown field, or a value that cannot be.

    >>> base = Recipe(batch_size=16, lr=0.1, epochs=10)
    >>> [(label, recipe.lr) for label, recipe in variants(base, {"lr": (0.1, 0.2)})]
    [('lr=0.1', 0.1), ('lr=0.2', 0.2)]
    """
    found = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        recipe = base
        for name, value in settings.items():
            recipe = with_field(recipe, name, value)
        found.append((label(settings), recipe))
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
    known = [field.name for field in fields(Recipe)]
    if head not in known:
        raise RecipeError(f"{recipe.name}: {unknown_name('field', head, known)}")
    values: dict[str, Any] = to_dict(recipe)
    if tail:
        part = values.get(head)
        if not isinstance(part, dict):
            raise RecipeError(f"{recipe.name}: field {shown(name)}: {head} has no parts")
        value = {**part, tail: value}
    values[head] = value
    return from_dict({field: v for field, v in values.items() if v is not None})


def differences(base: Recipe, other: Recipe) -> dict[str, Any]:
    """Return the fields in which a recipe differs from another, with its values.

    Of an optimizer or decay of another kind these are the settings other than the defaults. The
    source of a recipe, and what was measured on it, do not count.

    >>> base = Recipe(batch_size=16, lr=0.1, epochs=10)
    >>> differences(base, with_field(base, "optimizer.momentum", 0.9))
    {'optimizer.momentum': 0.9}
    >>> differences(base, with_field(base, "optimizer", "adam"))
    {'optimizer': 'adam'}
    """
    ours, theirs = to_dict(base), to_dict(other)
    found: dict[str, Any] = {}
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        old, new = ours.get(name), theirs.get(name)
        if isinstance(new, dict) and isinstance(old or {}, dict):
            old = {} if old is None else old  # a recipe without a batch schedule
            found |= _part_differences(name, old, new, type(getattr(other, name)))
        elif old != new and name not in KNOWN_ABOUT:
            found[name] = new
    return found


def _part_differences(
    name: str, old: dict[str, Any], new: dict[str, Any], kind: type[Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if old.get("kind") != new.get("kind"):
        found[name] = new["kind"]
        old = {field.name: field.default for field in fields(kind)}
    settings = {key: value for key, value in new.items() if key != "kind"}
    return found | {f"{name}.{key}": v for key, v in settings.items() if old.get(key) != v}


def label(settings: Mapping[str, Any]) -> str:
    """Return fields and values in one line.

    >>> label({"lr": 0.1, "clip_norm": None})
    'lr=0.1 clip_norm=none'
    """
    return " ".join(f"{name}={short(value)}" for name, value in settings.items())


def short(value: Any) -> str:
    """Return a value in few characters, different for every value.

    >>> short(2.0), short(0.1 + 0.2), short(None)
    ('2', '0.30000000000000004', 'none')
    """
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "none" if value is None else str(value)


def _value(text: str) -> Any:
    """Return a word of the command line as the value that it stands for."""
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
