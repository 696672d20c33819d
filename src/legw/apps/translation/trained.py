"""Trained translation model: read from its run folder, it translates lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from legw.apps.translation.decoding import Search, translate
from legw.apps.translation.model import GNMT
from legw.apps.translation.task import SIZES, SUBWORDS
from legw.apps.translation.text import Subwords
from legw.apps.weights import newest, restored
from legw.errors import RunError, one_line
from legw.runs import records


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and its subwords."""

    model: GNMT
    subwords: Subwords

    def translate(self, lines: Sequence[str], search: Search | None = None) -> list[str]:
        """Return the translation of each line; that of an empty line is empty.

        Args:
            lines: sentences, as the training text writes them.
            search: settings of the search; None takes the likeliest subword each time.
        """
        return self.subwords.decode(translate(self.model, self.subwords.encode(lines), search))


def load(folder: Path, device: torch.device) -> Trained:
    """Read the model of a run from its newest checkpoint.

    Raises:
        RunError: it is no run folder, not of a translation model, has diverged, has no
            checkpoint or no subwords, or these do not belong together.
    """
    manifest = records.read_manifest(folder)
    if manifest.task not in SIZES:
        raise RunError(
            f"{folder}: holds a run of {one_line(manifest.task, 60)!r}, which translates "
            f"nothing; give a run of {' or '.join(SIZES)}"
        )
    weights = newest(folder)
    subwords = _subwords(folder / SUBWORDS)
    model = restored(folder, manifest.task, SIZES[manifest.task].model, weights)
    if model.embed.num_embeddings != len(subwords):
        raise RunError(
            f"{folder / SUBWORDS}: has {len(subwords)} subwords, the checkpoint "
            f"{model.embed.num_embeddings}; they are not of one run"
        )
    return Trained(model.to(device).eval(), subwords)


def _subwords(path: Path) -> Subwords:
    try:
        return Subwords(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: is missing; a run of a translation model writes it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(str(error), 100)}") from None
