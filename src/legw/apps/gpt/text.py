"""Subwords of a text: learned on its training part; three parts as ids.

Words and ends of lines are those of `legw.apps.ptb.text`. The words of a line are joined by one
space and cut into subwords as `legw.apps.translation.text` has them; each line ends with one token.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from legw.apps.ptb.text import Vocabulary, check_published, find_texts, read_corpus, read_lines
from legw.apps.translation.model import END, UNKNOWN
from legw.apps.translation.text import MAX_LINES, Subwords, learn, unknown_line
from legw.errors import DataError, LegwWarning

LINES = 4096
"""Lines that are cut into subwords in one call."""


class SubwordVocabulary:
    """Subwords and their ids, with what `Vocabulary` offers for words.

    Args:
        subwords: the table.
    """

    def __init__(self, subwords: Subwords) -> None:
        self.subwords = subwords

    def __len__(self) -> int:
        return len(self.subwords)

    def encode(self, lines: Iterable[list[str]]) -> tuple[Tensor, int]:
        """Return the ids of lines of words, and how many subwords are unknown.

        Returns:
            int32 of shape (tokens,), with the end after each line; and a count.
        """
        ids, unknown = array("i"), 0
        for part in _parts(" ".join(words) for words in lines):
            for found in self.subwords.encode(part):
                unknown += found.count(UNKNOWN)
                ids.extend(found)
                ids.append(END)
        return torch.tensor(ids, dtype=torch.int32), unknown

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, a line for each end and for what comes after the last one."""
        lines: list[list[int]] = [[]]
        for each in ids:
            if each == END:
                lines.append([])
            else:
                lines[-1].append(each)
        return "\n".join(self.subwords.decode(lines))


@dataclass(frozen=True, eq=False)
class Texts:
    """Three texts as ids of one vocabulary, each int32 of shape (tokens,)."""

    vocabulary: Vocabulary | SubwordVocabulary
    train: Tensor
    valid: Tensor
    test: Tensor
    words: dict[str, int] = field(default_factory=dict)
    """Of subwords: words of each part, the ends of its lines among them."""


def read_texts(folder: Path, limit: int | None = None, num_subwords: int | None = None) -> Texts:
    """Read three texts as words, or as subwords of the first.

    Args:
        folder: with the files that `find_texts` finds.
        limit: most words in the vocabulary; see `read_corpus`.
        num_subwords: number of subwords; None reads words.

    Raises:
        DataError: a file is missing, empty, no UTF-8 text or not the published one, there are too
            many words, or the subwords cannot be learned.
    """
    if num_subwords is None:
        corpus = read_corpus(folder, limit)
        return Texts(corpus.vocabulary, corpus.train, corpus.valid, corpus.test)
    paths = find_texts(folder)
    lines = {part: list(read_lines(path)) for part, path in paths.items()}
    counts = {part: sum(len(words) + 1 for words in lines[part]) for part in paths}
    for part, path in paths.items():
        check_published(path, part, counts[part])
    written = [" ".join(words) for words in lines["train"] if words]
    written = written[:: -(-len(written) // MAX_LINES)]
    vocabulary = SubwordVocabulary(learn(written, num_subwords, "subwords"))
    texts = {part: _encoded(vocabulary, lines[part], path) for part, path in paths.items()}
    return Texts(vocabulary, **texts, words=counts)


def _encoded(vocabulary: SubwordVocabulary, lines: list[list[str]], path: Path) -> Tensor:
    """Return the ids of a text; say how many are unknown."""
    text, unknown = vocabulary.encode(lines)
    if len(text) < 2:
        raise DataError(f"{path}: has no visible text; give a text of at least one word")
    if unknown:
        warnings.warn(f"{path}: {unknown_line(unknown)}", LegwWarning, stacklevel=2)
    return text


def _parts(lines: Iterable[str]) -> Iterable[list[str]]:
    """Yield lists of `LINES` lines."""
    part: list[str] = []
    for line in lines:
        part.append(line)
        if len(part) == LINES:
            yield part
            part = []
    if part:
        yield part
