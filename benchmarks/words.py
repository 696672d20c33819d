"""The small language model of the Penn Treebank, on a text of random words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import plain
from benchmarks.ratios import Ratio, race
from benchmarks.rows import order
from legw import recipes
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
    return replace(recipes.PTB_SMALL, batch_size=batch_size, lr=0.1, decay=Constant())


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare with the plain loop and with JAX, at 640 streams and at the base batch of 20."""
    from benchmarks import xla  # JAX is there after `make bench` alone

    task = synthetic()
    text, window = task.corpus.train, task.size.window
    large, base = recipe(STREAMS), recipe(20)

    model = plain.words_from(task.model())
    plain_large = plain.train_words(model, large, text, window, order(task, STREAMS))
    jax_large = xla.train_words(xla.weights_from(model), large, text, window, order(task, STREAMS))
    rounds = race(task, large, {"plain": plain_large, "jax": jax_large}, rounds=10)
    note = f"micro-batch {rounds.micro_batch_size}"
    yield Ratio("language model 640, fp32 / plain", rounds.ratios("plain"), 1.5, note)
    yield Ratio("language model 640, fp32 / JAX", rounds.ratios("jax"), 1.0, note)
    yield Ratio("language model 640, JAX / plain", rounds.ratios("plain", by="jax"))
    del jax_large

    rounds = race(task, large, {"plain": plain_large}, rounds=10, precision="bf16")
    note = f"micro-batch {rounds.micro_batch_size}"
    floor = 2.3 if bf16_floors else None
    yield Ratio("language model 640, bf16 / plain", rounds.ratios("plain"), floor, note)

    model = plain.words_from(task.model())
    sides = {
        "plain": plain.train_words(model, base, text, window, order(task, 20)),
        "jax": xla.train_words(xla.weights_from(model), base, text, window, order(task, 20)),
    }
    rounds = race(task, base, sides, rounds=25, block=3)
    note = f"micro-batch {rounds.micro_batch_size}"
    yield Ratio("language model 20, fp32 / plain", rounds.ratios("plain"), 0.97, note)
    yield Ratio("language model 20, fp32 / JAX", rounds.ratios("jax"), None, note)
