"""What the loop itself costs: `fit` against the bare loop with the same micro-batch."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import plain, rows
from benchmarks.ratios import Ratio, race


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare at the base batch of MNIST-LSTM, whose steps are the shortest."""
    task, recipe = rows.synthetic(), rows.recipe(128)
    micro_batch_size = race(task, recipe, {}, rounds=1).micro_batch_size
    batches = rows.order(task, 128)
    bare = plain.train_rows_in_pieces(
        task.model(), recipe, *task.train, batches, micro_batch_size=micro_batch_size
    )
    rounds = race(task, recipe, {"bare": bare}, rounds=150, block=5)
    note = f"micro-batch {rounds.micro_batch_size}"
    yield Ratio("the loop's own cost, mnist-lstm 128", rounds.ratios("bare"), 0.98, note)
