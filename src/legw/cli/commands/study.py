"""Command `legw study`: trains a grid of rules, batch sizes and seeds, and compares them."""

from __future__ import annotations

import functools
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from legw import rules
from legw.analysis import evidence, summary
from legw.analysis.verdict import read_tolerance
from legw.cli import output
from legw.cli.options import (
    Dataset,
    Flag,
    Machine,
    Number,
    base_recipe,
    check_app,
    no_twice,
    overridden,
    read_seeds,
    task_of,
    whole_numbers,
)
from legw.errors import LegwError, RunError, check_count, clean, one_line
from legw.recipe import Recipe
from legw.study import baselines, durations, grid, preview, shards
from legw.study import plan as study
from legw.study.plan import Plan, Row, Study
from legw.study.shards import WHOLE, Shard

if TYPE_CHECKING:
    from legw.analysis.evidence import Evidence
    from legw.report.charts.schedule import Point
    from legw.study.runner import Outcome
    from legw.train import Task

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)

ALWAYS_SAID = ("batch_sizes", "rules", "seeds")
"""Options that appear in the printed command even where they have their default."""

NOT_SAID = ("app", "json", "quiet", "dry_run", "dataset", "machine", "shard")
"""Options that do not appear in it: its name, how it is shown, and the groups of others."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a grid of rules, batch sizes and seeds, and compare them.

    Finished runs are not run again: after Ctrl-C, or with more rules, batch sizes or
    seeds, the same command goes on where the folder ends.

    Example: legw study digits-lstm --batch-sizes 16,64,256,512 --rules legw,linear --seeds 3
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, gnmt-small, ..., or a task of your own as
    module:name."""
    batch_sizes: Annotated[str, arg(metavar="N,N,...", help_behavior_hint="")]
    """Batch sizes; the base recipe's own is the reference and may be among them."""
    rules: Annotated[str, arg(metavar="RULE,...")] = "legw"
    """Names of the rules; `legw scale NAME -b N --all-rules` shows their recipes."""
    seeds: Annotated[str, arg(metavar="N|S,S,...")] = "3"
    """Number of seeds from 0 on, or the seeds themselves (a comma makes it a list)."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    grid: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=V,V,...", help_behavior_hint="")
    ] = ()
    """A field of the base recipe to vary, with its values; may be given more than once."""
    tuned: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="'OPTIMIZER FIELD=V,V,...'", help_behavior_hint=""),
    ] = ()
    """An optimizer that is tuned at the large batches, as in 'adam lr=0.001,0.002'; may be given
    more than once. Its best trial is compared, and all its trials are its cost."""
    epochs: Number = None
    """Length of every run, if not the base recipe's."""
    steps: Number = None
    """Length of the base's run in updates, if not the base recipe's; the rules scale it."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, if not the base recipe's; the rules scale it."""
    warmup_steps: Number = None
    """The base's warmup in updates, if not the base recipe's; the rules scale it."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """The study's folder; runs/APP-study if not given. Finished runs in it are kept."""
    tolerance: Annotated[str, arg(metavar="X|X%")] = "1%"
    """Largest loss against the base that counts as keeping its metric: in the metric's unit, or
    as a share of the base's mean."""
    dry_run: Flag = False
    """Show the planned runs and their progress; train nothing, write nothing."""
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Number of runs at a time, each in a process of its own; at least 1. They share the
    threads, the memory and the GPU of this machine; of several GPUs each takes one in turn."""
    shard: Annotated[Optional[str], arg(metavar="I/N", help_behavior_hint="")] = None
    """The I-th of N parts of the runs, for several machines that share the study's folder."""
    holdout: Literal["test", "validation"] = "test"
    """Data for the metric: test, or validation, which holds out part of the training data."""
    dataset: OmitArgPrefixes[Dataset] = field(default_factory=Dataset)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    json: Flag = False
    """Print the runs as one JSON array; all else goes to stderr."""
    quiet: Flag = False
    """Print the result alone: no progress and no notes. Errors are still told."""


def run(options: Options) -> int:
    """Run what is pending, then print the table and write the page."""
    with output.hushed(options.quiet):
        return _run(options)


def _run(options: Options) -> int:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LegwError("study: starts its own processes; leave torchrun to legw train")
    asked = read(options)
    shard = WHOLE if options.shard is None else shards.read(options.shard)
    plan = study.plan(asked)
    folder = options.out or Path("runs") / f"{one_line(options.app, 60).replace(':', '-')}-study"
    study.check_same(asked, folder)
    rows = study.rows(plan.runs, folder)
    if options.dry_run:
        _show_plan(with_examples(plan, options), rows, options)
        return 0
    outcome = train(asked, plan, rows, folder, options, shard)
    everything = evidence.read(folder)
    found = next(one for one in everything if one.folder == folder)
    if options.json:
        print(json.dumps([asdict(row) for row in found.rows], indent=2, allow_nan=False))
    else:
        _show_table(found)
    _write_page(everything, folder, options)
    if outcome.failed:
        raise RunError(failures(outcome, folder))
    return 0


def read(options: Options) -> Study:
    """Return the study that the options describe.

    Raises:
        LegwError: a list cannot be read, has something twice, or is empty.
        RecipeError: an unknown recipe, rule or field, or a value that cannot be.
    """
    check_count("", "--jobs", options.jobs)
    base = base_recipe(options.app, options.recipe)
    return Study(
        task=options.app,
        base=overridden(base, options),
        batch_sizes=whole_numbers("--batch-sizes", options.batch_sizes, least=1),
        rules=_rules(options.rules),
        seeds=read_seeds(options.seeds),
        grid=grid.parse(options.grid),
        tuned=baselines.read(options.tuned),
        holdout=options.holdout,
        tolerance=_tolerance(options.tolerance),
        command=command(options),
    )


def _tolerance(text: str) -> str:
    """Return a tolerance that can be read; see `legw.analysis.verdict.read_tolerance`."""
    read_tolerance(text)
    return text


def command(options: Any, name: str = "study") -> str:
    """Return the command line of a command's options, to be run again."""
    words = ["legw", name, options.app]
    for part in (options, options.dataset, options.machine):
        for option in fields(part):
            value = getattr(part, option.name)
            usual = option.name not in ALWAYS_SAID and value == option.default
            if option.name in NOT_SAID or usual:
                continue
            flag = f"--{option.name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            else:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [flag, grid.short(one)]
    return shlex.join(words)


# Reading lists ----------------------------------------------------------------------


def _rules(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        rules.find(name)
    return no_twice("--rules", names)


# Doing it ---------------------------------------------------------------------------


def train(  # noqa: PLR0917 (all that `run` knows)
    asked: Study, plan: Plan, rows: list[Row], folder: Path, options: Options, shard: Shard
) -> Outcome:
    """Run what is pending, and show its progress; after Ctrl-C, print how to resume."""
    from legw import cli
    from legw.study import runner

    task = task_maker(options)
    done = sum(row.status in ("finished", "diverged") for row in rows)
    screen = output.console(stderr=options.json, quiet=options.quiet)
    if done < len(rows):
        check_app(options.app)
        from legw.train import trackers

        settings = options.machine.settings(resume=True)
        trackers.check(settings.log_to)
        plan = with_examples(plan, options)
    screen.print(clean(f"{folder}: {preview.total(plan, rows)}"), soft_wrap=not screen.is_terminal)
    if not options.quiet:
        output.notes(preview.cautions(plan), to_stderr=options.json)
    if done == len(rows):
        # only brings the table up to date, without torch
        return runner.run_study(asked, task, folder, shard=shard)
    from legw.cli.progress import Board

    outcome, own = None, shard.of(plan.runs)
    done = len(own) - len(study.pending(own, folder))
    board = Board(screen, own, done)
    try:
        with board:
            outcome = runner.run_study(
                asked, task, folder,
                settings=settings, jobs=options.jobs, watch=board.watch, shard=shard,
            )  # fmt: skip
    except KeyboardInterrupt:
        pass
    if board.closed:
        raise RunError(
            f"{cli.READER_GONE}; {folder}: stopped; the same command goes on: {asked.command}"
        )
    if outcome is None or set(outcome.left) - set(outcome.failed):
        raise KeyboardInterrupt(f"{folder}: stopped; the same command goes on: {asked.command}")
    return outcome


def failures(outcome: Outcome, folder: Path) -> str:
    """Return the number of failed runs, and the first's reason."""
    (name, reason), *others = outcome.failed.items()
    more = f" and {len(others)} more" if others else ""
    return f"{folder}: {name}{more} failed, the other runs have ended: {one_line(reason, 300)}"


def task_maker(options: Options) -> Callable[[], Task]:
    """Return a function that makes the task, in this process or in another."""
    return functools.partial(task_of, options.app, options)


def with_examples(plan: Plan, options: Options) -> Plan:
    """Let the task count its examples where the recipe cannot know them."""
    data = options.dataset
    given = (data.data, data.vocabulary, data.subwords, data.skip_broken or None)
    usual = options.holdout == "test" and given == (None,) * 4
    if usual and all(run.recipe.epoch_examples for run in plan.runs):
        return plan
    task = task_maker(options)()

    def counted(recipe: Recipe) -> Recipe:
        return recipe.with_num_examples(task.num_examples(recipe.batch_size))

    return replace(plan, runs=tuple(replace(r, recipe=counted(r.recipe)) for r in plan.runs))


def _show_plan(plan: Plan, rows: list[Row], options: Options) -> None:
    if options.json:
        print(json.dumps(preview.planned_json(plan, rows), indent=2, allow_nan=False))
        return
    from legw.cli import tables
    from legw.report.charts.terminal import plan_curves

    rates = durations.measured(options.app, rows)
    output.show(tables.planned(plan, rows, rates))
    _draw(*plan_curves(plan))
    for line in preview.undefined(plan):
        output.say(f"undefined: {line}")
    output.notes(preview.cautions(plan), to_stderr=False)
    output.say(preview.time_left(plan, rows, rates, options.jobs))
    output.say(preview.total(plan, rows))


def _draw(batch_size: int, curves: dict[str, list[Point]]) -> None:
    """Draw the schedules at the largest batch size, where there are some."""
    from legw.report.charts.terminal import lr_text

    if not curves:
        return
    console = output.console()
    width, color = max(min(console.width, 80), 20), console.is_terminal and not console.no_color
    print(f"learning rate at batch {batch_size}:")
    print(lr_text(curves, width=width, height=14, color=color), "", sep="\n")


def _show_table(found: Evidence) -> None:
    from legw.cli import tables

    output.show(tables.results(found.table))
    for line in tables.below_results(found.table):
        output.say(line)
    output.notes(found.problems, to_stderr=False)
    print()
    output.say(summary.sentence(found.table))
    assert found.study is not None
    print(f"again: {clean(found.study.command)}")  # not wrapped, to be copied


def _write_page(everything: list[Evidence], folder: Path, options: Options) -> None:
    """Write the page, or print which extra it needs; the runs do not depend on it."""
    to_stderr = options.json
    from legw.report import page

    try:
        text = page.text(everything)
    except ModuleNotFoundError as error:
        if error.name not in ("altair", "vl_convert"):
            raise
        line = f"no page: {error.name} is not installed; pip install 'legw[report]'"
        output.notes([f"{line}, then legw report {folder}"], to_stderr=to_stderr)
        return
    output.write(folder / "report.html", text)
    if not (options.json and options.quiet):
        output.wrote(str(folder / "report.html"), to_stderr=to_stderr)
