"""Probed runs: short runs of one task at one or more batch sizes, with a probe in each.

    task, base --measure_curvature--> runs in OUT/RULE-bN-sSEED --analysis.probed--> values
    task, base --measure_noise-->     the same

Each run lies in a folder of its own; one that has been made is found again and kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from legw import rules, schedule
from legw.analysis import probed
from legw.analysis.probed import Probed
from legw.errors import LegwError, RunError, check_count, setting
from legw.probes.curvature import CurvatureProbe
from legw.probes.noise import NoiseProbe
from legw.recipe import Recipe
from legw.recipe.rule import Rule
from legw.runs import files, reading
from legw.runs.measurements import PROBES
from legw.runs.records import Manifest, Summary
from legw.schedule import in_unit
from legw.train import Branch, Observer, Settings, Task, fit

LADDER = (1, 4, 16)
"""Batch sizes of a default ladder, as multiples of the base's."""

SAMPLES = 2000
"""Default number of noise samples in a run, approximately."""

Measuring = CurvatureProbe | NoiseProbe
Watch = Callable[[Path, int | None], Sequence[Observer]]
"""(run folder, number of updates or None for all) -> observers of the run."""


def unwatched(folder: Path, updates: int | None) -> Sequence[Observer]:
    """Return no observers."""
    return ()


class Unjudged:
    """A task without an evaluation: a probe's runs are made for their measurements."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def evaluate(self, model: Any) -> float:
        """Return "not a number"."""
        return float("nan")

    def final_metrics(self, model: Any) -> dict[str, float]:
        """Return none."""
        return {}


# Curvature ------------------------------------------------------------------------


def measure_curvature(
    task: Task,
    base: Recipe,
    *,
    out: str | Path,
    batch_sizes: Sequence[int] | None = None,
    rule: Rule | str = "legw",
    seeds: Sequence[int] = (0,),
    updates: int = 300,
    examples: int = 512,
    dense: int = 100,
    method: Literal["difference", "exact"] = "difference",
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Measure the curvature along the gradient while training; `legw probe curvature` as a call.

    Args:
        task: the task to train; nothing is evaluated.
        base: the tuned recipe.
        out: folder of the runs; finished runs in it are kept.
        batch_sizes: in examples; None is the base's own, and 4 and 16 times it.
        rule: the rule that scales the base to each batch size: a `Rule`, or the name of one.
        seeds: one run each, at every batch size.
        updates: of each run, at least 1; its whole warmup is made in any case.
        examples: in the probe batch, at least 1; at most an epoch's are taken.
        dense: number of first updates that are all measured, at least 1; then as many for each
            doubling.
        method: "difference" of two gradients, or "exact", which takes longer and more memory.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        watch: returns the observers of a run, for progress.

    Returns:
        What `--json` prints: the peaks, how they move with the batch size, and the warmup
        that the base asks for.

    Raises:
        LegwError: a value cannot be, the folder was measured otherwise, or several processes
            were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    check_count("curvature", "updates", updates)
    rule = rules.find(rule) if isinstance(rule, str) else rule
    sizes = ladder(base) if batch_sizes is None else tuple(batch_sizes)
    recipes = [rules.apply(base, size, rule) for size in sizes]
    count = probe_examples(task, sizes, examples)
    runs = [
        _one(
            task,
            recipe,
            Path(out),
            base=base,
            rule=rule,
            seed=seed,
            updates=updates_of(recipe, task, updates),
            make=lambda folder: CurvatureProbe(folder, examples=count, dense=dense, method=method),
            settings=settings,
            watch=watch,
        )
        for recipe in recipes
        for seed in seeds
    ]
    return {
        "probe": "curvature",
        "app": task.name,
        "rule": rule.name,
        "probe_batch_size": count,
        "method": method,
    } | probed.curvature_result(base, runs)


def ladder(base: Recipe) -> tuple[int, ...]:
    """Return the default batch sizes: `LADDER` times the base's."""
    return tuple(base.batch_size * k for k in LADDER)


def probe_examples(task: Task, sizes: Sequence[int], wanted: int) -> int:
    """Return the examples of a probe batch: so many, or as many as an epoch has."""
    return min(wanted, *(task.num_examples(size) for size in sizes))


def updates_of(recipe: Recipe, task: Task, wanted: int) -> int:
    """Return a short run's updates: the given number, at least its warmup and one more."""
    num_examples = task.num_examples(recipe.batch_size)
    return max(wanted, schedule.warmup_updates(recipe, num_examples) + 1)


# Noise scale ----------------------------------------------------------------------


def measure_noise(
    task: Task,
    base: Recipe,
    *,
    out: str | Path,
    batch_size: int | None = None,
    rule: Rule | str = "legw",
    seeds: Sequence[int] = (0,),
    epochs: float | None = None,
    every: int | None = None,
    stretches: int = 10,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Measure the gradient noise scale while training; `legw probe noise` as a call.

    Args:
        task: the task to train; nothing is evaluated.
        base: the tuned recipe.
        out: folder of the runs; finished runs in it are kept.
        batch_size: in examples; None is the base's own.
        rule: the rule that scales the base to them: a `Rule`, or the name of one.
        seeds: one run each.
        epochs: each run stops after so many, above 0 and at most the recipe's; None is its end.
        every: updates between two samples, at least 1; None takes about `SAMPLES`.
        stretches: of the run that each get an estimate, at least 1.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        watch: returns the observers of a run, for progress.

    Returns:
        What `--json` prints: the noise scale of the runs, of their last halves and stretches.

    Raises:
        LegwError: a value cannot be, the folder was measured otherwise, nothing was measured,
            or several processes were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    check_count("noise", "stretches", stretches)
    rule = rules.find(rule) if isinstance(rule, str) else rule
    recipe = rules.apply(base, base.batch_size if batch_size is None else batch_size, rule)
    length = in_unit(recipe, "epochs", task.num_examples(recipe.batch_size)).length
    share = 1.0 if epochs is None else epochs / length
    if not 0 < share <= 1:
        raise LegwError(
            f"noise: epochs={epochs:g}: must be above 0, and at most the recipe's own {length:g}"
        )
    updates = math.ceil(share * schedule.updates(recipe, task.num_examples(recipe.batch_size)))
    distance = spacing(updates) if every is None else every
    runs = [
        _one(
            task,
            recipe,
            Path(out),
            base=base,
            rule=rule,
            seed=seed,
            updates=None if epochs is None else updates,
            make=lambda folder: NoiseProbe(folder, every=distance),
            settings=settings,
            watch=watch,
        )
        for seed in seeds
    ]
    return {
        "probe": "noise",
        "app": task.name,
        "rule": rule.name,
        "every": distance,
    } | probed.noise_result(base, runs, stretches)


def spacing(updates: int) -> int:
    """Return the updates between two samples of a run.

    >>> spacing(90), spacing(11719)
    (1, 5)
    """
    return max(updates // SAMPLES, 1)


# Both -----------------------------------------------------------------------------


def _one(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    base: Recipe,
    rule: Rule,
    seed: int,
    updates: int | None,
    make: Callable[[Path], Measuring],
    settings: Settings | None,
    watch: Watch,
) -> Probed:
    """Make one run with its probe, or find that it has been made."""
    one_process()
    folder = out / f"{rule.name}-b{recipe.batch_size}-s{seed}"
    summary = short_run(
        task,
        recipe,
        folder,
        base=base,
        rule=rule.name,
        seed=seed,
        updates=updates,
        probes=[make(folder)],
        settings=settings,
        watch=watch,
    )
    return Probed(recipe, seed, task.num_examples(recipe.batch_size), folder, summary)


ONE_PROCESS = "probe: runs in one process; legw train --measure-noise works under torchrun"
"""Message of a probe that is started as one of several processes."""


def one_process(message: str = ONE_PROCESS) -> None:
    """Refuse to be one of several processes.

    Args:
        message: says what is refused, and what to do.

    Raises:
        LegwError: torchrun has started several.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LegwError(message)


def short_run(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    base: Recipe,
    rule: str,
    seed: int,
    updates: int | None,
    probes: Sequence[Measuring],
    settings: Settings | None = None,
    watch: Watch = unwatched,
    start: Branch | None = None,
) -> Summary:
    """Make the first updates of a run (None is all), or find that they have been made.

    The schedule is that of the whole run, also its decay.

    Raises:
        LegwError: the folder holds measurements of another kind.
        KeyboardInterrupt: the run was interrupted.
    """
    measured = {type(each).__name__: dict(each.options) for each in probes}
    _check_measured(folder, measured)
    summary = fit(
        Unjudged(task),
        recipe,
        out=folder,
        seed=seed,
        base=base,
        rule=rule,
        settings=replace(settings or Settings(), resume=True, stop_after=updates),
        observers=[*watch(folder, updates), _Noted(folder, measured), *probes],
        start=start,
    )
    if summary.status == "interrupted" and (updates is None or summary.updates < updates):
        raise KeyboardInterrupt(f"{folder}: stopped after update {summary.updates}; "
                                "the same command goes on")  # fmt: skip
    return summary


class _Noted(Observer):
    """Writes a file into the run folder that describes the measurement."""

    def __init__(self, folder: Path, measured: Mapping[str, Any]) -> None:
        self._folder, self._measured = folder, measured

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        files.write_json(self._folder / PROBES, self._measured)


def _check_measured(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a folder whose run was measured otherwise; an older folder without a note passes."""
    path = folder / PROBES
    if not reading.there(path):
        return
    try:
        theirs = reading.typed(dict[str, dict[str, Any]], reading.json_object(path))
    except RunError:
        raise LegwError(f"{path}: is damaged; choose another {setting('out')}") from None
    for kind, options in wanted.items():
        if kind not in theirs:
            measured = " and ".join(theirs) or "nothing"
            raise LegwError(f"{folder}: holds a run with {measured}, not {kind}; "
                            f"choose another {setting('out')}")  # fmt: skip
        for name, value in options.items():
            if theirs[kind].get(name) != value:
                raise LegwError(
                    f"{folder}: was measured with {name}={theirs[kind].get(name)}, not {value}; "
                    f"choose another {setting('out')}"
                )
