"""Table of a study: single runs become cells, one for each rule and batch size.

Each way of showing a study (terminal, page, charts) reads the same cells:

    Row, Row, Row --of--> Table --text--> lines of a cell, for the terminal and the page
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from legw.analysis.stats import Difference, Estimate, estimate, welch
from legw.analysis.verdict import USUAL, USUAL_TOLERANCE, Tolerance, Verdict, judge, read_tolerance
from legw.recipe import notebook
from legw.rules import STEERING
from legw.study.plan import BASE, Row, Undefined


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All seeds of one rule at one batch size."""

    variant: str
    """The combination of the grid, such as ``lr=0.1``; empty without a grid."""
    rule: str
    """The rule's name, or `base` at k = 1."""
    batch_size: int
    """Examples per update."""
    metrics: tuple[float, ...] = ()
    """Metric of each finished run, in the order of the rows."""
    diverged: int = 0
    """Runs that have diverged: a result."""
    unfinished: int = 0
    """Runs that were stopped or killed, or are going on."""
    missing: int = 0
    """Runs that have not begun, or have finished without a metric."""
    lr: float | None = None
    """Peak learning rate."""
    epochs: float | None = None
    """Length of the runs."""
    reason: str = ""
    """Reason for which the rule is undefined here; empty where it is defined."""

    @property
    def total(self) -> int:
        """Number of runs that were planned."""
        return len(self.metrics) + self.diverged + self.unfinished + self.missing

    @property
    def estimate(self) -> Estimate | None:
        """Mean and interval over the finished runs; None where there is none."""
        return estimate(self.metrics) if self.metrics else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of a study, and their metric."""

    cells: tuple[Cell, ...]
    """In the order in which they were planned."""
    metric: str = "metric"
    """Name of the metric."""
    higher_is_better: bool = True
    """Whether a larger metric is better."""
    epochs: tuple[float, ...] = ()
    """The lengths of the runs, ascending."""
    tolerance: Tolerance = USUAL_TOLERANCE
    """Tolerance: the largest loss against the base's metric that counts as keeping it."""

    @cached_property
    def base_batch(self) -> int | None:
        """The base's batch size; None where no base is planned, or the grid varies it."""
        sizes = {cell.batch_size for cell in self.cells if cell.rule == BASE}
        return sizes.pop() if len(sizes) == 1 else None

    @cached_property
    def batch_sizes(self) -> list[int]:
        """The columns: the base's batch size first, then upwards."""
        base = self.base_batch
        return sorted({c.batch_size for c in self.cells}, key=lambda size: (size != base, size))

    @cached_property
    def by_batch(self) -> list[Cell]:
        """The cells by variant, batch size and rule, whenever they were planned."""
        variants, sizes, rules = self.variants, self.batch_sizes, self.rules

        def place(cell: Cell) -> tuple[int, int, int]:
            return (
                variants.index(cell.variant),
                sizes.index(cell.batch_size),
                rules.index(cell.rule),
            )

        return sorted(self.cells, key=place)

    @cached_property
    def rules(self) -> list[str]:
        """The rules' names, the base first."""
        names = dict.fromkeys(cell.rule for cell in self.cells)
        return sorted(names, key=lambda name: name != BASE)

    @cached_property
    def variants(self) -> list[str]:
        """The combinations of the grid; a single empty one without a grid."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    @cached_property
    def seeds(self) -> int:
        """The largest number of finished runs in a cell."""
        return max((len(cell.metrics) for cell in self.cells), default=0)

    def find(self, variant: str, rule: str, batch_size: int) -> Cell | None:
        """Return the cell of a rule at a batch size; None where none was planned."""
        return self._index.get((variant, rule, batch_size))

    @cached_property
    def _index(self) -> dict[tuple[str, str, int], Cell]:
        return {(cell.variant, cell.rule, cell.batch_size): cell for cell in self.cells}

    @cached_property
    def _bases(self) -> dict[str, Cell]:
        return {cell.variant: cell for cell in self.cells if cell.rule == BASE}

    def base_of(self, variant: str) -> Cell | None:
        """Return the base's cell of a variant; None where none was planned."""
        return self._bases.get(variant)

    def name(self, variant: str, rule: str) -> str:
        """Return a line's name in charts: its rule, or its variant under a grid."""
        if len(self.variants) == 1:
            return rule
        alone = rule == BASE or len(set(self.rules) - {BASE}) <= 1
        return variant if alone else f"{variant} {rule}"

    @cached_property
    def names(self) -> list[str]:
        """The names of all lines, the base's first."""
        found = dict.fromkeys(self.name(cell.variant, cell.rule) for cell in self.cells)
        return sorted(found, key=lambda name: name != BASE)

    @cached_property
    def lines(self) -> list[tuple[str, str]]:
        """The table's lines as (variant, rule).

        The base has a line of its own unless there is one rule only, whose line it joins.
        """
        there = {(cell.variant, cell.rule) for cell in self.cells}
        lines = []
        for variant in self.variants:
            names = [name for name in self.rules if (variant, name) in there]
            scaled = [name for name in names if name != BASE]
            lines += [(variant, name) for name in (scaled if len(scaled) == 1 else names)]
        return lines

    def at(self, line: tuple[str, str], batch_size: int) -> Cell | None:
        """Return the cell of a line and a column; None where the place is empty."""
        variant, rule = line
        joined = (variant, BASE) not in self.lines
        return self.find(variant, rule, batch_size) or (
            self.find(variant, BASE, batch_size) if joined else None
        )

    def better(self, first: float, second: float) -> bool:
        """Return whether one value of the metric is better than another."""
        return first > second if self.higher_is_better else first < second

    def best(self, batch_size: int) -> Cell | None:
        """Return the cell with the best mean at a batch size, of those without diverged runs."""
        whole = [c for c in self.cells if c.batch_size == batch_size and c.metrics]
        whole = [c for c in whole if len(c.metrics) == c.total] or whole
        sign = 1 if self.higher_is_better else -1
        return max(whole, key=lambda cell: sign * _mean(cell), default=None)

    def from_base(self, cell: Cell) -> Difference | None:
        """Return how far a cell is from its base, with Welch's interval; None if unknown."""
        base = self.base_of(cell.variant)
        if base is None or base is cell or not (base.metrics and cell.metrics):
            return None
        return welch(cell.metrics, base.metrics)

    def verdict(self, cell: Cell) -> Verdict | None:
        """Return whether a cell keeps its base's metric; None if nothing can be compared."""
        base, difference = self.base_of(cell.variant), self.from_base(cell)
        if base is None or base is cell or not base.metrics or not (cell.metrics or cell.diverged):
            return None
        mean, sign = _mean(base), -1 if self.higher_is_better else 1
        if cell.diverged:
            loss = sign * (_mean(cell) - mean) if cell.metrics else math.nan
            return Verdict("loses", loss, mean, self.metric)
        if difference is None:
            return Verdict("cannot tell", sign * (_mean(cell) - mean), mean, self.metric)
        return judge(
            difference,
            mean,
            self.tolerance,
            metric=self.metric,
            better_is_more=self.higher_is_better,
        )

    @cached_property
    def places(self) -> int:
        """Decimals that show four digits of the metric's usual size."""
        means = sorted(abs(_mean(cell)) for cell in self.cells if cell.metrics)
        middle = means[len(means) // 2] if means else 1.0
        return min(max(3 - math.floor(math.log10(middle)), 0), 6) if middle else 4

    def number(self, value: float) -> str:
        """Return a value of the metric as this table writes it.

        >>> Table(cells=()).number(0.12345)
        '0.123'
        """
        return f"{value:.{self.places}f}"

    def change(self, value: float) -> str:
        """Return a difference of two values, with its sign.

        >>> Table(cells=()).change(0.12345)
        '+0.123'
        """
        return f"{value:+.{self.places}f}"

    def text(self, cell: Cell) -> list[str]:
        """Return the table's text of a cell, in short lines.

        >>> cell = Cell(variant="", rule="legw", batch_size=64, metrics=(0.9, 0.92), diverged=1)
        >>> Table(cells=(cell,)).text(cell)
        ['0.9100 ± 0.1271', 'diverged 1/3']
        """
        if cell.reason:
            return [f"undefined [{self.reasons.index(cell.reason) + 1}]"]
        found, lines = cell.estimate, []
        if found is not None:
            spread = "" if found.half_width is None else f" ± {self.number(found.half_width)}"
            n = f" (n={found.n})" if found.n != self.seeds else ""
            lines.append(f"{self.number(found.mean)}{spread}{n}")
        counts = {
            "diverged": cell.diverged,
            "unfinished": cell.unfinished,
            "missing": cell.missing,
        }
        lines += [f"{word} {n}/{cell.total}" for word, n in counts.items() if n]
        verdict = self.verdict(cell)
        told = verdict is not None and len(cell.metrics) > 1 and not cell.diverged
        return [*lines, str(verdict)] if told else lines

    @cached_property
    def reasons(self) -> list[str]:
        """Reasons of undefined rules, each once; a cell's text has its number, from 1."""
        return list(dict.fromkeys(cell.reason for cell in self.cells if cell.reason))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: rules by batch sizes, and the lines below them."""
        several = len(self.variants) > 1
        head = [*(["variant"] if several else []), "rule"]
        head += [f"batch {size}" for size in self.batch_sizes]
        rows = []
        for variant, rule in self.lines:
            cells = [self.at((variant, rule), size) for size in self.batch_sizes]
            texts = [[] if cell is None else self.text(cell) for cell in cells]
            found = ["<br>".join(map(notebook.text, lines)) for lines in texts]
            rows.append(
                [*([notebook.text(variant)] if several else []), notebook.text(rule), *found]
            )
        lines = [self.caption(), self.length()]
        lines += [f"[{i}] {reason}" for i, reason in enumerate(self.reasons, start=1)]
        below = "".join(notebook.paragraph(notebook.text(line)) for line in lines)
        return (notebook.grid(head, rows) if rows else "") + below

    def caption(self) -> str:
        """Return the table's caption, in one line."""
        direction = "higher" if self.higher_is_better else "lower"
        what = f"{self.metric} after the last epoch ({direction} is better)"
        if self.seeds == 0:
            return f"{what}: no run has finished"
        if self.seeds == 1:
            return f"{what}; n = 1: a single run each shows no spread and is not a claim"
        return f"{what}: mean ± 95 % interval of the mean (Student t), n = {self.seeds} seeds"

    def remarks(self) -> list[str]:
        """Return a line for each kind of interval that a reader may stumble over.

        >>> cells = (Cell(variant="", rule="legw", batch_size=64, metrics=(0.5, 0.5)),)
        >>> print(*Table(cells=cells, metric="accuracy").remarks())
        An interval of ± 0.0000: all seeds ended with the same accuracy, to the digits shown.
        """
        found = [cell.estimate for cell in self.cells if len(cell.metrics) > 1]
        halves = [e.half_width for e in found if e and e.half_width is not None]
        lines = []
        if any(self.number(half) == self.number(0.0) for half in halves):
            lines.append(
                f"An interval of ± {self.number(0.0)}: all seeds ended with the same "
                f"{self.metric}, to the digits shown."
            )
        if self.metric == "accuracy" and any(
            e is not None and e.low is not None and e.high is not None and (e.low < 0 or e.high > 1)
            for e in found
        ):
            lines.append(
                "An interval that reaches below 0 or above 1 is Student's for so few seeds: it "
                "says that they differ too much to tell the mean. More seeds narrow it."
            )
        return lines

    def length(self) -> str:
        """Return a line on the runs' length: what all of them have in common.

        >>> Table(cells=(), epochs=(30.0,)).length()
        'Equal epochs: every run makes 30 passes over the data, however few updates that is.'
        """
        if not self.epochs:
            if any(cell.total for cell in self.cells):
                return "How long the runs are is not known: none has finished."
            return "No run is planned."
        if len(self.epochs) == 1:
            return (
                f"Equal epochs: every run makes {_passes(self.epochs[0])} over the data, "
                "however few updates that is."
            )
        return (
            f"Not at equal epochs: the runs make {self.epochs[0]:g} to "
            f"{_passes(self.epochs[-1])} over the data."
        )


def of(
    rows: Sequence[Row],
    undefined: Iterable[Undefined] = (),
    *,
    metric: str = "metric",
    higher_is_better: bool = True,
    tolerance: str = USUAL,
) -> Table:
    """Return the table of a study's rows.

    Args:
        rows: one a run, finished or not.
        undefined: the cells that their rule does not define.
        metric: name of the metric.
        higher_is_better: True where a larger metric is better.
        tolerance: largest loss that counts as keeping the base's metric, for `read_tolerance`.

    >>> row = Row(recipe="mine", rule="legw", batch_size=64, seed=0, metric=0.9,
    ...           status="finished", updates=10, seconds=1.0)
    >>> of([row]).cells[0].metrics
    (0.9,)
    """
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.variant, row.rule, row.batch_size), []).append(row)
    cells = [_cell(group) for group in groups.values()]
    cells += [Cell(**vars(cell)) for cell in undefined]
    return Table(
        cells=tuple(cells),
        metric=metric,
        higher_is_better=higher_is_better,
        epochs=_lengths(rows),
        tolerance=read_tolerance(tolerance),
    )


def _lengths(rows: Sequence[Row]) -> tuple[float, ...]:
    """Return the lengths of the runs in epochs, ascending; of a steered run only once finished."""
    known = [row for row in rows if row.status == "finished" or row.rule not in STEERING]
    return tuple(sorted({row.epochs for row in known if row.epochs is not None}))


def _cell(rows: Sequence[Row]) -> Cell:
    first = rows[0]
    finished = [row.metric for row in rows if row.status == "finished"]
    metrics = tuple(m for m in finished if m is not None and math.isfinite(m))
    diverged = sum(row.status == "diverged" for row in rows)
    unfinished = sum(row.status in ("interrupted", "running") for row in rows)
    return Cell(
        variant=first.variant,
        rule=first.rule,
        batch_size=first.batch_size,
        metrics=metrics,
        diverged=diverged,
        unfinished=unfinished,
        missing=len(rows) - len(metrics) - diverged - unfinished,
        lr=first.lr,
        epochs=next((row for row in rows if row.status == "finished"), first).epochs,
    )


def _passes(epochs: float) -> str:
    return f"{epochs:g} pass{'' if epochs == 1 else 'es'}"


def _mean(cell: Cell) -> float:
    return statistics.fmean(cell.metrics)
