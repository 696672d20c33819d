"""`legw probe`: measure along short runs why the rule works, and how far it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional, Union

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from legw.cli import inputs, training

if TYPE_CHECKING:
    from legw.recipe import Recipe
from legw.units import with_lengths

# ruff: noqa: UP007, UP045 (as in inputs: tyro reads these without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What both probes run."""

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, gnmt-small, ..., or a task of your own as
    module:name."""
    seeds: Annotated[str, arg(metavar="N|S,S,...")] = "1"
    """How many seeds from 0 on, or which (a comma makes it a list)."""
    rule: inputs.RuleName = "legw"
    """How the recipe is carried to a batch size."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    warmup_epochs: inputs.Number = None
    """The base's warmup in epochs, if not the base recipe's; the rule scales it."""
    warmup_steps: inputs.Number = None
    """The base's warmup in updates, if not the base recipe's; legw keeps it."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the runs; runs/APP-PROBE if not given. What was made in it is kept."""
    plot: inputs.File = None
    """Write the chart to this file (.svg, .png, .html)."""
    data: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    machine: OmitArgPrefixes[training.Machine] = field(default_factory=training.Machine)
    json: inputs.Flag = False
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

    batch_size: inputs.BatchSize = None
    """Batch size of the runs; the base recipe's own if not given."""
    epochs: inputs.Number = None
    """Stop each run after so many epochs of the recipe; at its end, if not given."""
    every: inputs.Count = None
    """Updates between two samples; about 2000 samples are taken if not given."""
    stretches: Annotated[int, arg(metavar="N")] = 10
    """Stretches of the run that each get an estimate."""


Options = OmitSubcommandPrefixes[
    Union[
        Annotated[Curvature, subcommand("curvature", prefix_name=False)],
        Annotated[Noise, subcommand("noise", prefix_name=False)],
    ]
]
"""What to measure."""


def run(options: Curvature | Noise) -> int:
    """Train, measure, and show what comes of it."""
    from legw.cli import probing

    if isinstance(options, Curvature):
        return probing.curvature(options)
    return probing.noise(options)


def base_of(options: Runs) -> Recipe:
    """Return the base recipe that is meant."""
    base = training.base_recipe(options.app, options.recipe)
    return with_lengths(
        base, warmup_epochs=options.warmup_epochs, warmup_steps=options.warmup_steps
    )
