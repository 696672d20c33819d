"""Usage mistakes: a mistake in a command's options, as one line.

tyro prints a mistake as a box of several paragraphs, and has no other stable interface for it. A
box with another layout is passed on unchanged.
"""

from __future__ import annotations

import difflib
import re
from itertools import groupby

from legw.errors import unknown_name

FRAMES = ("│ ", "  ")
"""Characters at the beginning of a row, with Unicode and without."""
RULES = "─- "
HELP_INDENT = 8
"""Column in which an option's help begins."""
CLEARER = (
    (r"Error parsing (\S+): (?:no type matching INT could be instantiated from \[(.*)\]"
     r"|invalid literal for int\(\) with base 10: (.*))\.?", r"\1: \2\3 is no whole number"),
    (r"Error parsing (\S+): (?:no type matching FLOAT could be instantiated from \[(.*)\]"
     r"|could not convert string to float: (.*))\.?", r"\1: \2\3 is no number"),
    (r"Error parsing (\S+): (.*)", r"\1: \2"),
    (r"(Missing value for argument '.*')\. Expected 1 values\.", r"\1"),
)  # fmt: skip
"""tyro's words, and clearer ones in their place."""
CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.?")


def one_line(box: str, command: str) -> str:
    """Return the first sentence of the box, the nearest option that it names, and the help command.

    Args:
        box: tyro's output.
        command: the command, such as `legw scale`.

    >>> print(one_line('''
    ... ╭─ Unrecognized options ──────────────────╮
    ... │ Unrecognized options: --batch, 64       │
    ... │ ─────────────────────────────────────── │
    ... │ Perhaps you meant:                      │
    ... │     --micro-batch-size N|auto           │
    ... │         Examples per pass.              │
    ... │     -b, --batch-size N                  │
    ... │         Examples per update.            │
    ... ╰─────────────────────────────────────────╯
    ... ''', "legw train"))
    unrecognized options: --batch, 64; did you mean '--batch-size'? (legw train --help lists all)
    """
    rows = [row[2:].rstrip("│ ") for row in box.splitlines() if row.startswith(FRAMES)]
    paragraphs = [
        list(group) for filled, group in groupby(rows, lambda row: bool(row.strip(RULES)))
        if filled
    ]  # fmt: skip
    if not paragraphs:
        return box.strip()
    said = [_sentence(paragraphs[0])]
    for paragraph in paragraphs[1:]:
        if paragraph[0].startswith("Perhaps you meant"):
            said += _nearest(said[0], paragraph)
    return f"{'; '.join(said)} ({command} --help lists all)"


def _sentence(paragraph: list[str]) -> str:
    """Return the paragraph without the options' help: its own words, then its list."""
    head = " ".join(row for row in paragraph if not row.startswith(" "))
    items = [row.strip() for row in paragraph if 0 < _indent(row) < HELP_INDENT]
    text = f"{head} {', '.join(items)}".strip()
    if choice := CHOICE.fullmatch(text):
        return _unknown_choice(*choice.groups())
    for theirs, ours in CLEARER:
        text = re.sub(f"^{theirs}$", ours, text, flags=re.IGNORECASE)
    return re.sub(r"(?<!\.)\.$", "", text[0].lower() + text[1:])


def _unknown_choice(given: str, option: str, known: str) -> str:
    """Return the line for a value that is none of an option's, which tyro lists in any order."""
    names = sorted({*re.findall(r"'([^']*)'", known)} - {"None"})
    return unknown_name(f"{option}:", given, names)


def _nearest(said: str, paragraph: list[str]) -> list[str]:
    """Return the known option nearest to the first unknown one, if there is one."""
    unknown = next((word for word in re.findall(r"(?<![\w-])-[\w-]+", said)), "")
    options = [word for row in paragraph if _indent(row) < HELP_INDENT
               for word in re.findall(r"--[\w-]+", row)]  # fmt: skip
    near = difflib.get_close_matches(unknown, options, n=1, cutoff=0.0)
    return [f"did you mean '{option}'?" for option in near]


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip())
