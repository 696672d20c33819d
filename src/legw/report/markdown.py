"""Markdown report: the page's text without its charts, for papers, issues and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from legw import recipe
from legw.analysis import summary
from legw.analysis.advice import advice
from legw.analysis.columns import columns_of, lines_of
from legw.analysis.evidence import Evidence
from legw.analysis.table import Table
from legw.analysis.targets import reached, usual
from legw.analysis.trials import best_trials, costs
from legw.errors import clean, clean_lines, number
from legw.report.sections import CAVEAT, facts, note_lines


def text(everything: Sequence[Evidence], target: float | None = None) -> str:
    """Return the report of all studies.

    Args:
        everything: at least one.
        target: the metric that costs are counted to; None takes the usual one.
    """
    return "\n\n".join("\n\n".join(_parts(each, target)) for each in everything) + "\n"


def _parts(evidence: Evidence, target: float | None) -> Iterable[str]:
    found = evidence.table
    yield f"# {escaped(evidence.title)}"
    if evidence.rows:
        yield escaped(summary.sentence(found))
    advised = advice(evidence)
    if advised is not None:
        yield "## The recipe to use"
        yield escaped(advised.reason)
        yield _fenced(clean_lines(recipe.to_toml(advised.recipe).rstrip()), "toml")
    if found.cells:
        yield "## Result"
        yield _results(best_trials(found))
        lines = [found.caption(), found.length(), *found.remarks(), CAVEAT, *costs(found)]
        lines += [f"[{i}] {reason}" for i, reason in enumerate(found.reasons, start=1)]
        yield from (escaped(line) for line in lines)
    if evidence.runs:
        yield "## Every cell in numbers"
        yield _numbers(evidence)
        yield from _costs(evidence, usual(found) if target is None else target)
    notes = note_lines(evidence)
    if notes:
        yield "## Notes"
        yield "\n".join(f"- {escaped(line)}" for line in notes)
    if evidence.study and evidence.study.command:
        yield "## Run it again"
        yield _fenced(clean(evidence.study.command))
    if evidence.rows or evidence.runs:
        yield "## Where it was made"
    yield from (escaped(line) for line in facts(evidence))


def _results(found: Table) -> str:
    several = len(found.variants) > 1
    head = [*(["variant"] if several else []), "rule", *map(str, found.batch_sizes)]
    rows = []
    for variant, rule in found.lines:
        cells = [found.at((variant, rule), size) for size in found.batch_sizes]
        texts = ["" if cell is None else ", ".join(found.text(cell)) for cell in cells]
        rows.append([*([variant] if several else []), rule, *texts])
    return grid(head, rows)


def _numbers(evidence: Evidence) -> str:
    found = evidence.table
    columns = columns_of(found)
    head = [f"{each.heading(found)} {each.unit}".strip() for each in columns]
    return grid(head, [[each.plain(line) for each in columns] for line in lines_of(evidence)])


def _costs(evidence: Evidence, target: float | None) -> Iterable[str]:
    if target is None:
        return
    found = evidence.table
    rows = [
        [each.name, str(each.batch_size), f"{each.reached} of {each.total}",
         *(number(cost, 4) for cost in each.costs.values())]
        for each in reached(evidence, target)
    ]  # fmt: skip
    yield f"## Costs to {escaped(found.metric)} {found.number(target)}"
    yield grid(["rule", "batch", "reached", "updates", "examples", "seconds"], rows)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    >>> print(grid(["a", "b"], [["x|y", "2"]]))
    | a | b |
    |---|---|
    | x\\|y | 2 |
    """
    lines = [head, *rows]
    texts = ["| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(head), *texts[1:]])


def escaped(text: str) -> str:
    """Return text in which nothing is markup, in one line.

    >>> escaped("<script> a*b [1] | x_y")
    '&lt;script&gt; a\\\\*b \\\\[1\\\\] \\\\| x_y'
    """
    line = clean(" ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#])", r"\\\1", line)


def _fenced(code: str, language: str = "text") -> str:
    """Return code in a fence that no text inside can end."""
    runs = [len(found) for found in re.findall(r"`+", code)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return f"{fence}{language}\n{code}\n{fence}"
