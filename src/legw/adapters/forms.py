"""Configuration forms: one library's names, and an account of each value under them.

Every known name is carried into the recipe, is independent of the batch size, or is listed as left
out. A value under an unknown name is listed, too, where the name suggests that it sets batch,
length, warmup, learning rate or schedule. If no known name gives that setting, it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from legw.adapters.fields import Fields, Values
from legw.adapters.role_names import DECIDES, Role, role_of
from legw.errors import RecipeError, one_line, shown
from legw.recipe import Recipe

CARRIED = "carried"
"""The reader carries it into the recipe, or gives a reason itself."""
KEPT = "kept"
"""It is independent of the batch size."""


@dataclass(frozen=True)
class Named:
    """A setting that stays unchanged, and is listed where it has an effect."""

    why: str
    """Text after ``name=value: ``."""
    nothing: tuple[Any, ...] = ()
    """Values without an effect, beside none, 0, off and empty ones."""
    least: float | None = None
    """A number below this has no effect."""

    def does(self, value: Any) -> bool:
        """Say whether a value has an effect."""
        if value is None or isinstance(value, bool):
            return value is True and value not in self.nothing
        if isinstance(value, int | float):
            return value not in (0, *self.nothing) and not (self.least and value < self.least)
        empty = isinstance(value, str | Mapping | list | tuple | set | frozenset) and not value
        return not empty and not (isinstance(value, str) and value in self.nothing)


COUNTS = Named("counts updates, and stays", least=1)
"""A number of updates that does not affect the training."""

Setting = str | Named


@dataclass(frozen=True)
class Usual:
    """A library's default for a missing value."""

    role: Role
    """Part of the recipe that it sets."""
    names: tuple[str, ...]
    """Settings any of which gives it."""
    text: str
    """The default, as ``name=value``."""
    when: Callable[[Values], bool] = field(default=lambda values: True)
    """Whether it is used."""


@dataclass(frozen=True)
class Form:
    """One library's names."""

    title: str
    """The library's name, in messages."""
    known_by: tuple[tuple[str, ...], ...]
    """Sets of names that only this library has: one whole set must be present. A dot leads into
    a table."""
    settings: Mapping[str, Setting]
    """Each of its names: CARRIED, KEPT, or the reason for listing it."""
    usual: tuple[Usual, ...]
    """Its defaults."""
    read: Callable[[Values, int | None, int], tuple[Fields, list[str]]]
    """(values, num_examples, processes) -> (the recipe's fields, the settings left out)."""
    write: Callable[[Values, Recipe, Recipe, int], tuple[Fields, list[str]]]
    """(values, base, scaled, processes) -> (new values, notes on them)."""
    more: Callable[[Values], list[str]] = field(default=lambda values: [])
    """Returns further notes on the values, one line each."""


def all_of(names: str, setting: Setting) -> dict[str, Setting]:
    """Return one setting for several names, given with spaces between them.

    >>> all_of("seed device", KEPT)
    {'seed': 'kept', 'device': 'kept'}
    """
    return dict.fromkeys(names.split(), setting)


def has(values: Values, names: tuple[str, ...]) -> bool:
    """Say whether all names are there; a dot leads into a table.

    >>> has({"training": {"steps": 1}}, ("training.steps",)), has({}, ("sched",))
    (True, False)
    """
    return all(look_up(values, name, missing=has) is not has for name in names)


def look_up(values: Values, name: str, missing: Any = None) -> Any:
    """Return the value of a name; a dot leads into a table.

    >>> look_up({"training": {"steps": 1}}, "training.steps")
    1
    """
    if name in values:
        return values[name]
    table, _, rest = name.partition(".")
    inner = values.get(table)
    return look_up(inner, rest, missing) if rest and isinstance(inner, Mapping) else missing


def filled_in(form: Form, values: Values) -> list[str]:
    """Return the library's defaults for missing values, one line each."""
    return [
        f"{usual.text}: is not given; this is the default of {form.title}"
        for usual in _missing(form, values)
    ]


def left_as_is(name: str, form: Form, values: Values) -> list[str]:
    """Return the unchanged settings that have an effect, one line each.

    Args:
        name: of the form, for errors.
        form: the library's names.
        values: by name.

    Raises:
        RecipeError: an unknown name seems to give a missing setting.
    """
    missing = {usual.role: usual.names[0] for usual in reversed(_missing(form, values))}
    lines = form.more(values)
    for key, setting, value in _accounts(form, values):
        line = f"{one_line(key, 80)}={shown(value)}"
        if isinstance(setting, Named):
            lines.append(f"{line}: {setting.why}")
            continue
        own = missing.get(setting) if setting in DECIDES else None
        if own is not None:
            raise RecipeError(
                f"{name}: {line}: is no name of {form.title}, and may set {_a(setting)} that is "
                f"not given; give {own}, or leave it out"
            )
        if setting == "count":
            lines.append(f"{line}: is no name of {form.title}; it may count updates, and stays")
        else:
            lines.append(f"{line}: is no name of {form.title}; it may set {_a(setting)}, and stays")
    return lines


def _a(role: str) -> str:
    words = {"examples": "the examples of an epoch", "processes": "the number of processes",
             "optimizer setting": "a setting of the optimizer",
             "schedule setting": "a setting of the schedule"}  # fmt: skip
    return words.get(role, f"the {role}")


def _missing(form: Form, values: Values) -> list[Usual]:
    return [
        usual
        for usual in form.usual
        if all(look_up(values, name) is None for name in usual.names) and usual.when(values)
    ]


def _accounts(form: Form, values: Values, table: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, setting or role, value) of each value to be listed."""
    for key, value in values.items():
        name = f"{table}{key}"
        setting = form.settings.get(name)
        if isinstance(setting, Named) and setting.does(value):
            yield name, setting, value
        if setting is not None:
            continue
        own = any(known.startswith(f"{name}.") for known in form.settings)
        role = None if own else role_of(str(key))
        if role is not None and Named("").does(value):
            yield name, role, value
        elif isinstance(value, Mapping):
            yield from _accounts(form, value, f"{name}.")
        elif isinstance(value, list | tuple):
            for place, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from _accounts(form, item, f"{name}.{place}.")
