"""Sentence pairs: two line-aligned texts, cut into subwords.

Lines are not tokenised: the subwords (byte-pair encoding, Sennrich et al. 2015, arXiv 1508.07909,
by sentencepiece, Kudo and Richardson 2018, arXiv 1808.06226) are learned on the training
lines of both languages, one table for both. Decoding returns a sentence as sentencepiece has
normalised it: in Unicode's form NFKC, with one space between words.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sentencepiece

from legw.apps.translation.batches import Pairs
from legw.apps.translation.model import BEGIN, END, PAD, UNKNOWN
from legw.errors import DataError, LegwWarning, given, one_line, setting

MAX_LINES = 2_000_000
"""Most lines, of both languages together, that subwords are learned from: of more, every
second, third, ... is taken."""

LONGEST_LINE = 4192
"""Bytes of the longest line that subwords are learned from, as sentencepiece has it."""

NAMES = {
    "train": ("train",),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "test_2016_flickr"),
}
"""Names of each part's files, before the language; the first that exists in both languages
counts."""


class Subwords:
    """A table of subwords: text to ids and back.

    Args:
        content: the file that sentencepiece wrote.

    Raises:
        ValueError: it is no such file, or its special subwords are not legw's.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError:
            raise ValueError("not a file of sentencepiece's") from None
        found = self._processor
        special = found.pad_id(), found.unk_id(), found.bos_id(), found.eos_id()
        if special != (PAD, UNKNOWN, BEGIN, END):
            raise ValueError(f"padding, unknown, begin and end are {special}, not 0, 1, 2, 3")

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    @property
    def pieces(self) -> list[str]:
        """The text of each subword, in the order of their ids."""
        return [str(self._processor.id_to_piece(each)) for each in range(len(self))]

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the ids of each line; characters that are in no subword are `UNKNOWN`."""
        return [list(ids) for ids in self._processor.encode(list(lines))]

    def decode(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sentence of ids."""
        return [str(line) for line in self._processor.decode([list(ids) for ids in sentences])]


def learn(lines: Iterable[str], num_subwords: int, option: str = "vocabulary") -> Subwords:
    """Return the subwords of a text.

    Args:
        lines: text of both languages.
        num_subwords: number of subwords, with the four special ones and all characters.
        option: that says so, for errors.

    Raises:
        DataError: the text has more characters, or fewer subwords.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=num_subwords,
            character_coverage=1.0,
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            max_sentence_length=LONGEST_LINE,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].partition(". Increase")[0].strip(". ")
        reason = reason or f"no line of at most {LONGEST_LINE:,} bytes has text in it"
        raise DataError(
            f"subwords: {option}={num_subwords}: cannot be learned from this text: "
            f"{one_line(reason, 100)}; give another {setting(option)}, or more text"
        ) from None
    return Subwords(model.getvalue())


@dataclass(frozen=True, eq=False)
class Part:
    """The lines of one part, as many of each language."""

    source: list[str]
    target: list[str]


@dataclass(frozen=True, eq=False)
class Corpus:
    """The training pairs, the held-out lines, and the subwords of both."""

    subwords: Subwords
    train: Pairs
    validation: Part
    test: Part
    languages: tuple[str, str]
    """Source and target, as the files' endings have them."""

    @cached_property
    def held_out(self) -> dict[str, Part]:
        """The parts that a model can be measured on."""
        return {"validation": self.validation, "test": self.test}


def read_corpus(
    folder: Path, source: str, target: str, *, num_subwords: int, most_tokens: int
) -> Corpus:
    """Read the three parts, learn the subwords, and encode the training pairs.

    Args:
        folder: with the files that `find_pair` finds.
        source: ending of the source language's files, such as `de`.
        target: ending of the target language's files, another one.
        num_subwords: subwords of both languages together, at least 1.
        most_tokens: pairs with more subwords on one side are left out of training.

    Raises:
        DataError: a file is missing or no text, two are of different length, nothing is
            left to train on, or the subwords cannot be learned.
    """
    if source == target:
        raise DataError(f"{given('source', source)}: is the target too; give two languages")
    paths = {part: find_pair(folder, part, source, target) for part in NAMES}
    parts = {part: _read_part(*paths[part]) for part in NAMES}
    path, _ = paths["train"]
    train = _without_empty(parts["train"], path)
    lines = [*train.source, *train.target]
    subwords = learn(lines[:: -(-len(lines) // MAX_LINES)], num_subwords)
    pairs = _encoded(subwords, train, path, most_tokens)
    for language, rows in ((source, pairs.source_MS), (target, pairs.target_MT)):
        _note_unknown(int((rows == UNKNOWN).sum()), f"train {language}")
    for part in ("validation", "test"):
        pairs_of_ids = _ids(subwords, parts[part])
        _note_unknown(sum(ours.count(UNKNOWN) for ours, _ in pairs_of_ids), f"{part} {source}")
        so = "they stay in; the translation of an empty line is empty"
        _note_empty(pairs_of_ids, part, so)
    return Corpus(subwords, pairs, parts["validation"], parts["test"], (source, target))


def _read_part(source: Path, target: Path) -> Part:
    ours, theirs = list(read_lines(source)), list(read_lines(target))
    if len(ours) != len(theirs):
        raise DataError(
            f"{source}: has {len(ours)} lines and {target.name} {len(theirs)}: from line "
            f"{min(len(ours), len(theirs)) + 1} on there is no pair; mend the shorter one"
        )
    return Part(ours, theirs)


def find_pair(folder: Path, part: str, source: str, target: str) -> tuple[Path, Path]:
    """Return the two files of a part, which have the same name, each plain or gzipped.

    Raises:
        DataError: no name exists in both languages.
    """
    halves = []  # what would make a pair of a file that is there alone
    for name in NAMES[part]:
        ours, theirs = (_find(folder / f"{name}.{language}") for language in (source, target))
        if ours and theirs:
            return ours, theirs
        if ours or theirs:
            halves.append(f"{name}.{target if ours else source}")
    missing = halves[0] if halves else f"{NAMES[part][0]}.{source}"
    raise DataError(
        f"{folder / missing}[.gz]: is missing; put train, val and test there, each as "
        f"NAME.{source} and NAME.{target} (plain or .gz, a sentence a line; looked for: "
        f"{', '.join(NAMES[part])}), set LEGW_DATA to the folder above {folder.name}/, "
        f"or give {setting('data', 'DIR')} {setting('source', 'L')} {setting('target', 'L')}"
    )


def _find(path: Path) -> Path | None:
    both = path, path.with_name(f"{path.name}.gz")
    return next((each for each in both if each.is_file()), None)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped, without white space around them.

    Only a line feed ends a line: other separators are part of a sentence.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is empty.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: line {number}: is not UTF-8 text; "
            "convert the file, for example with iconv -f latin1 -t utf-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 80)
        raise DataError(f"{path}: cannot be read: {reason}; give a text file") from None
    if number == 0:
        raise DataError(f"{path}: is empty; give a text of at least one line")


def _without_empty(part: Part, path: Path) -> Part:
    """Leave out pairs of which one side is empty, and say so."""
    pairs = list(zip(part.source, part.target, strict=True))
    kept = [pair for pair in pairs if all(pair)]
    if not kept:
        raise DataError(f"{path}: every pair has an empty side; give sentences")
    _note_empty(pairs, f"{path}", "they are left out")
    return Part([ours for ours, _ in kept], [theirs for _, theirs in kept])


def _note_empty(pairs: Sequence[tuple[Sized, Sized]], what: str, so: str) -> None:
    """Say how many pairs, of text or of ids, have an empty side."""
    empty = [number for number, pair in enumerate(pairs, 1) if not all(map(len, pair))]
    if empty:
        _note(
            f"{what}: {len(empty)} of {len(pairs)} pairs have an empty side, the first in "
            f"line {empty[0]}; {so}"
        )


def _ids(subwords: Subwords, part: Part) -> list[tuple[list[int], list[int]]]:
    """Return the pairs as ids; a line of invisible characters alone has none."""
    ours, theirs = subwords.encode(part.source), subwords.encode(part.target)
    return list(zip(ours, theirs, strict=True))


def _encoded(subwords: Subwords, train: Part, path: Path, most_tokens: int) -> Pairs:
    """Encode the pairs; leave out those that are too long, and say so."""
    written = [pair for pair in _ids(subwords, train) if all(pair)]
    blank = len(train.source) - len(written)
    if not written:
        raise DataError(f"{path}: every pair has a side of no visible text; give sentences")
    if blank:
        _note(
            f"{path}: {blank} of {len(train.source)} pairs have a side of invisible characters "
            "alone; they are left out"
        )
    kept = [pair for pair in written if max(map(len, pair)) <= most_tokens]
    lost = len(written) - len(kept)
    if not kept:
        raise DataError(f"{path}: every pair is longer than {most_tokens} subwords; give sentences")
    if lost:
        _note(
            f"{path}: {lost} of {len(train.source)} pairs are longer than {most_tokens} subwords; "
            "they are left out"
        )
    return Pairs([ours for ours, _ in kept], [theirs for _, theirs in kept])


def _note_unknown(count: int, what: str) -> None:
    if count:
        _note(f"{what}: {unknown_line(count)}")


def count_unknown(subwords: Subwords, lines: Sequence[str]) -> int:
    """Return how many subwords of the lines stand for characters that are not in the table.

    Several of them in a row are one subword.
    """
    return sum(ids.count(UNKNOWN) for ids in subwords.encode(lines))


def unknown_line(count: int) -> str:
    """Return the message about a number of unknown subwords.

    >>> unknown_line(2)
    '2 subwords are unknown: their characters are not among the subwords'
    """
    if count == 1:
        return "1 subword is unknown: its characters are not among the subwords"
    return f"{count} subwords are unknown: their characters are not among the subwords"


def _note(line: str) -> None:
    warnings.warn(line, LegwWarning, stacklevel=2)
