"""Peak memory of training, above what the process holds before the first update.

Every number is of a fresh process: `python -m benchmarks.memory MODEL SIDE BATCH_SIZE UPDATES
CANDIDATE` prints one, in bytes. The candidate is a micro-batch with its lanes, the fastest one for
the large batch: the benchmark shows the growth of memory with the batch. Both batch sizes see the
same number of examples, since the allocator keeps a little more from pass to pass, up to a limit.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import islice

import torch

from benchmarks import plain, rows, words
from benchmarks.ratios import Ratio, run
from legw.runs.records import Manifest, Update
from legw.train import Observer
from legw.train.hardware import memory_in_use, peak_memory, reset_peak_memory
from legw.train.microbatch.candidates import Candidate

CPU = torch.device("cpu")
UPDATES = 2
"""Of the large batch."""
REPEATS = 3

EXAMPLE_BYTES = 28 * 28 + 8
"""An image of bytes and its label."""

TOLERANCE = 4 * 2**20
"""Bytes by which two measurements of the same thing may differ: pages of the allocator."""


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare the peaks at 640 streams, and our own at 8192 images with that at 1024."""
    batch_size = words.STREAMS
    candidate = run(words.synthetic(), words.recipe(batch_size), updates=1)
    theirs, ours = (
        _peaks("words", "plain", batch_size, UPDATES, candidate),
        _peaks("words", "ours", batch_size, UPDATES, candidate),
    )
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    note = f"{_mib(theirs)} and {_mib(ours)} MiB, micro-batch {candidate}"
    yield Ratio("language model 640, memory / plain", ratios, 3.0, note)

    candidate = run(rows.synthetic(), rows.recipe(rows.LARGE), updates=1)
    small, large = (
        _peaks("rows", "ours", size, UPDATES * rows.LARGE // size, candidate)
        for size in (1024, rows.LARGE)
    )
    allowed = (rows.LARGE - 1024) * EXAMPLE_BYTES + TOLERANCE
    ratios = [(few + allowed) / many for few, many in zip(small, large, strict=True)]
    note = (
        f"{_mib(small)} and {_mib(large)} MiB, micro-batch {candidate}; "
        f"{allowed / 2**20:.1f} MiB more are allowed"
    )
    yield Ratio("mnist-lstm, memory 1024 + batch / 8192", ratios, 1.0, note)


def _peaks(
    model: str, side: str, batch_size: int, updates: int, candidate: Candidate
) -> list[float]:
    command = [
        sys.executable, "-m", "benchmarks.memory",
        model, side, str(batch_size), str(updates), str(candidate),
    ]  # fmt: skip
    return [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(REPEATS)
    ]


def _mib(values: list[float]) -> str:
    return f"{sorted(values)[len(values) // 2] / 2**20:.0f}"


class _Peak(Observer):
    """Notes the peak of `fit`'s updates over what it held before them."""

    above = 0.0

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        reset_peak_memory(CPU)
        self._before = memory_in_use(CPU)

    def on_update(self, row: Update) -> None:
        self.above = peak_memory(CPU) - self._before


def ours(model: str, batch_size: int, updates: int, candidate: Candidate) -> float:
    """Return the peak of `fit`."""
    benchmark = {"rows": rows, "words": words}[model]
    task, recipe = benchmark.synthetic(), benchmark.recipe(batch_size)
    peak = _Peak()
    run(task, recipe, updates, peak, micro_batch_size=candidate.size, lanes=candidate.lanes)
    return peak.above


def theirs(batch_size: int, updates: int) -> float:
    """Return the peak of the plain loop of the language model."""
    task, recipe = words.synthetic(), words.recipe(batch_size)
    model, text = plain.words_from(task.model()), task.corpus.train
    batches = rows.order(task, batch_size)
    loop = plain.train_words(model, recipe, text, task.size.window, batches)
    reset_peak_memory(CPU)
    before = memory_in_use(CPU)
    list(islice(loop, updates))
    return peak_memory(CPU) - before


if __name__ == "__main__":
    model, side, batch_size, updates = *sys.argv[1:3], *map(int, sys.argv[3:5])
    candidate = Candidate.read(sys.argv[5])
    print(
        ours(model, batch_size, updates, candidate)
        if side == "ours"
        else theirs(batch_size, updates)
    )
