"""Configuration files: read as values by name, and written in their own language.

JSON, YAML, TOML, and Python files of plain assignments, which are read and never run.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import operator
import os
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import Any

from legw.errors import RecipeError, one_line, shown
from legw.recipe.files import read_mapping

DEEPEST = 50
"""Most levels of lists and tables in a configuration."""
LARGEST = 1_000_000
"""Most values in a configuration, those that a YAML alias repeats counted each time."""
DIGITS = 1000
"""Most digits of a whole number."""

PICKLES = (".bin", ".pt", ".pth", ".pkl")
"""Endings of files that would run code when they are opened."""

LANGUAGES = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".py": "Python"}
"""Languages by the ending of a file's name."""


def language_of(path: Path) -> str:
    """Return a file's language by the ending of its name; JSON where it is another.

    >>> language_of(Path("train.yml")), language_of(Path("args"))
    ('YAML', 'JSON')
    """
    return LANGUAGES.get(path.suffix.lower(), "JSON")


def read(path: Path) -> dict[str, Any]:
    """Return the values of a file by name.

    Raises:
        RecipeError: it cannot be read, is not in its language, holds no values by name, or is
            nested too deeply.
    """
    here = one_line(str(path))
    if path.suffix in PICKLES and path.is_file():
        raise RecipeError(
            f"{here}: is not opened, as it may hold code; write its to_dict() as JSON"
        )
    language = language_of(path)
    parse, faults = _parser(path, language)
    found = read_mapping(
        path, language, parse, faults=faults, shape="a configuration is values by name"
    )
    check_size(here, found)
    return found


def _parser(path: Path, language: str) -> tuple[Callable[[str], Any], tuple[type[Exception], ...]]:
    if language == "YAML":
        yaml = _yaml(path)
        return yaml.safe_load, (ValueError, TypeError, yaml.YAMLError)
    if language == "TOML":
        import tomllib

        return tomllib.loads, (ValueError,)
    if language == "Python":
        return _assignments, (ValueError, SyntaxError)
    return json.loads, (ValueError,)


def check_size(what: str, values: Any) -> None:
    """Refuse values that are nested too deeply or in themselves, or that are too many.

    Args:
        what: name of the values in errors.
        values: any; aliases are counted without unfolding them.

    Raises:
        RecipeError: they are.
    """
    sizes: dict[int, tuple[int, int]] = {}
    open_now: set[int] = set()
    stack: list[tuple[Any, bool]] = [(values, False)]
    while stack:
        item, seen = stack.pop()
        parts = _parts(item)
        if parts is None:
            if isinstance(item, int) and item.bit_length() > 3.33 * DIGITS:
                raise RecipeError(f"{what}: has a whole number of more than {DIGITS} digits")
            continue
        if id(item) in sizes:
            continue
        if not seen:
            if id(item) in open_now:
                raise RecipeError(f"{what}: holds itself; a configuration is values by name")
            if len(open_now) > 20 * DEEPEST:
                raise _too_deep(what)
            open_now.add(id(item))
            stack.append((item, True))
            stack += [(part, False) for part in parts]
            continue
        open_now.discard(id(item))
        inner = [sizes.get(id(part), (1, 0)) for part in parts]
        size = 1 + sum(count for count, _ in inner)
        depth = 1 + max((level for _, level in inner), default=0)
        if depth > DEEPEST:
            raise _too_deep(what)
        if size > LARGEST:
            raise RecipeError(f"{what}: unfolds to more than {LARGEST} values")
        sizes[id(item)] = size, depth


def _too_deep(what: str) -> RecipeError:
    return RecipeError(f"{what}: is nested too deeply; a configuration is values by name")


def _parts(item: Any) -> list[Any] | None:
    if isinstance(item, Mapping):
        return list(item.values())
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    return list(vars(item).values()) if isinstance(item, argparse.Namespace) else None


# Python files, as nanoGPT's ----------------------------------------------------------


OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
}  # fmt: skip
"""Arithmetic in an assignment, as in ``gradient_accumulation_steps = 5 * 8``."""


def _assignments(text: str) -> dict[str, Any]:
    """Return the plain values that a Python file assigns, without running it."""
    values: dict[str, Any] = {}
    for line in ast.parse(text).body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # a docstring
        if isinstance(line, ast.Import | ast.ImportFrom):
            continue
        simple = isinstance(line, ast.Assign) and len(line.targets) == 1
        target = line.targets[0] if isinstance(line, ast.Assign) and simple else None
        if not isinstance(line, ast.Assign) or not isinstance(target, ast.Name):
            raise ValueError(f"line {line.lineno}: only plain assignments are read")
        values[target.id] = _constant(line.value, values, line.lineno)
    return values


def _constant(node: ast.expr, values: Mapping[str, Any], line: int) -> Any:
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        sides = [_constant(side, values, line) for side in (node.left, node.right)]
        if all(isinstance(side, int | float) for side in sides):
            try:
                return OPERATORS[type(node.op)](*sides)
            except (ArithmeticError, ValueError) as error:
                raise ValueError(f"line {line}: {error}") from None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(f"line {line}: is no plain value, and is not run") from None


# Writing ------------------------------------------------------------------------------


def text_of(what: str, values: Mapping[str, Any], path: Path) -> str:
    """Return values as text in the language of a file's name.

    Args:
        what: name of their library, for errors.
        values: by name.
        path: of the file.

    Raises:
        RecipeError: YAML is not installed, or the language has no word for a value.
    """
    check_size(what, values)
    language = language_of(path)
    plain = {_key(what, name, language): _plain(what, str(name), value, language)
             for name, value in values.items()}  # fmt: skip
    if language == "YAML":
        text: str = _yaml(path).safe_dump(plain, sort_keys=False)
        return text
    if language == "TOML":
        import tomli_w

        return tomli_w.dumps(plain)
    if language == "Python":
        return "".join(f"{name} = {value!r}\n" for name, value in plain.items())
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def _key(what: str, name: Any, language: str) -> Any:
    plain = isinstance(name, str) or (language == "YAML" and isinstance(name, bool | int | float))
    if language == "Python":
        plain = isinstance(name, str) and name.isidentifier()
    if not plain:
        raise RecipeError(f"{what}: {shown(name)}: cannot be a name in {language}; rename it")
    if isinstance(name, str):
        _check_text(what, name, name, language)
    return name


def _plain(what: str, name: str, value: Any, language: str) -> Any:
    """Return a value in the language's types; `name` is its place, for errors."""
    if isinstance(value, Enum):
        return _plain(what, name, value.value, language)
    if isinstance(value, str):
        _check_text(what, name, value, language)
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return _scalar(what, name, value, language)
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {_key(what, key, "YAML" if language == "Python" else language):
                _plain(what, f"{name}.{key}", item, language)
                for key, item in value.items()}  # fmt: skip
    if isinstance(value, set | frozenset):
        value = sorted(value, key=lambda item: (str(type(item)), str(item)))
    if isinstance(value, list | tuple):
        return [_plain(what, f"{name}.{n}", item, language) for n, item in enumerate(value)]
    return _object(what, name, value, language)


def _scalar(what: str, name: str, value: Any, language: str) -> Any:
    if value is None and language == "TOML":
        raise RecipeError(f"{what}: {one_line(name, 80)}=None: TOML has no word for it; take it "
                          "out, or write JSON or YAML")  # fmt: skip
    if isinstance(value, float) and not math.isfinite(value) and language in ("JSON", "Python"):
        raise RecipeError(f"{what}: {one_line(name, 80)}={value}: {language} has no word for it; "
                          "correct it, or write YAML")  # fmt: skip
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)  # of a subclass, as NumPy's float, the plain one
    return value


def _object(what: str, name: str, value: Any, language: str) -> Any:
    if isinstance(value, os.PathLike):
        return _plain(what, name, os.fspath(value), language)
    if isinstance(value, date | datetime):
        return value if language in ("YAML", "TOML") else value.isoformat()
    if isinstance(value, time):
        return value if language == "TOML" else value.isoformat()
    kind = type(value)
    home = kind.__module__.partition(".")[0]
    if home == "torch" and kind.__name__ in ("device", "dtype"):
        return str(value)
    if home in ("numpy", "torch", "jax", "jaxlib") and getattr(value, "shape", None) == ():
        return _plain(what, name, value.item(), language)
    raise RecipeError(
        f"{what}: {one_line(name, 80)}: a {one_line(kind.__name__, 40)} cannot be written as "
        f"{language}; take it out, or make it text"
    )


def _check_text(what: str, name: str, text: str, language: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError(
            f"{what}: {one_line(name, 80)}={shown(text)}: is not Unicode text, and cannot be "
            f"written as {language}; correct it"
        ) from None


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise RecipeError(
            f"{one_line(str(path))}: YAML is not installed; pip install 'legw[timm]'"
        ) from None
    return yaml
