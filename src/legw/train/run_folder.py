"""Run folder: whether it is free, holds this very run, or another one; and its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from legw import rules
from legw.errors import RunError, setting
from legw.recipe import Recipe, to_dict
from legw.rules import steers
from legw.runs import files, reading, records
from legw.runs.records import Manifest, Summary
from legw.train.average import averaging
from legw.train.dist import World
from legw.train.hardware import describe_device, environment
from legw.train.microbatch.cache import SIZES
from legw.train.microbatch.tune import Choice
from legw.train.precision import Precision
from legw.train.run_schedule import RunSchedule
from legw.train.settings import Settings
from legw.train.task import Task


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Identity of a run: everything that its result depends on.

    Base and rule are part of it only where the rule steers: others act before the run.
    """

    task: str
    recipe: Recipe
    seed: int
    precision: str
    base: Recipe
    rule: str
    data: str = ""
    """Fingerprint of the data; empty where the task has none."""
    branch: Mapping[str, Any] | None = None
    """Start from another run's checkpoint, as plain values; None for a run from fresh weights."""


def look(folder: Path, run: Identity, settings: Settings) -> Summary | None:
    """Make the folder, or check that it holds this very run; return its summary if it ended.

    A run with `stop_after` has also ended once it has made that many updates.

    Raises:
        RunError: it cannot be written, holds another run, or holds this one and
            `settings.resume` is not set.
    """
    records.create(folder)
    if not records.begun(folder):
        return None
    if not settings.resume:
        raise RunError(
            f"{folder}: holds a run already; {setting('resume')} goes on with it, or choose "
            f"another {setting('out')}"
        )
    _check_same(folder, records.read_manifest(folder), run)
    summary = records.read_summary(folder)
    if summary is None or summary.status in ("finished", "diverged"):
        return summary
    wanted = settings.stop_after
    return summary if wanted is not None and summary.updates >= wanted else None


def _check_same(folder: Path, found: Manifest, run: Identity) -> None:
    here = f"{folder}: holds a run of"
    if found.recipe.batch_size != run.recipe.batch_size:
        raise RunError(
            f"{here} batch_size={found.recipe.batch_size}, not {run.recipe.batch_size}; "
            f"another global batch is another recipe: legw scale {run.base.name} "
            f"-b {run.recipe.batch_size} shows it, a new {setting('out')} trains it"
        )
    theirs: dict[str, object] = {
        "task": found.task,
        "seed": found.seed,
        "precision": found.precision,
    }
    ours: dict[str, object] = {"task": run.task, "seed": run.seed, "precision": run.precision}
    theirs |= _branching(found.extra.get("branch"))
    ours |= _branching(run.branch)
    theirs |= to_dict(_trained(found.recipe))
    ours |= to_dict(_trained(run.recipe))
    if steers(found.rule, found.recipe, found.base) or steers(run.rule, run.recipe, run.base):
        theirs |= _steering(found.rule, found.base)
        ours |= _steering(run.rule, run.base)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise RunError(
                f"{here} {name}={theirs.get(name)!r}, not {ours.get(name)!r}; choose another "
                f"{setting('out')}"
            )
    if run.data and found.data and found.data != run.data:
        raise RunError(
            f"{here} other data ({found.data}, not {run.data}); "
            f"give the {setting('data')} of its start, or choose another {setting('out')}"
        )


def _trained(recipe: Recipe) -> Recipe:
    """Return the recipe without what is only known about it."""
    return replace(recipe, source="", noise_scale=None, noise_scales=None, noise_batch=None)


def _branching(branch: Mapping[str, Any] | None) -> dict[str, object]:
    return {f"branch {name}": value for name, value in (branch or {}).items()}


def _steering(rule: str, base: Recipe) -> dict[str, object]:
    values = to_dict(_trained(base))
    return {"rule": rule, **{f"base {name}": value for name, value in values.items()}}


def claim(folder: Path, manifest: Manifest, artifacts: Mapping[str, bytes]) -> None:
    """Write the manifest and the task's files: from here on the folder holds this run.

    Raises:
        RunError: the disk is full, the folder cannot be written, or it holds a run whose
            files are others.
    """
    known = records.begun(folder)
    files.clear_half_written(folder, *artifacts)
    for name, content in artifacts.items():
        path = folder / name
        if not reading.there(path):
            files.write_atomically(path, content)
        elif _read(path, len(content)) != content:
            if known:
                raise RunError(
                    f"{path}: is another one than the task's; give the data of the run's start, "
                    f"or choose another {setting('out')}"
                )
            files.write_atomically(path, content)
    records.write_manifest(folder, manifest)
    try:
        (folder / "summary.json").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder / 'summary.json'}: cannot be removed: {error.strerror}; move it away"
        ) from None


def _read(path: Path, length: int) -> bytes | None:
    """Return a file's content; None where it is no file of about this length."""
    try:
        return reading.content(path, length)
    except RunError:
        return None


def describe(
    task: Task,
    run_schedule: RunSchedule,
    *,
    rule: str,
    seed: int,
    choice: Choice,
    precision: Precision,
    world: World,
    data: str,
    branch: Mapping[str, Any] | None = None,
) -> Manifest:
    """Return the manifest of a run.

    Args:
        task: the task to train.
        run_schedule: the recipe, its base, and how many updates they make.
        rule: the name of the rule that scaled the recipe.
        seed: the run's.
        choice: of the micro-batch.
        precision: fp32, or bf16.
        world: its processes.
        data: fingerprint of the data; empty where the task has none.
        branch: start from another run's checkpoint, as plain values; None for fresh weights.
    """
    known = rules.RULES.get(rule)
    return Manifest(
        task=task.name,
        rule=rule,
        seed=seed,
        base=run_schedule.base,
        recipe=run_schedule.recipe,
        num_examples=run_schedule.num_examples,
        updates=run_schedule.updates,
        micro_batch_size=choice.micro_batch_size,
        lanes=choice.lanes,
        precision=precision,
        world_size=world.size,
        device=describe_device(world.device),
        metric=task.metric.name,
        higher_is_better=task.metric.higher_is_better,
        data=data,
        environment=environment(),
        notes=(
            *(rules.cautions(run_schedule.base, run_schedule.recipe, known) if known else ()),
            *filter(None, [averaging(run_schedule.recipe)]),
        ),
        extra={
            "micro_batch_table": {str(m): r for m, r in choice.table.items()},
            "micro_batch_measured": choice.measured,
            **({SIZES: {str(b): m for b, m in choice.sizes.items()}} if choice.sizes else {}),
            **({} if branch is None else {"branch": dict(branch)}),
        },
    )
