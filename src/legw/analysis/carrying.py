"""Carrying of a base to a large batch: predictors that are measured at the base batch alone.

Tuning at the base batch leaves several bases that seeds cannot tell apart, and they differ in what
they keep at a large batch. These predictors may tell which carries:

- **fast loss ratio**: the loss of a short run at 4 times the rate, over that at the rate itself.
- **early loss**: training loss of the first tenth of the run.
- **headroom**: the multiple of the rate at which the loss still falls.
- **clipped share**: updates in which clipping, not the rate, determines the length of the step.
- **gap**: held-out loss less training loss, for quality that rests on the noise of small batches.
- **noise scale**: the gradient's, beyond which a larger batch saves hardly any updates.

    Run, Run, Run --of_runs--> Predictors of one base, from its runs of several seeds

The functions compute from records, and need no torch. `legw.probes.headroom` measures what takes
short runs of its own: fast loss ratio, headroom and noise scale.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from legw.analysis.clipping import clipped_share
from legw.errors import RunError
from legw.runs import records
from legw.runs.records import HELD_OUT_LOSS, Run

EARLY = 0.1
"""Share of a run whose mean loss counts as its early loss."""

MIN_EARLY = 5
"""Fewest stored updates in it: of some runs hardly any are kept."""


@dataclass(frozen=True, kw_only=True)
class Predictors:
    """Predictors of one base, measured at its own batch; None stands for not known."""

    lr: float
    """Peak learning rate."""
    optimizer: str
    """Kind of the optimizer; rates of two kinds cannot be compared."""
    headroom: float | None = None
    """Largest multiple of the rate, of those tried, at which the loss falls in a short run; 0 where
    it rises at the rate itself."""
    fast_loss_ratio: float | None = None
    """Loss at the end of a short run at `legw.analysis.check.FAST` times the rate, over that at the
    rate itself: near 1, or below it, for a rate that is small for so few updates; infinite where
    the faster run diverges."""
    clipped_share: float | None = None
    """Share of updates whose gradient was clipped, in [0, 1]; None where no step depends on it."""
    early_loss: float | None = None
    """Mean training loss of the first `EARLY` of the run's updates."""
    train_loss: float | None = None
    """Mean training loss of the last epoch."""
    held_out_loss: float | None = None
    """Loss on the held-out data after the last update, in the unit of the training loss."""
    noise_scale: float | None = None
    """Gradient noise scale in examples; None also where the gradient is lost in its noise."""

    @property
    def gap(self) -> float | None:
        """Held-out loss less training loss; None where one of them is not known."""
        if self.held_out_loss is None or self.train_loss is None:
            return None
        return self.held_out_loss - self.train_loss


# From stored runs --------------------------------------------------------------------------


def of_folders(folders: Iterable[str | Path], *, tokens: int = 1) -> Predictors:
    """Return what stored runs of one base tell, of several seeds, without any further run.

    Args:
        folders: run folders, at least one.
        tokens: tokens in one example, at least 1; see `held_out_loss`.

    Raises:
        RunError: a folder is no run folder or damaged, or their recipes differ.
    """
    return of_runs([records.load(folder) for folder in folders], tokens=tokens)


def of_runs(runs: Sequence[Run], *, tokens: int = 1) -> Predictors:
    """Return the means over runs of one recipe; what takes short runs is left open.

    Args:
        runs: of several seeds, at least one.
        tokens: tokens in one example, at least 1; see `held_out_loss`.

    Raises:
        RunError: their recipes differ.
    """
    recipe = runs[0].manifest.recipe
    for run in runs:
        if replace(run.manifest.recipe, source=recipe.source) != recipe:  # where it is from is free
            raise RunError(
                f"{run.folder}: has another recipe than {runs[0].folder}; give the runs of one base"
            )
    return Predictors(
        lr=recipe.lr,
        optimizer=recipe.optimizer.kind,
        clipped_share=_mean([clipped_share(recipe, run.updates) for run in runs]),
        early_loss=_mean([early_loss(run) for run in runs]),
        train_loss=_mean([train_loss(run) for run in runs]),
        held_out_loss=_mean([held_out_loss(run, tokens=tokens) for run in runs]),
    )


def early_loss(run: Run) -> float | None:
    """Return the mean training loss over the first `EARLY` of a run's updates.

    Of a run whose updates are stored in part, evenly spaced, it is the mean over these. None where
    fewer than `MIN_EARLY` are stored, or a loss is not finite.
    """
    last = EARLY * run.manifest.updates
    losses = [row.loss for row in run.updates if row.update < last]
    known = [loss for loss in losses if loss is not None]
    return statistics.fmean(known) if len(known) == len(losses) >= MIN_EARLY else None


def train_loss(run: Run) -> float | None:
    """Return the mean training loss of a run's last epoch; None unless it has finished."""
    return run.summary.final_loss if run.summary and run.status == "finished" else None


def held_out_loss(run: Run, *, tokens: int = 1) -> float | None:
    """Return the loss on the held-out data after the last update, in the unit of the training loss.

    It is the final metric `held_out_loss` of the task, or the metric where that is the loss itself,
    or ``tokens * log(perplexity)``. None where the run has none of these, or has not finished.

    Args:
        run: one run.
        tokens: tokens in one example, at least 1. It is above 1 where the training loss of an
            example is a sum over its tokens, as in the PTB applications.
    """
    if run.summary is None or run.status != "finished":
        return None
    found = run.summary.metrics.get(HELD_OUT_LOSS)
    value = run.summary.metric.get("value")
    if found is not None or value is None:
        return found
    if run.manifest.metric == "loss":
        return value
    if run.manifest.metric == "perplexity" and value > 0:
        return tokens * math.log(value)
    return None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
