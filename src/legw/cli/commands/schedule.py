"""Command `legw schedule`: shows each update's learning rate, as a picture or as numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

from tyro.conf import arg

from legw import rules
from legw.adapters import batch_schedules
from legw.adapters.batch_schedules import Tool
from legw.analysis.scaled import Outcome, carry, headline
from legw.cli import output
from legw.cli.options import (
    BatchSize,
    Count,
    File,
    Flag,
    Named,
    Number,
    RuleName,
    find_recipe,
    overridden,
)
from legw.errors import LegwError, one_line
from legw.recipe import Recipe
from legw.report.charts.schedule import Point, all_points, axis, grown, lr_curve, points
from legw.report.charts.style import FORMATS, render
from legw.schedule import Ramp, update_length

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw the learning rate over the run, or write it to a file.

    Example: legw schedule mnist-lstm -b 8192 --plot lr.svg
    """

    recipe: Named
    """The base: a shipped recipe (legw recipes lists them), or a TOML or JSON file."""
    batch_size: BatchSize = None
    """Target batch size, beside which the base is drawn; without it, the base alone."""
    rule: RuleName = "legw"
    """Rule that scales; `legw.rules.RULES` has the names."""
    num_examples: Count = None
    """Examples in one epoch, in place of the recipe's own; at least 1."""
    epochs: Number = None
    """The base's length in epochs, in place of the recipe's own."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, in place of the recipe's own; the rule scales it."""
    steps: Number = None
    """The base's length in updates, in place of the recipe's own."""
    warmup_steps: Number = None
    """The base's warmup in updates, in place of the recipe's own; legw keeps it."""
    lr: Number = None
    """Peak learning rate, in place of the rule's; above 0."""
    plot: File = None
    """Write a picture (.svg, .png, .html), or every update's exact rate (.csv)."""
    ramp: Ramp = "end"
    """Point of an update where the warmup is read: its end, or its start as in published code."""
    to: Annotated[Optional[Tool], arg(help_behavior_hint="")] = None
    """Print the batch sizes as another tool takes them: megatron, olmo-core or levanter."""
    json: Flag = False
    """Print one JSON object with the curve's points; notes go to stderr."""


def run(options: Options) -> int:
    """Draw one schedule, beside the base's where they differ."""
    rule = rules.find(options.rule)
    suffix = _suffix(options.plot)
    base = overridden(find_recipe(options.recipe, options.num_examples), options)
    batch_size = base.batch_size if options.batch_size is None else options.batch_size
    outcome = carry(base, batch_size, rule, lr=options.lr)
    assert outcome.scaled is not None
    update_length(outcome.scaled)  # an unknown number of examples ends here
    if options.to is not None:
        return _print_to(outcome.scaled, options.to, others=options.json or options.plot)
    if options.plot is not None:
        output.write(options.plot, _file(outcome, suffix, options.ramp))
    if options.json:
        curve = points(outcome.scaled, ramp=options.ramp)
        output.print_json(
            outcome.to_dict()
            | {"ramp": options.ramp, "curve": [p.plain(grown=grown(curve)) for p in curve]}
        )
    else:
        output.say(headline(outcome))
        if options.plot is None:
            _draw(outcome, options.ramp)
    output.notes(outcome.notes, to_stderr=options.json)
    if options.plot is not None:
        output.wrote(options.plot, to_stderr=options.json)
    return 0


def _print_to(recipe: Recipe, tool: Tool, *, others: object) -> int:
    """Print a tool's form alone, to be copied; what the tool leaves out goes to stderr."""
    if others:
        raise LegwError("--to prints one form, --plot and --json another; give one of them")
    found = batch_schedules.written(recipe, tool)
    print(found.text)
    output.notes(found.left_out, to_stderr=True)
    return 0


def _suffix(plot: str | None) -> str:
    """Return the format for a file's suffix, before anything is computed."""
    if plot is None:
        return ""
    suffix = Path(plot).suffix.removeprefix(".").lower()
    formats = (*FORMATS, "csv")
    if suffix not in formats:
        known = ", ".join(f".{name}" for name in formats)
        raise LegwError(f"--plot={one_line(plot)}: the suffix must be one of {known}")
    return suffix


def _curves(outcome: Outcome, ramp: Ramp) -> dict[str, list[Point]]:
    """Return the recipes to draw: the base and the scaled one, or one of them if they are equal."""
    base, scaled = outcome.base, outcome.scaled
    assert scaled is not None
    curves = {f"batch {base.batch_size} (base)": points(base, ramp=ramp)}
    if scaled != base:
        name = f"batch {scaled.batch_size} ({outcome.rule.name})"
        curves[name] = points(scaled, ramp=ramp)
    return curves


def _file(outcome: Outcome, suffix: str, ramp: Ramp) -> str | bytes:
    assert outcome.scaled is not None
    if suffix == "csv":
        return _csv(outcome.scaled, ramp)
    name, _, change = headline(outcome).partition(": ")
    chart = lr_curve(
        _curves(outcome, ramp),
        title=f"{name}: learning rate",
        subtitle=change,
        across=axis(outcome.scaled),
    )
    return render(chart, suffix)


def _csv(recipe: Recipe, ramp: Ramp) -> str:
    """Return every update as one line, with all digits of its rate."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grows = recipe.batch_schedule is not None
    writer.writerow(["update", axis(recipe), "lr", *(["batch_size"] if grows else [])])
    writer.writerows(p.plain(grown=grows).values() for p in all_points(recipe, ramp=ramp))
    return text.getvalue()


def _draw(outcome: Outcome, ramp: Ramp) -> None:
    from legw.report.charts.terminal import lr_text

    console = output.console()
    color = console.is_terminal and not console.no_color
    width = max(min(console.width, 80), 20)
    print()
    across = axis(outcome.scaled or outcome.base)
    curves = _curves(outcome, ramp)
    print(lr_text(curves, width=width, color=color, across=across))
    if any(map(grown, curves.values())):
        print("\nbatch size")
        print(
            lr_text(
                curves, width=width, height=12, color=color, across=across,
                value=lambda point: float(point.batch_size),
            )
        )  # fmt: skip
