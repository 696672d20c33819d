"""Page of one chart: an HTML file with still pictures, for light and dark, wide and narrow.

A picture needs no script: the page is a twentieth of one that draws its chart by itself. There
are two pictures, and the width of the window chooses between them, for letters of a wide
picture cannot be read once it has shrunk to the width of a phone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from legw.report.html import Html, join, tag

NARROW = 270
"""Width of the narrow picture's chart in pixels, which fits a phone with its axis."""

INKS = {"#333333": "ink", "#555555": "soft", "#e8e8e8": "grid", "#000": "ink", "black": "ink"}
"""The colors of `style.styled` that are no line's, and the page's names for them."""


def chart_page(spec: dict[str, Any], lines: Sequence[str]) -> str:
    """Return a Vega-Lite specification as the text of an HTML file.

    Args:
        spec: of a chart in the style of `styled`; its title becomes the page's.
        lines: the colors that lines may have, at most ten; the page has its own in their place.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import vl_convert

    title = spec.get("title") or {}
    plain = {key: value for key, value in spec.items() if key != "title"}
    pictures = [
        tag("div", Html(_painted(vl_convert.vegalite_to_svg(each), lines)), class_=name)
        for name, each in (("wide", plain), ("narrow", _narrow(plain)))
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title.get("text", "legw")),
        tag("style", Html(_file("palette.css") + _file("charts/chart_page.css"))),
    )
    above = [tag("h1", title["text"]) if title.get("text") else ""]
    above += [tag("p", title["subtitle"]) if title.get("subtitle") else ""]
    body = tag("body", tag("main", above, pictures))
    return join(Html("<!doctype html>\n"), tag("html", head, body, lang="en")) + "\n"


def _file(name: str) -> str:
    return resources.files("legw.report").joinpath(name).read_text(encoding="utf-8")


def _narrow(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the chart at the width of a phone, its key's entries below each other."""
    config = spec.get("config", {})
    legend = config.get("legend", {}) | {"columns": 1}
    return spec | {"width": NARROW, "config": config | {"legend": legend, "padding": 4}}


def _painted(svg: str, lines: Sequence[str]) -> str:
    """Return a picture in the page's colors, which follow the reader's light or dark."""
    svg = re.sub(r'<rect [^>]*fill="white"/>', "", svg, count=1)  # the background
    names = INKS | {color: f"c{i}" for i, color in enumerate(lines)}
    for color, name in names.items():
        for attribute in ("fill", "stroke"):
            svg = svg.replace(f'{attribute}="{color}"', f'style="{attribute}: var(--{name})"')
    return svg
