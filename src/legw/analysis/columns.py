"""Columns of a study's table: one list of title and text, for page, Markdown and results.

A new column is one line in `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from legw.analysis.evidence import Evidence
from legw.analysis.table import Cell, Table
from legw.study.plan import Row


@dataclass(frozen=True)
class Line:
    """One cell of a study: the subject of one line of its table."""

    table: Table
    """That the cell is of."""
    cell: Cell
    """All seeds of one rule at one batch size."""
    rows: Sequence[Row] = ()
    """The cell's runs, at least one; empty where only the cell is known."""

    @property
    def finished(self) -> list[Row]:
        """The finished runs."""
        return [row for row in self.rows if row.status == "finished"]


@dataclass(frozen=True)
class Column:
    """A column: its title, and a function for the text of each line."""

    title: str
    """Title of the column; empty is the metric's name."""
    text: Callable[[Line], str | list[str]]
    """Returns the text of a line; several short lines where needed."""
    unit: str = ""
    """In small print below the title."""
    words: bool = False
    """Whether the column holds words instead of numbers."""
    values: Callable[[Line], dict[str, object]] | None = None
    """Returns the column's values for a data frame, by the names that they have there; None is
    the text, under the title."""

    def heading(self, table: Table) -> str:
        """Return the title, without the unit."""
        return self.title or table.metric

    def numbers(self, line: Line) -> dict[str, object]:
        """Return the cell's values for a data frame, by their names."""
        return {self.title: self.plain(line)} if self.values is None else self.values(line)

    def plain(self, line: Line) -> str:
        """Return the cell's text, in one line."""
        text = self.text(line)
        return text if isinstance(text, str) else ", ".join(text)


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value or 0.0 for value in values]
    return fmean(known) if known else None


def _mean(values: Iterable[float | None], style: str) -> str:
    found = _mean_of(values)
    return "" if found is None else f"{found:{style}}"


def _warmup(line: Line) -> str:
    epochs = line.rows[0].warmup_epochs if line.rows else None
    return "" if epochs is None else f"{epochs:.4g}"


def _change(line: Line) -> str:
    found = line.table.from_base(line.cell)
    return "" if found is None else line.table.change(found.mean)


def _interval(line: Line) -> str:
    found = line.table.from_base(line.cell)
    if found is None:
        return ""
    return f"{line.table.change(found.low)} to {line.table.change(found.high)}"


def _metric_values(line: Line) -> dict[str, object]:
    found = line.cell.estimate
    return {
        "metric": line.table.metric,
        "mean": found and found.mean,
        "half_width": found and found.half_width,
    }


def _interval_values(line: Line) -> dict[str, object]:
    found = line.table.from_base(line.cell)
    return {"low": found and found.low, "high": found and found.high}


def _change_value(line: Line) -> float | None:
    found = line.table.from_base(line.cell)
    return None if found is None else found.mean


VARIANT = Column(
    "variant",
    lambda line: line.cell.variant,
    words=True,
    values=lambda line: {"variant": line.cell.variant},
)
"""The combination of the grid, where there is one."""

COLUMNS = [
    Column("rule", lambda line: line.cell.rule, words=True),
    Column("batch", lambda line: str(line.cell.batch_size),
           values=lambda line: {"batch_size": line.cell.batch_size}),
    Column("peak lr", lambda line: "" if line.cell.lr is None else f"{line.cell.lr:.4g}",
           values=lambda line: {"lr": line.cell.lr}),
    Column("warmup", _warmup, unit="epochs",
           values=lambda line: {"warmup_epochs": line.rows[0].warmup_epochs}),
    Column("updates", lambda line: _mean((row.updates for row in line.finished), ".0f"),
           values=lambda line: {"updates": _mean_of(row.updates for row in line.finished)}),
    Column("seconds", lambda line: _mean((row.seconds for row in line.finished), ".3g"),
           values=lambda line: {"seconds": _mean_of(row.seconds for row in line.finished)}),
    Column("n", lambda line: str(len(line.cell.metrics)),
           values=lambda line: {"n": len(line.cell.metrics), "diverged": line.cell.diverged}),
    Column("", lambda line: line.table.text(line.cell), values=_metric_values),
    Column("from the base", _change, values=lambda line: {"difference": _change_value(line)}),
    Column("95 % interval", _interval, values=_interval_values),
]  # fmt: skip
"""Every cell in numbers, as page and Markdown show it."""


def columns_of(table: Table) -> list[Column]:
    """Return the columns that a study's table has: its variants, where there are several."""
    return [*([VARIANT] if len(table.variants) > 1 else []), *COLUMNS]


def lines_of(evidence: Evidence) -> list[Line]:
    """Return a line for each cell whose rule is defined, by batch size."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in evidence.rows:
        groups.setdefault((row.variant, row.rule, row.batch_size), []).append(row)
    table = evidence.table
    return [
        Line(table, cell, groups[cell.variant, cell.rule, cell.batch_size])
        for cell in table.by_batch
        if not cell.reason
    ]
