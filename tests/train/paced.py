"""A task that can be held back, so that a test can step in while a run goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.tasks import Streams

SECONDS = 0.03
"""How long an update of a run that is held back takes at least."""


class Paced(Streams):
    """Streams, slowly, until there is a file at $LEGW_TEST_HURRY."""

    name = "paced"

    def __init__(self) -> None:
        super().__init__()
        self.hurry = Path(os.environ.get("LEGW_TEST_HURRY", "/"))

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        if not self.hurry.exists():
            time.sleep(SECONDS)
        return super().batch(ids, device)


def task() -> Paced:
    return Paced()
