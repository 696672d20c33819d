"""Errors: each mistake of a user as one line, with its remedy.

Every mistake that the user can correct is a `LegwError`: the command line prints its line and exits
with 2. Any other exception is a bug of legw and keeps its traceback.
The line reads ``what: name=value: rule broken; what to do``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import TypeGuard

_reader = {"command line": False}
"""Whether messages are read on the command line: true in the processes of `legw.cli` alone."""


class LegwError(Exception):
    """A mistake that the user can correct; its text is one line."""

    reported: bool | None = None
    """With several processes: True where another process prints the error, False where this one
    does. None means that all processes have the same error, and the first one prints it."""


class RecipeError(LegwError, ValueError):
    """An impossible recipe, rule or schedule: a wrong value, name or combination."""


class DataError(LegwError):
    """Data that are missing, unreadable or unfit for the task."""


class RunError(LegwError):
    """A run that cannot start or continue: folder, resources, settings."""


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


def is_command_line() -> bool:
    """Return whether messages name settings as options of the command line."""
    return _reader["command line"]


def set_command_line(on: bool) -> None:
    """Let this process's messages name settings as options, or as arguments of Python.

    A process that is started for another one calls this with what `is_command_line` says there.
    """
    _reader["command line"] = on


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """Let messages name settings as options of the command line, as long as the block lasts."""
    before = is_command_line()
    set_command_line(True)
    try:
        yield
    finally:
        set_command_line(before)


def setting(name: str, value: str = "") -> str:
    """Return a setting as the reader of a message gives it: an argument of Python, or an option.

    Args:
        name: of the argument, as Python spells it.
        value: the value that it is to have, or a word for it; empty names the setting alone.

    >>> setting("micro_batch_size"), setting("lanes", "1")
    ('`micro_batch_size`', '`lanes=1`')
    >>> with on_command_line():
    ...     setting("micro_batch_size"), setting("lanes", "1")
    ('--micro-batch-size', '--lanes 1')
    """
    if is_command_line():
        option = "--" + name.replace("_", "-")
        return f"{option} {value}" if value else option
    return f"`{name}={value}`" if value else f"`{name}`"


def given(name: str, value: object) -> str:
    """Return a setting with the wrong value that it was given, for the beginning of a message.

    >>> given("num_seeds", 0)
    'num_seeds=0'
    >>> with on_command_line():
    ...     given("num_seeds", 0)
    '--num-seeds=0'
    """
    option = "--" + name.replace("_", "-") if is_command_line() else name
    return f"{option}={value}"


KEPT_JOINERS = "\u200c\u200d"
"""Joiners, which some scripts need inside of letters; they do not move the cursor."""


def clean(text: str) -> str:
    """Return text that is safe to show: control characters are written as Python escapes them.

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
    >>> unknown_name("kind", "AdamW", ["adam", "adamw"])
    "kind 'AdamW' is unknown; did you mean 'adamw'? (known: adam, adamw)"
    """
    from difflib import get_close_matches

    names = list(known)
    lower = {each.lower(): each for each in reversed(names)}
    said = name[:100].lower()  # the time of a search grows with the length squared
    near = [said] if said in lower else get_close_matches(said, lower, n=1)
    hint = f"; did you mean '{lower[near[0]]}'?" if near else ""
    return f"{what} '{one_line(name, 50)}' is unknown{hint} (known: {', '.join(names)})"


MAX_NUMBER = 1e15
"""Above every number that a recipe can mean; keeps arithmetic with them finite."""

MAX_COUNT = 2**53
"""The largest count: up to here a float holds every whole number exactly."""


def check_count(
    what: str,
    name: str,
    value: object,
    least: int = 1,
    most: int = MAX_COUNT,
    *,
    error: type[LegwError] = RecipeError,
) -> None:
    """Raise an error unless ``least <= value <= most`` and the value is a whole number.

    Args:
        what: whose value it is, for the line; empty for an option, which says so itself.
        name: the value's.
        value: the given one, of any type.
        least: the smallest that may be.
        most: the largest that may be.
        error: the kind of the error.

    >>> check_count("mine", "batch_size", 8192)
    """
    if is_count(value) and least <= value <= most:
        return
    if is_count(value) and value >= least:
        power = "2**53 = " if most == MAX_COUNT else ""
        raise error(_line(what, name, value, f"must be at most {power}{most}"))
    bound = f"at least {least}" if most == MAX_COUNT else f"{least} to {most}"
    raise error(_line(what, name, value, f"must be a whole number, {bound}"))


def check_range(
    what: str,
    name: str,
    value: object,
    low: float,
    high: float = MAX_NUMBER,
    *,
    above: bool = False,
    closed: bool = False,
    error: type[LegwError] = RecipeError,
) -> None:
    """Raise an error unless ``low <= value < high`` and the value is a number.

    Args:
        what: whose value it is, for the line; empty for an option, which says so itself.
        name: the value's.
        value: the given one, of any type.
        low: the lower bound.
        high: the upper bound.
        above: the lower bound itself may not be.
        closed: the upper bound itself may be.
        error: the kind of the error.

    >>> check_range("sgd", "momentum", 0.9, 0, 1)
    >>> check_range("step", "rate", 1, 0, 1, above=True, closed=True)
    """
    if is_number(value):
        over = value > low if above else value >= low
        if over and (value <= high if closed else value < high):
            return
    rule = f"must be a number, {'above' if above else 'at least'} {low:g}"
    if high == MAX_NUMBER:
        rule += " and finite"
    elif high < math.inf:
        rule += f" and {'at most' if closed else 'below'} {high:g}"
    raise error(_line(what, name, value, rule))


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; a truth value is none.

    >>> is_count(1), is_count(True), is_count(1.0)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number; a truth value is none.

    >>> is_number(1), is_number(0.5), is_number(True), is_number("1")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_name(what: str, name: object) -> None:
    """Raise RecipeError unless the name is text of 1 to 100 printable characters.

    >>> check_name("recipe", "mnist-lstm")
    """
    if not isinstance(name, str):
        raise RecipeError(_line(what, "name", name, "must be text; put it in quotes"))
    if not (1 <= len(name) <= 100 and name.isprintable()):
        rule = "must be 1 to 100 printable characters; give another name"
        raise RecipeError(_line(what, "name", name, rule))


def _line(what: str, name: str, value: object, rule: str) -> str:
    if not isinstance(value, int | float | str) and hasattr(value, "__float__"):  # as numpy's have
        rule += "; give Python's own number, by int() or float()"
    return f"{what}: {name}={shown(value)}: {rule}" if what else f"{name}={shown(value)}: {rule}"
