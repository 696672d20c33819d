"""`legw train`: train an application at any batch size, by a rule, into a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Optional

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, arg

from legw import rules
from legw.cli import inputs, noises, outputs, training
from legw.cli.outcome import Outcome, carry, counted, headline
from legw.cli.progress import Display, figure
from legw.errors import DataError, DivergedError
from legw.probes import NoiseProbe
from legw.recipe import Recipe
from legw.runs.records import Summary
from legw.train import Observer, Settings, Task, fit
from legw.train.dist import World, joined
from legw.train.tensorboard import TensorBoard

# ruff: noqa: UP045 (as in inputs: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train an application at any batch size, by a rule, into a run folder.

    Example: legw train digits-lstm -b 512
    """

    app: Annotated[Positional[str], arg(metavar="APP", help_behavior_hint="")]
    """digits-lstm, mnist-lstm, ptb-small, ptb-medium, ptb-large, gnmt-small, gnmt, cifar10,
    cifar10-small, resnet50-imagenet, or a task of your own as module:name."""
    batch_size: inputs.BatchSize = None
    """Global batch size, in examples per update; the base recipe's if not given."""
    rule: inputs.RuleName = "legw"
    """How the recipe is carried to the batch size."""
    recipe: Annotated[Optional[str], arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Base recipe, if not the application's own."""
    epochs: inputs.Number = None
    """The base's length in epochs, if not the base recipe's; the rule may stretch it."""
    warmup_epochs: inputs.Number = None
    """The base's warmup in epochs, if not the base recipe's; the rule scales it."""
    steps: inputs.Number = None
    """The base's length in updates, if not the base recipe's; the rule scales it."""
    warmup_steps: inputs.Number = None
    """The base's warmup in updates, if not the base recipe's; legw keeps it."""
    lr: inputs.Number = None
    """Learning rate to take in place of the rule's; above 0."""
    seed: int = 0
    """Seed of the weights, the order of examples and the random draws."""
    out: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder; runs/APP-RULE-bN-sSEED if not given."""
    dry_run: inputs.Flag = False
    """Show recipe, updates, split, memory and time, from a short measurement; train nothing,
    write nothing. Without ImageNet's images it measures on noise."""
    processes: inputs.Count = None
    """With --dry-run: how many processes to plan for, if not those that are started."""
    resume: inputs.Flag = False
    """Go on with the run in the folder, from its last checkpoint."""
    data: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    holdout: Literal["test", "validation"] = "test"
    """What the metric is measured on; validation leaves out part of the training data,
    where the data have no validation part of their own."""
    vocabulary: inputs.Count = None
    """Most words of a language model's vocabulary; rarer ones become <unk>. Of translation
    the number of subwords."""
    source: inputs.Language = None
    """Translation: the language that is translated, as the files' names end; en if not given."""
    target: inputs.Language = None
    """Translation: the language translated into, as the files' names end; de if not given."""
    skip_broken: inputs.Flag = False
    """Images: leave broken files out, and say how many, in place of an error."""
    workers: Annotated[Optional[int], arg(metavar="N", help_behavior_hint="")] = None
    """ImageNet: processes that decode images, 0 for none; one for each core less one if not
    given."""
    machine: OmitArgPrefixes[training.Machine] = field(default_factory=training.Machine)
    noise: inputs.Noise = None
    """Noise scale in examples, or a folder with runs in which it was measured: a batch far
    past it gets a note."""
    measure_noise: inputs.Flag = False
    """Sample the gradient's noise every 100 updates, into noise.jsonl in the run folder."""
    tensorboard: inputs.Flag = False
    """Write TensorBoard scalars too, below the run folder."""
    json: inputs.Flag = False
    """Print the summary as one JSON object; all else goes to stderr."""


def run(options: Options) -> int:
    """Train, show how it goes, and return 0, 3 (diverged) or 130 (interrupted)."""
    settings = options.machine.settings(options.resume)
    with joined(settings.device, settings.patience_seconds) as world:
        return _train(options, settings, world)


def _train(options: Options, settings: Settings, world: World) -> int:
    """Train on this and all other processes; the first alone shows anything."""
    console = Console(stderr=options.json, highlight=False, quiet=not world.first)
    rule = rules.find(options.rule)
    base = inputs.overridden(training.base_recipe(options.app, options.recipe), options)
    base = noises.known(base, options.noise)
    batch_size = base.batch_size if options.batch_size is None else options.batch_size
    outcome = carry(base, batch_size, rule, lr=options.lr)
    assert outcome.scaled is not None
    recipe = outcome.scaled
    if options.dry_run:
        return _show_plan(options, outcome, recipe, settings, world)
    task = world.together(lambda: _task(options))
    folder: Path = world.share(options.out or _free_folder(options, batch_size))
    console.print(headline(counted(outcome, task.num_examples)), markup=False, soft_wrap=True)
    if options.resume and not (folder / "manifest.json").exists():
        console.print(f"note: {folder}: holds no run to go on with; a new one begins",
                      markup=False, soft_wrap=True)  # fmt: skip
    for line in (*outcome.warnings, *training.too_few(task, recipe)):
        console.print(f"note: {line}", markup=False, soft_wrap=True)
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
    return _finish(options, folder, summary, console, tells=world.first)


def _task(options: Options, *, made_up: bool = False) -> Task:
    return training.task_of(
        options.app,
        options.data,
        options.holdout,
        vocabulary=options.vocabulary,
        source=options.source,
        target=options.target,
        skip_broken=options.skip_broken,
        workers=options.workers,
        made_up=made_up,
    )


def _show_plan(
    options: Options, outcome: Outcome, recipe: Recipe, settings: Settings, world: World
) -> int:
    """Show what the run would be and cost."""
    from legw.cli import dryrun
    from legw.train.estimate import estimate

    missing = ""
    try:
        task = world.together(lambda: _task(options))
    except DataError as error:
        if options.app != "resnet50-imagenet" or options.data is not None:
            raise
        missing, task = str(error), _task(options, made_up=True)
    size = settings.micro_batch_size
    found = estimate(
        task,
        recipe,
        device=world.device,
        processes=options.processes or world.size,
        micro_batch_size=None if size == "auto" else size,
        precision=settings.precision,
        lanes=settings.lanes,
        one_lane=settings.compile or rules.find(options.rule).steers,
    )
    if world.first:
        notes = [*outcome.warnings, *training.too_few(task, recipe)]
        notes += dryrun.cautions(found, made_up=missing)
        outcome = counted(outcome, task.num_examples)
        if options.json:
            outputs.print_json(dryrun.as_json(outcome, found, notes))
        else:
            dryrun.show(outcome, found, notes, with_data=not missing)
    return 0


def _observers(options: Options, folder: Path, console: Console) -> list[Observer]:
    observers: list[Observer] = [Display(console, options.app)]
    if options.measure_noise:
        observers.append(NoiseProbe(folder))
    if options.tensorboard:
        observers.append(TensorBoard(folder))
    return observers


def _free_folder(options: Options, batch_size: int) -> Path:
    """Return runs/APP-RULE-bN-sSEED, with a number behind it where that is taken."""
    app = options.app.replace(":", "-")
    first = Path("runs") / f"{app}-{options.rule}-b{batch_size}-s{options.seed}"
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
    if not tells:
        return {"diverged": 3, "interrupted": 130}.get(summary.status, 0)
    if options.json:
        print((folder / "summary.json").read_text(encoding="utf-8"), end="")
    if summary.status == "diverged":
        raise DivergedError(
            f"{folder}: diverged at update {summary.updates}: {summary.reason}; the folder stays"
        )
    if summary.status == "interrupted":
        raise KeyboardInterrupt(
            f"{folder}: stopped after update {summary.updates}; the same command with "
            f"--resume --out {folder} goes on"
        )
    console.print(
        f"{summary.metric['name']} {figure(summary.metric['value'])}, "
        f"loss {figure(summary.final_loss)}, {summary.updates} updates "
        f"in {summary.seconds:.1f} s → {folder}",
        markup=False,
        soft_wrap=True,
    )
    return 0
