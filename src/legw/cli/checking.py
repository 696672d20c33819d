"""What `legw check` does: a ladder of short runs, and what they say of the assumptions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from legw import rules, schedule
from legw.analysis import check, clipping, theory
from legw.cli import check as command
from legw.cli import inputs, lists, outputs, probe, probed, probing, training
from legw.cli.probed import Probed
from legw.errors import LegwError, one_line
from legw.probes import CurvatureProbe, NoiseProbe
from legw.recipe import Recipe
from legw.report import charts
from legw.runs import measurements, records
from legw.runs.measurements import Noise
from legw.train import Task

TIMES = (1.0, 2.0, 4.0, 8.0)
"""Multiples of the rule's rate that are tried, until the loss rises."""

SAMPLES = 100
"""About how many samples of the noise a run takes."""


def run(options: command.Options) -> int:
    """Run the ladder, judge, and show."""
    suffix = "" if options.plot is None else inputs.suffix("--plot", options.plot, charts.FORMATS)
    if options.updates < 10:
        raise LegwError(f"--updates={options.updates}: must be at least 10")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LegwError("check: runs in one process; start it without torchrun")
    base = probe.base_of(options)
    sizes = probing.ladder(options.batch_sizes, base)
    CurvatureProbe(examples=options.examples)  # says what cannot be
    seeds = lists.seeds(options.seeds)
    task = training.task_of(options.app, options.data, "test")
    ladder = _Ladder(options, base, task)
    runs = [ladder.probed(size, seed) for size in sizes for seed in seeds]
    risen = {size: ladder.rates(size, seeds) for size in sizes}
    found = judged(base, runs, risen) | {"app": options.app, "rule": options.rule}
    _show(found, options, suffix)
    return 0


class _Ladder:
    """The runs of a check, each in its folder, where it is found again."""

    def __init__(self, options: command.Options, base: Recipe, task: Task) -> None:
        self.options, self.base, self.task = options, base, task
        self.rule = rules.find(options.rule)
        name = one_line(options.app, 60).replace(":", "-")
        self.root = options.out or Path("runs") / f"{name}-check"

    def recipe(self, batch_size: int) -> Recipe:
        return rules.apply(self.base, batch_size, self.rule)

    def probed(self, batch_size: int, seed: int) -> Probed:
        """Make a run at the rule's rate, with both probes."""
        recipe = self.recipe(batch_size)
        num_examples = self.task.num_examples(batch_size)
        updates = probing.updates_of(recipe, self.task, self.options.updates)
        every = max(min(updates, schedule.updates(recipe, num_examples)) // SAMPLES, 1)
        folder = self.root / f"{self.options.rule}-b{batch_size}-s{seed}"
        examples = probing.probe_examples(self.task, [batch_size], self.options.examples)
        curvature = CurvatureProbe(folder, examples=examples)
        summary = self._fit(recipe, seed, folder, [curvature, NoiseProbe(folder, every=every)])
        return Probed(recipe, seed, num_examples, folder, summary)

    def rates(self, batch_size: int, seeds: Sequence[int]) -> dict[float, bool]:
        """Return whether the loss rises, for multiples of the rate, up to the first that does."""
        risen: dict[float, bool] = {}
        for times in TIMES:
            risen[times] = any(self._rises(batch_size, seed, times) for seed in seeds)
            if risen[times]:
                break
        return risen

    def _rises(self, batch_size: int, seed: int, times: float) -> bool:
        name = f"{self.options.rule}-b{batch_size}-s{seed}"
        folder = self.root / (name if times == 1 else f"{name}-x{times:g}")
        if times > 1:
            recipe = self.recipe(batch_size)
            recipe = replace(
                recipe, lr=times * recipe.lr, warmup_from_lr=times * recipe.warmup_from_lr
            )
            self._fit(recipe, seed, folder, [])
        run = records.load(folder)
        lost = run.summary is not None and run.summary.status == "diverged"
        return lost or check.rises([row.loss for row in run.updates])

    def _fit(
        self, recipe: Recipe, seed: int, folder: Path, probes: Sequence[probing.Measuring]
    ) -> records.Summary:
        return probing.short_run(
            self.task,
            recipe,
            folder,
            base=self.base,
            rule=self.options.rule,
            seed=seed,
            updates=probing.updates_of(recipe, self.task, self.options.updates),
            machine=self.options.machine,
            probes=probes,
        )


def judged(
    base: Recipe, runs: Sequence[Probed], risen: dict[int, dict[float, bool]]
) -> dict[str, Any]:
    """Return the verdicts and what they rest on, as plain values.

    Args:
        base: the recipe before scaling.
        runs: at the rule's rates, with what their probes have written.
        risen: for each batch size whether the loss rose, by multiples of the rate.
    """
    curvature = probed.curvature_result(base, runs)
    power = curvature["peak_epoch_against_batch_size"]
    smallest = min(run.recipe.batch_size for run in runs)
    short = [run for run in runs if run.recipe.batch_size == smallest]
    noise = [row for run in short for row in measurements.read(run.folder, Noise)]
    scale = theory.noise_scale(noise) if noise else None
    whole = all(run.summary.status == "finished" for run in short)
    shares = _clipped_shares(runs)
    late, early = (
        sorted({row["batch_size"] for row in curvature["runs"] if row[which]})
        for which in ("peak_is_last", "peak_is_first")
    )
    verdicts = [
        check.of_rates(risen),
        check.of_curvature(None if power is None else theory.Power(**power), late, early),
        check.of_noise(max(run.recipe.batch_size for run in runs), scale, whole=whole),
        check.of_clipping(shares),
    ]
    return {
        "verdict": check.together(verdicts),
        "assumptions": [asdict(verdict) for verdict in verdicts],
        "rates": [
            {"batch_size": size, "times": times, "loss_rises": rose}
            for size, tried in risen.items()
            for times, rose in tried.items()
        ],
        "clipped_shares": shares,
        "noise_scale": None if scale is None else asdict(scale),
        "thresholds": {
            "headroom": check.HEADROOM,
            "exponent_holds": check.SAME,
            "exponent_cannot_tell": check.OTHER,
            "batch_over_noise": rules.FAR,
            "clipped_mostly": clipping.MOSTLY,
            "clipped_seldom": clipping.SELDOM,
            "loss_rises_from": check.RISE,
        },
    } | curvature


def _clipped_shares(runs: Sequence[Probed]) -> dict[int, float | None]:
    """Return the mean share of clipped updates for each batch size."""
    found: dict[int, list[float]] = {}
    for run in runs:
        share = clipping.clipped_share(run.recipe, records.load(run.folder).updates)
        found.setdefault(run.recipe.batch_size, []).extend([] if share is None else [share])
    return {size: fmean(shares) if shares else None for size, shares in found.items()}


def _show(found: dict[str, Any], options: command.Options, suffix: str) -> None:
    if options.plot is not None:
        outputs.write(options.plot, charts.render(probed.curvature_chart(found), suffix))
    if options.json:
        outputs.print_json(found)
    else:
        outputs.show(probed.peaks_table(found), _rates_table(found))
        for one in found["assumptions"]:
            outputs.say(f"{one['assumption']}: {one['answer']}: {one['why']}")
        outputs.say(f"{options.app}, {options.rule}: {found['verdict']}")
    if options.plot is not None:
        outputs.wrote(options.plot, to_stderr=options.json)


def _rates_table(found: dict[str, Any]) -> Table:
    """Return one row a batch size: whether the loss rises at multiples of the rule's rate."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("batch", *(f"{times:g} x rate" for times in TIMES)):
        table.add_column(name, justify="right")
    sizes = {row["batch_size"] for row in found["rates"]}
    for size in sorted(sizes):
        tried = {r["times"]: r["loss_rises"] for r in found["rates"] if r["batch_size"] == size}
        words = ("-" if t not in tried else "rises" if tried[t] else "falls" for t in TIMES)
        table.add_row(str(size), *words)
    return table
