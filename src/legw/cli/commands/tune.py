"""Command `legw tune`: chooses a base at its own batch, by a grid and what predicts carrying."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from legw import recipe
from legw.analysis.check import MIN_UPDATES
from legw.analysis.verdict import read_tolerance
from legw.cli import output
from legw.cli.commands import probe
from legw.cli.commands import study as study_command
from legw.cli.options import (
    Dataset,
    File,
    Flag,
    Machine,
    Number,
    base_recipe,
    check_app,
    read_seeds,
    task_of,
)
from legw.errors import LegwError, check_count, clean, duration, one_line
from legw.schedule import with_lengths
from legw.study import durations, grid, preview
from legw.study import plan as study
from legw.study.base_grid import base_study
from legw.study.durations import Rates
from legw.study.plan import Row
from legw.study.shards import WHOLE

if TYPE_CHECKING:
    from legw.probes.tuning import TunedBase, Tuning
    from legw.recipe import Recipe

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)

CARRIED = 16
"""Factor of the batch size in the next command that is printed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choose a base recipe at its own batch: a grid, then the contenders by what predicts carrying.

    The metric is measured on validation data. Of the points within seed noise of the best, short
    runs measure how far the rate can rise. The cost is printed first. Finished runs are not run
    again.

    Example: legw tune digits-lstm --grid lr=0.05,0.1,0.2 --dry-run
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, gnmt-small, ..., or a task of your own as
    module:name."""
    grid: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=V,V,...", help_behavior_hint="")
    ] = ()
    """A field of the base recipe to vary, with its values; may be given more than once."""
    seeds: Annotated[str, arg(metavar="N|S,S,...")] = "3"
    """Number of seeds from 0 on, or the seeds themselves (a comma makes it a list)."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    epochs: Number = None
    """Length of the grid's runs, if shorter than the base recipe's; the chosen base has its own."""
    steps: Number = None
    """The same in updates."""
    tolerance: Annotated[str, arg(metavar="X|X%")] = "1%"
    """Largest difference from the best with a single seed, whose noise is not known: in the
    metric's unit, or as a share of the best."""
    no_probes: Flag = False
    """Leave out what takes short runs of the contenders: the loss at 4 times the rate, the headroom
    and the noise scale."""
    updates: Annotated[int, arg(metavar="N")] = 200
    """Updates of each run of a probe; its whole warmup is made in any case."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the grid's runs; runs/APP-tune if not given. The probes' runs are in DIR-probes."""
    toml: File = None
    """Write the chosen base to this file as TOML; a lone - means stdout, and nothing else on it."""
    dry_run: Flag = False
    """Print the cost; train nothing, write nothing."""
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Number of the grid's runs at a time, each in a process of its own; at least 1."""
    dataset: OmitArgPrefixes[Dataset] = field(default_factory=Dataset)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    json: Flag = False
    """Print one JSON object; all else goes to stderr."""
    quiet: Flag = False
    """Print the result alone: no progress and no notes. Errors are still told."""

    @property
    def holdout(self) -> Literal["validation"]:
        """Return the data on which applications measure the metric."""
        return "validation"

    @property
    def folder(self) -> Path:
        """Return the folder of the grid's study."""
        name = one_line(self.app, 60).replace(":", "-")
        return self.out or Path("runs") / f"{name}-tune"

    @property
    def to_stderr(self) -> bool:
        """Return whether stdout is for machines."""
        return self.json or self.toml == "-"


def run(options: Options) -> int:
    """Print the cost, make the runs, and show which base to carry."""
    with output.hushed(options.quiet):
        return _run(options)


def _run(options: Options) -> int:
    base = _checked(options)
    from legw.probes import tuning

    tuning.alone()
    task = task_of(options.app, options)
    planned = tuning.plan_tuning(
        task, base, grid.parse(options.grid), seeds=read_seeds(options.seeds),
        epochs=options.epochs, steps=options.steps, probes=not options.no_probes,
        updates=options.updates, name=options.app, command=study_command.command(options, "tune"),
    )  # fmt: skip
    tuning.check_holdout(task)
    rows = study.rows(planned.plan.runs, options.folder)
    if options.dry_run:
        _show_cost(planned, rows, options)
        return 0
    _say(_probes_cost(planned, durations.measured(options.app, rows)), options)
    _train(planned, rows, options)
    settings = options.machine.settings(resume=True)
    found = tuning.choose_base(
        planned, task, out=options.folder, tolerance=options.tolerance, settings=settings,
        watch=(lambda folder, updates: ()) if options.quiet else probe.watch,
    )  # fmt: skip
    _show(found, options)
    return 0


def _checked(options: Options) -> Recipe:
    """Return the base, after all that can be refused before torch is imported."""
    if options.json and options.toml == "-":
        raise LegwError("--json and --toml - both want stdout; give the TOML a file name")
    check_count("", "--jobs", options.jobs)
    check_count("", "--updates", options.updates, MIN_UPDATES)
    read_tolerance(options.tolerance)
    base = base_recipe(options.app, options.recipe)
    shortened = with_lengths(base, epochs=options.epochs, steps=options.steps)
    asked = base_study(
        options.app, shortened, grid.parse(options.grid), seeds=read_seeds(options.seeds)
    )
    study.check_same(asked, options.folder)
    check_app(options.app)
    return base


def _train(planned: Tuning, rows: list[Row], options: Options) -> None:
    """Make the grid's runs as `legw study` does, with its progress."""
    outcome = study_command.train(
        planned.study, planned.counted, rows, options.folder, _as_study(options), WHOLE
    )
    if outcome.failed:
        raise LegwError(study_command.failures(outcome, options.folder))


def _as_study(options: Options) -> study_command.Options:
    """Return the options with which `legw study` makes the same runs."""
    return study_command.Options(
        app=options.app, batch_sizes="", seeds=options.seeds, recipe=options.recipe,
        grid=options.grid, out=options.out, jobs=options.jobs,
        holdout=options.holdout, dataset=options.dataset, machine=options.machine,
        json=options.to_stderr, quiet=options.quiet,
    )  # fmt: skip


# The cost -----------------------------------------------------------------------------


def _show_cost(planned: Tuning, rows: list[Row], options: Options) -> None:
    rates = durations.measured(options.app, rows)
    if options.json:
        output.print_json(
            {
                "runs": preview.planned_json(planned.counted, rows),
                "most_probe_runs": planned.most_probe_runs,
                "most_probe_updates": planned.most_probe_updates,
            }
        )
        return
    from legw.cli import tables

    output.show(tables.planned(planned.counted, rows, rates))
    output.say(preview.time_left(planned.counted, rows, rates, options.jobs))
    output.say(preview.total(planned.counted, rows))
    output.say(_probes_cost(planned, rates))


def _probes_cost(planned: Tuning, rates: Rates | None) -> str:
    """Return the cost of the probes as a line, with their time where it is known."""
    said, size = planned.said_of_probes(), planned.study.base.batch_size
    if rates is None or not planned.most_probe_updates:
        return said
    seconds = planned.most_probe_updates * size / rates.at(size)
    return f"{said}, {duration(seconds)}"


def _say(line: str, options: Options) -> None:
    """Print a line that is no result: on stderr where stdout is for machines, not when quiet."""
    if options.quiet:
        return
    if options.to_stderr:
        output.to_stderr(clean(line))
    else:
        output.say(line)


# The result ---------------------------------------------------------------------------


def _show(found: TunedBase, options: Options) -> None:
    text = recipe.to_toml(found.recipe)
    if options.toml == "-":
        output.print_toml(text)
        _say(found.said(), options)
        return
    if options.json:
        output.print_json({"app": options.app} | found.to_dict())
    else:
        _print(found)
    if options.toml is not None:
        output.write(options.toml, text)
        output.wrote(options.toml, to_stderr=options.json)
    if not options.json:
        print(f"next: {clean(_next(found, options))}")  # not wrapped, to be copied


def _print(found: TunedBase) -> None:
    """Print all points, the contenders ranked, and the recommendation."""
    from legw.cli import tables

    output.show(tables.points(found))
    output.say(f"* contender: {found.within}")
    if len(found.ranking.order) > 1:
        output.show(tables.ranked_bases(found))
    output.notes(found.notes, to_stderr=False)
    output.say(found.said())


def _next(found: TunedBase, options: Options) -> str:
    """Return the command that carries the chosen base."""
    words = [] if options.toml is not None else ["--toml", "base.toml"]
    first = f"{study_command.command(options, 'tune')} {shlex.join(words)} && " if words else ""
    scaled = ["legw", "scale", options.toml or "base.toml", "-b",
              str(CARRIED * found.recipe.batch_size)]  # fmt: skip
    return first + shlex.join(scaled)
