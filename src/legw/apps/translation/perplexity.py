"""Perplexity of given translations under a translation model.

The attention stores a number for every pair of a source and a target token, and on a GPU one for
every unit of each pair. No held-out sentence is left out for its length. So sentences are read some
pairs at a time, and a long target some tokens at a time.

Shapes: B sentence pairs, S source tokens, T target tokens, H units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from legw.apps.softmax import summed_loss
from legw.apps.translation.batches import Batch, Pairs
from legw.apps.translation.model import GNMT, PAD, LayerState

ROWS = 128
"""Most pairs that are read at once."""

CELLS = ROWS * 50 * 50
"""Most pairs of a source and a target token that the attention holds at once, padding
included: B * S * T. For one target token there may be more."""


@torch.no_grad()
def perplexity(
    model: GNMT, source: Sequence[Sequence[int]], target: Sequence[Sequence[int]]
) -> float:
    """Return exp of the mean loss of a target subword, `END` included; infinite if it is NaN.

    Args:
        model: in evaluation mode, in which its loss is not smoothed.
        source: subword ids of each source sentence, without `END`.
        target: the same of each target sentence, as many.
    """
    device = model.embed.weight.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for places in _chunks([len(ids) for ids in source], [len(ids) for ids in target]):
        pairs = Pairs([source[at] for at in places], [target[at] for at in places])
        total += _loss(model, pairs.batch(torch.arange(len(pairs)), device))
    mean = float(total) / sum(len(ids) + 1 for ids in target)
    return math.exp(mean) if mean < 700 else math.inf


def _chunks(source: Sequence[int], target: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of the pairs of these lengths, the longest target first, as many at
    once as `ROWS` and `CELLS` allow, and one at the least.
    """
    longest_first = sorted(range(len(target)), key=lambda at: -target[at])
    begin = 0
    while begin < len(target):
        places = longest_first[begin : begin + ROWS]
        cells = (max(source[at] for at in places) + 1) * (target[places[0]] + 1)  # with END
        rows = min(max(CELLS // cells, 1), len(places))
        yield places[:rows]
        begin += rows


def _loss(model: GNMT, batch: Batch) -> Tensor:
    """Return the summed loss of a batch, as the model itself does, some target tokens at a time."""
    memory = model.encode(batch.source_BS)
    states: list[LayerState] | None = None
    steps = max(CELLS // batch.source_BS.numel(), 1)
    total = torch.zeros((), dtype=torch.float64, device=batch.target_BT.device)
    for begin in range(0, batch.target_BT.shape[1] - 1, steps):
        piece_BT = batch.target_BT[:, begin : begin + steps + 1]
        hidden_TBH, _, states = model.decode(piece_BT[:, :-1], memory, states)
        targets_N = piece_BT[:, 1:].t().flatten()
        counted_N = targets_N != PAD
        total += summed_loss(
            hidden_TBH.flatten(0, 1)[counted_N],
            model.classify.weight,
            model.classify.bias,
            targets_N[counted_N],
        )
    return total
