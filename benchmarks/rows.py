"""MNIST-LSTM: images of random bytes, since the speed does not depend on what they show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.ratios import Ratio, race
from legw import presets
from legw.apps.row_lstm import RowTask
from legw.decays import Constant
from legw.recipe import Recipe
from legw.train import Task

LARGE = 8192


def synthetic(examples: int = 60000) -> RowTask:
    """Return MNIST-LSTM's task on random images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (examples, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (examples,), generator=generator)
    few = images[:10], labels[:10]
    return RowTask("mnist-lstm", (images, labels), few, scale=255.0, hidden_size=128)


def recipe(batch_size: int) -> Recipe:
    """Return MNIST-LSTM's recipe at a constant, small rate."""
    return replace(
        presets.MNIST_LSTM, batch_size=batch_size, lr=0.01, warmup_epochs=0.0, decay=Constant()
    )


def order(task: Task, batch_size: int) -> Iterator[Tensor]:
    """Yield the ids of each whole batch, epoch after epoch."""
    for epoch in count():
        ids = task.order(0, epoch, batch_size)
        yield from ids[: len(ids) // batch_size * batch_size].split(batch_size)


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare with the plain loop and with JAX, at 8192 and at the base batch of 128."""
    from benchmarks import xla  # JAX is there after `make bench` alone

    task = synthetic()

    def theirs(recipe: Recipe) -> Iterator[float]:
        return plain.train_rows(task.model(), recipe, *task.train, order(task, recipe.batch_size))

    def jax(recipe: Recipe) -> Iterator[float]:
        weights = xla.weights_from(task.model())
        return xla.train_rows(weights, recipe, *task.train, order(task, recipe.batch_size))

    large, base = recipe(LARGE), recipe(128)
    floor = 3.0 if bf16_floors else None
    yield race("mnist-lstm 8192 / plain", task, large, theirs(large), rounds=8, floor=1.4)
    yield race(
        "mnist-lstm 8192, bf16 / plain",
        task, large, theirs(large), rounds=8, precision="bf16", floor=floor,
    )  # fmt: skip
    yield race("mnist-lstm 8192 / JAX", task, large, jax(large), rounds=4)
    yield race("mnist-lstm 128 / plain", task, base, theirs(base), rounds=40, block=10, floor=0.97)
    yield race("mnist-lstm 128 / JAX", task, base, jax(base), rounds=15, block=5)
