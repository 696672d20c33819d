"""Training loop: `fit` is the only place where a model changes.

    for each update:  ids of the batch -> micro-batches -> summed gradients
                      -> divided by the batch's weight -> clipped -> one step

Batch, rates and the order of the examples depend on (recipe, data, seed) alone. World
size and micro-batch size change the speed, the rounding, and the draws of dropout.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from legw.errors import LegwWarning
from legw.recipe import Recipe
from legw.runs import files, locks, records
from legw.runs.records import Status, Summary
from legw.train import batch_norm, branch, checkpoint, optim, param_groups, precision, trackers
from legw.train.accumulation import Flags, GlobalBatch, Gradient
from legw.train.audience import READER_GONE, Audience
from legw.train.average import WeightAverage
from legw.train.batches import Batches, derive, split
from legw.train.branch import Branch
from legw.train.checkpoint_content import Expected
from legw.train.dist import World, joined
from legw.train.hardware import peak_memory, warn_of_compiling
from legw.train.microbatch import tune
from legw.train.probe import Probe, measure
from legw.train.recorder import Recorder
from legw.train.run_folder import Identity, claim, describe, look
from legw.train.run_schedule import RunSchedule
from legw.train.settings import Settings
from legw.train.signals import StopSignals
from legw.train.task import Observer, Task


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
    start: Branch | None = None,
) -> Summary:
    """Train a task by a recipe and write the run folder.

    The random numbers of a run come from its seed alone, so torch's default generators, of the CPU
    and of the device, are seeded anew at its start and at each micro-batch; they stay as the run
    leaves them. A caller that draws from them afterwards seeds them itself.

    Args:
        task: the task to train.
        recipe: batch size (the global batch), learning rates and length.
        out: the run folder; made if it is not there.
        seed: of the weights, the order of examples and the random draws.
        base: the recipe before scaling, for the manifest; None is `recipe` itself.
        rule: the name of the rule that scaled it, for the manifest.
        settings: device, precision, micro-batch size, checkpoints; None takes the defaults.
        observers: called at each update and evaluation; they never steer.
        start: checkpoint of another run to start from; None starts from fresh weights.

    Returns:
        How the run ended: finished, diverged, or interrupted by SIGINT, SIGTERM or
            `Settings.stop_after`.

    Raises:
        RunError: the folder holds another run or cannot be written, the device is not
            there, there are more processes than examples, or a process died.
        RecipeError: the number of examples is not known.
    """
    settings = settings or Settings()
    with joined(settings.device, settings.patience_seconds) as world:
        run = _Run(
            task=task,
            recipe=recipe,
            folder=Path(out),
            seed=seed,
            base=base or recipe,
            rule=rule,
            settings=settings,
            world=world,
            start=start,
        )
        return run.complete(observers)


class _Run:
    """One run in this process: its model, position and files."""

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
        start: Branch | None = None,
    ) -> None:
        self.task, self.recipe, self.folder, self.seed = task, recipe, folder, seed
        self.base, self.rule, self.settings, self.world = base, rule, settings, world
        self.data = ""
        self.branch = start
        self.branch_identity: dict[str, Any] | None = None  # the first process reads it, and writes
        self.run_schedule = RunSchedule(task, recipe, self.base, rule, start)
        self.num_examples = self.run_schedule.num_examples
        self.position = checkpoint.Position()
        self.last_metric: float | None = None
        self.final_metrics: dict[str, float | None] = {}
        self.asked = StopSignals()
        self.stopped = ""
        self.agreed = Flags()
        self.probes: list[Probe] = []
        self.trackers: list[Observer] = []

    # From the start to the end ----------------------------------------------------

    def complete(self, observers: Sequence[Observer]) -> Summary:
        """Train to the end, or resume up to it, and return the run's summary."""
        with contextlib.ExitStack() as held:
            return self._complete(observers, held)

    def _complete(self, observers: Sequence[Observer], held: contextlib.ExitStack) -> Summary:
        done = self.world.agree(lambda: self._look(held))
        if done is not None:
            return done
        self.world.agree(self._find_trackers)
        everyone = (*observers, *self.trackers) if self.world.first else ()
        self.audience = Audience(everyone, self._reader_gone)
        for tracker in self.trackers:
            held.callback(getattr(tracker, "close", lambda: None))
        self._build()
        held.callback(self.accumulation.close)
        content = self._restore()
        manifest = describe(
            self.task,
            self.run_schedule,
            rule=self.rule,
            seed=self.seed,
            choice=self.choice,
            precision=self.settings.precision,
            world=self.world,
            data=self.data,
            branch=self.branch_identity,
        )
        artifacts = getattr(self.task, "artifacts", dict)
        self.world.agree(lambda: claim(self.folder, manifest, artifacts()))
        self.recorder = Recorder(
            self.folder if self.world.first else None,
            recipe=self.recipe,
            steered=self.run_schedule.steered,
            num_examples=self.num_examples,
            progress=self.run_schedule.progress,
            position=self.position,
            clock=lambda: time.perf_counter() - self.clock,
            observers=[self.audience],
            keep_bytes=content["metrics_bytes"] if content else 0,
        )
        if self.world.first:
            self.probes = [each for each in observers if isinstance(each, Probe)]
        try:
            with self.asked:
                self.audience.on_start(manifest, self.position.updates)
                self._train()
        finally:
            self.recorder.close()
        summary = self.world.agree(self._end)
        self.audience.on_end(summary)
        return summary

    def _find_trackers(self) -> None:
        """Set up the trackers of the settings, on the first process, which alone writes."""
        self.trackers = trackers.find(self.settings.log_to, self.folder)

    def _reader_gone(self) -> None:
        """Stop as at a signal: an observer's output was closed."""
        self.asked.name = self.asked.name or READER_GONE

    def _look(self, held: contextlib.ExitStack) -> Summary | None:
        """Check batch and folder; return the summary of a run that has ended.

        The folder stays locked until `held` is closed: no other process may work on it.
        """
        smallest = self.run_schedule.progress.sizes[0]
        split(smallest, smallest, world_size=self.world.size)
        held.enter_context(locks.held(records.create(self.folder)))
        files.clear_half_written(self.folder)
        fingerprint = getattr(self.task, "fingerprint", None)
        self.data = fingerprint() if fingerprint else ""
        self.branch_identity = None if self.branch is None else self.branch.identity()
        run = Identity(
            task=self.task.name,
            recipe=self.recipe,
            seed=self.seed,
            precision=self.settings.precision,
            base=self.base,
            rule=self.rule,
            data=self.data,
            branch=self.branch_identity,
        )
        return look(self.folder, run, self.settings)

    def _build(self) -> None:
        """Make model, optimizer and the global batch; settle the micro-batch."""
        precision.warn_if_slow(self.world.device.type, self.settings.precision)
        batch_size, progress = self.recipe.batch_size, self.run_schedule.progress
        torch.manual_seed(derive(self.seed, "model"))
        self.model = self.task.model().to(self.world.device)
        self.group = batch_norm.fix_groups(self.model, self.recipe.norm_batch_size)
        self.average = None
        if self.recipe.ema_decay is not None and self.world.first:  # which alone evaluates
            self.average = WeightAverage(self.model, self.recipe.ema_decay)
        self.model.train()
        most, settings = self.run_schedule.prepare(self.group), self.settings
        lanes = self.run_schedule.lanes(
            settings.lanes, self.world, self.group, compiled=settings.compile
        )
        if settings.compile:
            warn_of_compiling(self.world.device)
            self.model.compile()
        self.choice = tune.for_batches(
            self.task,
            self.model,
            replace(self.recipe, batch_size=most),
            settings,
            self.folder,
            batch_sizes=self.run_schedule.progress.sizes,
            world=self.world,
            group=self.group,
            lanes=lanes,
        )
        begin = getattr(self.task, "begin", None)
        if begin and len(progress.sizes) == 1:
            begin(self.seed, batch_size, self.choice.micro_batch_size)
        self.optimizer = optim.for_task(
            self.task, self.recipe, self.model, process_group=self.world.process_group
        )
        self.ratios = [rate / self.recipe.lr for rate in param_groups.read(self.optimizer)]
        self.accumulation = self.run_schedule.accumulation(self.choice.lanes)
        start = self.branch
        order_size = progress.order_size if start is None else lambda _: start.order_batch_size
        self.global_batch = GlobalBatch(
            self.task,
            self.model,
            self.recipe,
            world=self.world,
            micro_batch_size=self.choice.micro_batch_size,
            group=self.group,
            batches=Batches(
                lambda epoch: self.task.order(self.seed, epoch, order_size(epoch)),
                self.num_examples,
                batch_size,
                progress=progress,
            ),
            num_examples=self.num_examples,
            seed=self.seed,
            precision=self.settings.precision,
            accumulation=self.accumulation,
            micro_batch_sizes=self.choice.sizes,
        )
        self.accumulation.share_with(self.optimizer)

    # The updates --------------------------------------------------------------------

    def _train(self) -> None:
        now = time.perf_counter()
        self.started = now - self.position.wall_seconds
        self.clock = now - self.position.seconds  # stands still during evaluations
        self.saved_at = now
        wanted = self.settings.stop_after
        while self.position.updates < self.run_schedule.until(wanted) and not self.stopped:
            update = self.position.updates
            save_due = self._update(update)
            if self.run_schedule.ends_epoch(update):
                self.recorder.read_back()
            if self.recorder.diverged:
                return
            self.position.updates = update + 1
            if self.run_schedule.ends_epoch(update):
                self._evaluate()
            if save_due:
                self._save()
        self._save()
        if self.position.updates == self.run_schedule.updates:
            self._evaluate_at_the_end()
        elif not self.stopped:
            self.stopped = "it was to stop there"

    def _update(self, update: int) -> bool:
        """Make one optimizer step from the whole global batch; say whether to save now."""
        gradient = self.global_batch.gradient(update, self._wishes())
        self._probe(update, gradient)
        rate = self.run_schedule.rate(update, gradient)
        param_groups.write(self.optimizer, [rate * ratio for ratio in self.ratios])
        self.optimizer.step()
        batch_norm.fold(self.model, self.world)
        if self.average is not None:
            self.average.move(self.model, update)
        self.recorder.add(update, gradient, rate)
        if self.world.size == 1:
            self.stopped = self.asked.name
            return self._save_due()
        save, stop = self.agreed.read(gradient.flags)
        if stop:
            self.stopped = self.asked.name or "another process was asked to stop"
        return bool(save)

    def _probe(self, update: int, gradient: Gradient) -> None:
        """Let probes measure between the gradient and the step, and restore the model."""
        wanting = [probe for probe in self.probes if probe.wants(update)]
        if wanting:
            began = time.perf_counter()
            with self.accumulation.all_cores():
                measure(wanting, self.global_batch, update, gradient)
            self._pause(began, "probes")

    def _wishes(self) -> tuple[float, ...]:
        """This process's wishes for all processes after the update: (save, stop)."""
        if self.world.size == 1:
            return ()
        return (float(self.world.first and self._save_due()), float(bool(self.asked.name)))

    def _evaluate(self) -> None:
        """Measure the metric, on the first process alone."""
        began = time.perf_counter()
        if self.world.first:
            model = self._measured()
            model.eval()
            with torch.no_grad(), self.accumulation.all_cores():
                self.last_metric = float(self.task.evaluate(model))
            model.train()
        self.recorder.evaluated(self.last_metric)
        self._pause(began, "evaluation")

    def _measured(self) -> nn.Module:
        """Return the model that evaluations measure: the average, where the run keeps one."""
        return self.model if self.average is None else self.average.model

    def _evaluate_at_the_end(self) -> None:
        """Measure the task's final metrics, on the first process alone.

        Beside an average of the weights these include the metric of the last weights.
        """
        if not self.world.first:
            return
        began = time.perf_counter()
        model, measure = self._measured(), getattr(self.task, "final_metrics", None)
        self.model.eval()
        model.eval()
        with torch.no_grad(), self.accumulation.all_cores():
            found = measure(model) if measure else {}
            if self.average is not None:
                name = f"{self.task.metric.name}{records.LAST_WEIGHTS}"
                found = {**found, name: self.task.evaluate(self.model)}
        self.final_metrics = {name: float(value) for name, value in found.items()}
        self._pause(began, "evaluation")

    def _pause(self, began: float, cost: str) -> None:
        """Add the time since `began` to a cost, and subtract it from the training time."""
        spent = time.perf_counter() - began
        costs = self.global_batch.costs
        setattr(costs, cost, getattr(costs, cost) + spent)
        self.clock += spent

    def _end(self) -> Summary:
        """Write the summary of the first process, which alone knows the metric."""
        summary = self._summary()
        records.write_summary(self.folder, summary)
        return summary

    def _summary(self) -> Summary:
        diverged = self.recorder.diverged
        status: Status = "diverged" if diverged else "interrupted"
        if not diverged and self.position.updates == self.run_schedule.updates:
            status = "finished"
        finished = status == "finished"
        costs = {name: round(value, 3) for name, value in vars(self.global_batch.costs).items()}
        return Summary(
            status=status,
            final_loss=self.recorder.final_loss(finished=finished),
            metric={"name": self.task.metric.name, "value": self.last_metric if finished else None},
            updates=self.position.updates,
            seconds=round(self.position.seconds, 3),
            examples=self.run_schedule.progress.seen(self.position.updates),
            wall_seconds=round(time.perf_counter() - self.started, 3),
            metrics=self.final_metrics,
            reason=diverged
            or (self.run_schedule.said(self.position.updates) if finished else self.stopped),
            epochs=self.run_schedule.epochs(self.position.updates),
            costs={**costs, "peak_memory_bytes": peak_memory(self.world.device)},
        )

    # Checkpoints ------------------------------------------------------------------------

    def _save_due(self) -> bool:
        """Say whether a checkpoint is due after the update that is being made."""
        if time.perf_counter() - self.saved_at >= self.settings.checkpoint_seconds:
            return True
        span = self.settings.checkpoint_epochs
        return span is not None and self.run_schedule.passes(span, self.position.updates)

    def _save(self) -> None:
        """Write a checkpoint, after all rows of metrics before it."""
        self.recorder.read_back()  # waits for a GPU, which is training time
        if self.recorder.diverged:
            return
        began = time.perf_counter()
        carried = self.global_batch.gather_carried()
        self.position.wall_seconds = began - self.started
        if self.world.first:
            content: dict[str, Any] = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "position": self.position.to_dict(),
                "carried": carried,
                "last_metric": self.last_metric,
                "steering": self.run_schedule.to_dict(),
                "costs": dict(vars(self.global_batch.costs)),
                "metrics_bytes": self.recorder.sync(),
            }
            if self.average is not None:
                content["average"] = self.average.model.state_dict()
            checkpoint.save(self.folder, self.position.updates, content)
        self.saved_at = time.perf_counter()
        self.agreed.forget()
        self._pause(began, "checkpoints")

    def _restore(self) -> dict[str, Any] | None:
        """Go on from the newest checkpoint, if this run has one."""
        content: dict[str, Any] | None = None
        if self.settings.resume:
            content = self.world.agree(self._newest_checkpoint)
        if content is None:
            self._start_branch()
            return None
        checkpoint.load_into(self.model, self.optimizer, content)
        if self.average is not None:
            self.average.model.load_state_dict(content["average"])
        self.position = checkpoint.Position.from_dict(content["position"])
        self.global_batch.set_carried(content["carried"], self.position.updates)
        known = vars(self.global_batch.costs)
        earlier = content.get("costs", {})
        if self.world.first and (lacking := known.keys() - earlier.keys()):
            warnings.warn(
                f"{self.folder}: its checkpoint has no seconds of {', '.join(sorted(lacking))}; "
                "the summary's costs count those from here on",
                LegwWarning,
                stacklevel=2,
            )
        known |= {name: seconds for name, seconds in earlier.items() if name in known}
        self.last_metric = content["last_metric"]
        self.run_schedule.restore(content.get("steering"), self.position.updates)
        return content

    def _start_branch(self) -> None:
        """Take over weights and optimizer of another run, if this run is to start from one."""
        if (start := self.branch) is None:
            return
        content = self.world.agree(lambda: branch.read(start, self.task, self.model))
        branch.load(content, self.model, self.optimizer)
        self.position = checkpoint.Position(updates=start.first)

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        """Read it on the first process: the others need no access to its disk."""
        expected = Expected(
            model=self.model,
            optimizer=self.optimizer,
            batch_size=self.recipe.batch_size,
            progress=self.run_schedule.progress,
            most_updates=self.run_schedule.updates,
            steering=self.run_schedule.to_dict(),
            carried=self.global_batch.carried_like,
            averaged=self.average is not None,
            earlier_updates=0 if self.branch is None else self.branch.earlier_updates,
        )
        return checkpoint.load_newest(
            self.folder, lambda line: warnings.warn(line, LegwWarning, 2), expected
        )
