"""Sections of the page, one a study: sentence, table, charts, notes, every run."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from legw import recipe
from legw.analysis import summary
from legw.analysis.advice import advice
from legw.analysis.columns import Column, Line, columns_of, lines_of
from legw.analysis.evidence import Evidence
from legw.analysis.table import Cell, Table
from legw.analysis.targets import reached, usual
from legw.analysis.trials import best_trials, costs
from legw.report import clipped, plots
from legw.report.charts.comparison import UNITS, color_of, dash_of
from legw.report.html import Html, data, join, table, tag
from legw.runs.records import Run
from legw.study.plan import BASE, Row

CAVEAT = (
    "A comparison at equal epochs only probes the regime of perfect scaling, in which k times "
    "the batch needs a k-th of the updates; past it a rule may need more epochs, and may end as "
    "well when it gets them."
)
"""Text under the charts; Shallue et al. 2019, arXiv 1811.03600, section 2.3."""


def contents(everything: Sequence[Evidence]) -> Html:
    """Return links to the sections of several studies, with the folder that each lies in."""
    if len(everything) < 2:
        return Html("")
    above = os.path.commonpath([evidence.folder.absolute() for evidence in everything])
    items = []
    for number, evidence in enumerate(everything):
        place = os.path.relpath(evidence.folder.absolute(), above)
        where = f" ({place})" if place != os.curdir else ""
        link = tag("a", title(evidence), href=f"#study-{number}")
        items.append(tag("li", link, where))
    return tag("nav", tag("ul", items), aria_label="Studies")


def section(evidence: Evidence, number: int, target: float | None = None) -> Html:
    """Return a study's part of the page; `number` makes it and its charts unique.

    Args:
        evidence: the study.
        number: its place on the page.
        target: the metric that costs are counted to; None takes the usual one.
    """
    found = evidence.table
    return tag(
        "section",
        tag("h1", title(evidence)),
        _verdict(found) if evidence.rows else "",
        _advice(evidence),
        _results(found) if found.cells else "",
        _charts(evidence, number, target) if evidence.runs else "",
        _notes(evidence),
        _numbers(evidence) if evidence.runs else "",
        _runs(evidence),
        _again(evidence),
        [tag("p", line, class_="facts") for line in facts(evidence)],
        id=f"study-{number}",
    )


def title(evidence: Evidence) -> str:
    """Return the task, the batch sizes and the rules, in one line."""
    found = evidence.table
    rules = [name for name in found.rules if name != BASE]
    sizes = found.batch_sizes
    if not sizes:
        return evidence.title
    span = f"batch {min(sizes)}" + (f" to {max(sizes)}" if len(sizes) > 1 else "")
    variants = f", {len(found.variants)} variants" if len(found.variants) > 1 else ""
    return f"{evidence.title}: {span}" + (f", {', '.join(rules)}" if rules else "") + variants


def _verdict(found: Table) -> Html:
    """Return the study's outcome: the verdict in large letters, its numbers below it."""
    verdict, numbers = summary.verdict_and_numbers(found)
    return join(tag("p", verdict, class_="verdict"), tag("p", numbers) if numbers else "")


def _advice(evidence: Evidence) -> Html:
    """Return the recipe that the study speaks for, to copy."""
    found = advice(evidence)
    if found is None:
        return Html("")
    text = recipe.to_toml(found.recipe).rstrip()
    return join(
        tag("h2", "The recipe to use"),
        tag("p", found.reason),
        _folded(f"{found.recipe.name} at batch {found.recipe.batch_size}, as TOML", _code(text)),
    )


def _folded(title: str | Sequence[str], *children: Any) -> Html:
    return tag("details", tag("summary", title), *children)


def _code(text: str) -> Html:
    return tag("pre", tag("code", text))


def facts(evidence: Evidence) -> Iterator[str]:
    """Yield lines on the runs, their machine, and their ends."""
    counts = Counter(row.status for row in evidence.rows)
    if counts:
        states = ", ".join(f"{count} {status}" for status, count in counts.items())
        yield f"{len(evidence.rows)} runs: {states}."
    if not evidence.runs:
        return
    manifest = evidence.runs[0][1].manifest
    base = evidence.study.base if evidence.study else manifest.base
    if evidence.study and evidence.study.holdout != "test":
        yield f"Measured on the {evidence.study.holdout} data."
    yield (
        f"Base recipe: batch {base.batch_size}, lr {base.lr:g}, warmup {base.warmup:g} "
        f"of {base.length:g} {base.unit}, {base.optimizer.kind}, {base.decay.kind} decay; "
        f"{manifest.num_examples} examples."
    )
    starts = sorted(run.manifest.environment.get("started", "") for _, run in evidence.runs)
    versions = [f"{n} {manifest.environment[n]}" for n in ("legw", "torch", "python")
                if n in manifest.environment]  # fmt: skip
    yield f"Run on {manifest.device}; {', '.join(versions)}; {starts[0][:10]}."


# The table ------------------------------------------------------------------------


def _results(whole: Table) -> Html:
    found = best_trials(whole)
    several = len(found.variants) > 1
    head: list[Any] = [*(["variant"] if several else []), "rule"]
    head += [_heading(found, size) for size in found.batch_sizes]
    rows = []
    for variant, rule in found.lines:
        names = [tag("td", variant, class_="text")] if several else []
        cells = [
            _cell(found, found.at((variant, rule), size), several) for size in found.batch_sizes
        ]
        rows.append([*names, tag("th", rule, scope="row", class_="text"), *cells])
    lines = [found.caption(), found.length(), *found.remarks(), *costs(whole)]
    if several and any(found.best(size) for size in found.batch_sizes):
        lines.append("Bold: best of its column. Choose a variant at the base batch, nowhere else.")
    lines += [f"[{i}] {reason}" for i, reason in enumerate(found.reasons, start=1)]
    return join(
        tag("h2", "Result"), table(head, rows), [tag("p", line, class_="caption") for line in lines]
    )


def _heading(found: Table, size: int) -> Html:
    base = found.base_batch
    k = "" if base is None else "base" if size == base else f"× {size / base:g}"  # noqa: RUF001
    return join(f"batch {size}", tag("small", k) if k else "")


def _cell(found: Table, cell: Cell | None, several: bool) -> Html:
    if cell is None:
        return tag("td", "")
    best = several and cell is found.best(cell.batch_size)
    return tag("td", _styled(found.text(cell)), **({"class_": "best"} if best else {}))


def _styled(said: Iterable[str]) -> list[Html]:
    """Return a table's text of a cell, failures in red; `±` is not separated from its number."""
    looks = {"diverged": "line bad", "unfinished": "line mute", "missing": "line mute"}
    lines = []
    for line in said:
        mean, sign, half = line.partition("±")
        spread = tag("span", sign + half, class_="keep") if sign else ""
        look = looks.get(line.partition(" ")[0], "line")
        lines.append(tag("span", mean, spread, class_=look))
    return lines


def _numbers(evidence: Evidence) -> Html:
    """Return one row a cell, with the recipe and the runs' cost."""
    found = evidence.table
    columns = columns_of(found)
    head = [
        join(each.heading(found), tag("small", each.unit) if each.unit else "") for each in columns
    ]
    rows = [[_number(column, line) for column in columns] for line in lines_of(evidence)]
    caption = (
        "Updates and seconds are means over finished runs; seconds are training time without "
        "evaluations. Intervals of differences are Welch's; with n = 1 there is none."
    )
    return _folded(
        tag("h2", "Every cell in numbers"),
        table(head, rows, class_="sortable"),
        tag("p", caption, class_="caption"),
    )


def _number(column: Column, line: Line) -> Html:
    text = column.text(line)
    looks = {"class_": "text"} if column.words else {}
    return tag("td", text if isinstance(text, str) else _styled(text), **looks)


# The charts -----------------------------------------------------------------------


def _charts(evidence: Evidence, number: int, target: float | None) -> Html:
    """Return all charts of a study, each beside its JSON; the further ones are folded."""
    found = best_trials(evidence.table)
    caption = (
        "Lines join means over finished runs; bars are 95 % intervals, cut off at the chart's "
        "edge; small points are single runs; an arrow is a mean beyond the edge."
    )
    caveat = CAVEAT if len(found.batch_sizes) > 1 else ""
    return join(
        tag("h2", f"{found.metric.capitalize()} {plots.across(found)}"),
        _key(found),
        _chart(plots.overview(evidence), f"chart-{number}"),
        tag("p", caption, class_="caption"),
        tag("p", caveat, class_="caption") if caveat else "",
        *_losses(evidence, number),
        *_costs(evidence, f"chart-{number}", target),
        *_further(evidence, f"chart-{number}"),
    )


def _losses(evidence: Evidence, number: int) -> list[Html]:
    """Return the curves of each batch size: training loss, learning rate, growing batch."""
    drawn = list(plots.panels(evidence))
    if not drawn:
        return []
    caption = (
        "Thick: means over stretches of the run; thin: single updates, thinned without losing "
        "peaks. The base, in grey, is repeated to compare with. Seconds are at the run's mean "
        "speed."
    )
    parts = [
        tag("h2", "Training loss and learning rate"),
        _key(best_trials(evidence.table)),
        _units(number),
    ]
    for size, panels in drawn:
        charts = [_chart(plot, f"chart-{number}-{size}-{i}") for i, plot in enumerate(panels)]
        parts.append(tag("div", charts, class_="pair"))
    return [*parts, tag("p", caption, class_="caption")]


def _costs(evidence: Evidence, name: str, target: float | None) -> list[Html]:
    """Return updates, examples and seconds to a target, or the reason why there are none."""
    found = evidence.table
    given, target = target, usual(found) if target is None else target
    if target is None or len(found.batch_sizes) < 2:
        return []
    head = tag("h2", f"Costs to {found.metric} {found.number(target)}")
    drawn = plots.costs(evidence, target)
    if not drawn:
        none = "No cell has reached it with all its runs."
        return [_folded(head, tag("p", none, class_="caption"))]
    short = [
        f"{each.name} at {each.batch_size} ({each.reached} of {each.total} runs)"
        for each in sorted(reached(evidence, target), key=lambda each: each.batch_size)
        if each.reached < each.total
    ]
    lines = [
        *([] if given else ["The target is what the worst run of base and legw ended with."]),
        "The dashed line is perfect scaling from the base: as many examples, and of updates and "
        "seconds a k-th. The metric is looked at after each epoch, so that costs are exact to one.",
        *([f"Not reached by all runs, and so not drawn: {', '.join(short)}."] if short else []),
    ]
    boxes = [_chart(plot, f"{name}-to-{i}") for i, plot in enumerate(drawn)]
    captions = [tag("p", line, class_="caption") for line in lines]
    key = _key(best_trials(found))
    return [_folded(head, key, tag("div", boxes, class_="pair"), *captions)]


def _further(evidence: Evidence, name: str) -> list[Html]:
    """Return the charts of `plots.FURTHER`, each group below its title."""
    parts: list[Html] = []
    place = itertools.count()
    for heading, draw in plots.FURTHER:
        boxes = [_chart(plot, f"{name}-by-{next(place)}") for plot in draw(evidence).values()]
        if boxes:
            key = _key(best_trials(evidence.table))
            parts.append(_folded(tag("h2", heading), key, tag("div", boxes, class_="pair")))
    return parts


def _units(number: int) -> Html:
    """Return the choice of the loss chart's horizontal axis."""
    choices = []
    for unit in UNITS:
        checked = {"checked": ""} if unit == UNITS[0] else {}
        box = tag("input", type="radio", name=f"unit-{number}", value=unit, **checked)
        choices.append(tag("label", box, unit))
    legend = tag("legend", "Losses against")
    return tag("fieldset", legend, choices, class_="units")


def _key(found: Table) -> Html:
    """Return the key of the colors, the dashes and the cross."""
    names = found.names
    items = [tag("li", _stroke(name, names), name) for name in names]
    if any(cell.diverged for cell in found.cells):
        items.append(tag("li", "diverged", class_="diverged"))
    return tag("ul", items, class_="key")


def _stroke(name: str, names: Sequence[str]) -> Html:
    """Return a short piece of a rule's line, as the charts draw it."""
    dashes = " ".join(f"{length:g}" for length in dash_of(name, names))
    style = f"stroke: var(--c{color_of(name, names)}); stroke-dasharray: {dashes}"
    line = tag("line", x1="0", x2="28", y1="4", y2="4", style=style)
    return tag("svg", line, width="28", height="8", aria_hidden="true")


def _chart(plot: plots.Plot, name: str) -> Html:
    more = {"data_units": ""} if "params" in plot.figure else {}
    box = tag("div", class_="chart", data_spec=name, role="img", aria_label=plot.label, **more)
    return tag("div", data(plot.spec, id=name), box)


# Notes and runs -------------------------------------------------------------------


def _notes(evidence: Evidence) -> Html:
    """Return warnings, diverged runs, and files that could not be read."""
    lines = note_lines(evidence)
    if not lines:
        return Html("")
    return join(tag("h2", "Notes"), tag("ul", [tag("li", line) for line in lines]))


def note_lines(evidence: Evidence) -> list[str]:
    """Return warnings, diverged runs, ends of steered runs, and files that could not be read.

    They also name batches at which clipping acts on the base alone.
    """
    where: dict[tuple[int, str], dict[str, None]] = {}
    for row, run in evidence.runs:
        for note in run.manifest.notes:
            said = note.removeprefix(f"{run.manifest.base.name}: ")
            where.setdefault((row.batch_size, said), {})[row.rule] = None
    lines = [f"Batch {size}, {', '.join(names)}: {note}" for (size, note), names in where.items()]
    lines += [
        f"{run.folder.name}: diverged at update {row.updates}: {row.reason}"
        for row, run in evidence.runs
        if row.status == "diverged"
    ]
    lines += [
        f"{run.folder.name}: {row.reason}"
        for row, run in evidence.runs
        if row.status == "finished" and row.reason
    ]
    return [*lines, *clipped.notes(evidence.runs), *evidence.problems]


def _again(evidence: Evidence) -> Html:
    if evidence.study is None or not evidence.study.command:
        return Html("")
    return join(tag("h2", "Run it again"), tag("pre", tag("code", evidence.study.command)))


def _runs(evidence: Evidence) -> Html:
    """Return every run, folded up by cell: the seeds of a cell have one recipe."""
    groups: dict[tuple[str, str, int], list[tuple[Row, Run]]] = {}
    for row, run in evidence.runs:
        groups.setdefault((row.variant, row.rule, row.batch_size), []).append((row, run))
    if not groups:
        return Html("")
    parts = [_group(members, evidence.table) for members in groups.values()]
    return _folded(tag("h2", "Every run"), parts)


def _group(members: Sequence[tuple[Row, Run]], found: Table) -> Html:
    """Return the runs of a cell: its recipe once, a line a seed, and where they were made."""
    row = members[0][0]
    cell = found.find(row.variant, row.rule, row.batch_size)
    said = [f"{found.name(row.variant, row.rule)} at batch {row.batch_size}"]
    said += [f"{len(members)} run{'' if len(members) == 1 else 's'}"]
    said += found.text(cell)[:1] if cell and cell.metrics else []
    head = ["run", "seed", "status", found.metric, "updates", "seconds"]
    return _folded(
        " · ".join(said),
        _code(recipe.to_toml(members[0][1].manifest.recipe).rstrip()),
        table(head, [_seed(row, run, found) for row, run in members]),
        [_made(said, runs) for said, runs in _environments(members).items()],
    )


def _seed(row: Row, run: Run, found: Table) -> list[Html]:
    metric = "" if row.metric is None else found.number(row.metric)
    seconds = "" if row.seconds is None else f"{row.seconds:.4g}"
    cells = [str(row.seed), row.status, metric, str(row.updates), seconds]
    return [tag("td", run.folder.name, class_="text"), *(tag("td", cell) for cell in cells)]


def _environments(
    members: Sequence[tuple[Row, Run]],
) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Return the settings and machines of a cell's runs, each with the names of its runs."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for _, run in members:
        found.setdefault(tuple(_environment(run).items()), []).append(run.folder.name)
    return found


def _environment(run: Run) -> dict[str, str]:
    """Return the settings and the machine of a run, less what is its own alone."""
    manifest = run.manifest
    return {
        "task": manifest.task,
        "rule": manifest.rule,
        "device": manifest.device,
        "precision": manifest.precision,
        "processes": str(manifest.world_size),
        "micro-batch size": str(manifest.micro_batch_size)
        + (f", {manifest.lanes} at once" if manifest.lanes > 1 else ""),
        "data": manifest.data,
        **{key: str(value) for key, value in manifest.environment.items() if key != "started"},
    }


def _made(said: tuple[tuple[str, str], ...], runs: Sequence[str]) -> Html:
    return join(
        tag("p", ", ".join(runs), class_="facts"),
        tag("dl", _pairs(dict(said))),
    )


def _pairs(facts: dict[str, str]) -> Iterable[Html]:
    return [join(tag("dt", key), tag("dd", value)) for key, value in facts.items() if value]
