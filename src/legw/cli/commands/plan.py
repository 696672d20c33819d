"""Command `legw plan`: finds the batch size that finishes soonest, here or on many devices."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from rich import box
from rich.table import Table
from tyro.conf import Positional, arg

from legw import rules
from legw.analysis import cost
from legw.analysis.cost import Network, Option
from legw.analysis.keep_quality import contract_lines, kept
from legw.analysis.measured_critical import check_task, read_critical, with_critical
from legw.analysis.noise import NoiseScale, read_noise, with_noise
from legw.analysis.scaled import carry, headline
from legw.cli import output, tables
from legw.cli.options import (
    Critical,
    File,
    Flag,
    KeepQuality,
    Noise,
    Number,
    RuleName,
    base_recipe,
    overridden,
    task_of,
    whole_numbers,
)
from legw.errors import LegwError, check_count, duration, number, one_line
from legw.recipe import to_toml
from legw.runs.measurements import Speed

if TYPE_CHECKING:
    from legw.probes.batch_plan import BatchPlan

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)

LATENCY_SECONDS = 5e-5
"""Default time of a message between two machines."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Predict updates, time and device-hours of each batch size, and recommend one.

    What one device does is measured here, in about a minute. What lies beyond this
    machine (--nodes, --link) is a model: compute, and an all-reduce once an update.

    Example: legw plan digits-lstm --noise 40 --nodes 4 --link 1Gbit
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, gnmt-small, ..., or a task of your own as
    module:name."""
    batch_sizes: Annotated[Optional[str], arg(metavar="N,N,...", help_behavior_hint="")] = None
    """Batch sizes to compare; doublings from the base's to the largest that the rule
    allows, if not given."""
    rule: RuleName = "legw"
    """Rule that scales the recipe to a batch size."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    epochs: Number = None
    """Length of the run in epochs, if not the base recipe's."""
    steps: Number = None
    """Length of the base's run in updates, if not the base recipe's."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, if not the base recipe's."""
    warmup_steps: Number = None
    """The base's warmup in updates, if not the base recipe's."""
    noise: Noise = None
    """Noise scale in examples, or a folder with runs in which it was measured."""
    critical: Critical = None
    """Folder in which legw probe critical measured this base: --rule stretch and --keep-quality
    take its numbers."""
    keep_quality: KeepQuality = None
    """Keep the loss within this of the base's, a share or a number: batches at most as large as
    --critical allows run the base's epochs, larger ones as many as they need."""
    nodes: Annotated[int, arg(metavar="N")] = 1
    """Machines."""
    devices: Annotated[int, arg(metavar="N")] = 1
    """Devices (processes) of each machine, each as fast as the one measured; what joins
    those of one machine is taken as free."""
    link: Annotated[Optional[str], arg(metavar="RATE", help_behavior_hint="")] = None
    """Rate of a machine's network, as in 100Gbit; its devices share it. For --nodes."""
    latency: Annotated[Optional[float], arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Time that a message between two machines takes, however small; 5e-5 if not given."""
    overlap: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Share of the last backward pass behind which synchronisation hides, in [0, 1]."""
    toml: File = None
    """Write the recommended recipe to this file as TOML; a lone - means stdout, and nothing
    else there."""
    data: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16: matrix products in bf16, weights and optimizer state in fp32."""
    json: Flag = False
    """Print one JSON object; notes go to stderr."""


def run(options: Options) -> int:
    """Measure, predict, and show the batch sizes side by side."""
    _check(options)
    network = _network(options)
    base = overridden(base_recipe(options.app, options.recipe), options)
    rule = rules.find(options.rule)
    noise = None if options.noise is None else read_noise(options.noise)
    if options.critical is not None:
        base = with_critical(base, options.critical)
    quality = None
    if options.keep_quality is not None:
        quality = kept(base, options.critical, options.keep_quality, rule)
    if rule.growth is not None:
        base = with_noise(base, options.noise)  # along the run, which such a rule may need
    sizes = options.batch_sizes
    wanted = None if sizes is None else whole_numbers("--batch-sizes", sizes, least=1)
    from legw.probes.batch_plan import plan_batch_size

    task = task_of(options.app, options)
    if options.critical is not None:
        check_task(read_critical(options.critical), task.name)
    found = plan_batch_size(
        task,
        base,
        batch_sizes=wanted,
        rule=rule,
        network=network,
        noise=noise,
        kept=quality,
        device=options.device,
        precision=options.precision,
    )
    if found is not None:
        _show(found, options)
    return 0


def _show(found: BatchPlan, options: Options) -> None:
    best = found.best
    if options.toml == "-":
        output.print_toml(_toml(best))
    elif options.json:
        output.print_json({"app": options.app} | found.to_dict())
    else:
        output.show(_table(found.options, best))
        if found.contract is not None:
            output.show(tables.choices_table(found.contract))
        output.say(headline(carry(found.base, best.batch_size, found.rule_of(best))))
        for line in _reasons(found):
            output.say(line)
    notes = [*_notes(found.options, best), *(found.contract.notes if found.contract else ())]
    output.notes(notes, to_stderr=options.json or options.toml == "-")
    if options.toml not in (None, "-"):
        output.write(str(options.toml), _toml(best))
        output.wrote(str(options.toml), to_stderr=options.json)


def _reasons(found: BatchPlan) -> list[str]:
    """Return the reasons for the recommended batch: those of a contract, where there is one."""
    lines = reasons(found.options, found.best, found.speed, found.network, found.noise)
    if found.contract is None:
        return lines
    spread = f"the passes vary by ±{found.speed.spread:.0%}"
    return [*contract_lines(found.contract), spread, *lines[2:]]


def _check(options: Options) -> None:
    """Refuse options that contradict each other."""
    several = os.environ.get("WORLD_SIZE", "1")
    for name in ("nodes", "devices"):
        value = getattr(options, name)
        check_count("", f"--{name}", value)
        if value > 1 and several != "1":
            raise LegwError(
                f"--{name}={value}: the {several} processes of torchrun are measured as they "
                f"are; leave --{name} out, or start one process"
            )
    if options.nodes > 1 and options.link is None:
        raise LegwError(
            f"--nodes={options.nodes}: needs the rate of their network; give for example "
            "--link 100Gbit"
        )
    for name in ("link", "latency", "overlap") if options.nodes == 1 else ():
        value = getattr(options, name)
        if value not in (None, 0.0):
            raise LegwError(
                f"--{name}={one_line(str(value))}: one machine has no network to others; "
                f"give --nodes, or leave --{name} out"
            )
    if options.json and options.toml == "-":
        raise LegwError("--json and --toml - both want stdout; give the TOML a file name")


def _network(options: Options) -> Network:
    if options.link is None:  # one machine
        return Network(devices=options.devices, devices_per_node=options.devices)
    return Network(
        devices=options.nodes * options.devices,
        devices_per_node=options.devices,
        bandwidth=cost.read_rate(options.link),
        latency_seconds=LATENCY_SECONDS if options.latency is None else options.latency,
        overlap=options.overlap,
    )


# Showing it ---------------------------------------------------------------------------


def _table(found: list[Option], best: Option) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="")
    quality = any(one.quality_seconds is not None for one in found)
    names = ["batch", "lr", "updates", "s/update", "sync", "time", "device-\nhours"]
    for name in [*names, *(["examples", "to base's\nloss"] if quality else [])]:
        table.add_column(name, justify="right")
    for one in found:
        if one.recipe is None or one.timing is None:
            table.add_row(str(one.batch_size), *["-"] * (len(table.columns) - 1), style="dim")
            continue
        cells = [
            str(one.batch_size) + (" *" if one is best else "  "),
            number(one.recipe.lr, 3),
            str(one.updates),
            number(one.timing.seconds, 3),
            f"{one.timing.sync_seconds / one.timing.seconds:.0%}",
            duration(one.seconds, 3),
            number(one.device_hours, 2),
        ]
        if quality:
            assert one.factor is not None and one.quality_seconds is not None
            cells += [f"{number(one.factor, 3)}x", duration(one.quality_seconds, 3)]
        table.add_row(*cells, style="bold" if one is best else "")
    return table


def reasons(
    found: list[Option], best: Option, speed: Speed, network: Network, noise: NoiseScale | None
) -> list[str]:
    """Return the reasons for the recommended batch, and their uncertainty, as lines."""
    assert best.timing is not None
    first = next(one for one in found if one.recipe is not None)
    gain = cost.time_of(first) / cost.time_of(best)
    goal = "the recipe's epochs" if best.quality_seconds is None else "the base's loss"
    faster = "" if best is first else (
        f", {number(gain, 3)} times as fast as batch {first.batch_size}"
    )  # fmt: skip
    lines = [
        f"* take batch {best.batch_size}: {duration(cost.time_of(best), 3)} to {goal}{faster}; "
        f"of those within {cost.CLOSE_SHARE - 1:.0%} of the least time it is the smallest"
    ]
    lines.append(_sureness(best, speed, noise))
    if network.devices > 1:
        lines.append(_joined(speed, network))
    if noise is not None and noise.value is not None:
        lines.append(f"noise scale {number(noise.value, 3)} examples, {speed.device}")
    else:
        lines.append(speed.device)
    return lines


def _sureness(best: Option, speed: Speed, noise: NoiseScale | None) -> str:
    """Return the bounds of the time and their source."""
    spread = f"±{speed.spread:.0%}"
    if best.quality_range is None or noise is None:
        return (
            f"the passes vary by {spread}; equal epochs are taken to give equal quality: "
            "--noise X|DIR tells how far that goes"
        )
    low, high = (duration(each, 3) for each in best.quality_range)
    if noise.low is None:
        noted = "has no interval, which is left out" if noise.n else "is taken as exact"
        return (
            f"between {low} and {high}, by the spread of the passes ({spread}); the noise scale "
            f"{noted}"
        )
    return (
        f"between {low} and {high}, by the noise scale's interval and the spread of the passes "
        f"({spread})"
    )


def _joined(speed: Speed, network: Network) -> str:
    """Say whether the synchronisation of several devices is measured, free, or a model."""
    if network.sync_seconds is None and network.devices == network.devices_per_node:
        return f"{network.devices} devices of one machine: their synchronisation is taken as free"
    how = "a model" if network.sync_seconds is None else "measured"
    return (
        f"{network.devices} devices: synchronisation of {speed.gradient_bytes / 1e6:.3g} MB "
        f"an update is {how}"
    )


def _notes(found: list[Option], best: Option) -> Iterable[str]:
    """Return the reasons for empty rows, and warnings about the recommended one."""
    refused = [line for one in found if one.recipe is None for line in one.notes]
    return dict.fromkeys([*refused, *best.notes])


def _toml(best: Option) -> str:
    assert best.recipe is not None
    return to_toml(best.recipe)
