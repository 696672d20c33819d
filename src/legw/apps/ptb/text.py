"""Text: a vocabulary, and three texts as word ids.

Words are separated by white space; the end of each line counts as the word
`<eos>`. The vocabulary is that of the training text, by frequency and then alphabet;
words that are not in it are `<unk>`. Nothing is cached: a million words take a second.
"""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from legw.errors import DataError, LegwWarning, one_line, setting

END = "<eos>"
UNKNOWN = "<unk>"

MAX_WORDS = 100_000
"""Most words of a vocabulary without a given size: with more, the softmax takes all the time."""

PUBLISHED = {"train": 929_589, "valid": 73_760, "test": 82_430}
"""Tokens of the Penn Treebank as Mikolov prepared it, the ends of its lines among them."""

_NAMES = {"train": {"train"}, "valid": {"valid", "validation", "val"}, "test": {"test"}}
_ENDINGS = (".txt", ".tokens", ".txt.gz", ".tokens.gz")


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids, from 0 in order."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, lines: Iterable[list[str]]) -> tuple[Tensor, int]:
        """Return the ids of lines of words, and how many words became `<unk>`.

        Returns:
            int32 of shape (tokens,), with `<eos>` after each line; and a count.

        >>> vocabulary = Vocabulary(("<eos>", "<unk>", "a"))
        >>> ids, unknown = vocabulary.encode([["a", "b"], ["a"]])
        >>> ids.tolist(), unknown
        ([2, 1, 0, 2, 0], 1)
        """
        known, end, other = self.ids.get, self.ids[END], self.ids[UNKNOWN]
        ids, unknown = array("i"), 0
        for words in lines:
            found = [known(word, -1) for word in words]
            if -1 in found:
                unknown += found.count(-1)
                found = [other if number < 0 else number for number in found]
            ids.extend(found)
            ids.append(end)
        return _tensor(ids), unknown

    def to_bytes(self) -> bytes:
        """Return the words as a file, one a line."""
        return "".join(f"{word}\n" for word in self.words).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Vocabulary:
        """Return the vocabulary of the bytes that `to_bytes` wrote.

        Raises:
            ValueError: it is no such file.

        >>> Vocabulary.from_bytes(Vocabulary(("<eos>", "<unk>")).to_bytes()).words
        ('<eos>', '<unk>')
        """
        words = tuple(content.decode().split("\n"))
        if words[-1] or len(set(words)) < len(words) or not {END, UNKNOWN} <= set(words):
            raise ValueError("not one word a line, <eos> and <unk> among them")
        return cls(words[:-1])


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three texts as ids of one vocabulary, each int32 of shape (tokens,)."""

    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor


def read_corpus(folder: Path, limit: int | None = None) -> Corpus:
    """Read three texts and build the vocabulary of the first.

    Args:
        folder: with the files that `find_texts` finds.
        limit: most words in the vocabulary, `<eos>` and `<unk>` among them, at least 3;
            rarer words become `<unk>`. None takes all, up to `MAX_WORDS`.

    Raises:
        DataError: a file is missing, empty, no UTF-8 text or not the published one, or
            there are too many words.
    """
    paths = find_texts(folder)
    train, vocabulary = _read_train(paths["train"], limit)
    trained_unknown = bool((train == vocabulary.ids[UNKNOWN]).any())
    texts = {"train": train}
    for part in ("valid", "test"):
        texts[part], unknown = vocabulary.encode(read_lines(paths[part]))
        if unknown and not trained_unknown:
            _note(
                f"{paths[part]}: {unknown} of {len(texts[part])} tokens are not in the training "
                f"text and count as {UNKNOWN}, which training never sees; "
                f"{setting('vocabulary', 'N')} with fewer words makes it known"
            )
    for part, path in paths.items():
        check_published(path, part, len(texts[part]))
    return Corpus(vocabulary, **texts)


def check_published(path: Path, part: str, tokens: int) -> None:
    """Refuse a file with the name of the Penn Treebank's that has not as many tokens.

    Args:
        path: the file.
        part: train, valid or test.
        tokens: its words, the ends of its lines among them.

    Raises:
        DataError: it is not the published one.
    """
    if path.name.startswith(f"ptb.{part}.txt") and tokens != PUBLISHED[part]:
        raise DataError(
            f"{path}: has {tokens} tokens, the Penn Treebank's has "
            f"{PUBLISHED[part]}; get it again, or name a text of your own {part}.txt"
        )


def find_texts(folder: Path) -> dict[str, Path]:
    """Return the files with the parts train, valid and test.

    They are ptb.train.txt and so on, or else the one file for each part with its name
    as one word of the file's, and the ending .txt or .tokens; any may be gzipped.

    Raises:
        DataError: a part has no file, or several.
    """
    return {part: _find_text(folder, part) for part in _NAMES}


def _find_text(folder: Path, part: str) -> Path:
    for ending in (".txt", ".txt.gz"):
        if (folder / f"ptb.{part}{ending}").is_file():
            return folder / f"ptb.{part}{ending}"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [
        path
        for path in files
        if path.name.lower().endswith(_ENDINGS)
        and _NAMES[part] & set(re.split(r"[\W_]+", path.name.lower()))
        and path.is_file()
    ]
    if len(found) > 1:
        names = ", ".join(one_line(path.name, 60) for path in found[:3])
        raise DataError(f"{folder}: {part}: {names} all fit; leave one of them there")
    if not found:
        raise DataError(
            f"{folder / f'ptb.{part}.txt'}[.gz]: is missing; put ptb.train.txt, ptb.valid.txt and "
            "ptb.test.txt there (plain or .gz, from Mikolov's simple-examples), set LEGW_DATA "
            f"to the folder above ptb/, or give {setting('data', 'DIR')} with a train, a valid "
            f"and a test text of "
            "your own (.txt or .tokens)"
        )
    return found[0]


def read_lines(path: Path) -> Iterator[list[str]]:
    """Yield the words of each line of a text file, plain or gzipped.

    Raises:
        DataError: it cannot be read, is not UTF-8, or has no word in it.
    """
    offset, empty = 0, True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                text = _decoded(line, offset, path)
                words = (text if offset else text.removeprefix("\ufeff")).split()
                offset += len(line)
                empty = empty and not words
                yield words
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 80)
        raise DataError(f"{path}: cannot be read: {reason}; give a text file") from None
    if empty:
        raise DataError(f"{path}: is empty; give a text of at least one word")


def _decoded(line: bytes, offset: int, path: Path) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {offset + error.start}: is not UTF-8 text; "
            "convert the file, for example with iconv -f latin1 -t utf-8"
        ) from None


def _read_train(path: Path, limit: int | None) -> tuple[Tensor, Vocabulary]:
    """Read the training text in one pass: ids by first appearance, then by frequency."""
    numbers: dict[str, int] = {UNKNOWN: 0, END: 1}
    ids = array("i")
    for words in read_lines(path):
        ids.extend([numbers.setdefault(word, len(numbers)) for word in words])
        ids.append(1)
    text = _tensor(ids)
    counts = torch.bincount(text, minlength=len(numbers))
    if limit is None and len(numbers) > MAX_WORDS:
        raise DataError(
            f"{path}: has {len(numbers)} different words, more than {MAX_WORDS}; "
            f"{setting('vocabulary', 'N')} keeps the N most frequent and makes the rest {UNKNOWN}"
        )
    vocabulary = build(dict(zip(numbers, counts.tolist(), strict=True)), limit)
    unknown = vocabulary.ids[UNKNOWN]
    renumber = torch.tensor(
        [vocabulary.ids.get(word, unknown) for word in numbers], dtype=torch.int32
    )
    renumbered = renumber[text]
    lost = len(numbers) - len(vocabulary.words)
    if lost:
        share = int((renumbered == unknown).sum() - counts[0]) / len(text)
        had_one = "" if counts[0] else f"; it has no {UNKNOWN} of its own, and one word gave way"
        _note(
            f"{path}: vocabulary={limit}: the {lost} rarest of {len(numbers)} words become "
            f"{UNKNOWN}, {share:.1%} of the tokens{had_one}"
        )
    return renumbered, vocabulary


def build(counts: Mapping[str, int], limit: int | None = None) -> Vocabulary:
    """Return the vocabulary: words by frequency, then alphabet; `<eos>` and `<unk>` always.

    Args:
        counts: number of times that each word occurs.
        limit: most words to keep, at least 3; None keeps all.

    >>> build({"a": 1, "the": 7, "b": 1, "<eos>": 2}, limit=4).words
    ('the', '<eos>', 'a', '<unk>')
    """
    counts = {END: 0, UNKNOWN: 0} | dict(counts)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if limit is not None and len(ranked) > limit:
        others = [word for word in ranked if word not in (END, UNKNOWN)]
        kept = {END, UNKNOWN, *others[: limit - 2]}
        ranked = [word for word in ranked if word in kept]
    return Vocabulary(tuple(ranked))


def _tensor(ids: array[int]) -> Tensor:
    return torch.frombuffer(ids, dtype=torch.int32) if ids else torch.empty(0, dtype=torch.int32)


def _note(line: str) -> None:
    warnings.warn(line, LegwWarning, stacklevel=2)
