"""What `legw probe` does: runs with a probe each, and what their measurements say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from legw import rules, schedule, units
from legw.cli import inputs, lists, outputs, probe, probed, training
from legw.cli.probed import Probed
from legw.cli.progress import Display
from legw.errors import LegwError, one_line
from legw.probes import CurvatureProbe, NoiseProbe
from legw.recipe import Recipe
from legw.report import charts
from legw.runs import files
from legw.runs.records import Manifest, Summary
from legw.train import Observer, Task, fit

LADDER = (1, 4, 16)
"""Batch sizes of a curvature probe, in base batches, if not said otherwise."""

SAMPLES = 2000
"""About how many samples a noise probe takes of a run, if not said otherwise."""


class Unjudged:
    """A task whose metric is not taken: a probe's runs are not for their quality."""

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


def curvature(options: probe.Curvature) -> int:
    """Run each batch size and seed; show the peaks, their exponent, and a warmup."""
    suffix = _suffix(options.plot)
    if options.updates < 1:
        raise LegwError(f"--updates={options.updates}: must be at least 1")
    base = probe.base_of(options)
    sizes = ladder(options.batch_sizes, base)
    CurvatureProbe(examples=options.examples, dense=options.dense)  # says what cannot be
    recipes = [rules.apply(base, size, rules.find(options.rule)) for size in sizes]
    seeds = lists.seeds(options.seeds)
    task = training.task_of(options.app, options.data, "test")
    examples = probe_examples(task, sizes, options.examples)
    runs = [
        _one(
            options,
            task,
            recipe,
            base=base,
            seed=seed,
            updates=updates_of(recipe, task, options.updates),
            make=lambda folder: CurvatureProbe(
                folder, examples=examples, dense=options.dense, method=options.method
            ),
        )
        for recipe in recipes
        for seed in seeds
    ]
    found = {
        "probe": "curvature",
        "app": options.app,
        "rule": options.rule,
        "probe_batch_size": examples,
        "method": options.method,
    } | probed.curvature_result(base, runs)
    if options.plot is not None:
        outputs.write(options.plot, charts.render(probed.curvature_chart(found), suffix))
    if options.json:
        outputs.print_json(found)
    else:
        outputs.show(probed.peaks_table(found))
        for line in probed.curvature_lines(found):
            outputs.say(line)
    if options.plot is not None:
        outputs.wrote(options.plot, to_stderr=options.json)
    return 0


def ladder(text: str | None, base: Recipe) -> tuple[int, ...]:
    """Return the batch sizes that --batch-sizes names, or else `LADDER`'s."""
    if text is None:
        return tuple(base.batch_size * k for k in LADDER)
    return lists.whole_numbers("--batch-sizes", text, least=1)


def probe_examples(task: Task, sizes: Sequence[int], wanted: int) -> int:
    """Return the examples of a probe batch: so many, or as many as an epoch has."""
    return min(wanted, *(task.num_examples(size) for size in sizes))


def updates_of(recipe: Recipe, task: Task, wanted: int) -> int:
    """Return how many updates a short run makes: so many, but its whole warmup and one more."""
    num_examples = task.num_examples(recipe.batch_size)
    return max(wanted, schedule.warmup_updates(recipe, num_examples) + 1)


# Noise scale ----------------------------------------------------------------------


def noise(options: probe.Noise) -> int:
    """Run each seed; show the noise scale over the run, and what it means for the recipe."""
    suffix = _suffix(options.plot)
    base = probe.base_of(options)
    batch_size = base.batch_size if options.batch_size is None else options.batch_size
    if options.stretches < 1:
        raise LegwError(f"--stretches={options.stretches}: must be at least 1")
    if options.every is not None:
        NoiseProbe(every=options.every)  # says what cannot be
    recipe = rules.apply(base, batch_size, rules.find(options.rule))
    seeds = lists.seeds(options.seeds)
    task = training.task_of(options.app, options.data, "test")
    epochs = units.in_unit(recipe, "epochs", task.num_examples(recipe.batch_size)).length
    share = 1.0 if options.epochs is None else options.epochs / epochs
    if not 0 < share <= 1:
        raise LegwError(
            f"--epochs={options.epochs:g}: must be above 0, and at most the recipe's own {epochs:g}"
        )
    updates = math.ceil(share * schedule.updates(recipe, task.num_examples(recipe.batch_size)))
    every = spacing(updates) if options.every is None else options.every
    runs = [
        _one(
            options,
            task,
            recipe,
            base=base,
            seed=seed,
            updates=None if options.epochs is None else updates,
            make=lambda folder: NoiseProbe(folder, every=every),
        )
        for seed in seeds
    ]
    found = {
        "probe": "noise",
        "app": options.app,
        "rule": options.rule,
        "every": every,
    } | probed.noise_result(base, runs, options.stretches)
    if options.plot is not None:
        outputs.write(options.plot, charts.render(probed.noise_chart(found), suffix))
    if options.json:
        outputs.print_json(found)
    else:
        outputs.show(probed.noise_table(found), probed.prediction_table(found))
        for line in probed.noise_lines(found):
            outputs.say(line)
    if options.plot is not None:
        outputs.wrote(options.plot, to_stderr=options.json)
    return 0


def spacing(updates: int) -> int:
    """Return how many updates lie between two samples of a run of so many.

    >>> spacing(90), spacing(11719)
    (1, 5)
    """
    return max(updates // SAMPLES, 1)


# Both -----------------------------------------------------------------------------


Measuring = CurvatureProbe | NoiseProbe


def _one(
    options: probe.Runs,
    task: Task,
    recipe: Recipe,
    *,
    base: Recipe,
    seed: int,
    updates: int | None,
    make: Callable[[Path], Measuring],
) -> Probed:
    """Make one run with its probe, or find that it has been made."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LegwError(
            "probe: runs in one process; legw train --measure-noise works under torchrun"
        )
    kind = "curvature" if isinstance(options, probe.Curvature) else "noise"
    name = one_line(options.app, 60).replace(":", "-")
    root = options.out or Path("runs") / f"{name}-{kind}"
    folder = root / f"{options.rule}-b{recipe.batch_size}-s{seed}"
    summary = short_run(
        task,
        recipe,
        folder,
        base=base,
        rule=options.rule,
        seed=seed,
        updates=updates,
        machine=options.machine,
        probes=[make(folder)],
    )
    return Probed(recipe, seed, task.num_examples(recipe.batch_size), folder, summary)


def short_run(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    base: Recipe,
    rule: str,
    seed: int,
    updates: int | None,
    machine: training.Machine,
    probes: Sequence[Measuring],
) -> Summary:
    """Make the first updates of a run (None is all), or find that they have been made.

    Their schedule is the whole run's: a decay begins where it would.

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
        settings=replace(machine.settings(resume=True), stop_after=updates),
        observers=[
            Display(Console(stderr=True, highlight=False), folder.name, updates=updates),
            _Noted(folder, measured),
            *probes,
        ],
    )
    if summary.status == "interrupted" and (updates is None or summary.updates < updates):
        raise KeyboardInterrupt(f"{folder}: stopped after update {summary.updates}; "
                                "the same command goes on")  # fmt: skip
    return summary


PROBES = "probes.json"
"""File in a probed run's folder that says how it was measured."""


class _Noted(Observer):
    """Writes beside a run how it was measured."""

    def __init__(self, folder: Path, measured: Mapping[str, Any]) -> None:
        self._folder, self._measured = folder, measured

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        files.write_json(self._folder / PROBES, self._measured)


def _check_measured(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a folder whose run was measured otherwise; of an older one nothing is known."""
    path = folder / PROBES
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text("utf-8"))
        theirs = {each: dict(options) for each, options in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise LegwError(f"{path}: is damaged; choose another --out") from None
    for kind, options in wanted.items():
        if kind not in theirs:
            measured = " and ".join(theirs) or "nothing"
            raise LegwError(f"{folder}: holds a run with {measured}, not {kind}; "
                            "choose another --out")  # fmt: skip
        for name, value in options.items():
            if theirs[kind].get(name) != value:
                raise LegwError(
                    f"{folder}: was measured with {name}={theirs[kind].get(name)}, not {value}; "
                    "choose another --out"
                )


def _suffix(plot: str | None) -> str:
    return "" if plot is None else inputs.suffix("--plot", plot, charts.FORMATS)
