"""Print how noisy a batch's gradient is, by the order in which sentence pairs make up batches.

    python results/order.py RUN

The gradients of whole batches are taken at the newest checkpoint of a run of `gnmt-small`,
without dropout. Printed is the trace of their covariance times the pairs of a batch, which for
random batches is a pair's variance S whatever the size (but for the mean being over
tokens), with its standard error; and how many random pairs would have as much noise as a batch.

Three orders are compared: random batches; those of `legw train`, neighbours in a sorted pool
and so of like lengths; and `mixed` ones, which have as much of every length, in strips of 64 pairs
of like lengths, so that micro-batches of 64 need little padding. These can be trained with:

    PYTHONPATH=results legw train order:mixed --recipe gnmt-small -b 1024 --micro-batch-size 64
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from legw.apps import find, weights
from legw.apps.translation import TranslationTask
from legw.apps.translation.batches import POOL_BATCHES, POOL_PAIRS
from legw.errors import LegwError
from legw.train.batches import derive, shuffled

BATCHES = {64: 64, 1024: 12}
"""Batch sizes, and how many batches of each are looked at."""

STRIP_PAIRS = 64
"""Pairs of like lengths side by side in a mixed batch."""


class Mixed(TranslationTask):
    """Translation by batches made of strips of like lengths, one strip of each length."""

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """Return an epoch's pairs; batches are whole, but for those that straddle two epochs."""
        pairs = self.corpus.train
        key_M = pairs.target_lengths_M * 10_000 + pairs.source_lengths_M
        count = len(key_M)
        ids_M = shuffled(count, seed, epoch)
        head = min(-epoch * count % batch_size, count)  # ends the batch that the last epoch began
        whole = (count - head) // batch_size * batch_size
        generator = torch.Generator().manual_seed(derive(seed, "strips", epoch))
        pool_size = max(POOL_BATCHES, POOL_PAIRS // batch_size) * batch_size
        pools = torch.split(ids_M[head : head + whole], pool_size) if whole else ()
        batches = [
            batch
            for pool in pools
            for batch in dealt(pool[key_M[pool].argsort(descending=True)], batch_size, generator)
        ]
        turn = torch.randperm(len(batches), generator=generator)
        return torch.cat([ids_M[:head], *(batches[at] for at in turn), ids_M[head + whole :]])


def dealt(pool: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Deal a sorted pool out: to each batch one strip of the longest pairs, of the next, ..."""
    count = len(pool) // batch_size
    hands: list[list[Tensor]] = [[] for _ in range(count)]
    for group in torch.split(pool, STRIP_PAIRS * count):
        strips = torch.split(group, len(group) // count)
        for hand, at in zip(hands, torch.randperm(count, generator=generator), strict=True):
            hand.append(strips[at])
    return [torch.cat(hand) for hand in hands]


def mixed() -> Mixed:
    """Return the task of `gnmt-small` with mixed batches."""
    task = find("gnmt-small")
    assert isinstance(task, TranslationTask)
    return Mixed("gnmt-small-mixed", task.size, task.corpus)


def gradient(task: TranslationTask, model: nn.Module, ids_B: Tensor) -> Tensor:
    """Return the gradient of a batch's mean loss as one vector."""
    pairs = task.corpus.train
    ids_B = ids_B[pairs.target_lengths_M[ids_B].argsort(descending=True)]  # less padding
    model.zero_grad()
    total = 0
    for at in range(0, len(ids_B), STRIP_PAIRS):
        batch = task.batch(ids_B[at : at + STRIP_PAIRS], torch.device("cpu"))
        loss, weight, _ = task.loss(model, batch, None)
        torch.autograd.backward(loss)
        total += weight
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients]) / total


def spread(gradients: Tensor) -> tuple[float, float]:
    """Return the trace of the covariance of gradients, unbiased, and its standard error.

    Args:
        gradients: of shape (batches, parameters).
    """
    count = len(gradients)
    squares = (gradients - gradients.mean(0)).double().square().sum(1) * count / (count - 1)
    return float(squares.mean()), float(squares.std()) / count**0.5


def whole_batches(order: Tensor, size: int, count: int) -> list[Tensor]:
    """Cut an epoch into batches and draw some of them; the last pairs may make none."""
    batches = order[: len(order) // size * size].view(-1, size)
    generator = torch.Generator().manual_seed(0)
    return list(batches[torch.randperm(len(batches), generator=generator)[:count]])


def main() -> int:
    """Print a line for each batch size and order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder with a checkpoint")
    folder = parser.parse_args().run
    try:
        found = weights.newest(folder)
        task = mixed()
        model = weights.restored(folder, task.name, lambda _: task.model(), found).eval()
    except LegwError as error:
        print(error, file=sys.stderr)
        return 2
    for size, count in BATCHES.items():
        orders = {
            "random": shuffled(len(task.corpus.train), 0, 0),
            "legw train": TranslationTask.order(task, 0, 0, size),
            "mixed": task.order(0, 0, size),
        }
        at_random = 0.0
        for name, order in orders.items():
            batches = whole_batches(order, size, count)
            gradients = torch.stack([gradient(task, model, each) for each in batches])
            noise, deviation = spread(gradients)
            at_random = at_random or noise
            print(
                f"batch {size:4}, {name:10}: S {size * noise:6.2f} ± {size * deviation:.2f} "
                f"(n = {count}), as noisy as {size * at_random / noise:.0f} random pairs",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
