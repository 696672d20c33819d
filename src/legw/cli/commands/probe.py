"""Command `legw probe`: measures curvature, noise or the critical batch by short runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from legw import rules
from legw.analysis import critical, probed
from legw.cli import output
from legw.cli.options import (
    BatchSize,
    Count,
    File,
    Flag,
    Machine,
    Number,
    RuleName,
    base_recipe,
    file_format,
    read_seeds,
    task_of,
    whole_numbers,
)
from legw.errors import LegwError, check_count, duration, one_line
from legw.report.charts import probes
from legw.report.charts.style import FORMATS, render
from legw.schedule import epochs_of, with_lengths

if TYPE_CHECKING:
    from rich.table import Table

    from legw.recipe import Recipe
    from legw.train import Observer

# ruff: noqa: UP007, UP045 (as in cli/options: tyro reads these without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Options of all probes."""

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, gnmt-small, ..., or a task of your own as
    module:name."""
    seeds: Annotated[str, arg(metavar="N|S,S,...")] = "1"
    """Number of seeds from 0 on, or the seeds themselves (a comma makes it a list)."""
    rule: RuleName = "legw"
    """Rule that scales the recipe to a batch size."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, if not the base recipe's; the rule scales it."""
    warmup_steps: Number = None
    """The base's warmup in updates, if not the base recipe's; legw keeps it."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the runs; runs/APP-PROBE if not given. What was made in it is kept."""
    plot: File = None
    """Write the chart to this file (.svg, .png, .html)."""
    data: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    json: Flag = False
    """Print one JSON object; all else goes to stderr."""


@dataclass(frozen=True, kw_only=True)
class Curvature(Runs):
    """Measure the curvature along the gradient while training at several batch sizes.

    Shows where it peaks, how the peak moves with the batch size, and how long a warmup
    the base run asks for. Nothing is evaluated.

    Example: legw probe curvature digits-lstm --batch-sizes 16,64,256
    """

    batch_sizes: Annotated[Optional[str], arg(metavar="N,N,...", help_behavior_hint="")] = None
    """Batch sizes; the base recipe's own, and 4 and 16 times it, if not given."""
    updates: Annotated[int, arg(metavar="N")] = 300
    """Updates of each run, or the whole recipe where that has fewer."""
    examples: Annotated[int, arg(metavar="N")] = 512
    """Examples in the probe batch."""
    dense: Annotated[int, arg(metavar="N")] = 100
    """So many updates are all measured at first; then as many for each doubling."""
    method: Literal["difference", "exact"] = "difference"
    """By two gradients, or exactly: slower, and with more memory."""


@dataclass(frozen=True, kw_only=True)
class Noise(Runs):
    """Measure the gradient's noise scale while training: beyond it a larger batch pays less.

    Nothing is evaluated. `noise.jsonl` in the run folder is what legw scale --noise reads.

    Example: legw probe noise digits-lstm
    """

    batch_size: BatchSize = None
    """Batch size of the runs; the base recipe's own if not given."""
    epochs: Number = None
    """Stop each run after so many epochs of the recipe; at its end, if not given."""
    every: Count = None
    """Updates between two samples; about 2000 samples are taken if not given."""
    stretches: Annotated[int, arg(metavar="N")] = 10
    """Stretches of the run that each get an estimate."""


@dataclass(frozen=True, kw_only=True)
class Critical(Runs):
    """Measure the critical batch size: the largest that loses nothing over equal examples.

    Branches start from checkpoints of a base run, at 2, 4, 8, ... times its batch, and train on the
    examples that the base trains on next. The cost is printed first. Nothing is evaluated.

    Example: legw probe critical digits-lstm --budget 30 --dry-run
    """

    tolerance: Annotated[float, arg(metavar="X")] = 0.01
    """Share of the base's loss by which a branch's may be higher."""
    absolute: Flag = False
    """The tolerance is in the loss's unit, not a share of it."""
    points: Annotated[str, arg(metavar="X,X,...")] = "0.1,0.3,0.6"
    """Shares of the base run from which branches start."""
    window: Annotated[float, arg(metavar="X")] = 0.1
    """Longest window of a branch, as a share of the base run."""
    budget: Number = None
    """Epochs of all runs together; those of 2.5 base runs, if not given."""
    branch_warmup: Annotated[int, arg(metavar="N")] = 10
    """Updates in which a branch's rate rises again."""
    cooldown: Annotated[float, arg(metavar="X")] = 0.5
    """Share of each branch over which its rate falls to 0; 0 leaves it out, and then a larger batch
    seems better than it is, as its rate makes less noise."""
    dry_run: Flag = False
    """Print the cost and train nothing."""


SUBCOMMANDS = ("curvature", "noise", "critical")
"""Words that may follow `legw probe`."""

Options = OmitSubcommandPrefixes[
    Union[
        Annotated[Curvature, subcommand("curvature", prefix_name=False)],
        Annotated[Noise, subcommand("noise", prefix_name=False)],
        Annotated[Critical, subcommand("critical", prefix_name=False)],
    ]
]
"""The measurement."""


def run(options: Curvature | Noise | Critical) -> int:
    """Train, measure, and show the result."""
    if isinstance(options, Critical):
        return _critical(options)
    return _curvature(options) if isinstance(options, Curvature) else _noise(options)


def _curvature(options: Curvature) -> int:
    """Run each batch size and seed; show the peaks, their exponent, and a warmup."""
    kind = plot_format(options)
    check_count("", "--updates", options.updates)
    base = base_of(options)
    sizes = sizes_of(options.batch_sizes)
    from legw.cli import tables
    from legw.probes import CurvatureProbe, ladder

    CurvatureProbe(examples=options.examples, dense=options.dense)  # says what cannot be
    for size in sizes or ladder.ladder(base):
        rules.apply(base, size, rules.find(options.rule))  # before any data are read
    seeds = read_seeds(options.seeds)
    found = ladder.measure_curvature(
        task_of(options.app, options),
        base,
        out=folder_of(options, "curvature"),
        batch_sizes=sizes,
        rule=options.rule,
        seeds=seeds,
        updates=options.updates,
        examples=options.examples,
        dense=options.dense,
        method=options.method,
        settings=options.machine.settings(resume=True),
        watch=watch,
    ) | {"app": options.app}
    if options.plot is not None:
        output.write(options.plot, render(probes.curvature_chart(found), kind))
    _show(options, found, probed.curvature_lines(found), tables.peaks_table(found))
    return 0


def _noise(options: Noise) -> int:
    """Run each seed; show the noise scale over the run, and its meaning for the recipe."""
    kind = plot_format(options)
    base = base_of(options)
    check_count("", "--stretches", options.stretches)
    from legw.cli import tables
    from legw.probes import NoiseProbe, ladder

    if options.every is not None:
        NoiseProbe(every=options.every)  # says what cannot be
    size = base.batch_size if options.batch_size is None else options.batch_size
    recipe = rules.apply(base, size, rules.find(options.rule))
    length = epochs_of(recipe)[1]  # where it is not known, the data will say
    if options.epochs is not None and length and not 0 < options.epochs / length <= 1:
        raise LegwError(
            f"--epochs={options.epochs:g}: must be above 0, and at most the recipe's own {length:g}"
        )
    seeds = read_seeds(options.seeds)
    found = ladder.measure_noise(
        task_of(options.app, options),
        base,
        out=folder_of(options, "noise"),
        batch_size=options.batch_size,
        rule=options.rule,
        seeds=seeds,
        epochs=options.epochs,
        every=options.every,
        stretches=options.stretches,
        settings=options.machine.settings(resume=True),
        watch=watch,
    ) | {"app": options.app}
    if options.plot is not None:
        output.write(options.plot, render(probes.noise_chart(found), kind))
    _show(
        options,
        found,
        probed.noise_lines(found),
        tables.noise_table(found),
        tables.prediction_table(found),
    )
    return 0


def _show(options: Runs, found: dict[str, Any], lines: Sequence[str], *drawn: Table) -> None:
    """Print what was measured: as JSON, or as tables and lines; and which picture was written."""
    if options.json:
        output.print_json(found)
    else:
        output.show(*drawn)
        for line in lines:
            output.say(line)
    if options.plot is not None:
        output.wrote(options.plot, to_stderr=options.json)


def _critical(options: Critical) -> int:
    """Print the cost, train base and branches; show what each batch loses, and the advice."""
    kind = plot_format(options)
    base = base_of(options)
    critical.check_tolerance(options.tolerance, absolute=options.absolute)
    points = _shares(options.points)
    seeds = read_seeds(options.seeds)
    from legw.cli import tables
    from legw.probes import branch_plan, branches

    task, settings = task_of(options.app, options), options.machine.settings(resume=True)
    plan = branch_plan.plan_branches(
        task, base, points=points, window=options.window, budget=options.budget,
        branch_warmup=options.branch_warmup, cooldown=options.cooldown, seeds=seeds,
    )  # fmt: skip
    out = folder_of(options, "critical")
    made = branch_plan.made_examples(plan, out)
    seconds = branch_plan.estimated_seconds(plan, task, settings, made)
    already = f" ({made} are made already)" if made else ""
    output.to_stderr(f"{plan.said()}{already}, about {duration(seconds)} here")
    if options.dry_run:
        if options.json:
            output.print_json(plan.to_dict() | {"app": options.app, "most_seconds": seconds})
        return 0
    found = branches.measure_critical(
        task, base, out=out, tolerance=options.tolerance,
        absolute=options.absolute, points=points, window=options.window, budget=options.budget,
        branch_warmup=options.branch_warmup, cooldown=options.cooldown, rule=options.rule,
        seeds=seeds, settings=settings, watch=watch,
    ) | {"app": options.app}  # fmt: skip
    if options.plot is not None:
        output.write(options.plot, render(probes.critical_chart(found), kind))
    _show(options, found, critical.critical_lines(found), tables.critical_table(found))
    return 0


def _shares(text: str) -> tuple[float, ...]:
    """Return the numbers of --points; what they may be, the plan says."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise LegwError(
            f"--points={one_line(text, 60)}: must be numbers with commas, as in 0.1,0.3,0.6"
        ) from None


# What `legw check` shares ---------------------------------------------------------------


def base_of(options: Runs) -> Recipe:
    """Return the base recipe that the options name."""
    base = base_recipe(options.app, options.recipe)
    return with_lengths(
        base, warmup_epochs=options.warmup_epochs, warmup_steps=options.warmup_steps
    )


def sizes_of(text: str | None) -> tuple[int, ...] | None:
    """Return the batch sizes that --batch-sizes names; None where it is not given."""
    return None if text is None else whole_numbers("--batch-sizes", text, least=1)


def folder_of(options: Runs, kind: str) -> Path:
    """Return the folder of the runs: --out, or runs/APP-KIND."""
    name = one_line(options.app, 60).replace(":", "-")
    return options.out or Path("runs") / f"{name}-{kind}"


def plot_format(options: Runs) -> str:
    """Return the format of --plot, before anything is computed; empty where it is not given."""
    return "" if options.plot is None else file_format("--plot", options.plot, FORMATS)


def watch(folder: Path, updates: int | None) -> list[Observer]:
    """Return the display of a run's progress."""
    from rich.console import Console

    from legw.cli.progress import Display

    return [Display(Console(stderr=True, highlight=False), folder.name, updates=updates)]
