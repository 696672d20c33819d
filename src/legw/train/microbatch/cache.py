"""Cache of micro-batch timings, kept from run to run.

The cache holds each candidate's throughput and memory, but not whether it fits: the next run may
have another memory limit, or more free memory.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from legw.errors import RunError
from legw.runs import locks, records
from legw.runs.cache import MICRO_BATCHES, cache_folder
from legw.runs.files import write_json
from legw.train.dist import World
from legw.train.hardware import describe_device
from legw.train.microbatch.candidates import Candidate
from legw.train.precision import Precision
from legw.train.task import Task

MEMORY = "memory"
"""Key of the file under which the candidates' bytes are kept, by the names of the tables."""


VERSION = 2
"""Version of the timing and the choice of candidates. Another micro-batch rounds differently,
and the seeds of a study should be trained alike. So results of another version are measured
again."""


class Look(NamedTuple):
    """Throughput and memory of a candidate, independent of the memory limit."""

    rate: float
    """Examples per second, above 0."""
    bytes: float
    """Memory beside the weights, in the process that needed most."""


class Store:
    """The tables measured before, one file for all tasks.

    Args:
        task, model, world, precision: what was measured, and where.
        folder: of the file; None is ``~/.cache/legw``.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        world: World,
        precision: Precision,
        folder: Path | None,
    ) -> None:
        self._path = (folder or cache_folder()) / MICRO_BATCHES
        parts = (
            task.name,
            f"{sum(p.numel() for p in model.parameters())} parameters",
            describe_device(world.device),
            precision,
            f"{world.size} processes",
            f"torch {torch.__version__}",
            f"choice {VERSION}",
        )
        self._key = " | ".join(parts)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Let runs of a study measure in turn: the second finds the first's result."""
        return locks.in_turn(self._path.with_suffix(".lock"))

    def read(self) -> dict[Candidate, Look]:
        """Return the table of this task and machine; empty where there is none.

        Earlier versions kept no memory, and a rate of 0 where a candidate had once not fitted. Such
        candidates are measured again.
        """
        content = self._all()
        try:
            rates, memory = content[self._key], content[MEMORY][self._key]
            looks = {
                Candidate.read(candidate): Look(float(rate), float(memory[candidate]))
                for candidate, rate in rates.items()
                if candidate in memory
            }
        except (LookupError, TypeError, ValueError, AttributeError):
            return {}
        return {candidate: look for candidate, look in looks.items() if look.rate > 0}

    def write(self, table: dict[Candidate, Look]) -> None:
        """Keep a table; a cache that cannot be written is no reason to stop.

        Rates and memory are stored apart, so that earlier versions find the rates.
        """
        with contextlib.suppress(OSError, RunError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content, looks = self._all(), sorted(table.items())
            rates = {str(candidate): float(f"{look.rate:.6g}") for candidate, look in looks}
            memory = content.get(MEMORY)
            memory = memory if isinstance(memory, dict) else {}
            memory |= {self._key: {str(candidate): int(look.bytes) for candidate, look in looks}}
            write_json(self._path, content | {self._key: rates, MEMORY: memory})

    def _all(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def earlier_candidate(folder: Path, world_size: int, device: str) -> tuple[int, int] | None:
    """Return micro-batch and lanes of the run in the folder, if its machine was alike."""
    if not records.begun(folder):
        return None
    found = records.read_manifest(folder)
    same_machine = (found.world_size, found.device) == (world_size, device)
    return (found.micro_batch_size, found.lanes) if same_machine else None


SIZES = "micro_batch_sizes"
"""Name in a manifest of the micro-batch size for each smaller batch size of a growing batch."""


def earlier_sizes(folder: Path, world_size: int, device: str) -> dict[int, int]:
    """Return the micro-batch of each smaller batch size of the run in the folder.

    It is empty where there is no such run, its machine was another, or its batch does not grow.
    """
    if earlier_candidate(folder, world_size, device) is None:
        return {}
    found = records.read_manifest(folder).extra.get(SIZES)
    try:
        sizes = {int(size): int(micro) for size, micro in found.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError):
        return {}
    return {size: micro for size, micro in sizes.items() if micro >= 1}
