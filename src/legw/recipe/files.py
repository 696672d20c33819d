"""Files of values by name: a TOML, JSON or other text read into a mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from legw.errors import RecipeError, one_line

if TYPE_CHECKING:
    from pathlib import Path


def read_mapping(
    path: Path,
    language: str,
    parse: Callable[[str], Any],
    *,
    faults: tuple[type[Exception], ...] = (ValueError,),
    shape: str = "a recipe is a few flat tables",
) -> dict[str, Any]:
    """Return the values that a text file holds by name.

    Args:
        path: the file, UTF-8 text, with or without a byte-order mark.
        language: the name of what it is written in, for errors.
        parse: returns what a text says.
        faults: types of the errors that `parse` raises for a text in another language.
        shape: description of a usual file, for the error of one that is nested too deeply.

    Raises:
        RecipeError: the file cannot be read, is not in its language, or holds something else.
    """
    here = one_line(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{here}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # a name with a NUL is the latter
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{here}: cannot be read: {reason}; check the path") from None
    try:
        found = parse(text)
    except (RecursionError, MemoryError):  # ast says the latter of a hundred brackets
        raise RecipeError(f"{here}: is nested too deeply; {shape}") from None
    except faults as error:
        line = one_line(str(error), 120)
        raise RecipeError(f"{here}: is not {language}: {line}; correct it there") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{here}: must hold values by name, at the top")
    return found
