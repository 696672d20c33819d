"""What `legw study` prints: the runs that are planned, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table as Drawn

from legw import rules, schedule
from legw.analysis import trials
from legw.analysis.table import Cell, Table
from legw.cli.outputs import factor, number
from legw.recipe import Recipe
from legw.report import charts
from legw.report.charts import Point
from legw.study import baselines, durations
from legw.study.durations import Rates
from legw.study.plan import BASE, Plan, Planned, Row
from legw.units import epochs_of


def planned(plan: Plan, rows: Sequence[Row], rates: Rates | None = None) -> Drawn:
    """Return one row for each rule and batch size, with the recipe and how far its runs are.

    Where rates are known, the last column is the time that one run takes.
    """
    table = _empty()
    several = any(run.variant for run in plan.runs)
    for name in ("variant",) if several else ():
        table.add_column(name, overflow="fold")
    table.add_column("rule", no_wrap=True)
    for name in ("batch", "lr", "warmup\nepochs", "warmup\nupdates", "epochs", "updates"):
        table.add_column(name, justify="right")
    table.add_column("runs", no_wrap=True)
    for name in ("time",) if rates else ():
        table.add_column(name, justify="right", no_wrap=True)
    states: dict[tuple[str, str, int], Counter[str]] = {}
    for run, row in zip(plan.runs, rows, strict=True):
        states.setdefault(_key(run), Counter())[row.status] += 1
    for run in {_key(run): run for run in reversed(plan.runs)}.values():
        recipe = run.recipe
        words = [f"{count} {state}" for state, count in states[_key(run)].items()]
        values = (
            recipe.lr, epochs_of(recipe)[0], _updates(recipe)[1], epochs_of(recipe)[1],
            _updates(recipe)[0],
        )  # fmt: skip
        cells = [_rule(run.rule), str(recipe.batch_size), *map(number, values), ", ".join(words)]
        time = durations.seconds(run, rates) if rates else None
        cells += [] if time is None else [durations.in_words(time)]
        table.add_row(*([run.variant] if several else []), *cells)
    return table


def time_left(plan: Plan, rows: Sequence[Row], rates: Rates | None, jobs: int) -> str:
    """Return how long what is pending takes, in one line."""
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
    said = f"estimated time: {durations.in_words(sum(known))} one run after the other"
    if jobs > 1:
        least = max(*known, sum(known) / jobs)
        said += f", at best {durations.in_words(least)} with {jobs} at a time"
    return f"{said}; by {rates.source}"


def curves(plan: Plan) -> tuple[int, dict[str, list[Point]]]:
    """Return the largest batch size, and the schedules there with the base's before them."""
    runs = [run for run in plan.runs if not run.variant or run.variant == plan.runs[0].variant]
    runs = [run for run in runs if not baselines.rival(run.rule) and run.recipe.epoch_examples]
    largest = max((run.recipe.batch_size for run in runs), default=0)
    found: dict[str, list[Point]] = {}
    for run in runs:
        if run.rule == BASE or run.recipe.batch_size == largest:
            found.setdefault(run.rule, charts.points(run.recipe))
    return largest, found


def _key(run: Planned) -> tuple[str, str, int]:
    return (run.variant, run.rule, run.recipe.batch_size)


def _rule(name: str) -> str:
    return "base" if name == BASE else name


def _updates(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return the updates of the run and of its warmup, where the examples are known."""
    known = schedule.known_updates(recipe)
    return (None, None) if known is None else (known[1], known[0])


def planned_json(plan: Plan, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of the planned runs with the updates that are planned."""
    found = []
    for run, row in zip(plan.runs, rows, strict=True):
        updates, warmup_updates = _updates(run.recipe)
        more = {"name": run.name, "planned_updates": updates, "warmup_updates": warmup_updates}
        found.append(asdict(row) | more)
    return found


def total(plan: Plan, rows: Sequence[Row]) -> str:
    """Return how much is planned and done, in one line."""
    done = sum(row.status in ("finished", "diverged") for row in rows)
    counts = [_updates(run.recipe)[0] for run in plan.runs]
    updates = "" if None in counts else f", {sum(c or 0 for c in counts)} updates"
    return f"{len(rows)} runs{updates}; {done} finished before"


def cautions(plan: Plan) -> list[str]:
    """Return what deserves a second look about the planned recipes, each thing once."""
    where: dict[tuple[int, str], list[str]] = {}
    for run in plan.runs:
        if run.rule == BASE or baselines.rival(run.rule):
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


def cells(table: Table) -> Drawn:
    """Return a study's table: a line a rule (and variant), a column a batch size."""
    drawn = _empty()
    table = trials.best_trials(table)
    several = len(table.variants) > 1
    if several:
        drawn.add_column("variant", overflow="fold")
    drawn.add_column("rule", no_wrap=True)
    for size in table.batch_sizes:
        drawn.add_column(_heading(table, size), justify="right")
    best = {size: table.best(size) for size in table.batch_sizes} if several else {}
    for variant, rule in table.lines:
        texts = []
        for size in table.batch_sizes:
            cell = table.at((variant, rule), size)
            marked = cell is not None and cell is best.get(size)
            texts.append(_text(table, cell) + (" *" if marked else "  " if several else ""))
        drawn.add_row(*([variant] if several else []), _rule(rule), *texts)
    return drawn


def _heading(table: Table, size: int) -> str:
    if table.base_batch is None:
        return str(size)
    return f"{size}\n{factor(table.base_batch, size) or 'base'}"


def _text(table: Table, cell: Cell | None) -> str:
    return "" if cell is None else "\n".join(table.text(cell))


def below(table: Table) -> list[str]:
    """Return the lines that explain a study's table."""
    lines = [table.caption(), table.length(), *trials.costs(table)]
    if len(table.variants) > 1:
        lines.append("* best of its column; choose a variant at the base batch, nowhere else")
    return lines + [f"[{i}] {reason}" for i, reason in enumerate(table.reasons, start=1)]


def _empty() -> Drawn:
    return Drawn(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="")
