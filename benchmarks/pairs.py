"""The small translation model, on sentence pairs of random subwords with real lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.ratios import Ratio, race
from benchmarks.rows import order
from legw import presets
from legw.apps.translation import SIZES, Size, TranslationTask
from legw.apps.translation.batches import Pairs, padding_share
from legw.apps.translation.model import END
from legw.apps.translation.text import Corpus, Part, learn
from legw.decays import Constant
from legw.recipe import Recipe

LARGE = 1024


def synthetic(pairs: int = 29_000, size: Size = SIZES["gnmt-small"]) -> TranslationTask:
    """Return the task on as many pairs as Multi30k has, about as long as its own.

    Source and target have 17 and 18 subwords in the mean, with a deviation of 6, and are
    about as long as each other; at most 40, so that one piece of 1024 fits into memory.
    """
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(8000)]
    subwords = learn([" ".join(draw.sample(words, 10)) for _ in range(4000)], size.num_subwords)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randn(pairs, generator=generator).mul(0.34).add(2.73).exp().clamp(3, 40)
    ratios = torch.randn(pairs, generator=generator).mul(0.15).add(1.05)
    others = (lengths * ratios).clamp(3, 40)

    def sentences(lengths: Tensor) -> list[list[int]]:
        return [
            torch.randint(END + 1, len(subwords), (int(n),), generator=generator).tolist()
            for n in lengths
        ]

    few = Part(["a b"], ["c d"])
    train = Pairs(sentences(lengths), sentences(others))
    return TranslationTask("gnmt-small", size, Corpus(subwords, train, few, few, ("en", "de")))


def recipe(batch_size: int) -> Recipe:
    """Return the recipe at a constant, small rate."""
    return replace(
        presets.GNMT_SMALL, batch_size=batch_size, lr=1e-4, warmup_epochs=0.0, decay=Constant()
    )


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare with the plain loop at 1024: with random batches, and with ours, of like lengths."""
    task, large = synthetic(), recipe(LARGE)

    def theirs(batches: Iterator[Tensor]) -> Iterator[float]:
        return plain.train_pairs(
            plain.pairs_from(task.model()), large, task.corpus.train, batches, task.size.smoothing
        )

    name = "translation 1024 / plain"
    found = race(name, task, large, theirs(shuffled(task)), rounds=2, floor=1.4, warm_up=0)
    yield replace(found, note=f"{found.note}, {padding(task, found)}")
    sorted_as_ours = theirs(order(task, LARGE))
    yield race(f"{name}, sorted as ours", task, large, sorted_as_ours, rounds=1, warm_up=0)


def shuffled(task: TranslationTask) -> Iterator[Tensor]:
    """Yield batches of whatever pairs, as a loop without thought of lengths has them."""
    for epoch in count():
        generator = torch.Generator().manual_seed(epoch)
        ids = torch.randperm(len(task.corpus.train), generator=generator)
        yield from torch.split(ids[: len(ids) // LARGE * LARGE], LARGE)


def padding(task: TranslationTask, found: Ratio) -> str:
    """Return how much of what both sides compute is padding."""
    train = task.corpus.train
    lengths = train.source_lengths_M, train.target_lengths_M
    micro_batch_size = int(found.note.split()[-1])
    ours = padding_share(*lengths, task.order(0, 0, LARGE), micro_batch_size=micro_batch_size)
    ids = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return f"padding {ours:.0%}, {padding_share(*lengths, ids, micro_batch_size=LARGE):.0%} theirs"
