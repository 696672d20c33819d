"""Run folders and studies as `legw` writes them, made up in a moment without training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from legw import rules, schedule
from legw.recipe import Recipe
from legw.runs import records
from legw.runs.records import Evaluation, Manifest, MetricsWriter, Status, Summary, Update
from legw.study import plan as study
from legw.study.plan import Planned, Study

BASE = Recipe(name="mine", batch_size=16, lr=0.1, epochs=4, warmup_epochs=0.25, num_examples=400)
"""A base recipe whose runs are short: 100 updates at its batch."""


def write_run(
    folder: Path,
    *,
    recipe: Recipe = BASE,
    base: Recipe = BASE,
    rule: str = "legw",
    seed: int = 0,
    metric: float | None = 0.9,
    status: Status | None = "finished",
    losses: list[float] | None = None,
    **manifest: Any,
) -> Path:
    """Write one run; `status` None is a run that was killed. Returns its folder."""
    folder.mkdir(parents=True)
    count = schedule.updates(recipe)
    given: dict[str, Any] = {
        "task": "mine",
        "num_examples": recipe.epoch_examples,
        "metric": "accuracy",
        "device": "cpu (a processor)",
        "environment": {"legw": "0.1.0", "python": "3.11", "started": "2025-01-01T00:00:00"},
        "notes": tuple(rules.cautions(base, recipe, rules.RULES.get(rule, rules.FIXED))),
    }
    records.write_manifest(
        folder,
        Manifest(
            rule=rule, seed=seed, base=base, recipe=recipe, updates=count, micro_batch_size=16,
            **(given | manifest),
        ),
    )  # fmt: skip
    lr = schedule.in_steps(recipe)
    if losses is None:
        losses = [2.3 * math.exp(-3 * s / count) + 0.1 + 0.01 * seed for s in range(count)]
    writer = MetricsWriter(folder)
    share = recipe.batch_size / recipe.epoch_examples  # type: ignore[operator]
    writer.write(
        Update(update=s, epoch=(s + 1) * share, loss=loss, lr=lr(s), seconds=1.5 * (s + 1) / count)
        for s, loss in enumerate(losses)
    )
    writer.write(
        [
            Evaluation(
                update=len(losses), epoch=len(losses) * share, metric=metric, loss=losses[-1],
                seconds=1.5,
            )
        ]
    )  # fmt: skip
    writer.close()
    if status is not None:
        records.write_summary(
            folder,
            Summary(
                status=status,
                final_loss=losses[-1],
                metric={"name": "accuracy", "value": metric if status == "finished" else None},
                updates=len(losses),
                seconds=1.5,
                reason="the loss is not finite" if status == "diverged" else "",
            ),
        )
    return folder


def write_study(folder: Path, asked: Study, **of_runs: dict[str, Any]) -> list[Planned]:
    """Write a study with all its runs; `of_runs` says by name what is special about one.

    A run that is given as an empty dictionary is left out. Names are written with `_`
    for `-`. Returns the planned runs.
    """
    folder.mkdir(parents=True)
    study.write(asked, folder)
    planned = list(study.plan(asked).runs)
    for run in planned:
        special = of_runs.get(run.name.replace("-", "_"), {"metric": 0.9 + 0.01 * run.seed})
        if special:
            rule = asked.rules[0] if run.rule == study.BASE else run.rule
            write_run(
                folder / "runs" / run.name,
                recipe=run.recipe, base=run.base, rule=rule, seed=run.seed, **special,
            )  # fmt: skip
    return planned
