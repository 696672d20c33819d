"""Evidence for a report: the studies and single runs in a folder.

A folder may hold several, at any depth:

    folder --read--> Evidence, one a study (and one a task, for runs outside of studies)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from legw import rules
from legw.analysis import summary, table
from legw.analysis.table import Table
from legw.analysis.trials import best_trials, costs
from legw.analysis.verdict import USUAL
from legw.errors import LegwError, LegwWarning, RecipeError, RunError
from legw.recipe import Recipe, notebook
from legw.runs import reading, records
from legw.runs.records import Manifest, Run
from legw.study import plan as study
from legw.study.grid import differences, label
from legw.study.plan import Row, Study, Undefined

BY_PROGRESS = ("finished", "diverged", "interrupted", "running")
"""Ends of a run, from the most to the least complete."""

MAX_PROBLEMS = 20
"""Most problems that a notebook lists one by one."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The runs of one study, or of one task where there was no study."""

    title: str
    """The task's name."""
    folder: Path
    """The folder of the runs."""
    study: Study | None = None
    """The planned study; None for runs outside of a study."""
    runs: tuple[tuple[Row, Run], ...] = ()
    """Each run that has begun, with its row."""
    rows: tuple[Row, ...] = ()
    """One row a run; runs that have not begun are marked as missing."""
    undefined: tuple[Undefined, ...] = ()
    """Cells that their rule does not define."""
    problems: tuple[str, ...] = ()
    """Files that could not be read, one line each."""
    tolerance: str = ""
    """Largest loss against the base that counts as keeping its metric; empty takes the study's
    own."""

    @cached_property
    def table(self) -> Table:
        """The rows as cells."""
        metric, higher = "metric", True
        if self.runs:
            manifest = self.runs[0][1].manifest
            metric, higher = manifest.metric or metric, manifest.higher_is_better
        return table.of(
            self.rows,
            self.undefined,
            metric=metric,
            higher_is_better=higher,
            tolerance=self.tolerance or (self.study.tolerance if self.study else USUAL),
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the outcome in a sentence, the table, and the problems."""
        found = best_trials(self.table)
        lines = [summary.sentence(self.table)] if self.rows else []
        more = len(self.problems) - MAX_PROBLEMS
        below = [*costs(self.table), *(f"note: {line}" for line in self.problems[:MAX_PROBLEMS])]
        below += [f"and {more} notes more"] if more > 0 else []
        above = notebook.bold(notebook.text(self.title)), *map(notebook.text, lines)
        return (
            "".join(map(notebook.paragraph, above))
            + (found._repr_html_() if self.rows else "")
            + "".join(notebook.paragraph(notebook.text(line)) for line in below)
        )


def read(folder: str | Path) -> list[Evidence]:
    """Return all runs at or below a folder; an unreadable file is listed as a problem.

    Raises:
        RunError: the folder is not there, or holds neither runs nor a study.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: is not a folder; give the folder of a study or of runs")
    found, problems = [], []
    places = dict.fromkeys(records.find_runs(folder))
    for place in reading.find(folder, "study.json"):
        inside = [run for run in places if run.parent == place / "runs"]
        try:
            found.append(_study(place, inside))
        except LegwError as error:
            problems.append(str(error))
            continue
        for run in inside:
            del places[run]
    found += _alone(folder, list(places))
    if not found and not problems:
        raise RunError(f"{folder}: holds no runs; legw train and legw study make them")
    if problems:
        found.append(Evidence(title=folder.name, folder=folder, problems=tuple(problems)))
    return found


def compare(folder: str | Path) -> Table:
    """Return the comparison of one study, as far as its runs have ended.

    Args:
        folder: of the study, or of runs of one task.

    Returns:
        The table that `legw study` and `legw report` show: `Table.find` has a rule's cell at a
        batch size, with its mean, spread and number of seeds, and `Table.from_base` the
        difference to the base with its 95 % interval. What could not be read is warned of.

    Raises:
        RunError: the folder is not there, holds no runs, or holds more than one study.
    """
    everything = read(folder)
    for one in everything:
        for problem in one.problems:
            warnings.warn(problem, LegwWarning, stacklevel=2)
    found = [one for one in everything if one.rows]
    if len(found) != 1:
        names = ", ".join(str(one.folder) for one in found) or "no study that can be read"
        raise RunError(f"{folder}: holds {names}; give the folder of one study")
    return found[0].table


def _study(folder: Path, places: Sequence[Path]) -> Evidence:
    """Read a study: the runs that were asked for, and others that its folder has."""
    asked = study.read(folder)
    assert asked is not None, "its study.json was found"
    plan = study.plan(asked)
    runs, problems = _load(places)
    begun = {run.folder.name: run for run in runs}
    rows, pairs = [], []
    for planned in plan.runs:
        run = begun.pop(planned.name, None)
        row = _row(run, planned.variant) if run else study.missing_row(planned)
        rows.append(row)
        pairs += [(row, run)] if run else []
    others = [(_row(run, _variant(asked.base, run)), run) for run in begun.values()]
    return Evidence(
        title=asked.task,
        folder=folder,
        study=asked,
        runs=(*pairs, *others),
        rows=(*rows, *(row for row, _ in others)),
        undefined=plan.undefined,
        problems=(*problems, *_problems(runs)),
    )


def _alone(folder: Path, places: Sequence[Path]) -> list[Evidence]:
    """Read runs outside of studies, grouped by task; variants are named by their differences
    from the first run."""
    runs, problems = _load(places)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.manifest.task, []).append(run)
    found = []
    for task, members in groups.items():
        base = members[0].manifest.base
        pairs, again = _once(base, members)
        rows = tuple(row for row, _ in pairs)
        lines = (*_problems(members), *again)
        found.append(Evidence(title=task, folder=folder, runs=pairs, rows=rows, problems=lines))
    if problems:
        found.append(Evidence(title=folder.name, folder=folder, problems=tuple(problems)))
    return found


def _once(
    base: Recipe, members: Sequence[Run]
) -> tuple[tuple[tuple[Row, Run], ...], tuple[str, ...]]:
    """Return runs with their rows, and a line for each that is left out.

    Of runs with the same recipe and seed only the one with most progress counts: a repetition is no
    second sample.
    """
    kept: dict[tuple[str, str, int, int], tuple[Row, Run]] = {}
    again = []
    for run in sorted(members, key=lambda each: BY_PROGRESS.index(each.status)):
        variant = " ".join(part for part in (_variant(base, run), _made(members[0], run)) if part)
        row = _row(run, variant)
        same = (row.variant, row.rule, row.batch_size, row.seed)
        if same in kept:
            first = kept[same][1].folder.name
            again.append(f"{run.folder.name}: the same run as {first}, seed too; left out")
        else:
            kept[same] = (row, run)
    return tuple(kept.values()), tuple(again)


def _load(places: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read run folders; one that cannot be read is a problem, not the end."""
    runs, problems = [], []
    for place in places:
        try:
            run = records.load(place)
        except LegwError as error:
            problems.append(str(error))
            continue
        runs.append(run)
    return runs, problems


def _problems(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(f"{run.folder.name}: {line}" for run in runs for line in run.problems)


def _row(run: Run, variant: str) -> Row:
    """Return a run's row; one that took a value in place of its rule's is a rule of its own."""
    row, given = study.row_of(run.manifest, run.summary, variant), _given(run.manifest)
    return replace(row, rule=f"{row.rule} {given}") if given else row


def _variant(base: Recipe, run: Run) -> str:
    return label(differences(base, run.manifest.base))


def _made(first: Run, run: Run) -> str:
    """Return a run's differences from the first beside its recipe: its data, its precision."""
    ours, theirs = first.manifest, run.manifest
    precision = f"precision={theirs.precision}" if theirs.precision != ours.precision else ""
    known = theirs.data and ours.data
    data = f"data={theirs.data}" if known and theirs.data != ours.data else ""
    return " ".join(part for part in (precision, data) if part)


def _given(manifest: Manifest) -> str:
    """Return the values that replaced a rule's, such as a learning rate from the command line."""
    rule = rules.RULES.get(manifest.rule)
    if rule is None:
        return ""
    try:
        said = rules.apply(manifest.base, manifest.recipe.batch_size, rule)
    except RecipeError:
        return ""
    return label(differences(said, manifest.recipe))
