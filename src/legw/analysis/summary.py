"""Summary of a study: its numbers as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from legw.analysis.table import Cell, Table
from legw.analysis.trials import best_trials

MAX_LISTED = 3
"""Most other rules that are listed one by one."""

SUBJECT = "legw"
"""Rule of which the sentence speaks, where it is part of the study."""


def sentence(table: Table) -> str:
    """Return the study's outcome in one sentence, made from the numbers alone.

    A rule is compared with the base at the largest batch at which it has ended; a
    grid's best variant with the next one. A single run is labelled as such.

    >>> cells = (Cell(variant="", rule="base", batch_size=16, metrics=(0.95, 0.97)),
    ...          Cell(variant="", rule="legw", batch_size=64, metrics=(0.94, 0.96)))
    >>> print(sentence(Table(cells=cells, metric="accuracy")))
    Cannot tell whether the base's accuracy is kept within 1 %: at batch 64 (4 times the
    base's 16), legw reaches accuracy 0.9500 against the base's 0.9600 (difference -0.0100,
    95 % interval -0.0708 to +0.0508, n = 2 and 2).
    """
    table = best_trials(table)
    ended = [cell for cell in table.cells if cell.metrics or cell.diverged]
    if not ended:
        return f"No run has ended yet: {_runs(sum(c.total for c in table.cells))} planned."
    speak = _of_the_grid if len(table.variants) > 1 else _of_the_rules
    said = speak(table, ended)
    left = sum(cell.missing + cell.unfinished for cell in table.cells)
    return said + (f"; {_runs(left)} not done yet." if left else ".")


def verdict_and_numbers(table: Table) -> tuple[str, str]:
    """Return the sentence in two: the verdict, and the numbers that it rests on.

    Where there is no verdict the first is the whole sentence, and the second empty.

    >>> cells = (Cell(variant="", rule="base", batch_size=16, metrics=(0.95, 0.97)),
    ...          Cell(variant="", rule="legw", batch_size=64, metrics=(0.94, 0.96)))
    >>> verdict_and_numbers(Table(cells=cells, metric="accuracy"))[0]
    "Cannot tell whether the base's accuracy is kept within 1 %"
    """
    verdict, colon, numbers = sentence(table).partition(": at batch")
    return verdict, f"At batch{numbers}" if colon else ""


def _of_the_rules(table: Table, ended: Sequence[Cell]) -> str:
    scaled = [cell for cell in ended if cell.rule != "base"]
    if not scaled:
        return f"The base, at batch {ended[0].batch_size}, {_reached(table, ended[0])}"
    subject = _subject(table, scaled)
    others = [c for c in scaled if c.batch_size == subject.batch_size and c is not subject]
    said = f"{_verdict(table, subject)}t batch {subject.batch_size}{_times(table, subject)}, "
    said += f"{subject.rule} {_against_base(table, subject)}"
    return said + ("; " + _others(table, others, subject) if others else "")


def _verdict(table: Table, cell: Cell) -> str:
    """Return the verdict on a cell: the sentence's beginning, up to the word "at"."""
    verdict = table.verdict(cell)
    if verdict is None:
        return "A"
    within = f"within {table.tolerance.of(table.metric)}: a"
    if verdict.outcome == "keeps":
        return f"Keeps the base's {table.metric} {within}"
    if verdict.outcome == "cannot tell":
        return f"Cannot tell whether the base's {table.metric} is kept {within}"
    if cell.diverged:
        return f"Loses {cell.diverged} of {_runs(cell.total)}, by divergence: a"
    return f"Loses {verdict.amount}: a"


def _subject(table: Table, scaled: Sequence[Cell]) -> Cell:
    """Return the cell to speak of: legw's, or else the best, at the largest batch."""
    ours = [cell for cell in scaled if cell.rule == SUBJECT]
    if ours:
        return max(ours, key=lambda cell: cell.batch_size)
    largest = max(cell.batch_size for cell in scaled)
    there = [cell for cell in scaled if cell.batch_size == largest]
    return next((c for c in there if c is table.best(largest)), there[0])


def _times(table: Table, cell: Cell) -> str:
    base = table.base_batch
    return f" ({cell.batch_size / base:g} times the base's {base})" if base else ""


def _against_base(table: Table, cell: Cell) -> str:
    base = table.base_of(cell.variant)
    if not cell.metrics or base is None or not base.metrics:
        return _reached(table, cell)
    found, theirs = cell.estimate, base.estimate
    assert found is not None and theirs is not None
    said = f"reaches {table.metric} {table.number(found.mean)}{_lost(cell)} against the base's "
    said += table.number(theirs.mean)
    difference = table.from_base(cell)
    if difference is None:
        return f"{said} ({_n(found.n, theirs.n)}: no claim)"
    low, high = table.change(difference.low), table.change(difference.high)
    return (
        f"{said} (difference {table.change(difference.mean)}, "
        f"95 % interval {low} to {high}, {_n(found.n, theirs.n)})"
    )


def _others(table: Table, cells: Sequence[Cell], subject: Cell) -> str:
    """Return the other rules' metrics, best first, diverged ones last; of many only the ends."""
    sign = -1 if table.higher_is_better else 1
    whole = sorted((c for c in cells if c.metrics), key=lambda c: sign * fmean(c.metrics))
    said = [
        f"{c.rule} {table.number(fmean(c.metrics))}{_lost(c)}{_longer(c, subject)}" for c in whole
    ]
    if len(said) > MAX_LISTED:
        said = [f"of the {len(said)} other rules {said[0]} at best, {said[-1]} at worst"]
    diverged = [f"{cell.rule} {_reached(table, cell)}" for cell in cells if not cell.metrics]
    return ", ".join(said + diverged)


def _longer(cell: Cell, subject: Cell) -> str:
    """Name the rules that train longer than the one of which the sentence speaks."""
    if not (cell.epochs and subject.epochs) or cell.epochs == subject.epochs:
        return ""
    return f" (in {cell.epochs / subject.epochs:g} times the epochs)"


def _reached(table: Table, cell: Cell) -> str:
    found = cell.estimate
    if found is None:
        return f"diverged in {cell.diverged} of {_runs(cell.total)}"
    half = "" if found.half_width is None else f" ± {table.number(found.half_width)}"
    n = f"n = {found.n}" + (": no claim" if found.n == 1 else "")
    return f"reaches {table.metric} {table.number(found.mean)}{half} ({n}){_lost(cell)}"


def _lost(cell: Cell) -> str:
    return f" ({cell.diverged} of {cell.total} diverged)" if cell.diverged else ""


def _of_the_grid(table: Table, ended: Sequence[Cell]) -> str:
    """Compare the best variant with the next, at the base batch if one has ended there."""
    sizes, base = {cell.batch_size for cell in ended}, table.base_batch
    batch_size = base if base in sizes else max(sizes)
    there = [cell for cell in ended if cell.batch_size == batch_size]
    best = table.best(batch_size)
    if best is None:
        return f"All runs that ended at batch {batch_size} diverged"
    rest = Table(
        cells=tuple(cell for cell in there if cell is not best),
        metric=table.metric,
        higher_is_better=table.higher_is_better,
    )
    name = _name(table, best)
    said = f"Best of {len(there)} at batch {batch_size}: {name} {_reached(table, best)}"
    second = rest.best(batch_size)
    if second is None:
        return said
    reached = table.number(fmean(second.metrics))
    return f"{said}; next {_name(table, second)} with {reached}"


def _name(table: Table, cell: Cell) -> str:
    several = len({c.rule for c in table.cells if c.batch_size == cell.batch_size}) > 1
    return f"{cell.variant} ({cell.rule})" if several else cell.variant


def _n(first: int, second: int) -> str:
    return f"n = {first}" if first == second == 1 else f"n = {first} and {second}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
