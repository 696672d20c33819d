"""Headroom of a learning rate: short runs at 1, 2, 4 and 8 times it, until the loss rises.

    task, recipe --measure_headroom--> runs in OUT/b128-s0, OUT/b128-s0-x2, ... --> Headroom

The run at the rate itself samples the noise of the gradient too, which costs no further run.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from legw import schedule
from legw.analysis.check import FAST, LR_MULTIPLES, MIN_UPDATES, end_loss, rises
from legw.analysis.noise import NoiseScale, noise_scale
from legw.errors import check_count
from legw.probes.ladder import Measuring, Watch, one_process, short_run, unwatched, updates_of
from legw.probes.noise import NoiseProbe
from legw.recipe import Recipe
from legw.runs import measurements, records
from legw.runs.measurements import Noise
from legw.train import Settings, Task, batch_norm

SAMPLES = 100
"""Approximate number of noise samples in the run at the rate itself."""


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """Headroom of one recipe's rate, with the noise scale over the same updates."""

    rises: Mapping[float, bool]
    """Multiple of the rate -> whether the loss rises there: ascending, up to the first at which it
    does, and `legw.analysis.check.FAST` where that was to be tried."""
    end_losses: Mapping[float, float | None]
    """Multiple of the rate -> loss at the end of its runs, a mean over seeds; None where one
    diverged."""
    updates: int
    """Updates of each run."""
    noise_scale: NoiseScale | None
    """Noise scale over these updates, at the rate itself. It grows in training, so that this is a
    lower bound for the whole run. None where the batch is too small for two pieces."""

    @property
    def times(self) -> float:
        """Largest multiple up to which the loss falls; 0 where it rises at the smallest one."""
        falls = itertools.takewhile(lambda times: not self.rises[times], self.rises)
        return max(falls, default=0.0)

    @property
    def fast_loss_ratio(self) -> float | None:
        """Loss at the end at `FAST` times the rate, over that at the rate itself; infinite where
        the faster run diverges, None where it was not made, or the other loss is not above 0."""
        own = self.end_losses.get(1.0)
        if own is None or own <= 0 or FAST not in self.end_losses:
            return None
        fast = self.end_losses[FAST]
        return math.inf if fast is None else fast / own


def measure_headroom(
    task: Task,
    recipe: Recipe,
    *,
    out: str | Path,
    seeds: Sequence[int] = (0,),
    updates: int = 200,
    multiples: Sequence[float] = LR_MULTIPLES,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> Headroom:
    """Measure how far the rate of a recipe can grow with the loss still falling.

    Args:
        task: the task to train; nothing is evaluated.
        recipe: a base, trained at its own batch.
        out: folder of the runs; finished runs in it are kept.
        seeds: one run each at every multiple; the loss rises where it does for one of them.
        updates: of each run, at least 10; its whole warmup is made in any case.
        multiples: of the rate, each above 0, ascending; those after the first rise are left out,
            but not FAST = 4 unless the loss rises at the rate itself.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        watch: returns the observers of a run, for progress.

    Raises:
        LegwError: a value cannot be, the folder was measured otherwise, or several processes
            were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    one_process()
    check_count("headroom", "updates", updates, MIN_UPDATES)
    wanted, root = run_updates(recipe, task, updates), Path(out)
    noisy = _has_two_pieces(task, recipe)
    risen: dict[float, bool] = {}
    ends: dict[float, float | None] = {}
    for times in multiples:
        if any(risen.values()) and (times != FAST or risen.get(1.0)):
            continue
        for seed in seeds:
            folder = folder_of(root, recipe.batch_size, seed, times)
            every = max(wanted // SAMPLES, 1)
            probes: list[Measuring] = [NoiseProbe(folder, every=every)] if noisy else []
            short_run(
                task,
                faster(recipe, times),
                folder,
                base=recipe,
                rule="legw",
                seed=seed,
                updates=wanted,
                probes=probes if times == 1 else [],
                settings=settings,
                watch=watch,
            )
        places = [folder_of(root, recipe.batch_size, seed, times) for seed in seeds]
        risen[times] = any(map(loss_rises, places))
        ends[times] = _mean_end(places)
    places = [folder_of(root, recipe.batch_size, seed, 1.0) for seed in seeds]
    rows = [row for place in places for row in measurements.read(place, Noise)]
    return Headroom(
        rises=risen,
        end_losses=ends,
        updates=wanted,
        noise_scale=noise_scale(rows) if rows else None,
    )  # fmt: skip


def run_updates(recipe: Recipe, task: Task, wanted: int) -> int:
    """Return the updates of a short run: the given number, its warmup, at most the whole run."""
    whole = schedule.updates(recipe, task.num_examples(recipe.batch_size))
    return min(updates_of(recipe, task, wanted), whole)


def folder_of(root: Path, batch_size: int, seed: int, times: float) -> Path:
    """Return the folder of the run at a multiple of the rate."""
    name = f"b{batch_size}-s{seed}"
    return root / (name if times == 1 else f"{name}-x{times:g}")


def faster(recipe: Recipe, times: float) -> Recipe:
    """Return a recipe with a multiple of its rate, and of the rate from which it warms up.

    >>> faster(Recipe(batch_size=16, lr=0.1, epochs=10), 4.0).lr
    0.4
    """
    return replace(recipe, lr=times * recipe.lr, warmup_from_lr=times * recipe.warmup_from_lr)


def loss_rises(folder: Path) -> bool:
    """Whether the loss has risen over a run that was made, or the run has diverged."""
    run = records.load(folder)
    return run.status == "diverged" or rises([row.loss for row in run.updates])


def _mean_end(folders: Sequence[Path]) -> float | None:
    """Return the mean of runs' losses at their ends; None where one diverged."""
    ends = []
    for folder in folders:
        run = records.load(folder)
        ends.append(None if run.status == "diverged" else end_loss([u.loss for u in run.updates]))
    known = [end for end in ends if end is not None]
    return statistics.fmean(known) if len(known) == len(ends) else None


def _has_two_pieces(task: Task, recipe: Recipe) -> bool:
    """Whether the batch has two pieces, whose gradients' distance is the noise."""
    group = batch_norm.fix_groups(task.model(), recipe.norm_batch_size)
    return recipe.batch_size >= 2 * group
