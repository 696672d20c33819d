"""Trials of tuned optimizers: the best one stands in the table, with the cost of all."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from legw.analysis.table import Cell, Table
from legw.rules import LEGW
from legw.study.baselines import PREFIX, tuned_optimizer


def best_trials(table: Table) -> Table:
    """Return the table in which each tuned optimizer is its best trial at each batch size.

    A trial with diverged runs counts only where every trial has some.

    >>> cells = [Cell(variant="", rule=f"tuned-adam lr={lr}", batch_size=64, metrics=(m,))
    ...          for lr, m in ((0.1, 0.8), (0.2, 0.9))]
    >>> [(c.rule, c.metrics) for c in best_trials(Table(cells=tuple(cells))).cells]
    [('tuned-adam', (0.9,))]
    """
    cells = [cell for cell in table.cells if not tuned_optimizer(cell.rule)]
    for members in trials_of(table).values():
        cells.append(replace(_best(table, members), rule=tuned_optimizer(members[0].rule)))
    return replace(table, cells=tuple(cells))


def trials_of(table: Table) -> dict[tuple[str, str, int], list[Cell]]:
    """Return the trials by (variant of the grid, tuned optimizer, batch size)."""
    found: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in table.cells:
        if tuned_optimizer(cell.rule):
            place = (cell.variant, tuned_optimizer(cell.rule), cell.batch_size)
            found.setdefault(place, []).append(cell)
    return found


def shown_as(table: Table, rule: str, batch_size: int, variant: str = "") -> str | None:
    """Return the name of a rule in the table; None for a trial that is not the best.

    >>> cells = [Cell(variant="", rule=f"tuned-adam lr={lr}", batch_size=64, metrics=(m,))
    ...          for lr, m in ((0.1, 0.8), (0.2, 0.9))]
    >>> table = Table(cells=tuple(cells))
    >>> [shown_as(table, name, 64) for name in ("legw", "tuned-adam lr=0.1", "tuned-adam lr=0.2")]
    ['legw', None, 'tuned-adam']
    """
    name = tuned_optimizer(rule)
    if not name:
        return rule
    members = trials_of(table).get((variant, name, batch_size), [])
    return name if members and _best(table, members).rule == rule else None


def costs(table: Table) -> list[str]:
    """Return one line a tuned optimizer, batch size and variant: its best trial and the cost.

    >>> cells = [Cell(variant="", rule=f"tuned-adam lr={lr}", batch_size=64, metrics=(m,),
    ...               epochs=25.0) for lr, m in ((0.1, 0.8), (0.2, 0.9))]
    >>> print(costs(Table(cells=tuple(cells)))[0])
    tuned-adam at batch 64: lr=0.2 is the best of 2 trials, by the metric shown; they cost 50
    epochs a seed, against 25 of an untuned rule.
    """
    lines = []
    for (variant, name, size), members in trials_of(table).items():
        best = _best(table, members)
        epochs = sum(cell.epochs or 0 for cell in members)
        one = _untuned(table, variant, size) or fmean(cell.epochs or 0 for cell in members)
        under = f" under {variant}" if variant else ""
        chosen = best.rule.partition(" ")[2] if best.metrics else "none"
        lines.append(
            f"{name} at batch {size}{under}: {chosen} is the best of {len(members)} trials, by the "
            f"metric shown; they cost {epochs:g} epochs a seed, against {one:g} of an untuned rule."
        )
    return lines


def _untuned(table: Table, variant: str, batch_size: int) -> float | None:
    """Return the epochs of an untuned run: legw's there, or else the base's.

    Other rules do not count, as some train longer.
    """
    cells = (table.find(variant, LEGW.name, batch_size), table.base_of(variant))
    return next((cell.epochs for cell in cells if cell and cell.epochs), None)


def is_tuned(rule: str) -> bool:
    """Return whether a line of the table is a tuned optimizer."""
    return rule.startswith(PREFIX)


def _best(table: Table, members: list[Cell]) -> Cell:
    return replace(table, cells=tuple(members)).best(members[0].batch_size) or members[0]
