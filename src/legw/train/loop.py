"""The training loop: `fit` is the only place where a model changes.

    for each update:  the batch's ids -> micro-batches -> summed gradients
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
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from legw import records, rules, schedule
from legw.errors import LegwWarning, RunError
from legw.recipe import Recipe, to_dict
from legw.records import Evaluation, Manifest, Status, Summary, Update
from legw.train import norm, optim, state
from legw.train.batches import Batches, derive
from legw.train.dist import World, joined
from legw.train.machine import describe_device, environment, peak_memory
from legw.train.step import GlobalBatch, Precision
from legw.train.task import Observer, Task

DEFAULT_MICRO_BATCH = 128
"""Examples per forward and backward pass where nothing is said."""

READ_BACK = 50
"""Updates between two reads of the losses from an accelerator: reading waits for it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is made, as opposed to what is trained: nothing here changes the result."""

    micro_batch_size: int | None = None
    """Examples per forward and backward pass, at least 1; None is 128, or the batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Precision = "fp32"
    """fp32, or bf16 (autocast; weights and optimizer state stay fp32)."""
    checkpoint_seconds: float = 60.0
    """Training time between two checkpoints."""
    checkpoint_epochs: float | None = None
    """Epochs between two checkpoints, beside those by time; None is by time alone."""
    resume: bool = False
    """Go on from the folder's newest checkpoint; begin where there is none."""


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
        RecipeError: the warmup does not fit, or the number of examples is not known.
    """
    settings = settings or Settings()
    with joined(settings.device) as world:
        run = _Run(task, recipe, Path(out), seed, base or recipe, rule, settings, world, observers)
        return run.complete()


@dataclass
class _Step:
    """What one update leaves to be recorded; on an accelerator read back later."""

    update: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    seconds: float


@dataclass
class _Run:
    """One run in this process: the model, where it is, and what it writes."""

    task: Task
    recipe: Recipe
    folder: Path
    seed: int
    base: Recipe
    rule: str
    settings: Settings
    world: World
    observers: Sequence[Observer]
    position: state.Position = field(default_factory=state.Position)
    pending: list[_Step] = field(default_factory=list)
    asked_to_stop: str = ""
    stopped: str = ""
    lost: str = ""
    last_metric: float | None = None
    metrics: records.MetricsWriter | None = None

    # From the start to the end ----------------------------------------------------

    def complete(self) -> Summary:
        """Train to the end, or go on to it, and say how it ended."""
        self._plan()
        done = self.world.share(self._open() if self.world.first else None)
        if isinstance(done, RunError):
            raise done
        if isinstance(done, Summary):
            return done
        self._build()
        content = self._restore()
        if self.world.first:
            keep = content["metrics_bytes"] if content else 0
            self.metrics = records.MetricsWriter(self.folder, keep)
        self._tell("on_start", self.manifest, self.position.updates)
        try:
            with self._signals():
                self._train()
        finally:
            if self.metrics:
                self.metrics.close()
        summary = self._summary()
        if self.world.first:
            records.write_summary(self.folder, summary)
        self._tell("on_end", summary)
        return summary

    def _plan(self) -> None:
        """Work out the run's numbers from task, recipe and settings."""
        batch = self.recipe.batch_size
        self.num_examples = self.task.num_examples(batch)
        self.updates = schedule.updates(self.recipe, self.num_examples)
        self.lr = schedule.in_steps(self.recipe, self.num_examples)
        torch.manual_seed(derive(self.seed, "model"))
        self.model = self.task.model().to(self.world.device)
        self.group = norm.fix_groups(self.model, self.recipe.norm_batch_size)
        wanted = self.settings.micro_batch_size or max(DEFAULT_MICRO_BATCH, self.group)
        self.micro_batch_size = min(wanted, batch)
        self.manifest = self._manifest()

    def _open(self) -> Summary | RunError | None:
        """Make the run folder, or see that it holds this very run.

        Returns the summary of a run that has ended, or what every process is to raise.
        """
        try:
            records.create(self.folder)
            if (self.folder / "manifest.json").exists():
                if not self.settings.resume:
                    raise RunError(
                        f"{self.folder}: holds a run already; --resume goes on with it, "
                        "or choose another --out"
                    )
                self._check_same_run(records.read_manifest(self.folder))
                summary = records.read_summary(self.folder)
                if summary and summary.status != "interrupted":
                    return summary
            records.write_manifest(self.folder, self.manifest)
            (self.folder / "summary.json").unlink(missing_ok=True)
        except RunError as error:
            return error
        return None

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
            micro_batch_size=self.micro_batch_size,
            precision=self.settings.precision,
            world_size=self.world.size,
            device=describe_device(self.world.device),
            metric=self.task.metric.name,
            higher_is_better=self.task.metric.higher_is_better,
            data=fingerprint() if fingerprint else "",
            environment=environment(),
            notes=tuple(rules.cautions(self.base, self.recipe, rule)) if rule else (),
        )

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
        theirs |= to_dict(found.recipe)
        ours |= to_dict(self.recipe)
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name) and name != "source":
                raise RunError(
                    f"{here} {name}={theirs.get(name)!r}, not {ours.get(name)!r}; "
                    "choose another --out"
                )

    def _build(self) -> None:
        batch = self.recipe.batch_size
        self.optimizer = optim.build(self.recipe.optimizer, self.model, self.recipe.lr)
        self.global_batch = GlobalBatch(
            self.task,
            self.model,
            self.recipe,
            world=self.world,
            micro_batch_size=self.micro_batch_size,
            group=self.group,
            batches=Batches(
                lambda epoch: self.task.order(self.seed, epoch, batch), self.num_examples, batch
            ),
            num_examples=self.num_examples,
            seed=self.seed,
            precision=self.settings.precision,
        )

    # The updates --------------------------------------------------------------------

    def _train(self) -> None:
        now = time.perf_counter()
        self.started = now - self.position.wall_seconds
        self.clock = now - self.position.seconds  # stands still during evaluations
        self.saved_at = now
        self.model.train()
        while self.position.updates < self.updates and not (self.stopped or self.lost):
            save_due = self._update(self.position.updates)
            self.position.updates += 1
            epoch_ended = self._epoch_ended()
            if self.world.device.type == "cpu" or epoch_ended or len(self.pending) >= READ_BACK:
                self._record()
            if epoch_ended and not self.lost:
                self._evaluate()
            if save_due and not self.lost:
                self._save()
        self._record()
        if not self.lost:
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
        seconds = time.perf_counter() - self.clock
        self.pending.append(_Step(update, gradient.loss, gradient.norm, rate, seconds))
        if self.world.size == 1:
            self.stopped = self.asked_to_stop
            return self._save_due()
        save, stop = gradient.flags.tolist()
        if stop:
            self.stopped = self.asked_to_stop or "another process was asked to stop"
        return bool(save)

    def _wishes(self) -> tuple[float, ...]:
        """What this process wants all to do after the update: (save, stop)."""
        if self.world.size == 1:
            return ()
        return (float(self.world.first and self._save_due()), float(bool(self.asked_to_stop)))

    def _epoch_ended(self) -> bool:
        seen = self.position.updates * self.recipe.batch_size
        before = seen - self.recipe.batch_size
        whole_epoch = seen // self.num_examples > before // self.num_examples
        return whole_epoch or self.position.updates == self.updates

    # What is written ------------------------------------------------------------------

    def _record(self) -> None:
        """Read the losses of the updates since the last call, and write their rows."""
        last_epoch = (self.recipe.epochs - 1) * self.num_examples
        for step in self.pending:
            loss = float(step.loss)
            self.position.seconds = step.seconds
            self.position.since_evaluation.add(loss)
            if step.update * self.recipe.batch_size >= last_epoch:
                self.position.last_epoch.add(loss)
            row = Update(
                update=step.update,
                epoch=(step.update + 1) * self.recipe.batch_size / self.num_examples,
                loss=loss,
                lr=step.lr,
                grad_norm=float(step.grad_norm),
                seconds=round(step.seconds, 6),
            )
            self._write(row)
            self._tell("on_update", row)
            self.lost = self.position.divergence.add(loss)
            if self.lost:
                self.position.updates = step.update + 1
                break
        self.pending.clear()

    def _evaluate(self) -> None:
        """Measure the metric, on the first process alone."""
        began = time.perf_counter()
        if self.world.first:
            self.model.eval()
            with torch.no_grad():
                self.last_metric = float(self.task.evaluate(self.model))
            self.model.train()
        row = Evaluation(
            update=self.position.updates,
            epoch=self.position.updates * self.recipe.batch_size / self.num_examples,
            metric=self.last_metric,
            loss=self.position.since_evaluation.value,
            seconds=round(self.position.seconds, 6),
        )
        self.position.since_evaluation = state.Mean()
        self._write(row)
        if self.metrics:
            self.metrics.flush()
        self._tell("on_evaluation", row)
        self._pause(began, "evaluation")

    def _write(self, row: Update | Evaluation) -> None:
        if self.metrics:
            self.metrics.write([row])

    def _pause(self, began: float, cost: str) -> None:
        """Book the time since `began` under a cost, and take it off the training's clock."""
        spent = time.perf_counter() - began
        setattr(self.global_batch.costs, cost, getattr(self.global_batch.costs, cost) + spent)
        self.clock += spent

    def _summary(self) -> Summary:
        status: Status = "finished"
        if self.position.updates < self.updates or self.lost:
            status = "diverged" if self.lost else "interrupted"
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
            reason=self.lost or ("" if finished else self.stopped),
            costs={**costs, "peak_memory_bytes": peak_memory(self.world.device)},
        )

    def _tell(self, event: str, *values: object) -> None:
        if self.world.first:
            for observer in self.observers:
                getattr(observer, event)(*values)

    # Checkpoints ------------------------------------------------------------------------

    def _save_due(self) -> bool:
        now = time.perf_counter()
        if now - self.saved_at >= self.settings.checkpoint_seconds:
            return True
        every = self.settings.checkpoint_epochs
        if every is None:
            return False
        span = every * self.num_examples
        seen = (self.position.updates + 1) * self.recipe.batch_size
        return seen // span > (seen - self.recipe.batch_size) // span

    def _save(self) -> None:
        """Write a checkpoint, after the rows of metrics that it vouches for."""
        began = time.perf_counter()
        self._record()
        if self.lost:
            return
        carried = self.global_batch.gather_carried()
        self.position.wall_seconds = began - self.started
        if self.metrics:
            content: dict[str, Any] = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": self.position.to_dict(),
                "carried": carried,
                "last_metric": self.last_metric,
                "metrics_bytes": self.metrics.flush(sync=True),
            }
            state.save(self.folder, self.position.updates, content)
        self.saved_at = time.perf_counter()
        self._pause(began, "checkpoints")

    def _restore(self) -> dict[str, Any] | None:
        """Go on from the newest checkpoint, if this run has one."""
        if not self.settings.resume:
            return None
        content = state.load_newest(
            self.folder, self.world.device, lambda line: warnings.warn(line, LegwWarning, 2)
        )
        if content is None:
            return None
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.position = state.Position.from_dict(content["position"])
        self.global_batch.set_carried(content["carried"])
        self.last_metric = content["last_metric"]
        return content

    # Being stopped ------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run after the update; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked_to_stop = signal.Signals(number).name
            signal.signal(number, before[number])

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
