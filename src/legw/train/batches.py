"""Batches: the examples of each update, and the share of each process.

The order of examples is a function of (seed, epoch) alone; how a batch is cut
into micro-batches and over processes is arithmetic on its slots 0..B-1. So the
examples of update `s` are the same for every number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from legw.errors import RunError
from legw.recipe import Recipe
from legw.schedule import Progress


def derive(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that is a function of its parts.

    >>> derive(0, "order", 3) == derive(0, "order", 3) != derive(0, "order", 4)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled(num_examples: int, seed: int, epoch: int) -> Tensor:
    """Return the ids 0..num_examples-1 in an order that is a function of (seed, epoch).

    >>> shuffled(5, seed=0, epoch=0).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(num_examples, generator=generator)


class Batches:
    """The ids of each update; batches may straddle epochs, so every example is used.

    Args:
        order: epoch -> ids, int64 of shape (num_examples,).
        num_examples: examples in one epoch, at least 1.
        batch_size: examples per update, at least 1.
        progress: batch sizes and positions of the updates, in place of the two numbers; None
            is a constant batch.
    """

    def __init__(
        self,
        order: Callable[[int], Tensor],
        num_examples: int,
        batch_size: int,
        *,
        progress: Progress | None = None,
    ) -> None:
        self._order = order
        self.progress = progress or Progress(
            Recipe(batch_size=batch_size, lr=1.0, epochs=1), num_examples
        )
        """Batch size and position of each update."""
        self._epochs: dict[int, Tensor] = {}

    def ids(self, update: int) -> Tensor:
        """Return the example ids of an update, int64 of shape (its batch size,)."""
        begin, num_examples = self.progress.begin(update)
        end = begin + self.progress.batch_size(update)
        first, last = begin // num_examples, (end - 1) // num_examples
        self._epochs = {e: ids for e, ids in self._epochs.items() if first <= e <= last}
        pieces = []
        for epoch in range(first, last + 1):
            start = epoch * num_examples
            ids = self._epoch(epoch, num_examples)
            pieces.append(ids[max(begin - start, 0) : max(end - start, 0)])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def epochs(self, update: int) -> Tensor:
        """Return the epoch each slot of an update belongs to, int64 of shape (its batch size,)."""
        begin, num_examples = self.progress.begin(update)
        return torch.arange(begin, begin + self.progress.batch_size(update)) // num_examples

    def opens_epoch(self, update: int) -> bool:
        """Say whether an update is the first that begins in its epoch."""
        begin, num_examples = self.progress.begin(update)
        return begin % num_examples < self.progress.batch_size(update)

    def _epoch(self, epoch: int, num_examples: int) -> Tensor:
        if epoch not in self._epochs:
            ids = self._order(epoch)
            if ids.shape != (num_examples,):
                raise RunError(
                    f"order: epoch={epoch}: returned shape {tuple(ids.shape)}; "
                    f"num_examples says ({num_examples},)"
                )
            self._epochs[epoch] = ids
        return self._epochs[epoch]


def split(
    batch_size: int, micro_batch_size: int, *, rank: int = 0, world_size: int = 1, group: int = 1
) -> list[slice]:
    """Return the micro-batches of one process, as slots of the global batch.

    Each process takes a contiguous share, shares differ by at most one group, and
    each is cut into pieces of at most `micro_batch_size` (the last may be shorter).

    Args:
        batch_size: examples per update, at least 1.
        micro_batch_size: examples per forward and backward pass, at least `group`.
        rank: number of this process, from 0 to ``world_size - 1``.
        world_size: number of processes, at least 1.
        group: examples that must stay together (batch-norm groups), at least 1.

    Raises:
        RunError: more processes than examples, or micro-batches smaller than a group.

    >>> split(64, 24)
    [slice(0, 24, None), slice(24, 48, None), slice(48, 64, None)]
    >>> split(10, 8, rank=1, world_size=4)
    [slice(2, 5, None)]
    """
    if world_size > batch_size:
        raise RunError(
            f"world_size={world_size}: is larger than batch_size={batch_size}; "
            "start fewer processes or choose a larger batch"
        )
    group = min(group, batch_size)
    if micro_batch_size < group:
        raise RunError(
            f"micro_batch_size={micro_batch_size}: is smaller than a batch-norm group of "
            f"{group}; give at least {group}, or a recipe with a smaller norm_batch_size"
        )
    groups = -(-batch_size // group)
    begin = groups * rank // world_size * group
    end = min(groups * (rank + 1) // world_size * group, batch_size)
    step = micro_batch_size // group * group
    return [slice(at, min(at + step, end)) for at in range(begin, end, step)]
