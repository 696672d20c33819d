"""What commands take: the types of options they share, and the recipe that is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

from tyro.conf import Positional, arg

from legw import presets, recipe, rules
from legw.errors import LegwError, RecipeError, one_line, unknown_name
from legw.recipe import Recipe
from legw.units import with_lengths

# Optional[X], not X | None: of the latter tyro makes sense with typeguard, whose import
# alone takes a fifth of the time in which `legw scale` answers.
# ruff: noqa: UP045

Named = Annotated[Positional[str], arg(metavar="NAME|FILE", help_behavior_hint="")]
"""A shipped recipe's name, or a recipe file."""
BatchSize = Annotated[Optional[int], arg(aliases=["-b"], metavar="N", help_behavior_hint="")]
"""A target batch size that may be left out."""
Count = Annotated[Optional[int], arg(metavar="N", help_behavior_hint="")]
"""A whole number that may be left out."""
Number = Annotated[Optional[float], arg(metavar="X", help_behavior_hint="")]
"""A number that may be left out."""
File = Annotated[Optional[str], arg(metavar="FILE", help_behavior_hint="")]
"""A file's path that may be left out."""
Language = Annotated[Optional[str], arg(metavar="L", help_behavior_hint="")]
"""The ending of a text's files, such as en, that may be left out."""
Ladder = Annotated[Optional[str], arg(metavar="A:B", help_behavior_hint="")]
"""Two batch sizes that may be left out."""
RuleName = Annotated[str, arg(metavar="RULE", help=f"How to scale: {', '.join(rules.RULES)}.")]
"""A rule's name; `legw.rules.find` knows them."""
Noise = Annotated[Optional[str], arg(metavar="X|DIR", help_behavior_hint="")]
"""A noise scale that may be left out: a number, or a folder of runs; `noises.read` reads it."""
Flag = Annotated[bool, arg(help_behavior_hint="")]
"""Off unless given."""


def find_recipe(named: str, num_examples: int | None = None) -> Recipe:
    """Return the recipe that a word on the command line means.

    Args:
        named: a shipped recipe's name, or else the path of a TOML or JSON file.
        num_examples: examples in one epoch, at least 1, in place of the recipe's own.

    Raises:
        RecipeError: no such recipe (the line names the nearest), or a file that
            cannot be read or is wrong.

    >>> find_recipe("mnist-lstm").batch_size
    128
    """
    found = presets.RECIPES.get(named) or _from_file(named)
    return found if num_examples is None else found.with_num_examples(num_examples)


def overridden(base: Recipe, options: object) -> Recipe:
    """Return the base recipe with the lengths given on the command line.

    Args:
        base: the recipe.
        options: any with some of `epochs`, `warmup_epochs`, `steps` and `warmup_steps`.

    Raises:
        RecipeError: a length cannot be, or two are in two units.
    """
    names = ("epochs", "warmup_epochs", "steps", "warmup_steps")
    return with_lengths(base, **{name: getattr(options, name, None) for name in names})


def _from_file(named: str) -> Recipe:
    path = Path(named)
    looks_like_a_path = path.suffix in (".toml", ".json") or "/" in named or "\\" in named
    if looks_like_a_path or path.is_file():
        return recipe.read(path)
    raise RecipeError(unknown_name("recipe", named, presets.RECIPES))


def read_ladder(text: str) -> list[int]:
    """Return the batch sizes of a ladder ``A:B``: A, 2A, 4A, ... and B.

    Raises:
        LegwError: it is not two whole numbers with ``1 <= A <= B``.

    >>> read_ladder("128:1000")
    [128, 256, 512, 1000]
    """
    first, _, last = text.partition(":")
    numbers = len(text) < 40 and first.isdecimal() and last.isdecimal()
    if not (numbers and 1 <= int(first) <= int(last)):
        raise LegwError(
            f"--ladder={one_line(text)}: must be two batch sizes A:B with 1 <= A <= B; "
            "give for example 128:8192"
        )
    rungs = [int(first)]
    while rungs[-1] * 2 < int(last):
        rungs.append(rungs[-1] * 2)
    return sorted({*rungs, int(last)})


def suffix(name: str, path: str, known: Sequence[str]) -> str:
    """Return the format that a file's name asks for, before anything is computed.

    Args:
        name: the option's, for errors.
        path: the file's.
        known: suffixes without their dot.

    Raises:
        LegwError: the suffix is none of them.

    >>> suffix("--plot", "curve.SVG", ("svg", "png"))
    'svg'
    """
    found = Path(path).suffix.removeprefix(".").lower()
    if found not in known:
        names = ", ".join(f".{each}" for each in known)
        raise LegwError(f"{name}={one_line(path)}: the suffix must be one of {names}")
    return found
