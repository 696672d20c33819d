"""HTML in which every text from outside is cleaned and escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

from legw.errors import clean_lines

VOID = {"meta", "br", "hr", "input"}
"""Elements without an end."""


class Html(str):
    """Text that is HTML already."""


Child = str | Iterable[str]
"""Text, which is escaped; or `Html`, which is not; or several of them."""


def tag(name: str, /, *children: Child, **attributes: str) -> Html:
    """Return an element; of an attribute's name a trailing `_` falls away, `_` is `-`.

    >>> tag("p", "1 < 2", tag("b", "!"), class_="plain")
    '<p class="plain">1 &lt; 2<b>!</b></p>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean_lines(value))}"'
        for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Return children one after the other, as HTML.

    >>> join("a & ", ["b", "c"])
    'a &amp; bc'
    """
    parts = []
    for child in children:
        if isinstance(child, str):
            parts.append(child if isinstance(child, Html) else html.escape(clean_lines(child)))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def data(value: Any, **attributes: str) -> Html:
    """Return JSON in a script element that no browser runs; no text inside can end the element.

    >>> data({"a": "</script>"}, id="x")
    '<script type="application/json" id="x">{"a":"\\\\u003c/script>"}</script>'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return tag("script", Html(text), type="application/json", **attributes)


def table(head: Iterable[Child], rows: Iterable[Iterable[Html]], **attributes: str) -> Html:
    """Return a table that scrolls sideways where it is too wide."""
    columns = tag("tr", [tag("th", child, scope="col") for child in head])
    body = [tag("tr", cells) for cells in rows]
    inner = tag("table", tag("thead", columns), tag("tbody", body), **attributes)
    return tag("div", inner, class_="scroll", tabindex="0")
