"""Critical batch size of a task, by branches of a base run; `legw probe critical` as a call.

    task, base --probes.branch_plan--> Branching: points of the base run, branches, their cost
               --measure_critical--> OUT/base-sSEED, OUT/atUPDATE-bN-sSEED
               --analysis.critical--> the critical batch at each point

    OUT/critical.json: the result, which `legw.analysis.measured_critical.read_critical` reads

The base run stops at each point, where its checkpoint is kept, and goes on. A branch then trains on
the examples of the base's next `window` updates, at k times the batch and the rule's rate, to which
it warms up again; at its end the rate falls to 0. At each point k doubles until the loss is surely
above that of a branch of the base's own batch. Of streams, which read other text in an update at
another batch size, the last weights are compared over one text (`probes.replay`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from legw import rules, schedule
from legw.analysis import critical
from legw.analysis.critical import TOLERANCE, Rung
from legw.analysis.measured_critical import FORMAT, RESULT
from legw.analysis.noise import noise_scale
from legw.analysis.noise_batch import (
    NoiseBatch,
    Window,
    noise_batch,
    over_run,
    predicted_excess,
)
from legw.errors import LegwError
from legw.probes import branch_plan, replay
from legw.probes.branch_plan import POINTS, WARMUP_UPDATES, WINDOW, Branching, plan_branches
from legw.probes.ladder import Watch, one_process, short_run, spacing, unwatched
from legw.probes.noise import NoiseProbe
from legw.recipe import Recipe, to_dict
from legw.recipe.branch_rate import COOLDOWN, compared_from
from legw.recipe.rule import Rule
from legw.runs import files, measurements, records
from legw.runs.measurements import Noise
from legw.train import Settings, Task, batch_norm
from legw.train.branch import Branch, keep


def measure_critical(
    task: Task,
    base: Recipe,
    *,
    out: str | Path,
    tolerance: float = TOLERANCE,
    absolute: bool = False,
    points: Sequence[float] = POINTS,
    window: float = WINDOW,
    budget: float | None = None,
    branch_warmup: int = WARMUP_UPDATES,
    cooldown: float = COOLDOWN,
    rule: Rule | str = "legw",
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Measure the critical batch size by branching; `legw probe critical` as a call.

    Args:
        task: the task to train; nothing is evaluated.
        base: the tuned recipe.
        out: folder of the runs and of the result, `critical.json`; finished runs in it are kept.
        tolerance: share of the base's loss by which a branch's may be higher, in (0, 1).
        absolute: True takes the tolerance in the loss's unit, above 0.
        points: shares of the base run from which branches start, each in (0, 1).
        window: longest window of a branch, as a share of the base run, in (0, 1).
        budget: epochs of all runs together, above 0; None is those of 2.5 base runs.
        branch_warmup: updates in which a branch's rate rises again, at least 0.
        cooldown: share of each branch over which its rate falls to 0, in [0, 0.9]; with 0 branches
            are compared with the base run itself, as in the reference, if not of streams.
        rule: the rule that gives a branch its rate: a `Rule`, or the name of one.
        seeds: one base run and its branches each.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        watch: returns the observers of a run, for progress.

    Returns:
        What `--json` prints: at each point the excess of each branch, as measured and as the noise
            batch predicts it, the critical batch, the noise batch and the simple noise scale; then
            the smallest critical batch of all points, and the noise batch of all branches.

    Raises:
        LegwError: a value cannot be, the budget allows no branch, the base diverged, the folder
            was measured otherwise, or several processes were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.

    Reference: Merrill et al. 2025, arXiv 2505.23971.
    """
    one_process()
    critical.check_tolerance(tolerance, absolute=absolute)
    rule = rules.find(rule) if isinstance(rule, str) else rule
    if rule.steers:
        raise LegwError(f"critical: rule={rule.name}: sets rates during the whole run; "
                        "choose one that acts before it")  # fmt: skip
    plan = plan_branches(
        task, base, points=points, window=window, budget=budget, branch_warmup=branch_warmup,
        cooldown=cooldown, seeds=seeds,
    )  # fmt: skip
    runs = _Runs(task, plan, rule, Path(out), settings or Settings(), watch)
    for seed in plan.seeds:
        runs.make_base(seed)
    found = [runs.measure(point, tolerance, absolute=absolute) for point in plan.points]
    each = [NoiseBatch(**point["noise_batch"]) for point in found]
    together = over_run(list(zip(plan.shares, each, strict=True)), base.batch_size)
    result = {
        "format": FORMAT,
        "probe": "critical",
        "app": task.name,
        "task": task.name,
        "rule": rule.name,
        "tolerance": tolerance,
        "absolute": absolute,
        "base": to_dict(base),
        "plan": plan.to_dict(),
        "points": found,
        **critical.over_points(found),
        "noise_batch": asdict(together),
    }
    files.write_json(Path(out) / RESULT, result)
    return result


class _Runs:
    """The base runs of a plan and their branches, each in its folder, where it is found again."""

    def __init__(  # noqa: PLR0917 (all that `measure_critical` knows)
        self, task: Task, plan: Branching, rule: Rule, root: Path, settings: Settings, watch: Watch
    ) -> None:
        self.task, self.plan, self.rule, self.root = task, plan, rule, root
        self.settings, self.watch = settings, watch
        self.base = replace(plan.base, ema_decay=None)  # only evaluations would see the average
        group = batch_norm.fix_groups(task.model(), self.base.norm_batch_size)
        self.noisy = self.base.batch_size >= 2 * group  # so that there are two pieces
        self.losses: dict[int, list[float | None]] = {}
        """Of each seed's base run."""
        self.branches: dict[tuple[int, int, int], list[float]] = {}
        """Losses of each branch, by its point, k and seed."""

    def make_base(self, seed: int) -> None:
        """Make a base run up to its last window's end, keeping the checkpoints of the points.

        Raises:
            LegwError: it diverged.
        """
        folder = self._base_folder(seed)
        for point in self.plan.points:
            if not (folder / f"branch-{point:09d}.pt").exists():
                self._train_base(folder, seed, point)
                keep(folder, point)
        self._train_base(folder, seed, self.plan.base_updates)
        self.losses[seed] = [row.loss for row in records.load(folder).updates]

    def _base_folder(self, seed: int) -> Path:
        return branch_plan.base_folder(self.root, seed)

    def _train_base(self, folder: Path, seed: int, updates: int) -> None:
        every = spacing(self.plan.updates)
        probes = [NoiseProbe(folder, every=every)] if self.noisy else []
        summary = short_run(
            self.task, self.base, folder, base=self.plan.base, rule=self.rule.name, seed=seed,
            updates=updates, probes=probes, settings=self.settings, watch=self.watch,
        )  # fmt: skip
        if summary.status == "diverged":
            raise LegwError(f"{folder}: the base run diverged ({summary.reason}); "
                            "a branch needs a base that trains")  # fmt: skip

    def measure(self, point: int, tolerance: float, *, absolute: bool) -> dict[str, Any]:
        """Make the branches from one point; return what they say of it, as plain values."""
        rungs, windows = self._ladder(point, tolerance, absolute=absolute)
        size, warmup = self.base.batch_size, self.plan.warmup_updates
        noise, level = noise_batch(windows, size, warmup), self._base_loss(windows)
        over = 1.0 if absolute else level
        return {
            "update": point,
            "epoch": self._epoch(point),
            "until_epoch": self._epoch(self.plan.stands_for[self.plan.points.index(point)]),
            "share": point / self.plan.updates,
            "base_loss": level,
            "critical_batch": asdict(critical.critical_batch(rungs, size, tolerance)),
            "noise_batch": asdict(noise),
            "noise_scale": self._noise(point),
            "branches": [
                {**asdict(one), "predicted": self._predict(windows, one, noise, over)}
                for one in rungs
            ],
        }

    def _ladder(
        self, point: int, tolerance: float, *, absolute: bool
    ) -> tuple[list[Rung], list[Window]]:
        """Make the branches from one point, until one is surely above the tolerance.

        Returns:
            The branches by batch size, and their losses, one window a seed.
        """
        seeds, cooldown = self.plan.seeds, self.plan.cooldown
        compared = {seed: self._compared(point, seed) for seed in seeds}
        made: dict[int, list[tuple[float, list[float]]]] = {seed: [] for seed in seeds}
        rungs: list[Rung] = []
        for k in self.plan.ks:
            each = {seed: self._branch(point, k, seed) for seed in seeds}
            for seed, losses in each.items():
                made[seed].append((k, losses))
            runs = [(compared[seed], losses) for seed, losses in each.items()]
            ends = [(self._end(point, 1, seed), self._end(point, k, seed)) for seed in seeds]
            rungs.append(critical.rung(
                k, k * self.base.batch_size, runs, absolute=absolute, cooldown=cooldown,
                ends=ends if self.plan.streams else (),
            ))  # fmt: skip
            if critical.passed(rungs[-1], tolerance):
                break
        windows = [
            Window(compared[seed], made[seed], cooldown, self._line(point, seed),
                   self._ends(point, [1, *(one.k for one in rungs)], seed))
            for seed in seeds
        ]  # fmt: skip
        return rungs, windows

    def _ends(self, point: int, ks: Sequence[float], seed: int) -> list[list[float]]:
        """Return what branches of streams have at their ends; nothing of other branches."""
        return [self._end(point, round(k), seed) for k in ks] if self.plan.streams else []

    def _end(self, point: int, k: int, seed: int) -> list[float]:
        """Return the losses of a branch's last weights over the text that it has read last;
        nothing of a branch that diverged, and of one that is not of streams."""
        if not self.plan.streams or not all(map(math.isfinite, self._branch(point, k, seed))):
            return []
        size, start = self.base.batch_size, self._start(point, k, seed)
        found = replay.replay(
            self.task, self._recipe(k * size), self._branch_folder(point, k, seed),
            updates=start.first + start.updates, earlier_updates=start.earlier_updates,
            batch_size=self.plan.ks[-1] * size, seed=seed, settings=self.settings,
            epoch=(point + self.plan.window) * size // self.plan.num_examples - 1,
        )  # fmt: skip
        self._check_base(k, found, self._branch_folder(point, k, seed))
        return found

    def _check_base(self, k: int, losses: Sequence[float], folder: Path) -> None:
        """Raise if the branch that all others are compared with has diverged."""
        if k == 1 and not all(map(math.isfinite, losses)):
            raise LegwError(f"{folder}: the branch of the base's own batch diverged; "
                            "a branch needs a base that trains")  # fmt: skip

    def _compared(self, point: int, seed: int) -> list[float]:
        """Return the losses with which branches are compared: the base's, or its branch's."""
        if self.plan.base_branches:
            return self._branch(point, 1, seed)
        return self._base_losses(point, point + self.plan.window, seed)

    def _line(self, point: int, seed: int) -> list[float]:
        """Return the base's losses about the place of a comparison where branches cool down; of
        streams those of the window and of the same text once more."""
        window, cooldown = self.plan.window, self.plan.cooldown
        if self.plan.streams:
            return self._base_losses(point, point + 2 * window, seed)
        if not cooldown:
            return []
        begin = point + compared_from(window, cooldown) - window // 2
        return self._base_losses(begin, begin + window, seed)

    def _epoch(self, updates: float) -> float:
        return updates * self.base.batch_size / self.plan.num_examples

    def _base_loss(self, windows: Sequence[Window]) -> float:
        """Return the base's mean loss where branches are compared with it."""
        if self.plan.streams:
            return statistics.fmean(loss for window in windows for loss in window.ends[0])
        first = compared_from(len(windows[0].base), self.plan.cooldown)
        ends = [window.base[first:] for window in windows]
        if self.plan.cooldown:
            ends = [critical.at_rate_0(losses) for losses in ends]
        return statistics.fmean(loss for losses in ends for loss in losses)

    def _predict(
        self, windows: Sequence[Window], one: Rung, noise: NoiseBatch, over: float
    ) -> float | None:
        """Return the excess of a branch that a noise batch predicts, over a loss."""
        size, warmup = self.base.batch_size, self.plan.warmup_updates
        each = [predicted_excess(window, one.k, size, noise, warmup) for window in windows]
        known = [value for value in each if value is not None]
        return statistics.fmean(known) / over if known else None

    def _branch(self, point: int, k: int, seed: int) -> list[float]:
        """Make one branch once, and return its losses; one of the base's batch has no warmup."""
        if (point, k, seed) not in self.branches:
            self.branches[point, k, seed] = self._make_branch(point, k, seed)
        return self.branches[point, k, seed]

    def _make_branch(self, point: int, k: int, seed: int) -> list[float]:
        start, folder = self._start(point, k, seed), self._branch_folder(point, k, seed)
        end = start.first + start.updates
        short_run(
            self.task, self._recipe(k * self.base.batch_size), folder, base=self.plan.base,
            rule=self.rule.name, seed=seed, updates=end, probes=[], settings=self.settings,
            watch=self.watch, start=start,
        )  # fmt: skip
        rows = {row.update: row.loss for row in records.load(folder).updates}
        losses = [_number(rows.get(update)) for update in range(start.first, end)]
        self._check_base(k, losses, folder)
        return losses

    def _start(self, point: int, k: int, seed: int) -> Branch:
        """Return from where a branch starts, and how long it is."""
        size = k * self.base.batch_size
        epoch = self.task.num_examples(size)  # asked for last: a task may keep the batch size
        window, first = self.plan.window // k, point // k
        if self.plan.streams:
            unit = self.plan.num_examples // self.base.batch_size
            window, first = (n // unit * (epoch // size) for n in (self.plan.window, point))
        return Branch(
            checkpoint=keep(self._base_folder(seed), point),
            base=self.base,
            base_updates=point,
            first=first,
            warmup_updates=self.plan.warmup_updates if k > 1 else 0,
            updates=window,
            cooldown=self.plan.cooldown,
            order_batch_size=size if self.plan.streams else self.base.batch_size,
        )

    def _branch_folder(self, point: int, k: int, seed: int) -> Path:
        return branch_plan.branch_folder(self.root, point, k * self.base.batch_size, seed)

    def _recipe(self, batch_size: int) -> Recipe:
        return branch_recipe(self.base, batch_size, self.rule, self.plan.num_examples)

    def _base_losses(self, begin: int, end: int, seed: int) -> list[float]:
        """Return the losses of a base run from one update to another, as far as it was made."""
        return [_number(loss) for loss in self.losses[seed][begin:end]]

    def _noise(self, point: int) -> dict[str, Any] | None:
        """Return the simple noise scale over a point's window; None where none was measured."""
        rows = [
            row
            for seed in self.plan.seeds
            for row in measurements.read(self._base_folder(seed), Noise)
            if point <= row.update < point + self.plan.window
        ]
        return asdict(noise_scale(rows)) if rows else None


def _number(loss: float | None) -> float:
    """Return a loss; infinite where a run had diverged."""
    return math.inf if loss is None else loss


def branch_recipe(base: Recipe, batch_size: int, rule: Rule, num_examples: int) -> Recipe:
    """Return the recipe of a branch: the rule's rate, with the decay of the base's own position.

    Its warmup is the base's own in epochs, which lies before most points: the branch has a warmup
    of its own, and its decay begins where the base's does.

    Args:
        base: the tuned recipe.
        batch_size: of the branch, in examples.
        rule: the rule that gives it the rate, and what else it scales.
        num_examples: examples in one epoch at the base's batch size, at least 1.

    >>> base = Recipe(batch_size=16, lr=0.1, steps=1000, warmup_steps=100)
    >>> found = branch_recipe(base, 64, rules.find("legw"), 1600)
    >>> found.lr, found.epochs, found.warmup_epochs
    (0.2, 10.0, 1.0)
    """
    flat = replace(schedule.in_unit(base, "epochs", num_examples), ema_decay=None)
    scaled = rules.apply(flat.with_lengths(flat.length, 0.0), batch_size, rule)
    return replace(scaled.with_lengths(flat.length, flat.warmup), decay=flat.decay)
