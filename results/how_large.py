"""Tables of docs/how-large.md: what branches measured and predicted, and what whole runs came to.

Each result of ``legw probe critical`` in ``results/theory/critical/NAME`` has its rows; a study
``results/NAME`` stands beside it, and one in ``results/keep-quality/NAME`` is of whole runs that
were to keep the base's loss.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from figures import figure, with_interval
from names import CARRYING, OLDER_GPT

from legw.analysis import critical, evidence, stats
from legw.analysis.foretold import Foretold, foretold, median_error
from legw.analysis.measured_critical import RESULT, MeasuredCritical, read_critical
from legw.analysis.table import Table
from legw.analysis.verdict import Tolerance, judge
from legw.errors import number
from legw.study.plan import BASE, Row

HERE = Path(__file__).parent
CRITICAL = HERE / "theory" / "critical"
KEPT = HERE / "keep-quality"

EXPECTED = (
    "mnist-lstm", "mnist-lstm-muon", "ptb-small", "ptb-small-nesterov", "ptb-small-muon",
    "cifar10", "cifar10-small-muon", "translation", "gpt-small", "gpt-small-muon",
)  # fmt: skip
"""Studies of which the branches are to be shown, and so are named where they are missing."""

TOLERANCES = {name: tolerance for _, tolerance, *names in CARRYING.values() for name in names} | {
    OLDER_GPT: "1%"
}
"""How much worse than the base a test metric counts as kept, by study."""


def measured() -> list[Path]:
    """Return the results of branches that are there, one for a study."""
    return sorted(CRITICAL.glob(f"*/{RESULT}"))


# What branches measured --------------------------------------------------------------


def critical_batches() -> str:
    """Return the table of critical and noise batches, beside what whole runs kept."""
    lines = [
        "| base | base batch | critical batch | tolerance of the loss | largest batch | in whole "
        "runs | noise batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for place in measured():
        found = read_critical(str(place.parent))
        points = [
            {"epoch": point.epoch, "critical_batch": asdict(found.at(point, found.tolerance))}
            for point in found.points
        ]
        smallest = critical.over_points(points)
        lines.append(
            f"| {place.parent.name} | {found.base.batch_size} "
            f"| {_batch(smallest['critical_batch'])} at epoch {number(smallest['epoch'], 2)} "
            f"| {found.tolerance} | {smallest['largest_batch']} "
            f"| {_in_whole_runs(place.parent.name, found)} "
            f"| {_with_ends(asdict(found.noise_batch), 'none')} |"
        )
    missing = set(EXPECTED) - {place.parent.name for place in measured()}
    if missing:
        names = ", ".join(name for name in EXPECTED if name in missing)
        lines += ["", f"Branches not measured yet: {names}."]
    return "\n".join([*lines, ""])


def _batch(at: dict[str, Any]) -> str:
    if at["value"] is None:
        return f"at least {at['largest']}"
    return _with_ends(at, "")


def _with_ends(found: dict[str, Any], unknown: str) -> str:
    """Return a batch size and its interval."""
    value = unknown if found["value"] is None else number(found["value"], 3)
    return f"{value} ({critical.interval(found).removeprefix('95 % interval ')})"


def _in_whole_runs(name: str, found: MeasuredCritical) -> str:
    """Return between which batches of a study the last epoch's loss passes the tolerance."""
    rows = [row for row in _foretold(name, found) if row.measured_excess is not None]
    if not rows:
        return "-"
    inside = found.base.batch_size
    for row in rows:
        assert row.measured_excess is not None
        if row.measured_excess > found.tolerance.value:
            return f"{inside} to {row.batch_size}"
        inside = row.batch_size
    return f"at least {inside}"


def _foretold(name: str, found: MeasuredCritical) -> list[Foretold]:
    if not (HERE / name / "table.json").exists():
        return []
    return foretold(_study(HERE / name), found)


@cache
def _study(folder: Path) -> evidence.Evidence:
    """Return the runs of a study, read once for all tables."""
    return evidence.read(folder)[0]


def branches() -> str:
    """Return the table of all branches: by how much each ends above the base's."""
    lines = [
        "| base | epoch | batch | loss above the base's | predicted | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for place in measured():
        found = json.loads(place.read_text("utf-8"))
        for point in found["points"]:
            lines += [
                f"| {place.parent.name} | {number(point['epoch'], 3)} | {one['batch_size']} "
                f"| {_excess(found, one['excess'], one['half_width'])} "
                f"| {_excess(found, one['predicted'])} | {one['seeds']} |"
                for one in point["branches"]
            ]
    return "\n".join([*lines, ""])


def _excess(found: dict[str, Any], value: float | None, half: float | None = None) -> str:
    """Return a difference of losses as its tolerance: in their unit, or a share of the base's."""
    if value is None:
        return "-"
    if found["absolute"]:
        return f"{value:+.4f}" + (f" ± {half:.4f}" if half is not None else "")
    return f"{value:+.2%}" + (f" ± {half:.2%}" if half is not None else "")


# What branches predicted -------------------------------------------------------------


def foreseen() -> str:
    """Return what branches predict of each batch, beside what whole runs of the studies measured.

    Any folder below ``results/theory/critical`` with the name of a study has its rows.
    """
    lines = [
        "| study | batch | metric (n) | loss above the base's: predicted | measured "
        "| epochs over the base's: predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows: list[Foretold] = []
    for place in measured():
        name = place.parent.name
        found = read_critical(str(place.parent))
        own = _foretold(name, found)
        rows += own
        lines += [_foreseen(name, _study(HERE / name).table, found, row) for row in own]
    if not rows:
        return ""
    return "\n".join([*lines, "", *_errors(rows), ""])


def _errors(rows: Sequence[Foretold]) -> Iterator[str]:
    """Yield how far predictions are from what was measured."""
    error = median_error(rows)
    if error is not None:
        count = sum(row.error is not None for row in rows)
        yield f"Median error of the epochs: {error:.0%} (n = {count} batches)."
    pairs = [(row.excess or 0.0, row.measured_excess or 0.0) for row in rows]
    ratios = [after / before for before, after in pairs if before > 0 and after > 0]
    if ratios:
        yield (
            f"Where both losses are above the base's, the measured one is {median(ratios):.2g} "
            f"times the predicted in the median (n = {len(ratios)})."
        )


def _foreseen(name: str, table: Table, found: MeasuredCritical, row: Foretold) -> str:
    cell = table.find("", "legw", row.batch_size)
    metric = "-" if cell is None else f"{figure(cell)} ({len(cell.metrics)})"
    bound = "" if row.within else " past the bound"
    share = found.tolerance.relative
    losses = [
        "-" if each is None else f"{each:+.1%}" if share else f"{each:+.2g}"
        for each in (row.excess, row.measured_excess)
    ]
    predicted, shown = "-", "-"
    if row.stretch is not None and row.stretch_range is not None:
        low, high = row.stretch_range
        predicted = f"{row.stretch:.3g} ({low:.3g} to {high:.3g})"
    if row.measured_stretch is not None:
        shown = f"{'≥ ' * row.at_least}{row.measured_stretch:.3g}"
    error = "-" if row.error is None else f"{row.error:+.0%}"
    return (
        f"| {name} | {row.batch_size}{bound} | {metric} | {' | '.join(losses)} | {predicted} "
        f"| {shown} | {error} |"
    )


# What whole runs kept ----------------------------------------------------------------


def kept() -> str:
    """Return the table of whole runs that were to keep the base's loss, of each such study."""
    lines = [
        "| study | batch | rule | updates | epochs over the base's | loss above the base's (n) "
        "| tolerance | metric | verdict (tolerance) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place in _kept_studies():
        tolerance = read_critical(str(CRITICAL / place.name)).tolerance
        found = replace(_study(place), tolerance=TOLERANCES[place.name])
        groups: dict[tuple[int, str], list[Row]] = {}
        for row, _ in found.runs:
            groups.setdefault((row.batch_size, row.rule), []).append(row)
        base = next(rows for (_, rule), rows in groups.items() if rule == BASE)
        lines += [
            _kept(found.table, place.name, base, rows, tolerance)
            for _, rows in sorted(groups.items())
        ]
    return "\n".join([*lines, ""])


def _kept_studies() -> list[Path]:
    return sorted(KEPT.iterdir())


def _kept(
    table: Table, name: str, base: Sequence[Row], rows: Sequence[Row], tolerance: Tolerance
) -> str:
    one, losses = rows[0], [_loss(row) for row in rows]
    before = fmean(map(_loss, base))
    metrics = [row.metric for row in rows if row.metric is not None]
    found = with_interval(stats.estimate(metrics))
    if one.rule == BASE:
        start = f"| {name} | {one.batch_size} | base | {one.updates}"
        return f"{start} | 1 | ({len(rows)}) | | {found} | |"
    above = (fmean(losses) - before) / (before if tolerance.relative else 1.0)
    said = f"{above:+.1%}" if tolerance.relative else f"{above:+.2g}"
    inside = "within" if above <= tolerance.value else "past"
    ratio = (one.epochs or 0.0) / (base[0].epochs or 1.0)
    return (
        f"| {name} | {one.batch_size} | {one.rule} | {one.updates} | {ratio:.3g} "
        f"| {said} ({len(rows)}) | {inside} {tolerance} | {found} | {_verdict(table, base, rows)} "
        f"({table.tolerance.of(table.metric)}) |"
    )


def _verdict(table: Table, base: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return whether the base's metric is kept, whatever the precision of the runs."""
    before, after = ([row.metric or 0.0 for row in each] for each in (base, rows))
    difference = stats.welch(after, before)
    if difference is None:
        return "cannot tell, n = 1"
    return str(
        judge(difference, fmean(before), table.tolerance, metric=table.metric,
              better_is_more=table.higher_is_better)
    )  # fmt: skip


def kept_by_seed() -> str:
    """Return the table of the same runs, one by one."""
    lines = [
        "| study | batch | rule | seed | precision | device | training loss | metric |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place in _kept_studies():
        runs = _study(place).runs
        for row, run in sorted(runs, key=lambda p: (p[0].batch_size, p[0].rule, p[0].seed)):
            metric = "-" if row.metric is None else f"{row.metric:.{4 if row.metric < 2 else 2}f}"
            lines.append(
                f"| {place.name} | {row.batch_size} | {row.rule} | {row.seed} "
                f"| {run.manifest.precision} | {run.manifest.device.partition(' ')[0]} "
                f"| {_loss(row):.4g} | {metric} |"
            )
    return "\n".join([*lines, ""])


def _loss(row: Row) -> float:
    assert row.final_loss is not None, "a finished run has its loss"
    return row.final_loss
