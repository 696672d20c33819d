"""Small texts for tests of language models and of translation."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from legw.apps import gpt
from legw.apps.gpt.text import Texts
from legw.apps.ptb.task import Size
from legw.apps.ptb.text import Corpus, Vocabulary

TINY = Size(hidden_size=6, window=5, init=0.3, keep=1.0)
"""A model small enough for a test."""

TINY_GPT = gpt.Size(width=8, num_layers=2, num_heads=2, window=6, dropout=0.0)
"""The same of the transformer."""

TEXT = "the company said it will buy a small bank in new york for cash"
WORDS = TEXT.split()
"""The words of `write_texts`."""


def tiny_corpus(tokens: int = 203, words: int = 11) -> Corpus:
    """Return texts of random words; the first two are `<eos>` and `<unk>`."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = Vocabulary(("<eos>", "<unk>", *(f"w{n}" for n in range(words - 2))))
    texts = (
        torch.randint(0, words, (length,), generator=generator, dtype=torch.int32)
        for length in (tokens, 57, 61)
    )
    return Corpus(vocabulary, *texts)


def tiny_texts(tokens: int = 203, words: int = 11) -> Texts:
    """Return the texts of `tiny_corpus` for the transformer."""
    corpus = tiny_corpus(tokens, words)
    return Texts(corpus.vocabulary, corpus.train, corpus.valid, corpus.test)


def write_texts(folder: Path, lines: int = 60) -> Path:
    """Write train.txt, valid.txt and test.txt, in which each word says much about the next."""
    for part, offset in (("train", 0), ("valid", 1), ("test", 2)):
        written = (
            " ".join(WORDS[(start + offset + n) % len(WORDS)] for n in range(start % 5 + 3))
            for start in range(lines)
        )
        (folder / f"{part}.txt").write_text("".join(f"{line}\n" for line in written))
    return folder


GERMAN = {
    "a": "ein", "dog": "Hund", "cat": "Katze", "man": "Mann", "big": "großer", "red": "roter",
    "sees": "sieht", "runs": "läuft", "and": "und", "here": "hier",
}  # fmt: skip
"""The words of `write_pairs`."""


def write_pairs(folder: Path, lines: int = 40, longest: int = 7) -> Path:
    """Write train, val and test with the endings .en and .de, translated word by word."""
    for part, seed in (("train", 0), ("val", 1), ("test", 2)):
        draw = random.Random(seed)
        texts = [draw.choices(list(GERMAN), k=draw.randint(1, longest)) for _ in range(lines)]
        for ending, words in (("en", {}), ("de", GERMAN)):
            written = (" ".join(words.get(word, word) for word in text) for text in texts)
            content = "".join(f"{line}\n" for line in written)
            (folder / f"{part}.{ending}").write_text(content, encoding="utf-8")
    return folder
