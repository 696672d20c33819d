"""Preview of a study: its runs, their expected duration, and settings worth a second look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from legw import rules, schedule
from legw.errors import duration
from legw.study import baselines, durations
from legw.study.durations import Rates
from legw.study.plan import BASE, Plan, Row


def time_left(plan: Plan, rows: Sequence[Row], rates: Rates | None, jobs: int) -> str:
    """Return the expected duration of the pending runs, in one line."""
    pending = [
        run
        for run, row in zip(plan.runs, rows, strict=True)
        if row.status not in ("finished", "diverged")
    ]
    if not pending:
        return "estimated time: nothing is left"
    times = [durations.seconds(run, rates) if rates else None for run in pending]
    known = [time for time in times if time is not None]
    if rates is None or len(known) < len(times):
        return "estimated time: not known before a run has ended here, or a micro-batch is measured"
    said = f"estimated time: {duration(sum(known))} one run after the other"
    if jobs > 1:
        least = max(*known, sum(known) / jobs)
        said += f", at best {duration(least)} with {jobs} at a time"
    return f"{said}; by {rates.source}"


def planned_json(plan: Plan, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of the planned runs with the updates that are planned."""
    found = []
    for run, row in zip(plan.runs, rows, strict=True):
        updates, warmup_updates = schedule.counts(run.recipe)
        more = {"name": run.name, "planned_updates": updates, "warmup_updates": warmup_updates}
        found.append(asdict(row) | more)
    return found


def total(plan: Plan, rows: Sequence[Row]) -> str:
    """Return the numbers of planned and finished runs, in one line."""
    done = sum(row.status in ("finished", "diverged") for row in rows)
    counts = [schedule.counts(run.recipe)[0] for run in plan.runs]
    updates = "" if None in counts else f", {sum(c or 0 for c in counts)} updates"
    return f"{len(rows)} runs{updates}; {done} finished before"


def cautions(plan: Plan) -> list[str]:
    """Return the warnings about the planned recipes, each once."""
    where: dict[tuple[int, str], list[str]] = {}
    for run in plan.runs:
        if run.rule == BASE or baselines.tuned_optimizer(run.rule):
            continue
        for line in rules.cautions(run.base, run.recipe, rules.find(run.rule)):
            said = line.removeprefix(f"{run.base.name}: ")
            names = where.setdefault((run.recipe.batch_size, said), [])
            if run.rule not in names:
                names.append(run.rule)
    lines = [f"batch {size}, {' '.join(names)}: {line}" for (size, line), names in where.items()]
    if plan.runs and not any(run.rule == BASE for run in plan.runs):
        size = plan.runs[0].base.batch_size
        lines.append(f"the base's own batch, {size}, is not among the batch sizes to compare with")
    return lines


def undefined(plan: Plan) -> list[str]:
    """Return why rules are undefined at a batch size, each reason once."""
    return list(dict.fromkeys(cell.reason for cell in plan.undefined))
