"""Notebook view of a recipe: its values, beside those of its base where it was scaled.

The HTML is tables, bold and text alone, without scripts, style sheets and frames, so that Jupyter,
VS Code and GitHub's view of a notebook all show it. Every text in it is cleaned and escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from legw.decays import UNITS
from legw.errors import clean, number

MULTIPLIED = ("batch_size", "lr", "min_lr", "warmup_from_lr", *UNITS,
              *(f"warmup_{unit}" for unit in UNITS))  # fmt: skip
"""Quantities that rules multiply, and whose factor is shown."""


def factor(old: object, new: object) -> str:
    """Return the factor between two numbers, or "" where they are equal or no numbers.

    >>> factor(6.4, 0.1), factor(2, 2), factor("sgd", "adam")
    ('÷64', '', '')
    """
    if not (isinstance(old, int | float) and isinstance(new, int | float)) or not old * new:
        return ""
    if old == new:
        return ""
    if new < old:
        return f"÷{number(old / new, 3)}"
    return f"×{number(new / old, 3)}"  # noqa: RUF001 # a sign that people read, not the letter


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's plain values, those of decay and optimizer as `decay.rate`.

    >>> flat({"lr": 0.1, "decay": {"kind": "step", "rate": 0.1}})
    {'lr': 0.1, 'decay': 'step', 'decay.rate': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            if "kind" in value:
                found[name] = value["kind"]
            found |= {f"{name}.{key}": v for key, v in value.items() if key != "kind"}
        else:
            found[name] = value
    return found


def table(new: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """Return a recipe's plain values as an HTML table, with changes in bold and their factors.

    Args:
        new: the recipe, as `legw.recipe.to_dict` gives it.
        old: its base, in the same form; None shows the recipe alone.

    >>> table({"lr": 0.2}, {"lr": 0.1}).count("<td")
    4
    """
    one, two = flat(old or {}), flat(new)
    rows = []
    for name in dict.fromkeys([*two, *one]):
        if name == "source":
            continue
        before, after = _shown(one.get(name)), _shown(two.get(name))
        if old is None:
            rows.append([text(name), after])
            continue
        by = factor(one.get(name), two.get(name)) if name in MULTIPLIED else ""
        rows.append([text(name), before, after if before == after else bold(after), text(by)])
    return grid(["", "base", "scaled", ""] if old is not None else ["", "recipe"], rows)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table: the first column as it is, all others to the right.

    Args:
        head: titles, which are escaped here.
        rows: cells that are HTML already, by `text` or `bold`.

    >>> grid(["a"], [[text("<")]])
    '<table><tr><th>a</th></tr><tr><td>&lt;</td></tr></table>'
    """
    titles = "".join(f"<th>{text(title)}</th>" for title in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:right">{cell}</td>' if column else f"<td>{cell}</td>"
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{titles}</tr>{body}</table>"


def text(value: str) -> str:
    """Return text as HTML: escaped, and without what moves a cursor or turns a line round.

    >>> text("a < b\\u202e")
    'a &lt; b\\\\u202e'
    """
    return escape(clean(value))


def bold(html: str) -> str:
    """Return HTML in bold; nothing stays nothing.

    >>> bold("1"), bold("")
    ('<b>1</b>', '')
    """
    return f"<b>{html}</b>" if html else ""


def paragraph(html: str) -> str:
    """Return HTML as a paragraph; nothing stays nothing.

    >>> paragraph("a"), paragraph("")
    ('<p>a</p>', '')
    """
    return f"<p>{html}</p>" if html else ""


def _shown(value: object) -> str:
    if value is None:
        return ""
    return text(f"{value:.6g}" if isinstance(value, float) else str(value))
