"""What can go wrong, as one line a user can act on.

Every mistake that is the user's to mend is a `LegwError`: the command line
prints its one line and exits with 2. Anything else is a bug of ours and keeps
its traceback. The line reads ``what: name=value: rule broken; what to do``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LegwError(Exception):
    """A mistake that the user can mend; its text is one clear line."""


class RecipeError(LegwError, ValueError):
    """A recipe, rule or schedule that cannot be: wrong value, name or combination."""


class DataError(LegwError):
    """Data that are missing, unreadable or not what the task needs."""


class RunError(LegwError):
    """A run that cannot start or go on: folder, resources, settings."""


class DivergedError(LegwError):
    """A run whose loss is lost. In a study it is a result, not a failure."""


class LegwWarning(UserWarning):
    """Something that works as asked and still deserves a second look."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the line for a name that does not exist, with the nearest that does.

    >>> unknown_name("rule", "lgew", ["legw", "linear"])
    "rule 'lgew' is unknown; did you mean 'legw'? (known: legw, linear)"
    """
    names = list(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    shown = name if len(name) <= 60 else name[:57] + "..."
    return f"{what} '{shown}' is unknown; {hint}(known: {', '.join(names)})"
