"""Assumption check: a ladder of short runs of a task, and its verdicts.

task, base --check_assumptions--> runs in OUT, at 1, 2, 4 and 8 times the rule's rate
           --analysis.check.judged--> verdicts
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from legw import rules, schedule
from legw.analysis import check
from legw.analysis.probed import Probed
from legw.errors import check_count
from legw.probes.curvature import CurvatureProbe
from legw.probes.headroom import faster, loss_rises
from legw.probes.ladder import (
    Measuring,
    Watch,
    ladder,
    one_process,
    probe_examples,
    short_run,
    unwatched,
    updates_of,
)
from legw.probes.noise import NoiseProbe
from legw.recipe import Recipe
from legw.recipe.rule import Rule
from legw.runs.records import Summary
from legw.train import Settings, Task

SAMPLES = 100
"""Approximate number of noise samples in a run."""

EXTENSION = 5
"""Most examples of the runs at the rule's rates, over those of the first ladder."""


def check_assumptions(
    task: Task,
    base: Recipe,
    *,
    out: str | Path,
    batch_sizes: Sequence[int] | None = None,
    rule: Rule | str = "legw",
    seeds: Sequence[int] = (0,),
    updates: int = 200,
    examples: int = 256,
    fixed: bool = False,
    settings: Settings | None = None,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Train a ladder of short runs and judge the rule's assumptions; `legw check` as a call.

    Where the ladder cannot tell, runs at the smallest batch are made longer, or further seeds are
    trained, up to `EXTENSION` times the examples of the first ladder.

    Args:
        task: the task to train; nothing is evaluated.
        base: the tuned recipe.
        out: folder of the runs; finished runs in it are kept.
        batch_sizes: in examples; None is the base's own, and 4 and 16 times it.
        rule: the rule that scales the base to each batch size: a `Rule`, or the name of one.
        seeds: one ladder each.
        updates: of each run, at least 10; its whole warmup is made in any case.
        examples: in the curvature's probe batch, at least 1; at most an epoch's are taken.
        fixed: True makes these runs alone, also where they cannot tell.
        settings: device, precision and micro-batch size of the runs; None takes the defaults.
        watch: returns the observers of a run, for progress.

    Returns:
        What `--json` prints: ``verdict`` ("holds", "does not hold" or "cannot tell"), the
        verdict and the reason of each of the ``assumptions``, and the measurements with the
        thresholds. `legw.analysis.check` has the thresholds.

    Raises:
        LegwError: a value cannot be, the folder was measured otherwise, or several processes
            were started.
        KeyboardInterrupt: a run was interrupted; the same call goes on.
    """
    check_count("check", "updates", updates, check.MIN_UPDATES)
    alone()
    rule = rules.find(rule) if isinstance(rule, str) else rule
    sizes = ladder(base) if batch_sizes is None else tuple(batch_sizes)
    runs = _Ladder(task, base, rule, Path(out), updates, settings or Settings(), watch)
    found = runs.judged(sizes, seeds, examples)
    most = EXTENSION * runs.cost(sizes, seeds)
    while not fixed and found["verdict"] == "cannot tell":
        seeds = runs.extended(found, sizes, seeds, most)
        if not seeds:
            break
        found = runs.judged(sizes, seeds, examples)
    return found | {"app": task.name, "rule": rule.name}


def alone() -> None:
    """Refuse to be one of several processes.

    Raises:
        LegwError: torchrun has started several.
    """
    one_process("check: runs in one process; start it without torchrun")


class _Ladder:
    """The runs of a check, each in its folder, where it is found again."""

    def __init__(  # noqa: PLR0917 (all that `check_assumptions` knows)
        self,
        task: Task,
        base: Recipe,
        rule: Rule,
        root: Path,
        updates: int,
        settings: Settings,
        watch: Watch,
    ) -> None:
        self.task, self.base, self.rule, self.root = task, base, rule, root
        self.updates, self.settings, self.watch = updates, settings, watch
        self.lengths: dict[int, int] = {}
        self.tried: tuple[int, ...] = ()

    def judged(self, sizes: Sequence[int], seeds: Sequence[int], examples: int) -> dict[str, Any]:
        """Make all runs that are not made yet, and return the verdicts."""
        made = [self.probed(size, seed, examples) for size in sizes for seed in seeds]
        self.tried = self.tried or tuple(seeds)  # seeds added later are for the curvature alone
        risen = {size: self.rates(size, self.tried) for size in sizes}
        return check.judged(self.base, made, risen, every=self._every(min(sizes)))

    def cost(self, sizes: Sequence[int], seeds: Sequence[int]) -> int:
        """Return the examples of the runs at the rule's rates."""
        return len(seeds) * sum(size * self._updates(size) for size in sizes)

    def extended(
        self, found: dict[str, Any], sizes: Sequence[int], seeds: Sequence[int], most: int
    ) -> tuple[int, ...]:
        """Lengthen runs or add a seed, as verdicts ask for it; return the seeds, none if neither.

        The runs may cost at most so many examples.
        """
        asked = [one for one in found["assumptions"] if one["answer"] == "cannot tell"]
        changed = False
        for one in asked:
            longer = [min(sizes)] if one["assumption"] == "noise" else sizes
            changed |= self._lengthened(longer, one["missing"]["updates"], sizes, seeds, most)
        wider = (*seeds, max(seeds) + 1)
        if any(one["missing"]["seeds"] for one in asked) and self.cost(sizes, wider) <= most:
            return wider
        return tuple(seeds) if changed else ()

    def _lengthened(
        self,
        longer: Sequence[int],
        more: int,
        sizes: Sequence[int],
        seeds: Sequence[int],
        most: int,
    ) -> bool:
        """Lengthen the runs of some batch sizes, if that costs no more than it may; say so."""
        before = dict(self.lengths)
        known = {size: self._updates(size) for size in longer}
        self.lengths |= {size: updates + more for size, updates in known.items()}
        if self.cost(sizes, seeds) > most:
            self.lengths = before
            return False
        return any(self._updates(size) > updates for size, updates in known.items())

    def _updates(self, batch_size: int) -> int:
        """Return the updates of a run at the rule's rate, at most the whole run's."""
        recipe, wanted = self.recipe(batch_size), self.lengths.get(batch_size, self.updates)
        whole = schedule.updates(recipe, self.task.num_examples(batch_size))
        return min(updates_of(recipe, self.task, wanted), whole)

    def _every(self, batch_size: int) -> int:
        """Return the updates between two samples of the noise: those of a run not lengthened."""
        recipe = self.recipe(batch_size)
        whole = schedule.updates(recipe, self.task.num_examples(batch_size))
        return max(min(updates_of(recipe, self.task, self.updates), whole) // SAMPLES, 1)

    def recipe(self, batch_size: int) -> Recipe:
        return rules.apply(self.base, batch_size, self.rule)

    def probed(self, batch_size: int, seed: int, examples: int) -> Probed:
        """Make a run at the rule's rate, with both probes."""
        recipe = self.recipe(batch_size)
        num_examples = self.task.num_examples(batch_size)
        every = self._every(batch_size)
        folder = self.root / f"{self.rule.name}-b{batch_size}-s{seed}"
        count = probe_examples(self.task, [batch_size], examples)
        curvature = CurvatureProbe(folder, examples=count)
        probes: list[Measuring] = [curvature, NoiseProbe(folder, every=every)]
        wanted = self.lengths.get(batch_size, self.updates)
        summary = self._fit(recipe, seed, folder, probes, wanted)
        return Probed(recipe, seed, num_examples, folder, summary)

    def rates(self, batch_size: int, seeds: Sequence[int]) -> dict[float, bool]:
        """Return whether the loss rises, for multiples of the rate, up to the first that does."""
        risen: dict[float, bool] = {}
        for times in check.LR_MULTIPLES:
            risen[times] = any(self._rises(batch_size, seed, times) for seed in seeds)
            if risen[times]:
                break
        return risen

    def _rises(self, batch_size: int, seed: int, times: float) -> bool:
        name = f"{self.rule.name}-b{batch_size}-s{seed}"
        folder = self.root / (name if times == 1 else f"{name}-x{times:g}")
        if times > 1:
            self._fit(faster(self.recipe(batch_size), times), seed, folder, [], self.updates)
        return loss_rises(folder)

    def _fit(
        self,
        recipe: Recipe,
        seed: int,
        folder: Path,
        probes: Sequence[Measuring],
        wanted: int,
    ) -> Summary:
        updates = updates_of(recipe, self.task, wanted)
        return short_run(
            self.task,
            recipe,
            folder,
            base=self.base,
            rule=self.rule.name,
            seed=seed,
            updates=updates,
            probes=probes,
            settings=self.settings,
            watch=self.watch,
        )
