"""Recipes as tables for the terminal, at home in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rich import box
from rich.table import Table

from legw.cli.outcome import Outcome, comparison, others, short, updates, warmup_updates
from legw.cli.outputs import factor, number
from legw.lengths import UNITS
from legw.recipe import Recipe
from legw.rules import warmup_share

SCALED = ("batch_size", "lr", "min_lr", "warmup_from_lr", "warmup_updates", "updates", *UNITS,
          *(f"warmup_{unit}" for unit in UNITS))  # fmt: skip
"""The quantities that rules multiply: those whose factor is worth reading."""


def side_by_side(base: Recipe, scaled: Recipe) -> Table:
    """Return two recipes as columns, what changed in bold and with its factor."""
    table = _empty()
    table.add_column("")
    table.add_column("base", justify="right")
    table.add_column("scaled", justify="right")
    table.add_column("", style="cyan")
    for name, old, new in comparison(base, scaled):
        label = f"  {short(name)}" if "." in name else name
        by = factor(old, new) if name in SCALED else ""
        said = percent if name == "warmup_share" else number
        table.add_row(label, said(old), said(new), by, style="" if old == new else "bold")
    return table


def by_rule(base: Recipe, outcomes: Iterable[Outcome]) -> Table:
    """Return one row a rule, below the base recipe's."""
    table = _empty()
    table.add_column("rule")
    rows = [Row(("base",), base, base)]
    rows += [Row((outcome.rule.name,), base, outcome.scaled) for outcome in outcomes]
    return _fill(table, rows)


def by_batch(base: Recipe, outcomes: Iterable[Outcome]) -> Table:
    """Return one row a batch size, the base recipe's own batch (k = 1) among them."""
    table = _empty()
    table.add_column("batch\nsize", justify="right")
    table.add_column("k", justify="right")
    sizes = {outcome.batch_size: outcome for outcome in outcomes}
    rows = [] if base.batch_size in sizes else [Row((str(base.batch_size), "1"), base, base)]
    for size, outcome in sizes.items():
        rows.append(Row((str(size), number(outcome.k)), base, outcome.scaled))
    return _fill(table, rows)


def listing(recipes: Iterable[Recipe]) -> Table:
    """Return one row a recipe."""
    table = _empty()
    table.add_column("recipe", style="bold", no_wrap=True)
    for name in ("batch", "lr", "warmup\nepochs", "epochs"):
        table.add_column(name, justify="right")
    table.add_column("decay")
    table.add_column("optim")
    for recipe in recipes:
        counts = (recipe.batch_size, recipe.lr, recipe.warmup, recipe.length)
        table.add_row(recipe.name, *map(number, counts), recipe.decay.kind, recipe.optimizer.kind)
    return table


def sources(recipes: Iterable[Recipe]) -> Table:
    """Return where each recipe's numbers come from."""
    table = _empty()
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("source")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.source)
    return table


class Row(NamedTuple):
    """One scaled recipe of several."""

    labels: tuple[str, ...]
    """What its first columns say."""
    base: Recipe
    """What it was scaled from."""
    scaled: Recipe | None
    """What came of it; None where the rule is an error."""

    def counts(self) -> list[str]:
        """Return what the columns of every such table say."""
        scaled = self.scaled
        count = len(columns(self.base))
        if scaled is None:
            return ["-"] * count
        share = percent(warmup_share(scaled))
        if scaled.unit == "steps":
            return [number(scaled.lr), number(scaled.warmup), share, number(updates(scaled))]
        rates = (scaled.lr, scaled.warmup, warmup_updates(scaled))
        rest = (scaled.length, updates(scaled))
        return [*map(number, rates), share, *map(number, rest)]

    def also(self) -> str:
        """Return what else the rule changed."""
        if self.scaled is None:
            return "see below"
        changed = others(self.base, self.scaled)
        return "\n".join(
            f"{short(name).removeprefix('warmup_')} {number(new, 3)}"
            for name, _, new in changed
            if name not in UNITS
        )


def columns(base: Recipe) -> tuple[str, ...]:
    """Return the headings of what `Row.counts` says; steps are updates, and need no others."""
    if base.unit == "steps":
        return ("lr", "warmup\nsteps", "share", "steps")
    unit = base.unit
    return ("lr", f"warmup\n{unit}", "warmup\nupdates", "share", unit, "updates")


def percent(share: object) -> str:
    """Return a share of the run as people read it.

    >>> percent(0.1111), percent(0.00005), percent(0.0)
    ('11 %', '0.005 %', '0 %')
    """
    assert isinstance(share, float)
    return f"{100 * share:.2g} %"


def _fill(table: Table, rows: list[Row]) -> Table:
    for name in columns(rows[0].base):
        table.add_column(name, justify="right")
    several = any(row.also() for row in rows)
    if several:
        table.add_column("also", overflow="fold")
    for row in rows:
        unchanged = row.scaled is None or row.scaled == row.base
        cells = [*row.labels, *row.counts(), *([row.also()] if several else [])]
        table.add_row(*cells, style="dim" if unchanged else "")
    return table


def _empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="")
