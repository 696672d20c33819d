"""Plan of branches: from where they start, how large and how long they are, and what they cost.

task, base --plan_branches--> Branching, which `legw.probes.branches` carries out
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from legw import schedule
from legw.analysis.critical import MIN_BRANCH_UPDATES
from legw.analysis.noise_batch import stands_for
from legw.errors import LegwError, check_count, check_range, given, number, setting
from legw.probes import replay
from legw.recipe import Recipe
from legw.recipe.branch_rate import COOLDOWN, MAX_COOLDOWN, compared_from
from legw.runs import records
from legw.train import Settings, Task
from legw.train.dist import joined
from legw.train.estimate import estimate

POINTS = (0.1, 0.3, 0.6)
"""Default points from which branches start, as shares of the base run."""

WARMUP_UPDATES = 10
"""Default number of updates in which a branch's rate rises again."""

WINDOW = 0.1
"""Default longest window of a branch, as a share of the base run."""

BUDGET_RUNS = 2.5
"""Default budget, in base runs."""

MAX_K = 1 << 20
"""No branch is larger than this multiple of the base's batch."""


@dataclass(frozen=True, kw_only=True)
class Branching:
    """Plan of a measurement: from where its branches start, how large and how long they are."""

    base: Recipe
    """Recipe of the base run."""
    updates: int
    """Updates of the whole base run."""
    num_examples: int
    """Examples in one epoch at the base's batch size."""
    points: tuple[int, ...]
    """Updates of the base run from which branches start, ascending."""
    ks: tuple[int, ...]
    """Batch sizes of the branches over the base's: powers of 2, ascending."""
    window: int
    """Updates of the base run that each branch covers with as many examples."""
    warmup_updates: int
    """Updates in which a branch's rate rises again."""
    cooldown: float
    """Share of a branch over which its rate falls to 0; at 0 the base run itself is what branches
    are compared with, and no branch of its batch is made, but for streams."""
    seeds: tuple[int, ...]
    """One base run and its branches each."""
    streams: bool
    """Whether the examples of an epoch depend on the batch size: then points and windows are whole
    epochs."""

    @property
    def base_updates(self) -> int:
        """Updates that the base run makes: up to the end of the last window, and with a cooldown as
        far as the line about the place of its comparison goes; of streams the text once more."""
        beyond = compared_from(self.window, self.cooldown) - self.window // 2
        beyond = self.window if self.streams else beyond
        return min(self.points[-1] + self.window + beyond, self.updates)

    @property
    def stands_for(self) -> list[float]:
        """Update up to which each point stands for the run."""
        middles = [point + self.window / 2 for point in self.points]
        return stands_for(middles, self.updates)

    @property
    def shares(self) -> list[float]:
        """Share of the run for which each point stands."""
        ends = [0.0, *self.stands_for]
        return [(end - begin) / self.updates for begin, end in itertools.pairwise(ends)]

    @property
    def base_epochs(self) -> float:
        """Epochs of the base runs, up to `base_updates`."""
        return len(self.seeds) * self._epochs(self.base_updates)

    @property
    def most_epochs(self) -> float:
        """Epochs in all if no branch is left out."""
        each = len(self.ks) + self.base_branches
        length = self._epochs(self.window)
        if self.streams:
            length += replay.COST * self._epochs(self.num_examples // self.base.batch_size)
        return self.base_epochs + len(self.seeds) * len(self.points) * each * length

    @property
    def base_branches(self) -> bool:
        """Whether a branch of the base's own batch is what the others are compared with."""
        return self.cooldown > 0 or self.streams

    @property
    def most_examples(self) -> int:
        """Examples in all if no branch is left out."""
        return round(self.most_epochs * self.num_examples)

    def _epochs(self, updates: int) -> float:
        return updates * self.base.batch_size / self.num_examples

    def said(self) -> str:
        """Return the cost as a line."""
        end, run = self._epochs(self.base_updates), self._epochs(self.updates)
        return (
            f"base to epoch {number(end, 3)} of {number(run, 3)}; branches of "
            f"{number(self._epochs(self.window), 3)} epochs from each of {len(self.points)} "
            f"points, up to batch {self.ks[-1] * self.base.batch_size} (k = {self.ks[-1]}); at "
            f"most {number(self.most_epochs, 3)} epochs in all, {self.most_examples} examples"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, without the recipe."""
        plain = {name: value for name, value in asdict(self).items() if name != "base"}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in plain.items()}
        return plain | {"most_epochs": self.most_epochs, "most_examples": self.most_examples}


def plan_branches(
    task: Task,
    base: Recipe,
    *,
    points: Sequence[float] = POINTS,
    window: float = WINDOW,
    budget: float | None = None,
    branch_warmup: int = WARMUP_UPDATES,
    cooldown: float = COOLDOWN,
    seeds: Sequence[int] = (0,),
) -> Branching:
    """Return the branches that a budget allows, before anything is trained.

    The window is the longest that the budget allows; the largest branch still makes 20 updates in
    it after its warmup.

    Args:
        task: the task to train; only its number of examples is asked for.
        base: the tuned recipe.
        points: shares of the base run, each in (0, 1).
        window: longest window of a branch, as a share of the base run, in (0, 1).
        budget: epochs of all runs together, above 0; None is those of 2.5 base runs.
        branch_warmup: updates in which a branch's rate rises again, at least 0.
        cooldown: share of each branch over which its rate falls to 0, in [0, 0.9].
        seeds: one base run and its branches each.

    Raises:
        LegwError: a value cannot be, or the budget allows no branch.
    """
    check_count("critical", "branch_warmup", branch_warmup, 0, error=LegwError)
    check_range("critical", "window", window, 0, 1, above=True, error=LegwError)
    check_range("critical", "cooldown", cooldown, 0, MAX_COOLDOWN, closed=True, error=LegwError)
    for point in points:
        check_range("critical", "points", point, 0, 1, above=True, error=LegwError)
    if not points:
        raise LegwError("critical: points: there are none; give shares of the run, such as 0.1")
    lengths = _Lengths(
        task, base, tuple(sorted(points)), warmup_updates=branch_warmup, cooldown=cooldown,
        seeds=tuple(seeds),
    )  # fmt: skip
    epochs = budget if budget is not None else BUDGET_RUNS * lengths.run_epochs
    check_range("critical", "budget", epochs, 0, above=True, error=LegwError)
    return lengths.within(epochs, window)


class _Lengths:
    """The lengths that branches of a task can have."""

    def __init__(
        self,
        task: Task,
        base: Recipe,
        points: tuple[float, ...],
        *,
        warmup_updates: int,
        cooldown: float,
        seeds: tuple[int, ...],
    ) -> None:
        self.task, self.base, self.shares = task, base, points
        self.warmup_updates, self.cooldown, self.seeds = warmup_updates, cooldown, seeds
        self.streams = streams(task, base.batch_size)
        self.num_examples = task.num_examples(base.batch_size)
        self.updates = schedule.updates(base, self.num_examples)
        self.run_epochs = self.updates * base.batch_size / self.num_examples
        self.unit = self.num_examples // base.batch_size if self.streams else 1

    def within(self, budget: float, share: float) -> Branching:
        """Return the plan with the longest window, up to a share, that a budget allows."""
        longest = max(int(share * self.updates) // self.unit, 1)
        least = next((n for n in range(1, longest + 1) if self.plan(n) is not None), None)
        if least is None and self.streams and self.updates < 3 * self.unit:
            raise LegwError(
                f"{given('epochs', f'{self.run_epochs:g}')}: must be at least 3 for streams: one "
                "up to a branch, one of the branch, and one that shows how the base's loss falls"
            )
        if least is None:
            raise LegwError(
                f"{given('window', f'{share:g}')}: has {longest * self.unit} of the run's "
                f"{self.updates} updates; a branch at twice the batch needs {self._needed} of its "
                "own; give a larger share, or a longer recipe"
            )
        smallest = self.plan(least)
        assert smallest is not None, "it was found"
        while smallest.most_epochs > budget and len(smallest.ks) > 1:
            smallest = replace(smallest, ks=smallest.ks[:-1])
        if smallest.most_epochs > budget:
            raise LegwError(
                f"{given('budget', f'{budget:g}')}: must be at least "
                f"{smallest.most_epochs:.4g} epochs for these points and seeds; give more, "
                f"or an earlier last of the {setting('points')}"
            )
        low, high = least, longest  # the cost grows with the window
        while low < high:
            middle = (low + high + 1) // 2
            found = self.plan(middle)
            if found is not None and found.most_epochs <= budget:
                low = middle
            else:
                high = middle - 1
        plan = self.plan(low)
        assert plan is not None, "a longer window than the least has branches too"
        return plan if plan.most_epochs <= budget else smallest

    @property
    def _needed(self) -> int:
        return self.warmup_updates + MIN_BRANCH_UPDATES

    def plan(self, units: int) -> Branching | None:
        """Return the plan with a window of so many units; None where it has no branch."""
        window = units * self.unit
        ks: list[int] = []
        while self._fits(k := 2 << len(ks), window):
            ks.append(k)
        if not ks:
            return None
        step = self.unit if self.streams else ks[-1]
        window = window // step * step
        last = (self.updates - window * (2 if self.streams else 1)) // step
        wanted = {max(round(share * self.updates / step), 1) for share in self.shares}
        places = {min(place, last) for place in wanted}
        if last < 1 or (self.streams and units > 1 and places != wanted):
            return None  # a longer window is no reason to branch earlier
        return Branching(
            base=self.base, updates=self.updates, num_examples=self.num_examples,
            points=tuple(sorted(place * step for place in places)), ks=tuple(ks), window=window,
            warmup_updates=self.warmup_updates, cooldown=self.cooldown, seeds=self.seeds,
            streams=self.streams,
        )  # fmt: skip

    def _fits(self, k: int, window: int) -> bool:
        size = k * self.base.batch_size
        if not self.streams:
            return k <= MAX_K and size <= self.num_examples and window // k >= self._needed
        examples = _examples(self.task, size)
        return examples // size * (window // self.unit) >= self._needed


def streams(task: Task, batch_size: int) -> bool:
    """Whether the number of examples in an epoch depends on the batch size."""
    numbers = {_examples(task, k * batch_size) for k in (2, 3, 4)}
    return {*numbers, task.num_examples(batch_size)} != {task.num_examples(batch_size)}


def _examples(task: Task, batch_size: int) -> int:
    """Return the examples in an epoch; 0 where there can be no such batch."""
    try:
        return task.num_examples(batch_size)
    except LegwError:
        return 0


def base_folder(root: Path, seed: int) -> Path:
    """Return the folder of a base run in that of its measurement."""
    return root / f"base-s{seed}"


def branch_folder(root: Path, point: int, batch_size: int, seed: int) -> Path:
    """Return the folder of a branch in that of its measurement."""
    return root / f"at{point}-b{batch_size}-s{seed}"


def made_examples(plan: Branching, root: Path) -> int:
    """Return the examples of a plan on which earlier calls have trained.

    Args:
        plan: of the measurement.
        root: its folder, which need not be there.

    Raises:
        RunError: a run in it is damaged.
    """
    sizes = [k * plan.base.batch_size for k in ((1, *plan.ks) if plan.base_branches else plan.ks)]
    made = 0
    for seed in plan.seeds:
        base = _updates_made(base_folder(root, seed))
        made += min(base, plan.base_updates) * plan.base.batch_size
        made += sum(
            _updates_made(branch_folder(root, point, size, seed)) * size
            for point in plan.points
            for size in sizes
        )
    return made


def _updates_made(folder: Path) -> int:
    return len(records.load(folder).updates) if records.find_runs(folder) else 0


def estimated_seconds(
    plan: Branching, task: Task, settings: Settings | None = None, made: int = 0
) -> float:
    """Return about how long the runs of a plan take here, by a short measurement.

    An update of a large batch is counted as that many of small ones, so it is an upper bound
    as the cost in examples is.

    Args:
        plan: of the measurement.
        task: the task to train.
        settings: device, precision and micro-batch size; None takes the defaults.
        made: examples of the plan that earlier calls have trained on, at least 0.
    """
    settings = settings or Settings()
    size = settings.micro_batch_size
    with joined(settings.device) as world:
        found = estimate(
            task,
            plan.base,
            device=world.device,
            micro_batch_size=None if size == "auto" else size,
            precision=settings.precision,
            lanes=settings.lanes,
        )
    left = max(plan.most_examples - made, 0)
    return left / plan.base.batch_size * found.update_seconds
