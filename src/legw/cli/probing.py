"""What `legw probe` does: runs with a probe each, and what their measurements say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from legw import charts, rules, schedule
from legw.cli import inputs, lists, outputs, probe, probed, training
from legw.cli.probed import Probed
from legw.cli.progress import Display
from legw.errors import LegwError, one_line
from legw.probes import CurvatureProbe, NoiseProbe
from legw.recipe import Recipe
from legw.train import Probe, Task, fit

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
    runs = [
        _one(
            options,
            task,
            cut(recipe, task, options.updates),
            base=base,
            seed=seed,
            make=lambda folder: CurvatureProbe(
                folder, examples=options.examples, dense=options.dense, method=options.method
            ),
        )
        for recipe in recipes
        for seed in seeds
    ]
    found = {
        "probe": "curvature",
        "app": options.app,
        "rule": options.rule,
        "probe_batch_size": options.examples,
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


def cut(recipe: Recipe, task: Task, updates: int) -> Recipe:
    """Return the recipe with at most so many updates; a warmup that is longer stays whole."""
    num_examples = task.num_examples(recipe.batch_size)
    updates = max(updates, schedule.warmup_updates(recipe, num_examples) + 1)
    return replace(recipe, epochs=min(recipe.epochs, updates * recipe.batch_size / num_examples))


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
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    seeds = lists.seeds(options.seeds)
    task = training.task_of(options.app, options.data, "test")
    updates = schedule.updates(recipe, task.num_examples(recipe.batch_size))
    every = max(updates // SAMPLES, 1) if options.every is None else options.every
    runs = [
        _one(
            options,
            task,
            recipe,
            base=base,
            seed=seed,
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


# Both -----------------------------------------------------------------------------


def _one(
    options: probe.Runs, task: Task, recipe: Recipe, *, base: Recipe, seed: int, make: Any
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
    console = Console(stderr=True, highlight=False)
    one: Probe = make(folder)
    summary = fit(
        Unjudged(task),
        recipe,
        out=folder,
        seed=seed,
        base=base,
        rule=options.rule,
        settings=options.machine.settings(resume=True),
        observers=[Display(console, folder.name), one],
    )
    if summary.status == "interrupted":
        raise KeyboardInterrupt(f"{folder}: stopped after update {summary.updates}; "
                                "the same command goes on")  # fmt: skip
    return Probed(recipe, seed, task.num_examples(recipe.batch_size), folder, summary)


def _suffix(plot: str | None) -> str:
    return "" if plot is None else inputs.suffix("--plot", plot, charts.FORMATS)
