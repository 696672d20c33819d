"""Command `legw train`: trains an application at any batch size, by a rule, into a folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from tyro.conf import OmitArgPrefixes, Positional, arg

from legw import rules
from legw.analysis.keep_quality import Choice, Contract, contract_lines, keep_quality, kept
from legw.analysis.measured_critical import check_task, read_critical, with_critical
from legw.analysis.noise import with_noise
from legw.analysis.scaled import Outcome, carry, counted, headline
from legw.cli import output
from legw.cli.commands.scale import say_contract
from legw.cli.options import (
    BatchSize,
    Count,
    Critical,
    Dataset,
    Flag,
    KeepQuality,
    Machine,
    Noise,
    Number,
    RuleName,
    base_recipe,
    overridden,
    task_of,
)
from legw.cli.output import figure
from legw.errors import DataError, DivergedError, RunError, clean, duration, number
from legw.recipe import Recipe
from legw.runs.files import finite

if TYPE_CHECKING:
    from rich.console import Console

    from legw.runs.records import Summary
    from legw.train import Observer, Settings, Task
    from legw.train.dist import World
    from legw.train.estimate import Estimate

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an application at any batch size, by a rule, into a run folder.

    Example: legw train digits-lstm -b 512
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, ptb-medium, ptb-large, gnmt-small, gnmt, gpt-small,
    cifar10, cifar10-small, resnet50-imagenet, or a task of your own as module:name."""
    batch_size: BatchSize = None
    """Global batch size, in examples per update; the base recipe's if not given."""
    rule: RuleName = "legw"
    """Rule that scales the recipe to the batch size."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    epochs: Number = None
    """The base's length in epochs, if not the base recipe's; the rule may stretch it."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, if not the base recipe's; the rule scales it."""
    steps: Number = None
    """The base's length in updates, if not the base recipe's; the rule scales it."""
    warmup_steps: Number = None
    """The base's warmup in updates, if not the base recipe's; legw keeps it."""
    lr: Number = None
    """Learning rate to take in place of the rule's; above 0."""
    seed: int = 0
    """Seed of the weights, the order of examples and the random draws."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder; runs/APP-RULE-bN-sSEED if not given."""
    dry_run: Flag = False
    """Show recipe, updates, split, memory and time, from a short measurement; train nothing,
    write nothing. Without ImageNet's images it measures on noise."""
    processes: Count = None
    """With --dry-run: number of processes to plan for, if not those that are started."""
    resume: Flag = False
    """Go on with the run in the folder, from its last checkpoint."""
    holdout: Literal["test", "validation"] = "test"
    """Data for the metric: test, or validation, which holds out part of the training data where
    the data have no validation part of their own."""
    dataset: OmitArgPrefixes[Dataset] = field(default_factory=Dataset)
    machine: OmitArgPrefixes[Machine] = field(default_factory=Machine)
    noise: Noise = None
    """Noise scale in examples, or a folder with runs in which it was measured: a batch far
    past it gets a note."""
    critical: Critical = None
    """Folder in which legw probe critical measured this base: --rule stretch and --keep-quality
    take its numbers."""
    keep_quality: KeepQuality = None
    """Keep the loss within this of the base's, a share or a number: a batch at most as large as
    --critical allows, or a run as long as -b asks for, whichever has fewer updates and, by a short
    measurement, takes less time."""
    measure_noise: Flag = False
    """Sample the gradient's noise every 100 updates, into noise.jsonl in the run folder."""
    tensorboard: Flag = False
    """Write TensorBoard scalars too, below the run folder."""
    json: Flag = False
    """Print the summary as one JSON object; all else goes to stderr."""
    quiet: Flag = False
    """Print the result alone: no progress and no notes. Errors are still told."""


def run(options: Options) -> int:
    """Train, show the progress, and return 0, 3 (diverged) or 130 (interrupted)."""
    from legw.train.dist import joined

    settings = options.machine.settings(options.resume)
    with output.hushed(options.quiet), joined(settings.device, settings.patience_seconds) as world:
        return _train(options, settings, world)


def _train(options: Options, settings: Settings, world: World) -> int:
    """Train on this and all other processes; only the first shows anything."""
    from legw.runs import records
    from legw.train import fit, trackers

    console = output.console(stderr=options.json, quiet=options.quiet or not world.first)
    rule = rules.find(options.rule)
    base = overridden(base_recipe(options.app, options.recipe), options)
    base = with_critical(with_noise(base, options.noise), options.critical)
    batch_size = base.batch_size if options.batch_size is None else options.batch_size
    contract = None
    if options.keep_quality is not None:
        contract = _contract(options, base, batch_size, settings, world)
        base, rule = contract.kept.base, contract.best.rule
        batch_size = contract.best.recipe.batch_size
    outcome = carry(base, batch_size, rule, lr=options.lr)
    assert outcome.scaled is not None
    recipe = outcome.scaled
    if options.dry_run:
        return _show_plan(options, outcome, settings, world, contract)
    world.agree(lambda: trackers.check(settings.log_to))  # before the data, which take time
    task = world.together(lambda: task_of(options.app, options))
    if options.critical is not None:
        check_task(read_critical(options.critical), task.name)
    folder: Path = world.share(options.out or _free_folder(options, rule.name, batch_size))
    for line in () if contract is None else _told(contract):
        console.print(clean(line), soft_wrap=not console.is_terminal)
    console.print(
        clean(headline(counted(outcome, task.num_examples))), soft_wrap=not console.is_terminal
    )
    if options.resume and not records.begun(folder):
        line = f"note: {folder}: holds no run to go on with; a new one begins"
        console.print(clean(line), soft_wrap=not console.is_terminal)
    for line in (*outcome.warnings, *too_few(task, recipe), *averaged(recipe)):
        console.print(clean(f"note: {line}"), soft_wrap=not console.is_terminal)
    summary = fit(
        task,
        recipe,
        out=folder,
        seed=options.seed,
        base=base,
        rule=rule.name,
        settings=settings,
        observers=_observers(options, folder, console),
    )
    result = output.console(stderr=options.json, quiet=options.json and options.quiet)
    return _finish(options, folder, summary, result, tells=world.first)


def _contract(
    options: Options, base: Recipe, batch_size: int, settings: Settings, world: World
) -> Contract:
    """Return both ways to keep the base's loss, and one that all processes take.

    A run that goes on keeps the way that it began with.
    """
    from legw.analysis.cost import Network
    from legw.probes import batch_plan

    assert options.keep_quality is not None
    if options.lr is not None:
        raise RunError(
            "--keep-quality chooses the recipe, and --lr asks for another; give one of the two"
        )
    found = kept(base, options.critical, options.keep_quality, options.rule)
    contract = keep_quality(found, batch_size)  # refuses what cannot be before data are read
    if contract.stretched is None:
        return contract
    if options.resume:
        begun = world.share([_has_begun(options, one) for one in _choices(contract)])
        if any(begun):
            return replace(contract, best=_choices(contract)[begun.index(True)])
    task = world.together(lambda: task_of(options.app, options))
    speed, network = batch_plan.measured(
        task, found.base, world=world, largest=batch_size, network=Network(),
        precision=settings.precision,
    )  # fmt: skip
    contract = keep_quality(
        found,
        batch_size,
        lambda size, rule: batch_plan.priced(task, found.base, size, rule, speed, network),
    )
    stretches = world.share(contract.best is contract.stretched)
    return replace(contract, best=_choices(contract)[int(stretches)])


def _told(contract: Contract) -> list[str]:
    """Return the lines of a contract, and its cautions as notes."""
    return [*contract_lines(contract), *(f"note: {line}" for line in contract.notes)]


def _choices(contract: Contract) -> list[Choice]:
    return [each for each in (contract.equal, contract.stretched) if each is not None]


def _has_begun(options: Options, choice: Choice) -> bool:
    """Whether the folder of a run holds one of this choice."""
    from legw.runs import records

    size = choice.recipe.batch_size
    folder = options.out or _free_folder(options, choice.rule.name, size)
    return records.begun(folder) and records.read_manifest(folder).recipe.batch_size == size


def _show_plan(
    options: Options,
    outcome: Outcome,
    settings: Settings,
    world: World,
    contract: Contract | None,
) -> int:
    """Show the planned run and its cost."""
    from legw.train.estimate import estimate

    recipe = outcome.scaled
    assert recipe is not None
    missing = ""
    try:
        task = world.together(lambda: task_of(options.app, options))
    except DataError as error:
        if options.app != "resnet50-imagenet" or options.dataset.data is not None:
            raise
        missing, task = str(error), task_of(options.app, options, made_up=True)
    size = settings.micro_batch_size
    found = estimate(
        task,
        recipe,
        device=world.device,
        processes=options.processes or world.size,
        micro_batch_size=None if size == "auto" else size,
        precision=settings.precision,
        lanes=settings.lanes,
        one_lane=settings.compile or outcome.rule.steers,
    )
    if options.critical is not None:
        check_task(read_critical(options.critical), task.name)
    if world.first:
        notes = [*outcome.warnings, *too_few(task, recipe), *averaged(recipe)]
        notes += cautions(found, made_up=missing)
        outcome = counted(outcome, task.num_examples)
        notes += [] if contract is None else contract.notes
        if options.json:
            more = {} if contract is None else {"keep_quality": contract.to_dict()}
            output.print_json(plan_json(outcome, found, notes) | more)
        else:
            if contract is not None:
                say_contract(contract)
            show_plan(outcome, found, notes, with_data=not missing)
    return 0


def _observers(options: Options, folder: Path, console: Console) -> list[Observer]:
    from legw.cli.progress import Display

    observers: list[Observer] = [Display(console, options.app)]
    if options.measure_noise:
        from legw.probes import NoiseProbe

        observers.append(NoiseProbe(folder))
    if options.tensorboard:
        from legw.train.tensorboard import TensorBoard

        observers.append(TensorBoard(folder))
    return observers


def _free_folder(options: Options, rule: str, batch_size: int) -> Path:
    """Return runs/APP-RULE-bN-sSEED, with a number appended where that folder exists."""
    app = options.app.replace(":", "-")
    first = Path("runs") / f"{app}-{rule}-b{batch_size}-s{options.seed}"
    folder, number = first, 1
    while folder.exists():
        taken, number = folder, number + 1
        folder = first.with_name(f"{first.name}-{number}")
        if options.resume and not folder.exists():
            return taken
    return folder


def _finish(
    options: Options, folder: Path, summary: Summary, console: Console, *, tells: bool
) -> int:
    from legw import cli
    from legw.runs import records
    from legw.train.audience import READER_GONE

    if not tells:
        gone = summary.status == "interrupted" and summary.reason == READER_GONE
        return 2 if gone else {"diverged": 3, "interrupted": 130}.get(summary.status, 0)
    if options.json:
        output.print_json(finite(asdict(summary)))
    if summary.status == "diverged":
        raise DivergedError(
            f"{folder}: diverged at update {summary.updates}: {summary.reason}; the folder stays"
        )
    if summary.status == "interrupted":
        line = (
            f"{folder}: stopped after update {summary.updates}; the same command with "
            f"--resume --out {folder} goes on"
        )
        if summary.reason == READER_GONE:
            raise RunError(f"{cli.READER_GONE}; {line}")
        raise KeyboardInterrupt(line)
    metric = summary.metric["name"]
    last = summary.metrics.get(f"{metric}{records.LAST_WEIGHTS}")
    beside = "" if last is None else f" (averaged weights; the last ones {figure(last)})"
    console.print(
        f"{metric} {figure(summary.metric['value'])}{beside}, "
        f"loss {figure(summary.final_loss)}, {summary.updates} updates "
        f"in {summary.seconds:.1f} s → {clean(str(folder))}",
        soft_wrap=not console.is_terminal,
    )
    return 0


def averaged(recipe: Recipe) -> list[str]:
    """Return a note if evaluations measure an average of the weights."""
    from legw.train.average import averaging

    line = averaging(recipe)
    return [f"{recipe.name}: {line}"] if line else []


def too_few(task: Task, recipe: Recipe) -> list[str]:
    """Return a note if the data at hand, unlike the recipe's, are fewer than one batch."""
    count = task.num_examples(recipe.batch_size)
    if recipe.batch_size <= count or count == recipe.epoch_examples:
        return []
    return [
        f"{task.name}: the batch ({recipe.batch_size}) is larger than the data given ({count}), "
        "so an update takes examples of several epochs; choose a smaller batch"
    ]


# The dry run: what a run would be and cost -----------------------------------------------

MAX_NAMES = 12
"""Most names of tensors in a line; JSON has all of them."""


def show_plan(
    outcome: Outcome, found: Estimate, notes: list[str], *, with_data: bool = True
) -> None:
    """Print recipe, updates, split, memory and time; without data, no loading speed."""
    from legw.cli import tables

    assert outcome.scaled is not None
    output.say(headline(outcome))
    output.show(tables.side_by_side(outcome.base, outcome.scaled))
    for line in plan_lines(found):
        if with_data or not line.startswith("data: "):
            output.say(line)
    output.notes(notes, to_stderr=False)


def plan_json(outcome: Outcome, found: Estimate, notes: list[str]) -> dict[str, Any]:
    """Return the same as one object."""
    return {
        **outcome.to_dict(),
        "estimate": {
            **asdict(found),
            "available_bytes": min(found.available_bytes, 2.0**60),  # JSON knows no infinity
            "micro_batches": found.micro_batches,
            "update_seconds": found.update_seconds,
            "run_seconds": found.run_seconds,
        },
        "warnings": notes,
    }


def plan_lines(found: Estimate) -> list[str]:
    """Return Muon's groups, updates, split, memory, speed and time, one line each."""
    groups = f", batch-norm in groups of {found.group}" if found.group > 1 else ""
    whole = found.fixed_bytes + found.pass_bytes
    ahead = "while others train" if found.data_ahead else "between passes"
    measured = {str(size): rate for size, rate in found.rates.items()} | found.laned
    rates = ", ".join(f"{candidate}: {_rate(rate)}" for candidate, rate in measured.items())
    return [
        *(f"optimizer: {_shortened(group)}" for group in found.optimizer_groups),
        f"updates: {found.updates}, of which {found.warmup_updates} warm up "
        f"({found.num_examples} examples an epoch)",
        *_growth(found),
        f"split: {_count(found.processes, 'process', 'processes')} of at most "
        f"{_count(found.share, 'example')} an update, in "
        f"{_count(found.micro_batches, 'micro-batch', 'micro-batches')} of at most "
        f"{found.micro_batch_size}{groups}",
        f"memory: {_size(whole)} a process: {_size(found.fixed_bytes)} for "
        f"{found.parameters} parameters, their gradients and the optimizer, "
        f"{_size(found.pass_bytes)} for a micro-batch",
        f"measured: {found.device}: examples/s forward and backward by micro-batch: {rates}",
        f"data: {_rate(found.data_rate)} examples/s loaded {ahead}",
        f"time: {duration(found.update_seconds)} an update, "
        f"{duration(found.run_seconds)} in all; evaluations"
        f"{' and the network' if found.processes > 1 else ''} come on top",
    ]


def _growth(found: Estimate) -> list[str]:
    """Return the updates of each batch size, as one line where the batch grows."""
    if not found.smaller:
        return []
    last = found.updates - sum(found.smaller.values())
    said = [f"{count} of {size}" for size, count in found.smaller.items()]
    return [f"batch: grows: {', '.join(said)}, {last} of the last"]


def cautions(found: Estimate, *, made_up: str = "") -> list[str]:
    """Return the warnings about an estimate."""
    notes = []
    if made_up:
        notes.append(f"measured on noise in place of images, without decoding: {made_up}")
    if found.fixed_bytes + found.pass_bytes > found.available_bytes:
        notes.append(
            f"a micro-batch of {found.micro_batch_size} would not fit: "
            f"{_size(int(found.available_bytes))} are free here; "
            "take a larger device, or a recipe with a smaller norm_batch_size"
        )
    if found.data_ahead and not made_up and found.data_rate < found.rate:
        notes.append(
            f"loading ({_rate(found.data_rate)} examples/s) is slower than compute "
            f"({_rate(found.rate)}): more --workers or cores would help"
        )
    return notes


def _shortened(group: str) -> str:
    """Return the line of a group with its first names, and how many more there are.

    >>> _shortened("AdamW: " + ", ".join(f"w{n}" for n in range(14)))
    'AdamW: w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11 and 2 more'
    """
    names = group.split(", ")
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _rate(rate: float) -> str:
    return number(rate, 3)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
