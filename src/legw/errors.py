"""Errors: each mistake of a user as one line, with its remedy.

Every mistake that the user can correct is a `LegwError`: the command line prints its line and exits
with 2. Any other exception is a bug of legw and keeps its traceback.
The line reads ``what: name=value: rule broken; what to do``.
"""

from __future__ import annotations

from collections.abc import Iterable


class LegwError(Exception):
    """A mistake that the user can correct; its text is one line."""

    told: bool | None = None
    """With several processes: True where another process prints the error, False where this one
    does. None means that all processes have the same error, and the first one prints it."""


class RecipeError(LegwError, ValueError):
    """An impossible recipe, rule or schedule: a wrong value, name or combination."""


class DataError(LegwError):
    """Data that are missing, unreadable or unfit for the task."""


class RunError(LegwError):
    """A run that cannot start or go on: folder, resources, settings."""


class DivergedError(LegwError):
    """A run that has diverged: its loss is NaN, infinite or far too high. In a study, a result."""


class LegwWarning(UserWarning):
    """A setting that works and may still be a mistake."""


def one_line(text: str, limit: int = 200) -> str:
    """Return text fit for an error line: control characters escaped, the rest cut off.

    Args:
        text: any text, for example from a user or a file.
        limit: most characters that come back, at least 4.

    >>> one_line("two\\nlines"), one_line("a long text", limit=7)
    ('two\\\\nlines', 'a lo...')
    """
    line = text[: limit + 1]
    if not line.isprintable():
        line = repr(line)[1:-1]
    return line if len(line) <= limit else line[: limit - 3] + "..."


KEPT_JOINERS = "\u200c\u200d"
"""Joiners, which some scripts need inside of letters; they do not move the cursor."""


def clean(text: str) -> str:
    """Return text that is safe to show: characters other than letters and spaces as Python's
    escapes.

    Escape codes move a terminal's cursor; right-to-left marks and line breaks change the meaning of
    a line. All text from users and files passes through this function on output.

    >>> clean("plain text, 中 and é"), clean("a\\x1b[2Jb\\u202ec")
    ('plain text, 中 and é', 'a\\\\x1b[2Jb\\\\u202ec')
    """
    if text.isprintable():
        return text
    import unicodedata

    return "".join(
        each
        if each.isprintable() or each in KEPT_JOINERS or unicodedata.category(each) == "Zs"
        else repr(each)[1:-1]
        for each in text
    )


def clean_lines(text: str) -> str:
    """Return text of several lines, each as `clean` returns it."""
    return "\n".join(clean(line) for line in text.split("\n"))


def shown(value: object) -> str:
    """Return a value for an error line, as Python writes it, in at most 80 characters.

    >>> shown("fast"), shown(0.5)
    ("'fast'", '0.5')
    """
    try:
        return one_line(repr(value), 80)
    except (RecursionError, ValueError):  # nested without end; a number of too many digits
        return f"<{type(value).__name__}>"


def too_deep(value: object, most: int = 32) -> bool:
    """Whether lists and tables are nested more than `most` deep, which no file of ours is.

    >>> too_deep([[1]]), too_deep([[1]], most=1)
    (False, True)
    """
    level = [value]
    for _ in range(most + 1):
        if not level:
            return False
        inside = {
            id(item): item  # once each: YAML may name one list in many places
            for each in level
            if isinstance(each, dict | list | tuple)
            for item in (each.values() if isinstance(each, dict) else each)
        }
        level = list(inside.values())
    return bool(level)


def number(value: object, digits: int = 5) -> str:
    """Return a value for reading: few significant digits, thousands in full.

    >>> [number(x) for x in (8192, 0.15625, 1 / 3, 123456.7, 6.25e-4, None, (30.0, 60.0), True)]
    ['8192', '0.15625', '0.33333', '123457', '0.000625', '-', '[30, 60]', 'true']
    >>> number(99.7, 2)
    '100'
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(number(item, digits) for item in value)}]"
    if isinstance(value, float):
        text = f"{value:.{digits}g}"
        return f"{value:.0f}" if "e+" in text and abs(value) < 1e15 else text
    return str(value)


def duration(seconds: float, digits: int = 2) -> str:
    """Return a duration in words, in the unit in which it is a small number.

    Args:
        seconds: at least 0.
        digits: significant digits; whole units are never cut off.

    >>> [duration(s) for s in (0.0123, 42, 600, 6000, 7200, 300000, 100 * 86400)]
    ['0.012 s', '42 s', '10 min', '100 min', '2 h', '3.5 d', '100 d']
    >>> duration(200000, digits=3)
    '2.31 d'
    """
    for unit, size, least in (("d", 86400.0, 2), ("h", 3600.0, 2), ("min", 60.0, 1.5)):
        if seconds >= least * size:
            return f"{number(seconds / size, digits)} {unit}"
    return f"{number(float(seconds), digits)} s"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one.

    >>> unknown_name("rule", "lgew", ["legw", "linear"])
    "rule 'lgew' is unknown; did you mean 'legw'? (known: legw, linear)"
    """
    from difflib import get_close_matches

    names = list(known)
    near = get_close_matches(name[:100], names, n=1)  # its time grows with the length squared
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{what} '{one_line(name, 60)}' is unknown; {hint}(known: {', '.join(names)})"
