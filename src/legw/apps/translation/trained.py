"""A trained translation model, read back from its run folder: it translates lines of text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from legw import records
from legw.apps.translation.decoding import Search, translate
from legw.apps.translation.model import GNMT
from legw.apps.translation.task import SIZES, SUBWORDS
from legw.apps.translation.text import Subwords
from legw.errors import LegwWarning, RunError, one_line
from legw.train.state import load_newest


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and its subwords."""

    model: GNMT
    subwords: Subwords

    def translate(self, lines: Sequence[str], search: Search | None = None) -> list[str]:
        """Return the translation of each line; that of an empty line is empty.

        Args:
            lines: sentences, as the training text writes them.
            search: how; None takes the likeliest subword each time.
        """
        sentences = self.subwords.encode(lines)
        full = [at for at, ids in enumerate(sentences) if ids]
        found = translate(self.model, [sentences[at] for at in full], search)
        texts = dict(zip(full, self.subwords.decode(found), strict=True))
        return [texts.get(at, "") for at in range(len(lines))]


def load(folder: Path, device: torch.device) -> Trained:
    """Read the model of a run from its newest checkpoint.

    Raises:
        RunError: it is no run folder, not of a translation model, has no checkpoint or no
            subwords, or these do not belong together.
    """
    manifest = records.read_manifest(folder)
    if manifest.task not in SIZES:
        raise RunError(
            f"{folder}: holds a run of {one_line(manifest.task, 60)!r}, which translates "
            f"nothing; give a run of {' or '.join(SIZES)}"
        )
    content = load_newest(folder, lambda line: warnings.warn(line, LegwWarning, 2))
    if content is None:
        raise RunError(f"{folder}: has no checkpoint; train it first, or wait for the first one")
    subwords = _subwords(folder / SUBWORDS)
    weights = content["model"]
    rows = len(weights["embed.weight"])
    if rows != len(subwords):
        raise RunError(
            f"{folder / SUBWORDS}: has {len(subwords)} subwords, the checkpoint {rows}; "
            "they are not of one run"
        )
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise RunError(f"{folder}: has diverged: its weights are no numbers; give another run")
    model = SIZES[manifest.task].model(rows)
    model.load_state_dict(weights)
    return Trained(model.to(device).eval(), subwords)


def _subwords(path: Path) -> Subwords:
    try:
        return Subwords(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: is missing; a run of a translation model writes it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(str(error), 100)}") from None
