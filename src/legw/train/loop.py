"""The training loop: `fit` is the only place where a model changes.

    for each update:  ids of the batch -> micro-batches -> summed gradients
                      -> divided by the batch's weight -> clipped -> one step

What is trained depends on (recipe, data, seed) alone. World size, micro-batch
size and restarts change nothing but the speed.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from legw import records, rules, schedule
from legw.errors import LegwError, LegwWarning, RunError
from legw.recipe import Recipe, to_dict
from legw.records import Manifest, Status, Summary
from legw.train import micro, norm, optim, state
from legw.train.batches import Batches, derive
from legw.train.dist import World, joined
from legw.train.machine import describe_device, environment, peak_memory
from legw.train.recorder import Recorder
from legw.train.step import GlobalBatch, Precision
from legw.train.task import Observer, Task


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is made, as opposed to what is trained: nothing here changes the result."""

    micro_batch_size: int | Literal["auto"] = "auto"
    """Examples per forward and backward pass, at least 1; auto measures what is fastest."""
    memory_limit: int | None = None
    """Bytes that a process may use for micro-batches; None is 80 % of what is free."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Precision = "fp32"
    """fp32, or bf16 (autocast; weights and optimizer state stay fp32)."""
    checkpoint_seconds: float = 60.0
    """Time between two checkpoints."""
    checkpoint_epochs: float | None = None
    """Epochs between two checkpoints, beside those by time; None is by time alone."""
    compile: bool = False
    """Compile the model with `torch.compile`: slow to start, faster on a GPU."""
    resume: bool = False
    """Go on from the folder's newest checkpoint; begin where there is none."""

    def __post_init__(self) -> None:
        size = self.micro_batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise RunError(f"micro_batch_size={size!r}: must be 'auto' or a number, at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise RunError(f"precision={self.precision!r}: must be fp32 or bf16")
        if self.checkpoint_epochs is not None and not self.checkpoint_epochs > 0:
            raise RunError(f"checkpoint_epochs={self.checkpoint_epochs}: must be above 0")


def fit(
    task: Task,
    recipe: Recipe,
    *,
    out: str | Path,
    seed: int = 0,
    base: Recipe | None = None,
    rule: str = "legw",
    settings: Settings | None = None,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Train a task by a recipe and write the run folder.

    Args:
        task: what is trained.
        recipe: how; its batch size is the global one.
        out: the run folder; made if it is not there.
        seed: of the weights, the order of examples and the random draws.
        base: the recipe before scaling, for the manifest; None is `recipe` itself.
        rule: the name of the rule that scaled it, for the manifest.
        settings: how the run is made; None takes the defaults.
        observers: what looks on.

    Returns:
        How the run ended: finished, diverged, or interrupted by SIGINT or SIGTERM.

    Raises:
        RunError: the folder holds another run or cannot be written, the device is not
            there, there are more processes than examples, or a process was lost.
        RecipeError: the number of examples is not known.
    """
    settings = settings or Settings()
    with joined(settings.device) as world:
        run = _Run(
            task=task,
            recipe=recipe,
            folder=Path(out),
            seed=seed,
            base=base or recipe,
            rule=rule,
            settings=settings,
            world=world,
        )
        return run.complete(observers)


class _Run:
    """One run in this process: the model, where it is, and what it writes."""

    def __init__(
        self,
        *,
        task: Task,
        recipe: Recipe,
        folder: Path,
        seed: int,
        base: Recipe,
        rule: str,
        settings: Settings,
        world: World,
    ) -> None:
        self.task, self.recipe, self.folder, self.seed = task, recipe, folder, seed
        self.base, self.rule, self.settings, self.world = base, rule, settings, world
        self.num_examples = task.num_examples(recipe.batch_size)
        self.updates = schedule.updates(recipe, self.num_examples)
        self.lr = schedule.in_steps(recipe, self.num_examples)
        self.position = state.Position()
        self.last_metric: float | None = None
        self.signal = ""
        self.stopped = ""

    # From the start to the end ----------------------------------------------------

    def complete(self, observers: Sequence[Observer]) -> Summary:
        """Train to the end, or go on to it, and say how it ended."""
        done: Summary | None = self._agree(self._look)
        if done is not None:
            return done
        self._build()
        content = self._restore()
        manifest = self._manifest()
        self._agree(lambda: self._open(manifest))
        self.recorder = Recorder(
            self.folder if self.world.first else None,
            recipe=self.recipe,
            num_examples=self.num_examples,
            position=self.position,
            observers=observers,
            keep_bytes=content["metrics_bytes"] if content else 0,
        )
        self._tell(observers, "on_start", manifest, self.position.updates)
        try:
            with self._signals():
                self._train()
        finally:
            self.recorder.close()
        summary = self._summary()
        if self.world.first:
            records.write_summary(self.folder, summary)
        self._tell(observers, "on_end", summary)
        return summary

    def _agree(self, action: Any) -> Any:
        """Do something on the first process; return its value, or raise its error, on all."""
        outcome = None
        if self.world.first:
            try:
                outcome = action()
            except LegwError as error:
                outcome = error
        outcome = self.world.share(outcome)
        if isinstance(outcome, LegwError):
            raise outcome
        return outcome

    def _look(self) -> Summary | None:
        """See that the folder is free, or holds this very run; return its summary if it ended."""
        records.create(self.folder)
        if not (self.folder / "manifest.json").exists():
            return None
        if not self.settings.resume:
            raise RunError(
                f"{self.folder}: holds a run already; --resume goes on with it, "
                "or choose another --out"
            )
        self._check_same_run(records.read_manifest(self.folder))
        summary = records.read_summary(self.folder)
        return summary if summary and summary.status in ("finished", "diverged") else None

    def _check_same_run(self, found: Manifest) -> None:
        """Refuse to go on with a run that is not this one."""
        here = f"{self.folder}: holds a run of"
        if found.recipe.batch_size != self.recipe.batch_size:
            raise RunError(
                f"{here} batch_size={found.recipe.batch_size}, not {self.recipe.batch_size}; "
                f"another global batch is another recipe: legw scale {self.base.name} "
                f"-b {self.recipe.batch_size} shows it, a new --out trains it"
            )
        theirs = {"task": found.task, "seed": found.seed, "precision": found.precision}
        ours = {"task": self.task.name, "seed": self.seed, "precision": self.settings.precision}
        theirs |= to_dict(replace(found.recipe, source=""))
        ours |= to_dict(replace(self.recipe, source=""))
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise RunError(
                    f"{here} {name}={theirs.get(name)!r}, not {ours.get(name)!r}; "
                    "choose another --out"
                )

    def _build(self) -> None:
        """Make model, optimizer and the global batch; settle the micro-batch."""
        batch_size = self.recipe.batch_size
        torch.manual_seed(derive(self.seed, "model"))
        self.model = self.task.model().to(self.world.device)
        self.group = norm.fix_groups(self.model, self.recipe.norm_batch_size)
        self.model.train()
        if self.settings.compile:
            self.model.compile()
        self.choice = self._micro_batch()
        self.optimizer = optim.build(self.recipe.optimizer, self.model, self.recipe.lr)
        self.global_batch = GlobalBatch(
            self.task,
            self.model,
            self.recipe,
            world=self.world,
            micro_batch_size=self.choice.micro_batch_size,
            group=self.group,
            batches=Batches(
                lambda epoch: self.task.order(self.seed, epoch, batch_size),
                self.num_examples,
                batch_size,
            ),
            num_examples=self.num_examples,
            seed=self.seed,
            precision=self.settings.precision,
        )

    def _micro_batch(self) -> micro.Choice:
        """Return the size that is given, or that a resumed run has, or else the fastest."""
        given = self.settings.micro_batch_size
        if given != "auto":
            return micro.Choice(min(given, self.recipe.batch_size), {}, measured=False)
        before = self._agree(self._micro_batch_before)
        if before:
            return micro.Choice(before, {}, measured=False)
        return micro.choose(
            self.task,
            self.model,
            self.recipe,
            world=self.world,
            group=self.group,
            precision=self.settings.precision,
            memory_limit=self.settings.memory_limit,
        )

    def _micro_batch_before(self) -> int | None:
        """Return the resumed run's micro-batch, if it had as many processes on such a device."""
        if not (self.folder / "manifest.json").exists():
            return None
        found = records.read_manifest(self.folder)
        same = (found.world_size, found.device) == (
            self.world.size,
            describe_device(self.world.device),
        )
        return found.micro_batch_size if same else None

    def _open(self, manifest: Manifest) -> None:
        """Write the manifest: from here on the folder holds this run."""
        records.write_manifest(self.folder, manifest)
        (self.folder / "summary.json").unlink(missing_ok=True)

    def _manifest(self) -> Manifest:
        fingerprint = getattr(self.task, "fingerprint", None)
        rule = rules.RULES.get(self.rule)
        return Manifest(
            task=self.task.name,
            rule=self.rule,
            seed=self.seed,
            base=self.base,
            recipe=self.recipe,
            num_examples=self.num_examples,
            updates=self.updates,
            micro_batch_size=self.choice.micro_batch_size,
            precision=self.settings.precision,
            world_size=self.world.size,
            device=describe_device(self.world.device),
            metric=self.task.metric.name,
            higher_is_better=self.task.metric.higher_is_better,
            data=fingerprint() if fingerprint else "",
            environment=environment(),
            notes=tuple(rules.cautions(self.base, self.recipe, rule)) if rule else (),
            extra={
                "micro_batch_table": {str(m): r for m, r in self.choice.table.items()},
                "micro_batch_measured": self.choice.measured,
            },
        )

    # The updates --------------------------------------------------------------------

    def _train(self) -> None:
        now = time.perf_counter()
        self.started = now - self.position.wall_seconds
        self.clock = now - self.position.seconds  # stands still during evaluations
        self.saved_at = now
        while self.position.updates < self.updates and not self.stopped:
            update = self.position.updates
            save_due = self._update(update)
            if self._ends_epoch(update):
                self.recorder.read_back()
            if self.recorder.lost:
                return
            self.position.updates = update + 1
            if self._ends_epoch(update):
                self._evaluate()
            if save_due:
                self._save()
        self._save()

    def _update(self, update: int) -> bool:
        """Make one optimizer step from the whole global batch; say whether to save now."""
        gradient = self.global_batch.gradient(update, self._wishes())
        rate = self.lr(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.group > 1:
            norm.fold(self.model, self.world)
        self.recorder.add(update, gradient, rate, time.perf_counter() - self.clock)
        if self.world.size == 1:
            self.stopped = self.signal
            return self._save_due()
        save, stop = gradient.flags.tolist()
        if stop:
            self.stopped = self.signal or "another process was asked to stop"
        return bool(save)

    def _wishes(self) -> tuple[float, ...]:
        """What this process wants all to do after the update: (save, stop)."""
        if self.world.size == 1:
            return ()
        return (float(self.world.first and self._save_due()), float(bool(self.signal)))

    def _ends_epoch(self, update: int) -> bool:
        """Say whether an epoch, or the run, ends within this update."""
        before = update * self.recipe.batch_size
        seen = before + self.recipe.batch_size
        return seen // self.num_examples > before // self.num_examples or update + 1 == self.updates

    def _evaluate(self) -> None:
        """Measure the metric, on the first process alone."""
        began = time.perf_counter()
        if self.world.first:
            self.model.eval()
            with torch.no_grad():
                self.last_metric = float(self.task.evaluate(self.model))
            self.model.train()
        self.recorder.evaluated(self.last_metric)
        self._pause(began, "evaluation")

    def _pause(self, began: float, cost: str) -> None:
        """Book the time since `began` under a cost, and take it off the training's clock."""
        spent = time.perf_counter() - began
        costs = self.global_batch.costs
        setattr(costs, cost, getattr(costs, cost) + spent)
        self.clock += spent

    def _summary(self) -> Summary:
        lost = self.recorder.lost
        status: Status = "diverged" if lost else "interrupted"
        if not lost and self.position.updates == self.updates:
            status = "finished"
        finished = status == "finished"
        loss = self.position.last_epoch if finished else self.position.since_evaluation
        costs = {name: round(value, 3) for name, value in vars(self.global_batch.costs).items()}
        return Summary(
            status=status,
            final_loss=loss.value,
            metric={"name": self.task.metric.name, "value": self.last_metric if finished else None},
            updates=self.position.updates,
            seconds=round(self.position.seconds, 3),
            examples=self.position.updates * self.recipe.batch_size,
            wall_seconds=round(time.perf_counter() - self.started, 3),
            reason=lost or ("" if finished else self.stopped),
            costs={**costs, "peak_memory_bytes": peak_memory(self.world.device)},
        )

    def _tell(self, observers: Sequence[Observer], event: str, *values: object) -> None:
        if self.world.first:
            for observer in observers:
                getattr(observer, event)(*values)

    # Checkpoints ------------------------------------------------------------------------

    def _save_due(self) -> bool:
        """Say whether a checkpoint is due after the update that is being made."""
        if time.perf_counter() - self.saved_at >= self.settings.checkpoint_seconds:
            return True
        if self.settings.checkpoint_epochs is None:
            return False
        span = self.settings.checkpoint_epochs * self.num_examples
        seen = (self.position.updates + 1) * self.recipe.batch_size
        return seen // span > (seen - self.recipe.batch_size) // span

    def _save(self) -> None:
        """Write a checkpoint, after the rows of metrics that it vouches for."""
        began = time.perf_counter()
        self.recorder.read_back()
        if self.recorder.lost:
            return
        carried = self.global_batch.gather_carried()
        self.position.wall_seconds = began - self.started
        if self.world.first:
            content: dict[str, Any] = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": self.position.to_dict(),
                "carried": carried,
                "last_metric": self.last_metric,
                "metrics_bytes": self.recorder.sync(),
            }
            state.save(self.folder, self.position.updates, content)
        self.saved_at = time.perf_counter()
        self._pause(began, "checkpoints")

    def _restore(self) -> dict[str, Any] | None:
        """Go on from the newest checkpoint, if this run has one."""
        if not self.settings.resume:
            return None
        content: dict[str, Any] | None = self._agree(self._newest_checkpoint)
        if content is None:
            return None
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.position = state.Position.from_dict(content["position"])
        self.global_batch.set_carried(content["carried"])
        self.last_metric = content["last_metric"]
        return content

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        """Read it on the first process: the others need no access to its disk."""
        return state.load_newest(self.folder, lambda line: warnings.warn(line, LegwWarning, 2))

    # Being stopped ------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run after the update; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number).name
            signal.signal(number, before[signal.Signals(number)])

        before: dict[signal.Signals, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
