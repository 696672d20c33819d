"""Notebook view of a recipe: its values, beside those of its base where it was scaled."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


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
    """Return a recipe's plain values as an HTML table, with changes in bold.

    Args:
        new: the recipe, as `legw.recipe.to_dict` gives it.
        old: its base, in the same form; None shows the recipe alone.

    >>> table({"lr": 0.2}, {"lr": 0.1}).count("<td>")
    1
    """
    one, two = flat(old or {}), flat(new)
    head = "<th></th><th>base</th><th>scaled</th>" if old else "<th></th><th>recipe</th>"
    rows = []
    for name in dict.fromkeys([*two, *one]):
        if name == "source":
            continue
        before, after = _shown(one.get(name)), _shown(two.get(name))
        after = f"<b>{after}</b>" if old and before != after else after
        cells = (before, after) if old else (after,)
        body = "".join(f'<td style="text-align:right">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{escape(name)}</td>{body}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))
