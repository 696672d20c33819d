"""`legw study`: train a grid of rules, batch sizes and seeds, and compare them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from legw import study
from legw.cli import inputs, training
from legw.cli.progress import Display
from legw.errors import LegwError
from legw.runner import run_pending
from legw.study import Plan, Planned, Study
from legw.train import Observer


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a grid of rules, batch sizes and seeds, and compare them.

    Example: legw study digits-lstm --batch-sizes 16,64,256,512 --rules legw,linear --seeds 3
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, or a task of your own as module:name."""
    batch_sizes: Annotated[str, arg(metavar="N,N,...", help_behavior_hint="")]
    """Batch sizes; the base recipe's own is the reference and may be among them."""
    rules: Annotated[str, arg(metavar="RULE,...")] = "legw"
    """Names of the rules."""
    seeds: Annotated[str, arg(metavar="N|S,S,...")] = "3"
    """How many seeds from 0 on, or which (a comma makes it a list)."""
    recipe: Annotated[str | None, arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    grid: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=V,V,...", help_behavior_hint="")
    ] = ()
    """A field of the base recipe to vary, with its values; may be given more than once."""
    epochs: inputs.Number = None
    """Length of every run, if not the base recipe's."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The study's folder; runs/APP-study if not given. Finished runs in it are kept."""
    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    holdout: Literal["test", "validation"] = "test"
    """What the metric is measured on; validation leaves out part of the training data."""
    machine: OmitArgPrefixes[training.Machine] = field(default_factory=training.Machine)
    json: inputs.Flag = False
    """Print the table as one JSON array; all else goes to stderr."""


def run(options: Options) -> int:
    """Run what is pending, then print the table and write the page."""
    console = Console(stderr=options.json, highlight=False)
    task = training.task_of(options.app, options.data, options.holdout)
    plan = study.plan(_study(options))
    folder = options.out or Path("runs") / f"{options.app.replace(':', '-')}-study"
    names = [planned.name for planned in plan.runs]

    def watch(planned: Planned) -> list[Observer]:
        number = names.index(planned.name) + 1
        return [Display(console, f"{number}/{len(names)} {planned.name}")]

    rows = run_pending(
        plan, task, folder, settings=options.machine.settings(resume=True), watch=watch
    )
    for row in rows:
        console.print(row)
    return 0


def _study(options: Options) -> Study:
    base = training.overridden(
        training.base_recipe(options.app, options.recipe), epochs=options.epochs
    )
    return Study(
        task=options.app,
        base=base,
        batch_sizes=tuple(_whole_numbers("--batch-sizes", options.batch_sizes)),
        rules=tuple(options.rules.split(",")),
        seeds=_seeds(options.seeds),
        grid=study.parse_grid(options.grid),
    )


def _seeds(text: str) -> tuple[int, ...]:
    numbers = _whole_numbers("--seeds", text)
    return tuple(numbers) if "," in text else tuple(range(numbers[0]))


def _whole_numbers(name: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise LegwError(f"{name}={text}: must be whole numbers, separated by commas")
    return [int(part) for part in parts]
