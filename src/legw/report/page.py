"""Report page: a folder of runs as one HTML file that needs no network and no server.

    folder --evidence.read--> [Evidence] --page.text--> the file

The page forbids itself every request (Content-Security-Policy), and runs two scripts
only, which it names by their hashes: Vega's bundle and ours, which draws the charts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from legw import __version__
from legw.analysis.evidence import Evidence
from legw.report.bundle import bundle
from legw.report.html import Html, join, tag
from legw.report.sections import contents, section


@dataclass(frozen=True, kw_only=True)
class Live:
    """Additions to a page that a server keeps up to date."""

    version: str
    """Version of what is shown: another one is fetched."""
    every_seconds: float
    """Time between two questions of the page for the version."""
    above: Html
    """Section above the studies: the progress of the runs."""


def text(
    everything: Sequence[Evidence], target: float | None = None, live: Live | None = None
) -> str:
    """Return the text of the HTML file.

    Args:
        everything: the studies that the page shows, at least one.
        target: the metric that costs are counted to; None takes the usual one.
        live: additions of a page that `legw.report.server` keeps up to date; None is a file that
            asks for nothing.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    scripts = [bundle(), *([_own("live.js")] if live else []), _own("page.js")]
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    policy += "; connect-src 'self'" if live else ""
    title = " · ".join(dict.fromkeys(evidence.title for evidence in everything))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · legw"),
        tag("style", Html(_own("palette.css") + _own("style.css"))),
    )
    state = (
        tag("p", "Live: kept up to date while runs go on", id="live", role="status") if live else ""
    )
    body = tag(
        "body",
        state,
        _main(everything, target, live),
        [tag("script", Html(script)) for script in scripts],
    )
    return join(Html("<!doctype html>\n"), tag("html", head, body, lang="en")) + "\n"


def inner(text: str) -> str:
    """Return the element of a page that holds all studies, without its scripts.

    >>> inner("<body><main>a</main><script></script></body>")
    '<main>a</main>'
    """
    end = "</main>"  # which no text inside can hold
    return text[text.index("<main") : text.index(end) + len(end)]


def _main(everything: Sequence[Evidence], target: float | None, live: Live | None) -> Html:
    sections = [section(evidence, number, target) for number, evidence in enumerate(everything)]
    footer = tag("footer", f"Made by legw {__version__} from run folders.")
    more = {"data_version": live.version, "data_every": f"{live.every_seconds:g}"} if live else {}
    above = live.above if live else ""
    return tag("main", above, contents(everything), sections, footer, **more)


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
