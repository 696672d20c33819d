"""Bundle of Vega's scripts for the page, kept in the cache folder: to make it takes a second."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

from legw.errors import RunError
from legw.runs.cache import cache_folder
from legw.runs.files import write_atomically


@functools.cache
def bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that cannot end its element.

    Raises:
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    import vl_convert

    place = cache_folder() / f"vega-{version('vl-convert-python')}.js"
    kept = _read(place)
    if kept is not None:
        return kept
    made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = made.replace("</script", "<\\/script")
    with contextlib.suppress(OSError, RunError):  # a cache that cannot be written is no loss
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, f"{_hash(script)}\n{script}".encode())
    return script


def _read(place: Path) -> str | None:
    """Return the script that was kept; None where there is none, or where it has changed since."""
    try:
        told, _, script = place.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return script if told == _hash(script) else None


def _hash(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()
