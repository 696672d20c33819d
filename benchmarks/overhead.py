"""What the loop itself costs: `fit` against the bare loop with the same micro-batch."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import plain, rows
from benchmarks.ratios import Ratio, race, run


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare at the base batch of MNIST-LSTM, whose steps are the shortest."""
    task, recipe = rows.synthetic(), rows.recipe(128)
    micro_batch_size = run(task, recipe, updates=1, lanes=1).size
    batches = rows.order(task, 128)
    bare = plain.train_rows_in_pieces(
        task.model(), recipe, *task.train, batches, micro_batch_size=micro_batch_size
    )
    name = "mnist-lstm 128 / bare loop"
    yield race(name, task, recipe, bare, rounds=150, block=5, lanes=1, floor=0.98)
