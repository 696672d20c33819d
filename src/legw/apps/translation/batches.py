"""Translation batches: sentence pairs as padded tensors, and the order of reading them.

Shapes: M pairs in all, B pairs of a batch, S source tokens, T target tokens, N target
tokens that count, of all pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from legw.apps.translation.model import BEGIN, END, PAD
from legw.train.batches import derive, shuffled

POOL_BATCHES = 8
"""Fewest batches in a pool: each batch then holds at most an eighth of the pool's lengths. The
last pool has the remaining batches, possibly a single one."""

POOL_PAIRS = 8192
"""Fewest pairs in a pool, except the last."""


class Batch(NamedTuple):
    """Sentence pairs on a device."""

    source_BS: Tensor
    target_BT: Tensor
    counted_N: Tensor
    """Positions of the targets that count among all predicted ones; see `GNMT.forward`."""


class Pairs:
    """Encoded sentence pairs, padded to the longest, so that a batch is one look-up.

    Args:
        source: subword ids of each source sentence, without `END`.
        target: the same of each target sentence, as many.
    """

    def __init__(self, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]]) -> None:
        self.source_MS = padded([[*ids, END] for ids in source])
        self.target_MT = padded([[BEGIN, *ids, END] for ids in target])
        self.source_lengths_M = (self.source_MS != PAD).sum(1)
        self.target_lengths_M = (self.target_MT != PAD).sum(1)
        self._resident: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.source_MS)

    def batch(self, ids_B: Tensor, device: torch.device) -> Batch:
        """Return pairs on a device, where all of them stay, padded to the longest among them.

        Args:
            ids_B: int64 of shape (B,), on the CPU.
            device: of the batch.
        """
        source_MS, target_MT = self._on(device)
        lengths_B = self.target_lengths_M[ids_B] - 1  # what is predicted: all but BEGIN
        longest = int(self.source_lengths_M[ids_B].max())
        at_T = torch.arange(int(lengths_B.max()))
        counted_N = (at_T[:, None] < lengths_B).flatten().nonzero()[:, 0]
        ids_B = ids_B.to(device, non_blocking=True)
        return Batch(
            source_MS.index_select(0, ids_B)[:, :longest].int(),
            target_MT.index_select(0, ids_B)[:, : len(at_T) + 1].long(),
            counted_N.to(device, non_blocking=True),
        )

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._resident:
            self._resident[device] = self.source_MS.to(device), self.target_MT.to(device)
        return self._resident[device]


def padded(sentences: Sequence[Sequence[int]]) -> Tensor:
    """Return sentences of subword ids as rows, `PAD` on the right.

    Returns:
        int16 where all ids fit, else int32, of shape (sentences, longest).

    >>> padded([[5], [6, 7]]).tolist()
    [[5, 0], [6, 7]]
    """
    lengths_M = torch.tensor([len(ids) for ids in sentences])
    flat = torch.tensor([number for ids in sentences for number in ids], dtype=torch.int32)
    small = len(flat) == 0 or int(flat.max()) < 2**15
    rows_MS = torch.full(
        (len(sentences), int(lengths_M.max())), PAD, dtype=torch.int16 if small else torch.int32
    )
    rows_MS[torch.arange(rows_MS.shape[1]) < lengths_M[:, None]] = flat.to(rows_MS.dtype)
    return rows_MS


def order(
    source_lengths_M: Tensor, target_lengths_M: Tensor, *, seed: int, epoch: int, batch_size: int
) -> Tensor:
    """Return the pairs of one epoch in an order whose batches hold pairs of like lengths.

    The pairs are shuffled and cut into pools of at least `POOL_BATCHES` batches and
    `POOL_PAIRS` pairs, the last pool smaller where fewer are left; each pool is sorted by
    length and cut into batches, which are shuffled. Every batch is whole; a batch that straddles
    two epochs has pairs from both. In a batch the longest pair comes first, and the first batch of
    the first epoch has the longest pair of all, so a lack of memory mostly shows at once. Pairs are
    sorted by the target's length, and by the source's among equal targets: a later batch with a
    longer source may need more memory.

    Args:
        source_lengths_M: source tokens of each pair, int64 of shape (M,).
        target_lengths_M: target tokens of each pair, int64 of shape (M,).
        seed: seed of the shuffling, a whole number.
        epoch: number of the epoch, from 0; each is shuffled differently.
        batch_size: pairs of a batch, at least 1.

    Returns:
        int64 of shape (M,).
    """
    count = len(source_lengths_M)
    ids_M = shuffled(count, seed, epoch)
    key_M = target_lengths_M * (int(source_lengths_M.max()) + 1) + source_lengths_M

    def longest_first(ids: Tensor) -> Tensor:
        return ids[key_M[ids].argsort(descending=True, stable=True)]

    head = min(-epoch * count % batch_size, count)  # ends the batch that the last epoch began
    whole = (count - head) // batch_size * batch_size
    pool = max(POOL_BATCHES, POOL_PAIRS // batch_size) * batch_size
    pools = torch.split(ids_M[head : head + whole], pool) if whole else ()
    batches = [batch for ids in pools for batch in torch.split(longest_first(ids), batch_size)]
    generator = torch.Generator().manual_seed(derive(seed, "batches", epoch))
    turn = torch.randperm(len(batches), generator=generator).tolist()
    if epoch == 0 and batches:
        first = max(turn, key=lambda index: int(key_M[batches[index][0]]))
        turn.remove(first)
        turn.insert(0, first)
    return torch.cat(
        [
            longest_first(ids_M[:head]),
            *(batches[index] for index in turn),
            longest_first(ids_M[head + whole :]),
        ]
    )


def padding_share(
    source_lengths_M: Tensor,
    target_lengths_M: Tensor,
    ids_M: Tensor,
    *,
    micro_batch_size: int,
    batch_size: int | None = None,
) -> float:
    """Return the share of padding among all computed tokens, in [0, 1).

    Args:
        source_lengths_M: source tokens of each pair, int64 of shape (M,).
        target_lengths_M: target tokens of each pair, int64 of shape (M,).
        ids_M: the pairs in the order in which they are read.
        micro_batch_size: pairs that are padded to the longest of them, at least 1.
        batch_size: pairs that are cut into micro-batches anew each time, at least 1; None
            is all of them.
    """
    real = computed = 0
    for lengths_M in (source_lengths_M, target_lengths_M):
        real += int(lengths_M[ids_M].sum())
        for lengths_B in torch.split(lengths_M[ids_M], batch_size or len(ids_M)):
            pieces = torch.split(lengths_B, micro_batch_size)
            computed += sum(len(piece) * int(piece.max()) for piece in pieces)
    return 1 - real / computed
