"""Cache folder: where measurements of this machine are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

MICRO_BATCHES = "micro-batches.json"
"""The file of micro-batch measurements in the cache folder."""


def cache_folder() -> Path:
    """Return ``~/.cache/legw``, or ``legw`` below $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "legw"
