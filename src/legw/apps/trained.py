"""Trained language model: read from its run folder, it writes and scores texts.

Shapes: B streams (one here), T tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from legw.apps import gpt, ptb
from legw.apps.gpt.model import GPT, perplexity_of, summed_text_loss
from legw.apps.gpt.text import SubwordVocabulary
from legw.apps.ptb.model import WordLSTM, perplexity
from legw.apps.ptb.task import VOCABULARY
from legw.apps.ptb.text import END, UNKNOWN, Vocabulary, read_lines
from legw.apps.translation import text as subwords
from legw.apps.translation.model import END as END_OF_LINE
from legw.apps.translation.task import SUBWORDS
from legw.apps.weights import TABLE, newest, restored
from legw.errors import DataError, RunError, one_line
from legw.runs import records
from legw.train.task import State

Model = WordLSTM | GPT
Words = Vocabulary | SubwordVocabulary
Kind = TypeVar("Kind", Vocabulary, SubwordVocabulary)


class Size(Protocol):
    """Dimensions of a language model."""

    def model(self, num_words: int, /) -> Model:
        """Return a new model for a vocabulary of this size."""


SIZES: Mapping[str, Size] = ChainMap[str, Any](gpt.SIZES, ptb.SIZES)
"""The language models, by the names of their applications."""


@dataclass(frozen=True)
class Trained:
    """A model with its weights, in evaluation mode, and its vocabulary."""

    model: Model
    vocabulary: Words


@dataclass(frozen=True)
class Score:
    """Score of a text under a model."""

    perplexity: float
    """exp of the mean loss over all tokens but the first."""
    tokens: int
    """Tokens of the text, the ends of its lines among them."""
    unknown: int
    """Number of them that are not in the vocabulary; each counts as `<unk>`."""
    word_perplexity: float | None = None
    """Of a model of subwords: the same loss, as a mean over all words but the first."""


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
    path, vocabulary = _vocabulary(folder, manifest.task)
    model = restored(folder, manifest.task, SIZES[manifest.task].model, weights)
    words = len(weights[TABLE])
    if words != len(vocabulary):
        what = "words" if isinstance(vocabulary, Vocabulary) else "subwords"
        raise RunError(
            f"{path}: has {len(vocabulary)} {what}, the checkpoint {words}; they are not of one run"
        )
    return Trained(model.eval(), vocabulary)


def _vocabulary(folder: Path, task: str) -> tuple[Path, Words]:
    """Return the file with a run's words or subwords, and these."""
    path = folder / SUBWORDS
    if task in gpt.SIZES and path.is_file():
        return path, _read(path, lambda content: SubwordVocabulary(subwords.Subwords(content)))
    return folder / VOCABULARY, _read(folder / VOCABULARY, Vocabulary.from_bytes)


def _read(path: Path, made: Callable[[bytes], Kind]) -> Kind:
    try:
        return made(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path}: is missing; a run of a language model writes it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {one_line(str(error), 100)}") from None


def write(
    trained: Trained, prompt: list[str], *, tokens: int, temperature: float = 1.0, seed: int = 0
) -> str:
    """Return a prompt, which is taken as the beginning of a line, and its continuation.

    Args:
        trained: the model.
        prompt: words, of which `known` knows all.
        tokens: number of tokens to draw, at least 0; the ends of lines count.
        temperature: divisor of the logits, at least 0; at 0 the likeliest token is taken each time.
        seed: of the draws.
    """
    draw = partial(_continued, trained.model, tokens=tokens, temperature=temperature, seed=seed)
    vocabulary = trained.vocabulary
    if isinstance(vocabulary, SubwordVocabulary):
        (ids,) = vocabulary.subwords.encode([" ".join(prompt)])
        return vocabulary.text(ids + draw([END_OF_LINE, *ids]))
    following = [vocabulary.ids[END], *(vocabulary.ids[word] for word in prompt)]
    written = [vocabulary.words[each] for each in draw(following)]
    return "\n".join(line.strip() for line in " ".join(prompt + written).split(END))


@torch.no_grad()
def _continued(
    model: nn.Module, following: list[int], *, tokens: int, temperature: float, seed: int
) -> list[int]:
    """Return ids that continue those given."""
    assert isinstance(model, Model)
    generator = torch.Generator().manual_seed(seed)
    state: State = None
    written = []
    for _ in range(tokens):
        logits_BV, state = model.predict(torch.tensor([following]), state)
        following = [_draw(logits_BV[0], temperature, generator)]
        written += following
    return written


def _draw(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    below_V = (logits_V - logits_V.max()).double()  # so that a low temperature cannot overflow
    return int(torch.multinomial((below_V / temperature).softmax(0), 1, generator=generator))


def known(vocabulary: Words, words: list[str]) -> tuple[list[str], list[str]]:
    """Return words with `<unk>` in place of those that are unknown; and those, once each.

    Of subwords a word is unknown that has a character of none of them; it stays as it is.

    >>> known(Vocabulary(("<eos>", "<unk>", "a")), ["a", "b", "b"])
    (['a', '<unk>', '<unk>'], ['b'])
    """
    if isinstance(vocabulary, SubwordVocabulary):
        each = {word: vocabulary.encode([[word]])[1] for word in words}
        return words, [word for word, unknown in each.items() if unknown]
    strange = list(dict.fromkeys(word for word in words if word not in vocabulary.ids))
    return [UNKNOWN if word in strange else word for word in words], strange


def score(trained: Trained, path: Path) -> Score:
    """Score a text file, plain or gzipped.

    Raises:
        DataError: it is missing, empty or not UTF-8.
    """
    lines = list(read_lines(path))
    text, unknown = trained.vocabulary.encode(lines)
    if len(text) < 2:
        raise DataError(f"{path}: has no visible text; give a text of at least one word")
    if isinstance(trained.model, WordLSTM):
        return Score(perplexity(trained.model, text), len(text), unknown)
    loss = summed_text_loss(trained.model, text, trained.model.window)
    found = Score(perplexity_of(loss, len(text)), len(text), unknown)
    if isinstance(trained.vocabulary, Vocabulary):
        return found
    words = sum(len(line) + 1 for line in lines)
    return Score(found.perplexity, found.tokens, unknown, perplexity_of(loss, words))
