"""Study plan: a grid of rule x batch size x seed, as values.

    Study --plan--> runs --pending(folder)--> what is left to run --rows(folder)--> table

At ``k = 1`` every rule returns the base recipe, so that all rules share one run
there; it is called `base` and trained once. A study's folder:

    FOLDER/study.json     what is compared: the study as data
    FOLDER/runs/NAME/     one run folder a run
    FOLDER/table.json     one row a run
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from legw import rules
from legw.errors import LegwError, RecipeError, RunError, check_count, setting, unknown_name
from legw.recipe import Recipe, from_dict, notebook, to_dict
from legw.recipe.cautions import ROUNDING
from legw.recipe.rule import Rule
from legw.runs import files, reading, records
from legw.runs.records import Manifest, Summary
from legw.schedule import epochs_of
from legw.study import baselines
from legw.study.grid import Grid, differences, label, variants

BASE = "base"
"""Name of the run at the base batch, under every rule."""

MAX_STRETCH = 4.0
"""Largest factor on the base's epochs that a rule may need in a study."""

MAX_RUNS = 10_000
"""Most runs of one study: more is taken for a typing error, or a hostile file."""

FORMAT = 1
"""Version of study.json; a reader refuses what is newer."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Comparison of rules over batch sizes and seeds.

    >>> base = Recipe(name="mine", batch_size=16, lr=0.1, epochs=10, warmup_epochs=0.1)
    >>> study = Study(task="mine", base=base, batch_sizes=(16, 64), rules=("legw", "sqrt"))
    >>> [run.name for run in plan(study).runs]
    ['base-b16-s0', 'legw-b64-s0', 'sqrt-b64-s0']
    """

    task: str
    """The application's name, or ``module:attribute``."""
    base: Recipe
    """The recipe that is carried over."""
    batch_sizes: tuple[int, ...]
    """Target batch sizes, each at least 1; the base's own is run first, then as given."""
    rules: tuple[str, ...] = ("legw",)
    """Names of the rules."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; three at least for a claim."""
    grid: Grid = field(default_factory=dict)
    """Fields of the base recipe to vary, each with its values. Every combination is a
    base of its own."""
    tuned: baselines.TunedGrids = field(default_factory=dict)
    """Optimizers that are tuned at each batch size but the base's, with their grids; under
    a grid of bases once for each of them."""
    holdout: str = "test"
    """Data for the metric: test, or validation (part of the training data)."""
    tolerance: str = field(default="1%", compare=False)
    """Largest loss against the base that counts as keeping its metric: a number in the metric's
    unit, or a share of the base's mean, such as 1%; `legw.analysis.verdict.read_tolerance` reads
    it."""
    command: str = field(default="", compare=False)
    """The command that makes it."""

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the grid, the number of its runs, and the base."""
        planned = plan(self)
        about = {
            "batch sizes": ", ".join(map(str, self.batch_sizes)),
            "rules": ", ".join(self.rules),
            "seeds": ", ".join(map(str, self.seeds)),
            "varied": "; ".join(f"{name}: {', '.join(map(str, values))}"
                                for name, values in self.grid.items()),
            "tuned": ", ".join(self.tuned),
            "metric on": f"the {self.holdout} data",
            "runs": str(len(planned.runs)),
            "undefined": "; ".join(cell.reason for cell in planned.undefined),
        }  # fmt: skip
        rows = [[notebook.text(name), notebook.text(value)]
                for name, value in about.items() if value]  # fmt: skip
        head = notebook.paragraph(notebook.bold(notebook.text(f"study of {self.task}")))
        return head + notebook.grid(["", ""], rows) + self.base._repr_html_()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study."""

    name: str
    """Name of its folder, a function of the run's settings."""
    variant: str
    """The combination of the grid, such as ``lr=0.1``; empty without a grid."""
    rule: str
    """The rule's name, or `base` at k = 1."""
    base: Recipe
    """The recipe before scaling: the study's base, or a variant of it."""
    recipe: Recipe
    """The recipe to train."""
    seed: int
    """Seed of the weights, the order of examples and the random draws."""


@dataclass(frozen=True, kw_only=True)
class Undefined:
    """A cell of the grid that its rule does not define, and why."""

    variant: str
    """The combination of the grid."""
    rule: str
    """The rule's name."""
    batch_size: int
    """The target batch size."""
    reason: str
    """The reason, as one line."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a study, in the order in which they are run."""

    runs: tuple[Planned, ...]
    """The runs to train, in order."""
    undefined: tuple[Undefined, ...] = ()
    """Combinations that cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run in `table.json`."""

    recipe: str
    """Name of the base recipe."""
    rule: str
    """Name of the rule, or `base` at k = 1."""
    batch_size: int
    """Examples per update."""
    seed: int
    """Seed of the run."""
    metric: float | None
    """After the last epoch, on the held-out data; None unless finished."""
    status: str
    """finished, diverged, interrupted, running (also: killed), or missing."""
    updates: int | None
    """Updates made."""
    seconds: float | None
    """Training time, evaluations left out."""
    variant: str = ""
    """The combination of the grid, such as ``lr=0.1``."""
    final_loss: float | None = None
    """Mean training loss of the last epoch."""
    lr: float | None = None
    """Peak learning rate."""
    warmup_epochs: float | None = None
    """Length of the warmup."""
    epochs: float | None = None
    """Length of the run."""
    reason: str = ""
    """Reason of divergence or interruption."""


# What is to be run --------------------------------------------------------------


def plan(study: Study) -> Plan:
    """Return every run of a study, base batch first, and the cells that are undefined.

    Raises:
        RecipeError: an unknown rule or field, a batch size below 1, an impossible base, or
            a tuned optimizer that sets a field of the grid.
    """
    _check_size(study)
    found = [rules.find(name) for name in study.rules]
    for batch_size in study.batch_sizes:
        check_count(study.base.name, "batch_size", batch_size)
    runs: dict[str, Planned] = {}
    compared: dict[str, Planned] = {}
    undefined, trials = [], []
    for variant, base in variants(study.base, study.grid):
        sizes = sorted(study.batch_sizes, key=lambda size: size != base.batch_size)
        for batch_size, rule in itertools.product(sizes, found):
            try:
                recipe = _affordable(base, batch_size, rule)
            except RecipeError as error:
                cell = {"variant": variant, "rule": rule.name, "batch_size": batch_size}
                undefined.append(Undefined(**cell, reason=str(error)))  # type: ignore[arg-type]
                continue
            for seed in study.seeds:
                run = _planned(variant, base, recipe, rule.name, seed)
                runs.setdefault(run.name, run)
        for batch_size in study.batch_sizes:
            if batch_size != base.batch_size:
                for name, recipe in baselines.trials(base, study.tuned, batch_size):
                    trials.append((variant, name, recipe))
                    own = [_planned(variant, base, recipe, name, seed) for seed in study.seeds]
                    compared |= {run.name: run for run in own}
    baselines.check_apart(study.base.name, trials)
    runs |= compared
    return Plan(runs=tuple(runs.values()), undefined=tuple(undefined))


def _check_size(study: Study) -> None:
    """Refuse a study of too many runs, before the runs are planned one by one."""
    bases = math.prod(len(values) for values in study.grid.values())
    trials = sum(math.prod(len(each) for each in one.values()) for one in study.tuned.values())
    count = bases * len(study.batch_sizes) * len(study.seeds) * (len(study.rules) + trials)
    if count > MAX_RUNS:
        raise RecipeError(
            f"{study.base.name}: a study of up to {count} runs; at most {MAX_RUNS} can be planned"
        )


def _affordable(base: Recipe, batch_size: int, rule: Rule) -> Recipe:
    """Apply a rule, unless its runs would grow too long to be compared."""
    stretch = rules.stretched_by(base, batch_size, rule)
    if stretch > MAX_STRETCH * (1 + ROUNDING):
        raise RecipeError(
            f"{base.name}: batch_size={batch_size}: {rule.name} would train {stretch:g} times "
            f"as long; a study goes to {MAX_STRETCH:g} times"
        )
    return rules.apply(base, batch_size, rule)


def _planned(variant: str, base: Recipe, recipe: Recipe, rule: str, seed: int) -> Planned:
    rule = BASE if recipe.batch_size == base.batch_size else rule
    name = f"{_file_name(rule)}-b{recipe.batch_size}-s{seed}"
    if variant:
        name = f"{_file_name(variant)}_{name}"
    return Planned(name=name, variant=variant, rule=rule, base=base, recipe=recipe, seed=seed)


def _file_name(label: str) -> str:
    """Return a grid's label as part of a file's name; another label has another name.

    >>> _file_name("lr=0.1 clip_norm=none"), _file_name("name=../../x")
    ('lr=0.1,clip_norm=none', 'name=.._.._x-6729027a')
    """
    plain = label.replace(" ", ",")
    if re.fullmatch(r"[A-Za-z0-9=.,_+-]{1,100}", plain) and "," not in label:
        return plain
    safe = re.sub(r"[^A-Za-z0-9=.,_+-]", "_", plain)[:80]
    return f"{safe}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


# How far it is --------------------------------------------------------------------


def pending(runs: Sequence[Planned], folder: str | Path) -> list[Planned]:
    """Return the runs that have neither finished nor diverged in a study's folder.

    Raises:
        RunError: a run's folder is damaged.
    """
    return [run for run in runs if status(run, folder) not in ("finished", "diverged")]


def status(run: Planned, folder: str | Path) -> str:
    """Return a run's status: finished, diverged, interrupted, running or missing.

    Raises:
        RunError: the run's folder is damaged.
    """
    place = place_of(run, folder)
    if not records.begun(place):
        return "missing"
    summary = records.read_summary(place)
    return summary.status if summary else "running"


def rows(runs: Sequence[Planned], folder: str | Path) -> list[Row]:
    """Return the table of a study, one row a run; runs that have not begun are marked as missing.

    Raises:
        RunError: a run's folder is damaged, or holds a run of another recipe.
    """
    return [_row(run, place_of(run, folder)) for run in runs]


def place_of(run: Planned, folder: str | Path) -> Path:
    """Return the run folder of a study's run.

    Raises:
        RunError: a link there leads out of the study's folder.
    """
    place = Path(folder) / "runs" / run.name
    if reading.leads_out(place, Path(folder)):
        raise RunError(
            f"{place}: is a link that leads out of the study's folder; put the run itself there"
        )
    return place


def other_rows(study: Study, runs: Sequence[Planned], folder: str | Path) -> list[Row]:
    """Return one row for each run in a study's folder that is not among these.

    A study that is planned again with other rules or batch sizes keeps its runs.

    Raises:
        RunError: a run's folder is damaged.
    """
    known = {run.name for run in runs}
    places = [
        place for place in records.find_runs(Path(folder) / "runs") if place.name not in known
    ]
    manifests = [(place, records.read_manifest(place)) for place in places]
    return [
        row_of(
            manifest,
            records.read_summary(place),
            label(differences(study.base, manifest.base)),
        )
        for place, manifest in manifests
    ]


def missing_row(run: Planned) -> Row:
    """Return the row of a run that has not begun."""
    return _empty_row(run.recipe, run.rule, run.seed, run.variant, "missing")


def row_of(manifest: Manifest, summary: Summary | None, variant: str = "") -> Row:
    """Return the row of a run that has begun.

    Args:
        manifest: description of the run.
        summary: of the run's end; None where it has not ended, or was killed.
        variant: the combination of the grid.
    """
    row = _empty_row(manifest.recipe, manifest.rule, manifest.seed, variant, "running")
    if manifest.recipe.batch_size == manifest.base.batch_size:
        row = replace(row, rule=BASE)
    return row if summary is None else ended(row, summary)


def ended(row: Row, summary: Summary) -> Row:
    """Return a run's row, completed by its end."""
    return replace(
        row,
        metric=summary.metric.get("value"),
        status=summary.status,
        updates=summary.updates,
        seconds=summary.seconds,
        final_loss=summary.final_loss,
        epochs=summary.epochs if row.rule in rules.STEERING else row.epochs,
        reason=summary.reason,
    )


def _row(run: Planned, place: Path) -> Row:
    if not records.begun(place):
        return missing_row(run)
    manifest = records.read_manifest(place)
    if differences(manifest.recipe, run.recipe):
        raise RunError(
            f"{place}: holds a run of another recipe; choose another {setting('out')}, or move "
            f"it away"
        )
    return row_of(manifest, records.read_summary(place), run.variant)


def _empty_row(recipe: Recipe, rule: str, seed: int, variant: str, status: str) -> Row:
    warmup_epochs, epochs = epochs_of(recipe)
    return Row(
        recipe=recipe.name,
        rule=rule,
        batch_size=recipe.batch_size,
        seed=seed,
        metric=None,
        status=status,
        updates=None,
        seconds=None,
        variant=variant,
        lr=recipe.lr,
        warmup_epochs=warmup_epochs,
        epochs=epochs,
    )


# The study's own file ---------------------------------------------------------------


def read(folder: str | Path) -> Study | None:
    """Return the study of a folder's study.json; None without that file.

    Raises:
        RunError: study.json is damaged, or from a newer version.
    """
    path = Path(folder) / "study.json"
    if not reading.there(path):
        return None
    try:
        data = reading.json_object(path)
        version = data.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise RunError("is from a newer legw; upgrade to read it")
        known = [field.name for field in fields(_File)]
        for name in data:
            if name not in known:
                raise RunError(f"cannot be read: {unknown_name('field', name, known)}")
        found = reading.typed(_File, data)
        reading.at_least(found, format=1)
        if min(found.seeds, default=0) < 0:
            raise RunError("cannot be read: seeds: must be at least 0; move it away")
        values = {field.name: getattr(found, field.name) for field in fields(Study)}
        return Study(**values | {"base": from_dict(found.base)})
    except LegwError as error:
        line = str(error)
        line = f"cannot be read: {line}" if line.startswith("must be") else line
        more = "" if "; " in line else "; move it away"
        raise RunError(f"{path}: {line}{more}") from None


@dataclass(frozen=True, kw_only=True)
class _File(Study):
    """Content of study.json, types checked; its base is still plain values."""

    base: dict[str, Any]  # type: ignore[assignment]
    grid: dict[str, tuple[Any, ...]]
    tuned: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=dict)
    format: int


def write(study: Study, folder: Path) -> None:
    """Write study.json, after seeing that the folder holds no other study.

    Raises:
        RunError: it does, or it cannot be written.
    """
    check_same(study, folder)
    content = {"format": FORMAT, **vars(study), "base": to_dict(study.base)}
    files.write_json(folder / "study.json", content)


def check_same(study: Study, folder: str | Path) -> None:
    """Refuse a folder whose study has another task, base recipe or held-out data.

    Raises:
        RunError: it has, or its study.json cannot be read.
    """
    found = read(folder)
    if found is None:
        return
    here = f"{folder}: holds a study of"
    if found.task != study.task:
        raise RunError(f"{here} {found.task}, not of {study.task}; choose another {setting('out')}")
    if found.holdout != study.holdout:
        raise RunError(
            f"{here} the {found.holdout} data, not of the {study.holdout} data; "
            f"choose another {setting('out')}"
        )
    theirs, ours = differences(study.base, found.base), differences(found.base, study.base)
    if ours:
        raise RunError(
            f"{here} another base recipe ({label(theirs)}, not {label(ours)}); choose another "
            f"{setting('out')}"
        )
