"""Trained language model: read from its run folder, it writes and scores texts.

Shapes: B streams (one here), T tokens, V words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from legw.apps.ptb.model import WordLSTM, perplexity
from legw.apps.ptb.task import SIZES, VOCABULARY
from legw.apps.ptb.text import END, UNKNOWN, Vocabulary, read_lines
from legw.apps.weights import TABLE, newest, restored
from legw.errors import RunError, one_line
from legw.runs import records
from legw.train.task import State


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and its vocabulary."""

    model: WordLSTM
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Score:
    """Score of a text under a model."""

    perplexity: float
    """exp of the mean loss over all tokens but the first."""
    tokens: int
    """Tokens of the text, the ends of its lines among them."""
    unknown: int
    """Number of them that are not in the vocabulary; each counts as `<unk>`."""


def load(folder: Path) -> Trained:
    """Read the model of a run from its newest checkpoint.

    Raises:
        RunError: it is no run folder, not of a language model, has no checkpoint or no
            vocabulary, has diverged, or these do not belong together.
    """
    manifest = records.read_manifest(folder)
    if manifest.task not in SIZES:
        raise RunError(
            f"{folder}: holds a run of {one_line(manifest.task, 60)!r}, which is no language "
            f"model; give a run of {', '.join(SIZES)}"
        )
    weights = newest(folder)
    vocabulary = _vocabulary(folder / VOCABULARY)
    model = restored(folder, manifest.task, SIZES[manifest.task].model, weights)
    words = len(weights[TABLE])
    if words != len(vocabulary.words):
        raise RunError(
            f"{folder / VOCABULARY}: has {len(vocabulary.words)} words, the checkpoint {words}; "
            "they are not of one run"
        )
    return Trained(model.eval(), vocabulary)


def _vocabulary(path: Path) -> Vocabulary:
    try:
        return Vocabulary.from_bytes(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: is missing; a run of a language model writes it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(str(error), 100)}") from None


@torch.no_grad()
def write(
    trained: Trained, prompt: list[str], *, tokens: int, temperature: float = 1.0, seed: int = 0
) -> list[str]:
    """Return words that continue a prompt, which is taken as the beginning of a line.

    Args:
        trained: the model.
        prompt: known words.
        tokens: number of words to draw, at least 0; the ends of lines count.
        temperature: divisor of the logits, at least 0; at 0 the likeliest word is taken each time.
        seed: of the draws.
    """
    words, ids = trained.vocabulary.words, trained.vocabulary.ids
    generator = torch.Generator().manual_seed(seed)
    following = [ids[END], *(ids[word] for word in prompt)]
    state: State = None
    written = []
    for _ in range(tokens):
        logits_BV, state = trained.model.predict(torch.tensor([following]), state)
        following = [_draw(logits_BV[0], temperature, generator)]
        written.append(words[following[0]])
    return written


def _draw(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    below_V = (logits_V - logits_V.max()).double()  # so that a low temperature cannot overflow
    return int(torch.multinomial((below_V / temperature).softmax(0), 1, generator=generator))


def known(vocabulary: Vocabulary, words: list[str]) -> tuple[list[str], list[str]]:
    """Return words with `<unk>` in place of those that are unknown; and those, once each.

    >>> known(Vocabulary(("<eos>", "<unk>", "a")), ["a", "b", "b"])
    (['a', '<unk>', '<unk>'], ['b'])
    """
    strange = list(dict.fromkeys(word for word in words if word not in vocabulary.ids))
    return [UNKNOWN if word in strange else word for word in words], strange


def score(trained: Trained, path: Path) -> Score:
    """Score a text file, plain or gzipped.

    Raises:
        DataError: it is missing, empty or not UTF-8.
    """
    text, unknown = trained.vocabulary.encode(read_lines(path))
    return Score(perplexity(trained.model, text), len(text), unknown)
