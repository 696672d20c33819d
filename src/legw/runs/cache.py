"""Data and cache folders: places where data are searched, and files kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

MICRO_BATCHES = "micro-batches.json"
"""The file of micro-batch measurements in the cache folder."""


def cache_folder() -> Path:
    """Return ``~/.cache/legw``, or ``legw`` below $XDG_CACHE_HOME.

    Downloads, decoded images and measurements of this machine lie there.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "legw"


def data_folder(name: str, given: Path | None = None) -> Path | None:
    """Return the folder of a data set: the one given, else ``$LEGW_DATA/NAME``; None without both.

    Args:
        name: of the data set, as mnist or ptb.
        given: by the user, as ``--data``.
    """
    if given is not None or "LEGW_DATA" not in os.environ:
        return given
    return Path(os.environ["LEGW_DATA"]) / name
