"""The small language model of the Penn Treebank, on a text of random words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import plain
from benchmarks.ratios import Ratio, race
from benchmarks.rows import order
from legw import presets
from legw.apps.ptb import SIZES, WordTask
from legw.apps.ptb.text import END, UNKNOWN, Corpus, Vocabulary
from legw.decays import Constant
from legw.recipe import Recipe

STREAMS = 640


def synthetic(tokens: int = 929589, num_words: int = 10000) -> WordTask:
    """Return the task on a random text as long as the Penn Treebank."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, num_words, (tokens,), dtype=torch.int32, generator=generator)
    vocabulary = Vocabulary((END, UNKNOWN, *(f"word{n}" for n in range(num_words - 2))))
    return WordTask("ptb-small", SIZES["ptb-small"], Corpus(vocabulary, text, text[:9], text[:9]))


def recipe(batch_size: int) -> Recipe:
    """Return the recipe at a constant, small rate."""
    return replace(
        presets.PTB_SMALL, batch_size=batch_size, lr=0.1, warmup_epochs=0.0, decay=Constant()
    )


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare with the plain loop and with JAX, at 640 streams and at the base batch of 20."""
    from benchmarks import xla  # JAX is there after `make bench` alone

    task = synthetic()
    text, window = task.corpus.train, task.size.window

    def theirs(recipe: Recipe) -> Iterator[float]:
        model = plain.words_from(task.model())
        return plain.train_words(model, recipe, text, window, order(task, recipe.batch_size))

    def jax(recipe: Recipe) -> Iterator[float]:
        weights = xla.weights_from(plain.words_from(task.model()))
        return xla.train_words(weights, recipe, text, window, order(task, recipe.batch_size))

    large, base = recipe(STREAMS), recipe(20)
    floor = 2.3 if bf16_floors else None
    yield race("language model 640 / plain", task, large, theirs(large), rounds=8, floor=1.5)
    yield race(
        "language model 640, bf16 / plain",
        task, large, theirs(large), rounds=8, precision="bf16", floor=floor,
    )  # fmt: skip
    yield race("language model 640 / JAX", task, large, jax(large), rounds=4, floor=1.0)
    yield race(
        "language model 20 / plain", task, base, theirs(base), rounds=40, block=3, floor=0.97
    )
    yield race("language model 20 / JAX", task, base, jax(base), rounds=15, block=3)
