"""Run settings: options that change a run's speed and precision, not its recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from legw.errors import RunError, check_count, check_range, is_count
from legw.train.dist import PATIENCE_SECONDS
from legw.train.precision import Precision
from legw.train.trackers import check_names


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run that change its speed, precision and files, but not its recipe.

    Batch, rates and the order of the examples do not depend on it; rounding, precision and
    the draws of dropout do.
    """

    micro_batch_size: int | Literal["auto"] = "auto"
    """Examples per forward and backward pass, at least 1; auto measures what is fastest."""
    lanes: int | Literal["auto"] = "auto"
    """Micro-batches at once on a CPU, each with its share of the threads; auto measures this
    along with the micro-batch, and is 1 where that is given."""
    memory_limit: int | None = None
    """Bytes that a process may use for micro-batches where auto chooses their size, which it
    bounds; None is 80 % of what is free."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Precision = "fp32"
    """fp32, or bf16 (autocast; weights and optimizer state stay fp32)."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints."""
    checkpoint_epochs: float | None = None
    """Epochs between two checkpoints, beside those by time; None is by time alone."""
    compile: bool = False
    """Compile the model with `torch.compile`: slow to start, faster on a GPU."""
    resume: bool = False
    """Go on from the folder's newest checkpoint; begin where there is none."""
    stop_after: int | None = None
    """Updates after which the run stops, at least 1, as if it had been asked to: its schedule
    is the whole run's, and it can be resumed; None trains to the end."""
    patience_seconds: float = PATIENCE_SECONDS
    """Longest wait for an answer of another process before it counts as dead; above 0, and
    longer than an evaluation, which the first process makes alone."""

    log_to: tuple[str, ...] = ()
    """Trackers that are handed the run beside its folder: tensorboard, wandb, mlflow, or your own
    as ``module:name`` (`legw.train.trackers.tracker.Tracker`). One that fails ends no run."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "lanes"):
            value = getattr(self, name)
            if value != "auto" and not (is_count(value) and value >= 1):
                raise RunError(f"{name}={value!r}: must be 'auto' or a number, at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise RunError(f"precision={self.precision!r}: must be fp32 or bf16")
        check_names(self.log_to)
        if self.stop_after is not None:
            check_count("", "stop_after", self.stop_after, error=RunError)
        for name in ("patience_seconds", "checkpoint_epochs"):
            if (value := getattr(self, name)) is not None:
                check_range("", name, value, 0, math.inf, above=True, closed=True, error=RunError)
