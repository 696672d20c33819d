"""Tuning of a base at its own batch, and the choice of the base that will carry.

    task, base, grid --plan_tuning--> Tuning: the runs of the grid and of the probes, their cost
                     --tune_base--> OUT: the study of the grid; OUT-probes: runs of the contenders
                     --> TunedBase: the points, the contenders ranked, the recommended base

Contenders are the points within seed noise of the best; `legw.analysis.bases` ranks them.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from legw import schedule
from legw.analysis import bases, carrying, table
from legw.analysis.bases import Ranking
from legw.analysis.carrying import Predictors
from legw.analysis.check import LR_MULTIPLES, MIN_UPDATES
from legw.analysis.table import Cell, Table
from legw.analysis.verdict import USUAL, read_tolerance
from legw.errors import (
    DivergedError,
    LegwError,
    LegwWarning,
    RunError,
    check_count,
    one_line,
    setting,
)
from legw.probes import headroom
from legw.probes.ladder import Watch, one_process, unwatched
from legw.recipe import Recipe, to_dict
from legw.recipe.cautions import short_memory
from legw.runs import records
from legw.runs.records import Run
from legw.study import plan as study
from legw.study import runner
from legw.study.base_grid import base_study
from legw.study.grid import Grid, label, variants
from legw.study.plan import Plan, Row, Study
from legw.study.pool import MakeTask
from legw.train import Settings, Task

SEEDS = (0, 1, 2)
"""Default seeds of every combination of a grid."""

UPDATES = 200
"""Default updates of each run of a probe."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Plan of a tuning: the study of the grid, and the runs of the contenders' probes."""

    study: Study
    """Study of the grid at the base batch."""
    plan: Plan
    """Its runs."""
    counted: Plan
    """The same runs with the task's number of examples, so that their updates can be counted."""
    full: Mapping[str, Recipe]
    """Combination of the grid -> the base in its full length, also where it is tuned on less."""
    probe_updates: Mapping[str, int]
    """Combination of the grid -> most updates of its probes, if it is a contender; empty without
    probes."""
    updates: int
    """Updates of each run of a probe that were asked for."""

    @property
    def most_probe_runs(self) -> int:
        """Runs of the probes if every point is a contender and no loss rises."""
        return len(self.probe_updates) * len(LR_MULTIPLES)

    @property
    def most_probe_updates(self) -> int:
        """Updates of the probes if every point is a contender and no loss rises."""
        return sum(self.probe_updates.values())

    def said_of_probes(self) -> str:
        """Return the cost of the probes as a line."""
        if not self.probe_updates:
            return "probes: none; what takes runs of its own stays unknown"
        return (
            f"probes of the contenders: at most {self.most_probe_runs} runs, "
            f"{self.most_probe_updates} updates"
        )


@dataclass(frozen=True, kw_only=True)
class TunedBase:
    """The outcome of a tuning."""

    recipe: Recipe
    """The recommended base, in its full length."""
    ranking: Ranking
    """The contenders, the recommended one first, with the reason."""
    predictors: Mapping[str, Predictors]
    """Combination of the grid -> its predictors, of every point that has a metric; those that take
    runs of their own are known of contenders alone."""
    table: Table
    """Metric of every point, at the base batch."""
    within: str
    """Way in which contenders were told from the others, in words."""
    folder: Path
    """Folder of the grid's study."""
    notes: tuple[str, ...] = ()
    """Reasons for a second look, one line each."""

    @property
    def name(self) -> str:
        """The recommended base's combination of the grid."""
        return self.ranking.order[0]

    def said(self) -> str:
        """Return the recommendation as a line."""
        return f"recommended base: {self.name}; {self.ranking.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values: what `--json` prints."""
        return {
            "metric": self.table.metric,
            "higher_is_better": self.table.higher_is_better,
            "folder": str(self.folder),
            "points": [self._point(cell) for cell in self.table.cells],
            "contenders": list(self.ranking.order),
            "within": self.within,
            "recommended": self.name,
            "why": self.ranking.why,
            "notes": list(self.notes),
            "recipe": to_dict(self.recipe),
        }

    def _point(self, cell: Cell) -> dict[str, Any]:
        estimate = None if cell.estimate is None else asdict(cell.estimate)
        found = self.predictors.get(cell.variant)
        known = None if found is None else _plain(found) | {"gap": found.gap}
        return {
            "point": cell.variant,
            "metric": estimate,
            "diverged": cell.diverged,
            "contender": cell.variant in self.ranking.order,
            "predictors": known,
        }


def _plain(found: Predictors) -> dict[str, Any]:
    """Return predictors as JSON knows them: a ratio that is infinite is none."""
    values = asdict(found)
    return {name: None if value == math.inf else value for name, value in values.items()}


# The plan ---------------------------------------------------------------------------------


def plan_tuning(
    task: Task,
    base: Recipe,
    grid: Grid,
    *,
    seeds: Sequence[int] = SEEDS,
    epochs: float | None = None,
    steps: float | None = None,
    probes: bool = True,
    updates: int = UPDATES,
    name: str | None = None,
    command: str = "",
) -> Tuning:
    """Return the runs of a tuning and its cost, before anything is trained.

    Args:
        task: the task to train; only its number of examples is asked for.
        base: the recipe whose fields are varied, at its own batch.
        grid: fields of the base, each with its values; at least two combinations.
        seeds: one run each of every combination.
        epochs: length of the runs, if shorter than the base's; the recommended base has its own.
        steps: the same in updates.
        probes: False leaves out what takes short runs of the contenders: their loss at 4 times the
            rate, headroom and noise scale.
        updates: of each run of a probe, at least 10; its whole warmup is made in any case.
        name: the application's, or ``module:attribute``; None is the task's own name.
        command: the command line that makes it; empty outside of a command.

    Raises:
        LegwError: a value cannot be, or the grid has no two combinations at the base's batch.
    """
    check_count("tune", "updates", updates, MIN_UPDATES, error=LegwError)
    shortened = schedule.with_lengths(base, epochs=epochs, steps=steps)
    asked = base_study(name or task.name, shortened, grid, seeds=seeds, command=command)
    plan = study.plan(asked)
    runs = tuple(replace(run, recipe=_counted(run.recipe, task)) for run in plan.runs)
    points = {run.variant: run.recipe for run in runs} if probes else {}
    return Tuning(
        study=asked,
        plan=plan,
        counted=replace(plan, runs=runs),
        full={variant: _noted(base, recipe, variant) for variant, recipe in variants(base, grid)},
        probe_updates={
            variant: len(LR_MULTIPLES) * headroom.run_updates(recipe, task, updates)
            for variant, recipe in points.items()
        },
        updates=updates,
    )


def _noted(base: Recipe, recipe: Recipe, variant: str) -> Recipe:
    """Return a recipe whose source says how it came from the base; the base itself stays."""
    if recipe == base:
        return base
    source = f"{base.name}, tuned at batch {base.batch_size} by validation data: {variant}"
    return replace(recipe, source=source)


def _counted(recipe: Recipe, task: Task) -> Recipe:
    """Return a recipe with the task's number of examples."""
    return recipe.with_num_examples(task.num_examples(recipe.batch_size))


def check_holdout(task: Task) -> None:
    """Refuse a task whose metric is measured on test data; warn of one that does not say.

    Raises:
        LegwError: its metric is measured on the test data.
    """
    holdout = getattr(task, "holdout", None)
    if holdout is None:
        line = (
            f"{one_line(task.name)}: does not say on which data its metric is measured; let them "
            'be validation data, and its attribute holdout = "validation" say so'
        )
        warnings.warn(line, LegwWarning, stacklevel=3)
    elif holdout != "validation":
        raise LegwError(
            f"tune: {one_line(task.name)}: holdout={one_line(str(holdout), 40)}: its metric is "
            "measured on data that tuning must not see; give it validation data, as "
            'legw.apps.Options(holdout="validation") does'
        )


# The runs ---------------------------------------------------------------------------------


def tune_base(
    task: Task,
    base: Recipe,
    grid: Grid,
    *,
    out: str | Path,
    seeds: Sequence[int] = SEEDS,
    epochs: float | None = None,
    steps: float | None = None,
    tolerance: str = USUAL,
    probes: bool = True,
    updates: int = UPDATES,
    settings: Settings | None = None,
    jobs: int = 1,
    make_task: MakeTask | None = None,
    name: str | None = None,
    command: str = "",
    watch: Watch = unwatched,
) -> TunedBase:
    """Tune a base at its own batch, and rank the bases within seed noise; `legw tune` as a call.

    Args:
        task: the task to train, whose metric is measured on validation data.
        base: the recipe whose fields are varied, at its own batch.
        grid: fields of the base, each with its values; at least two combinations.
        out: folder of the grid's study; the probes' runs lie beside it in ``OUT-probes``. Finished
            runs in both are kept.
        seeds: one run each of every combination; the probes take the first.
        epochs: length of the runs, if shorter than the base's; the recommended base has its own.
        steps: the same in updates.
        tolerance: largest difference from the best of a contender with a single seed: a number in
            the metric's unit, or a share of the best, such as 1%.
        probes: False leaves out what takes short runs of the contenders: their loss at 4 times the
            rate, headroom and noise scale.
        updates: of each run of a probe, at least 10; its whole warmup is made in any case.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        jobs: number of the grid's runs at a time, at least 1; each has a process of its own.
        make_task: returns the task in another process; None copies the task there.
        name: the application's, or ``module:attribute``; None is the task's own name.
        command: the command line that makes it; empty outside of a command.
        watch: returns the observers of a run of a probe, for progress.

    Returns:
        The recommended base with the reason, and what was measured of all points.

    Raises:
        DivergedError: every point of the grid has a diverged run.
        LegwError: a value cannot be, the task measures on test data, a folder holds something else,
            a run has failed, or several processes were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    alone()
    read_tolerance(tolerance)
    tuning = plan_tuning(
        task, base, grid, seeds=seeds, epochs=epochs, steps=steps, probes=probes, updates=updates,
        name=name, command=command,
    )  # fmt: skip
    check_holdout(task)
    out, settings = Path(out), settings or Settings()
    make_task = make_task or functools.partial(_itself, task)
    _finish(runner.run_study(tuning.study, make_task, out, settings=settings, jobs=jobs), out)
    return choose_base(
        tuning, task, out=out, tolerance=tolerance, settings=settings, watch=watch
    )  # fmt: skip


def choose_base(
    tuning: Tuning,
    task: Task,
    *,
    out: str | Path,
    tolerance: str = USUAL,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> TunedBase:
    """Rank the bases of a grid whose runs have ended; measure the contenders before.

    Args:
        tuning: the plan.
        task: the task to train.
        out: folder of the grid's study; the probes' runs lie beside it in ``OUT-probes``.
        tolerance: largest difference from the best of a contender with a single seed: a number in
            the metric's unit, or a share of the best, such as 1%.
        settings: device, precision and micro-batch size of the probes' runs; None takes the
            defaults.
        watch: returns the observers of a run of a probe, for progress.

    Raises:
        DivergedError: every point of the grid has a diverged run.
        LegwError: no point has a metric that is a number, a folder holds something else, or several
            processes were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    alone()
    out, allowed = Path(out), read_tolerance(tolerance)
    found, runs = _measured(tuning, out)
    cells = bases.contenders(found, tuning.study.base.batch_size, allowed)
    if not cells:
        _refuse(found, out)
    predictors = {variant: carrying.of_runs(each) for variant, each in runs.items()}
    if tuning.probe_updates and len(cells) > 1:
        for cell in cells:
            run = next(each for each in tuning.counted.runs if each.variant == cell.variant)
            room = headroom.measure_headroom(
                task,
                run.recipe,
                out=probes_folder(out) / run.name,
                seeds=(run.seed,),
                updates=tuning.updates,
                settings=settings,
                watch=watch,
            )
            predictors[cell.variant] = _with_probes(predictors[cell.variant], room)
    ranking = bases.ranked({cell.variant: predictors[cell.variant] for cell in cells})
    first, size, seeds = ranking.order[0], tuning.study.base.batch_size, len(tuning.study.seeds)
    far = bases.below_best(found, size, first, seeds, allowed)
    forgets = short_memory(tuning.full[first])
    return TunedBase(
        recipe=tuning.full[first],
        ranking=ranking,
        predictors=predictors,
        table=found,
        within=_within(seeds, str(allowed)),
        folder=out,
        notes=(
            *ranking.notes,
            *([far] if far else []),
            *at_the_edge(tuning.study.grid, bases.best_of(found, size).variant),
            *([forgets] if forgets else []),
        ),
    )


def at_the_edge(grid: Grid, best: str) -> list[str]:
    """Return a line for each number of the best point that is the grid's largest or smallest.

    Args:
        grid: field of the recipe -> its values.
        best: the combination of the grid.

    >>> at_the_edge({"lr": (0.1, 0.2), "optimizer.nesterov": (True, False)},
    ...             "lr=0.2 optimizer.nesterov=True")
    ['the best point has the largest lr of the grid, 0.2: a larger one may be better; give it with \
`grid` too']
    """
    lines = []
    for name, value in _settings(grid, best).items():
        numbers = [v for v in grid[name] if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < len(grid[name]) or len(numbers) == 1 or not value:
            continue
        for size, edge in (("larg", max(numbers)), ("small", min(numbers))):
            if value == edge:
                lines.append(
                    f"the best point has the {size}est {name} of the grid, {value:g}: a {size}er "
                    f"one may be better; give it with {setting('grid')} too"
                )
    return lines


def _settings(grid: Grid, combination: str) -> dict[str, Any]:
    """Return the settings of a combination of a grid."""
    every = (dict(zip(grid, each, strict=True)) for each in itertools.product(*grid.values()))
    return next(settings for settings in every if label(settings) == combination)


def probes_folder(out: Path) -> Path:
    """Return the folder of the probes' runs: a neighbour of the study's folder."""
    return out.with_name(f"{out.name}-probes")


def alone() -> None:
    """Refuse to be one of several processes.

    Raises:
        LegwError: torchrun has started several.
    """
    one_process("tune: starts its own processes; start it without torchrun")


def _itself(task: Task) -> Task:
    return task


def _finish(outcome: runner.Outcome, folder: Path) -> None:
    """Raise an error for runs that have failed, or were stopped."""
    if outcome.failed:
        name, reason = next(iter(outcome.failed.items()))
        raise RunError(f"{folder}: {name} failed: {one_line(reason, 300)}")
    if outcome.left:
        raise KeyboardInterrupt(f"{folder}: stopped; the same call goes on")


def _measured(tuning: Tuning, folder: Path) -> tuple[Table, dict[str, list[Run]]]:
    """Return the table of the grid's points, and the finished runs of each."""
    rows: list[Row] = []
    runs: dict[str, list[Run]] = {}
    for planned in tuning.plan.runs:
        run = records.load(study.place_of(planned, folder))
        rows.append(study.row_of(run.manifest, run.summary, planned.variant))
        if run.status == "finished":
            runs.setdefault(planned.variant, []).append(run)
    about = records.read_manifest(study.place_of(tuning.plan.runs[0], folder))
    found = table.of(rows, metric=about.metric, higher_is_better=about.higher_is_better)
    return found, runs


def _refuse(found: Table, folder: Path) -> None:
    """Raise the error of a grid without contenders."""
    if any(cell.diverged for cell in found.cells):
        raise DivergedError(
            f"tune: {folder}: every point of the grid has a diverged run, or no metric; give "
            "smaller values of lr"
        )
    raise LegwError(f"tune: {folder}: no point of the grid has a metric that is a number")


def _with_probes(known: Predictors, found: headroom.Headroom) -> Predictors:
    noise = found.noise_scale
    return replace(
        known,
        headroom=found.times,
        fast_loss_ratio=found.fast_loss_ratio,
        noise_scale=None if noise is None else noise.value,
    )


def _within(seeds: int, tolerance: str) -> str:
    """Return how contenders were told from the others."""
    if seeds > 1:
        return "Welch's 95 % interval of the difference from the best includes 0"
    return f"seed noise is not known of a single seed: within {tolerance} of the best"
