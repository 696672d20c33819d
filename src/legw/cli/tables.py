"""Tables for a terminal of 80 columns: recipes, studies, probes and checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.table import Table

from legw import schedule
from legw.analysis import check, critical, probed, trials
from legw.analysis.noise import examples_against
from legw.analysis.scaled import Outcome, comparison, others, short, updates, warmup_updates
from legw.analysis.table import Cell
from legw.analysis.table import Table as Results
from legw.decays import UNITS
from legw.errors import clean, duration, number
from legw.recipe import Recipe
from legw.recipe.cautions import warmup_share
from legw.recipe.notebook import factor
from legw.schedule import epochs_of
from legw.study import durations
from legw.study.durations import Rates
from legw.study.plan import BASE, Plan, Planned
from legw.study.plan import Row as RunRow

if TYPE_CHECKING:
    from legw.analysis.keep_quality import Contract
    from legw.probes.tuning import TunedBase

SCALED = ("batch_size", "lr", "min_lr", "warmup_from_lr", "warmup_updates", "updates", *UNITS,
          *(f"warmup_{unit}" for unit in UNITS))  # fmt: skip
"""Quantities that rules multiply, and whose factor is shown."""


def side_by_side(base: Recipe, scaled: Recipe) -> Table:
    """Return two recipes as columns, changes in bold and with their factors."""
    table = _bare()
    table.add_column("")
    table.add_column("base", justify="right")
    table.add_column("scaled", justify="right")
    table.add_column("", style="cyan")
    for name, old, new in comparison(base, scaled):
        label = f"  {short(name)}" if "." in name else name
        by = factor(old, new) if name in SCALED else ""
        said = percent if name == "warmup_share" else number
        values = clean(said(old)), clean(said(new))
        table.add_row(label, *values, by, style="" if old == new else "bold")
    return table


def by_rule(base: Recipe, outcomes: Iterable[Outcome]) -> Table:
    """Return one row a rule, below the base recipe's."""
    table = _bare()
    table.add_column("rule")
    rows = [Row(("base",), base, base)]
    rows += [Row((outcome.rule.name,), base, outcome.scaled) for outcome in outcomes]
    return _fill(table, rows)


def by_batch(base: Recipe, outcomes: Iterable[Outcome]) -> Table:
    """Return one row a batch size, the base recipe's own batch (k = 1) among them."""
    table = _bare()
    table.add_column("batch\nsize", justify="right")
    table.add_column("k", justify="right")
    sizes = {outcome.batch_size: outcome for outcome in outcomes}
    rows = [] if base.batch_size in sizes else [Row((str(base.batch_size), "1"), base, base)]
    for size, outcome in sizes.items():
        rows.append(Row((str(size), number(outcome.k)), base, outcome.scaled))
    return _fill(table, rows)


def listing(recipes: Iterable[Recipe]) -> Table:
    """Return one row a recipe."""
    table = _bare()
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
    table = _bare()
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("source")
    for recipe in recipes:
        table.add_row(recipe.name, clean(recipe.source))
    return table


class Row(NamedTuple):
    """One scaled recipe of several."""

    labels: tuple[str, ...]
    """Texts of the first columns."""
    base: Recipe
    """The base recipe."""
    scaled: Recipe | None
    """The scaled recipe; None where the rule is an error."""

    def counts(self) -> list[str]:
        """Return the texts of the columns that all such tables share."""
        scaled = self.scaled
        count = len(columns(self.base))
        if scaled is None:
            return ["-"] * count
        share = percent(warmup_share(scaled))
        if scaled.unit == "steps":
            return [number(scaled.lr), number(scaled.warmup), share, number(updates(scaled))]
        if self.base.unit == "steps":  # the batch grows, and the lengths are in examples
            counts = (warmup_updates(scaled), share, updates(scaled))
            return [number(scaled.lr), *map(number, counts)]
        rates = (scaled.lr, scaled.warmup, warmup_updates(scaled))
        rest = (scaled.length, updates(scaled))
        return [*map(number, rates), share, *map(number, rest)]

    def also(self) -> str:
        """Return the rule's other changes."""
        if self.scaled is None:
            return "see below"
        changed = others(self.base, self.scaled)
        lines = [
            f"{short(name).removeprefix('warmup_')} {number(new, 3)}"
            for name, _, new in changed
            if name not in UNITS
        ]
        plan = self.scaled.batch_schedule
        return "\n".join([*lines, *([f"batch from {plan.sizes[0]}"] if plan else [])])


def columns(base: Recipe) -> tuple[str, ...]:
    """Return the headings of `Row.counts`; lengths in steps are updates already."""
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


# Studies ---------------------------------------------------------------------------


USUAL_ROOM, RULE_ROOM = 8, 16
"""Characters of the names of variant and rule for which there is room beside the other columns:
with usual space between them, and with less. 16 has every rule that ships."""


def planned(plan: Plan, rows: Sequence[RunRow], rates: Rates | None = None) -> Table:
    """Return one row for each rule and batch size, with the recipe and the progress of its runs.

    Where rates are known, the last column is the time that one run takes.
    """
    table = _bare()
    several = any(run.variant for run in plan.runs)
    for name in ("variant",) if several else ():
        table.add_column(name, overflow="fold")
    room = min(max(len(word) for run in plan.runs for word in _rule(run.rule).split()), RULE_ROOM)
    if room + max(len(run.variant) for run in plan.runs) > USUAL_ROOM:
        table.padding = 0  # one space between columns, so that no name is broken
    table.add_column("rule", overflow="fold", min_width=room)
    for name in ("batch", "lr", "warmup\nupdates", "share", "epochs", "updates"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runs", no_wrap=True)
    for name in ("time",) if rates else ():
        table.add_column(name, justify="right", no_wrap=True)
    states: dict[tuple[str, str, int], Counter[str]] = {}
    for run, row in zip(plan.runs, rows, strict=True):
        states.setdefault(_key(run), Counter())[row.status] += 1
    for run in {_key(run): run for run in reversed(plan.runs)}.values():
        recipe = run.recipe
        words = [f"{count} {state}" for state, count in states[_key(run)].items()]
        whole, warmup = schedule.counts(recipe)
        ramp = (number(warmup), percent(warmup_share(recipe)))
        length = (number(epochs_of(recipe)[1], 4), number(whole), ", ".join(words))
        cells = [_rule(run.rule), str(recipe.batch_size), number(recipe.lr, 3), *ramp, *length]
        time = durations.seconds(run, rates) if rates else None
        cells += [] if time is None else [duration(time)]
        table.add_row(*([clean(run.variant)] if several else []), *cells)
    return table


def _key(run: Planned) -> tuple[str, str, int]:
    return (run.variant, run.rule, run.recipe.batch_size)


def _rule(name: str) -> str:
    return "base" if name == BASE else clean(name)


def results(table: Results) -> Table:
    """Return a study's table: a line a rule (and variant), a column a batch size."""
    drawn = _bare()
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
        drawn.add_row(*([clean(variant)] if several else []), _rule(rule), *texts)
    return drawn


def _heading(table: Results, size: int) -> str:
    if table.base_batch is None:
        return str(size)
    return f"{size}\n{factor(table.base_batch, size) or 'base'}"


def _text(table: Results, cell: Cell | None) -> str:
    return "" if cell is None else "\n".join(table.text(cell))


def marks_best(table: Results) -> bool:
    """Whether a line has the mark of the best of its column: there are variants, and a metric."""
    table = trials.best_trials(table)
    return len(table.variants) > 1 and any(table.best(size) for size in table.batch_sizes)


def below_results(table: Results) -> list[str]:
    """Return the lines that explain a study's table."""
    lines = [table.caption(), table.length(), *trials.costs(table)]
    if marks_best(table):
        lines.append("* best of its column; choose a variant at the base batch, nowhere else")
    return lines + [f"[{i}] {reason}" for i, reason in enumerate(table.reasons, start=1)]


def points(found: TunedBase) -> Table:
    """Return one row a point of a tuned grid, the contenders marked."""
    table = _columns(found.table.metric, "", "train\nloss", "held-out\nloss", "gap", "clipped",
                     first="point")  # fmt: skip
    for cell in found.table.cells:
        known = found.predictors.get(cell.variant)
        mark = "*" if cell.variant in found.ranking.order else ""
        losses = [] if known is None else [known.train_loss, known.held_out_loss, known.gap]
        figures = [number(value, 3) for value in losses] or ["-"] * 3
        share = "-" if known is None else _share(known.clipped_share)
        measured = ", ".join(found.table.text(cell))
        table.add_row(clean(cell.variant), measured, mark, *figures, share)
    return table


def ranked_bases(found: TunedBase) -> Table:
    """Return one row a contender, the recommended base first."""
    table = _columns("loss at 4x\nover 1x", "loss of the\nfirst tenth", "lr", "headroom",
                     "clipped", "gap", "noise\nscale", first="contender")  # fmt: skip
    for name in found.ranking.order:
        known = found.predictors[name]
        room = "-" if known.headroom is None else f"{number(known.headroom)} x"
        table.add_row(clean(name), number(known.fast_loss_ratio, 3), number(known.early_loss, 3),
                      number(known.lr), room, _share(known.clipped_share),
                      number(known.gap, 3), number(known.noise_scale, 3))  # fmt: skip
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


# Probes and checks -----------------------------------------------------------------


def peaks_table(found: dict[str, Any]) -> Table:
    """Return one row a run."""
    table = _columns(
        "batch", "lr", "seed", "peak\nupdate", "peak\nepoch", "L there", "1/lr", "L last",
        "warmup\nupdates",
    )  # fmt: skip
    for row in found["runs"]:
        top = row["peak"] or {"update": None, "epoch": None, "curvature": None}
        asked = row["suggested_warmup_updates"]
        cells = (
            row["batch_size"], row["lr"], row["seed"], top["update"], top["epoch"],
            top["curvature"], 1 / row["lr"], row["last"],
        )  # fmt: skip
        table.add_row(*(number(cell, 3) for cell in cells), "-" if asked is None else str(asked))
    return table


def noise_table(found: dict[str, Any]) -> Table:
    """Return one row a stretch, then the last half and the whole run."""
    table = _columns("epochs", "noise scale", "95 % interval", "samples")
    for part in [*found["stretches"], found["late_noise_scale"], found["noise_scale"]]:
        table.add_row(
            f"{part['from_epoch']:.3g} to {part['to_epoch']:.3g}",
            "lost in noise" if part["value"] is None else number(part["value"], 3),
            probed.interval(part),
            str(part["n"]),
        )
    return table


def prediction_table(found: dict[str, Any]) -> Table:
    """Return the factor of examples that a batch needs over the base, by the noise scale.

    The noise of the last half, which is the larger one, is what `--noise DIR` reads.
    """
    table = _columns("batch", "k", "examples to the same loss\n(noise of the whole run)",
                   "(of its\nlast half)")  # fmt: skip
    base = found["base"]["batch_size"]
    scales = [found[name]["value"] for name in ("noise_scale", "late_noise_scale")]
    for k in (1, 4, 16, 64):
        factors = [examples_against(base * k, base, scale) for scale in scales]
        times = ["-" if each is None else f"{number(each, 3)} times" for each in factors]
        table.add_row(str(base * k), str(k), *times)
    return table


def critical_table(found: dict[str, Any]) -> Table:
    """Return one row a branch's batch size, and one a point: its critical batch and noise scale."""
    table = _columns("epoch", "batch", "k", "loss above\nthe base's", "95 % interval", "updates")
    for point in found["points"]:
        for one in point["branches"]:
            table.add_row(
                number(point["epoch"], 3), *_branch_cells(one, absolute=found["absolute"])
            )
        noise = point["noise_scale"] or {"value": None, "low": None}
        scale = "-" if noise["value"] is None else number(noise["value"], 3)
        whole = point["critical_batch"]
        value = f"> {whole['largest']}" if whole["value"] is None else number(whole["value"], 3)
        table.add_row(number(point["epoch"], 3), "critical", "", value,
                      critical.interval(whole).removeprefix("95 % interval "), "")  # fmt: skip
        table.add_row("", "S/|G|^2", "", scale, probed.interval(noise), "", end_section=True)
    return table


def _branch_cells(one: dict[str, Any], *, absolute: bool) -> tuple[str, ...]:
    def shown(value: float) -> str:
        return number(value, 3) if absolute else f"{value:.2%}"

    excess, half = one["excess"], one["half_width"]
    between = "-" if half is None else f"{shown(excess - half)} to {shown(excess + half)}"
    above = "diverged" if excess is None else shown(excess)
    return (str(one["batch_size"]), number(one["k"], 4), above, between, str(one["updates"]))


def choices_table(contract: Contract) -> Table:
    """Return one row a choice that keeps the base's loss; the recommended one has a star."""
    unit = contract.equal.recipe.unit
    table = _columns("choice", "batch", "rule", unit, "lr", "updates", "time", "device-\nseconds")
    rows = [("equal epochs", contract.equal), ("stretched", contract.stretched)]
    for name, one in rows:
        if one is not None:
            star = " *" if one is contract.best else "  "
            recipe = one.recipe
            table.add_row(
                name, f"{recipe.batch_size}{star}", one.rule.name, number(recipe.length, 4),
                number(recipe.lr, 3), "-" if one.updates is None else str(one.updates),
                "-" if one.seconds is None else duration(one.seconds, 3),
                "-" if one.device_seconds is None else number(one.device_seconds, 3),
            )  # fmt: skip
    return table


def rates_table(found: dict[str, Any]) -> Table:
    """Return one row a batch size: whether the loss rises at multiples of the rule's rate."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("batch", *(f"{times:g} x rate" for times in check.LR_MULTIPLES)):
        table.add_column(name, justify="right")
    sizes = {row["batch_size"] for row in found["rates"]}
    for size in sorted(sizes):
        tried = {r["times"]: r["loss_rises"] for r in found["rates"] if r["batch_size"] == size}
        words = (
            "-" if t not in tried else "rises" if tried[t] else "falls" for t in check.LR_MULTIPLES
        )
        table.add_row(str(size), *words)
    return table


# All of them -----------------------------------------------------------------------


def _bare() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="")


def _columns(*names: str, first: str = "") -> Table:
    """Return a table of numbers; `first` heads a column of names before them."""
    table = _bare()
    if first:
        table.add_column(first, overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    return table
