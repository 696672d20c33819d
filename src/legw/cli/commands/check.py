"""Command `legw check`: tests LEGW's assumptions for a task by a ladder of short runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Optional

from tyro.conf import arg

from legw.analysis.check import MIN_UPDATES, Missing, warmup_line
from legw.cli import output
from legw.cli.commands import probe
from legw.cli.options import Flag, read_seeds, task_of
from legw.errors import check_count
from legw.report.charts.probes import curvature_chart
from legw.report.charts.style import render

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options(probe.Runs):
    """Train a ladder of short runs, and say whether the rule's assumptions hold for a task.

    They are four: the loss falls at the rule's rates, with room above; the curvature along
    the gradient peaks at the same update for every batch; the largest batch is not far past
    the gradient's noise scale; clipping does not shorten the steps of the small batch alone.
    "cannot tell" is one of the verdicts.

    Example: legw check my_module:task --recipe my_recipe.toml
    """

    batch_sizes: Annotated[Optional[str], arg(metavar="N,N,...", help_behavior_hint="")] = None
    """Batch sizes; the base recipe's own, and 4 and 16 times it, if not given."""
    updates: Annotated[int, arg(metavar="N")] = 200
    """Updates of each run, or the whole recipe where that has fewer."""
    examples: Annotated[int, arg(metavar="N")] = 256
    """Examples in the curvature's probe batch."""
    fixed: Flag = False
    """Make these runs alone; otherwise runs are made longer, or seeds added, where they cannot
    tell, up to five times the examples."""


def run(options: Options) -> int:
    """Train, measure, judge, and show the verdicts with their measurements."""
    kind = probe.plot_format(options)
    check_count("", "--updates", options.updates, MIN_UPDATES)
    from legw.probes import CurvatureProbe, assumptions

    assumptions.alone()
    base = probe.base_of(options)
    sizes = probe.sizes_of(options.batch_sizes)
    CurvatureProbe(examples=options.examples)  # says what cannot be
    seeds = read_seeds(options.seeds)
    found = assumptions.check_assumptions(
        task_of(options.app, options),
        base,
        out=probe.folder_of(options, "check"),
        batch_sizes=sizes,
        rule=options.rule,
        seeds=seeds,
        updates=options.updates,
        examples=options.examples,
        fixed=options.fixed,
        settings=options.machine.settings(resume=True),
        watch=probe.watch,
    ) | {"app": options.app}
    _show(found, options, kind)
    return 0


def _show(found: dict[str, Any], options: Options, kind: str) -> None:
    from legw.cli import tables

    if options.plot is not None:
        output.write(options.plot, render(curvature_chart(found), kind))
    if options.json:
        output.print_json(found)
    else:
        output.show(tables.peaks_table(found), tables.rates_table(found))
        for one in found["assumptions"]:
            missing = Missing(**one["missing"]).said() if one["answer"] == "cannot tell" else ""
            lacking = f" (missing: {missing})" if missing else ""
            output.say(f"{one['assumption']}: {one['answer']}: {one['why']}{lacking}")
        output.say(warmup_line(found))
        output.say(f"{options.app}, {options.rule}: {found['verdict']}")
    if options.plot is not None:
        output.wrote(options.plot, to_stderr=options.json)
