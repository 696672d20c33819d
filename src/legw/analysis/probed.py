"""Probed runs: their measurements as plain values and as lines of text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from legw.analysis import curves
from legw.analysis.curvature import SMOOTH, peak, power_law, smoothed, suggested_warmup
from legw.analysis.noise import in_stretches, last_half, noise_scale
from legw.errors import LegwError, number, setting
from legw.recipe import Recipe, to_dict
from legw.runs import measurements, records
from legw.runs.measurements import Curvature, Noise
from legw.runs.records import Summary
from legw.schedule import epochs_of


@dataclass(frozen=True)
class Probed:
    """One probed run."""

    recipe: Recipe
    seed: int
    num_examples: int
    folder: Path
    summary: Summary


def read(folder: Path) -> list[Probed]:
    """Return the runs at or below a folder, by batch size and seed.

    A probed run need not be finished: its measurements so far count.

    Args:
        folder: with run folders.

    Raises:
        RunError: a manifest or summary is damaged.
    """
    found = []
    for each in records.find_runs(folder):
        manifest, summary = records.read_manifest(each), records.read_summary(each)
        if summary is not None:
            found.append(
                Probed(manifest.recipe, manifest.seed, manifest.num_examples, each, summary)
            )
    return sorted(found, key=lambda run: (run.recipe.batch_size, run.seed))


# Curvature ------------------------------------------------------------------------


def curvature_result(base: Recipe, runs: Sequence[Probed]) -> dict[str, Any]:
    """Return the peaks of runs, how they move with the batch size, and a warmup, as plain values.

    Args:
        base: the recipe before scaling.
        runs: with their `curvature.jsonl`.
    """
    rows = [_curvature_row(run) for run in runs]
    points = [(row["batch_size"], row["peak"]["epoch"]) for row in rows if row["peak"]]
    power = power_law(points)
    own = [row["suggested_warmup_updates"] for row in rows if row["batch_size"] == base.batch_size]
    updates = None if not own or None in own else statistics.median(own)
    epoch = next((run.num_examples for run in runs if run.recipe.batch_size == base.batch_size), 0)
    return {
        "base": to_dict(base),
        "runs": rows,
        "peak_epoch_against_batch_size": None if power is None else asdict(power),
        "suggested_warmup": None
        if updates is None
        else {
            "updates": updates,
            "epochs": updates * base.batch_size / epoch,
            "base_epochs": epochs_of(base, epoch)[0],
        },
    }


def _curvature_row(run: Probed) -> dict[str, Any]:
    rows = measurements.read(run.folder, Curvature)
    top = peak(rows, run.recipe.batch_size, run.num_examples)
    step = run.recipe.batch_size / run.num_examples
    line = [((update + 1) * step, value) for update, value in smoothed(rows)]
    if run.recipe.batch_schedule is not None:  # each measurement knows its position
        places = {row.update: row.epoch for row in rows}
        line = [(places[update], value) for update, value in smoothed(rows)]
        top = top and replace(top, epoch=places[top.update])
    first = smoothed(rows)[: SMOOTH // 2 + 1]  # smoothing tells no peak there
    asked = suggested_warmup(rows, run.recipe.lr)
    return {
        "batch_size": run.recipe.batch_size,
        "seed": run.seed,
        "lr": run.recipe.lr,
        "status": run.summary.status,
        "updates": run.summary.updates,
        "measurements": len(rows),
        "peak": None if top is None else asdict(top),
        "peak_is_last": bool(top and rows and top.update >= 0.9 * rows[-1].update),
        "peak_is_first": bool(top and top.update in [update for update, _ in first]),
        "suggested_warmup_updates": None
        if run.recipe.optimizer.adaptive  # its rate is no step along the gradient
        else asked,
        "still_above": not run.recipe.optimizer.adaptive and asked is None,
        "last": line[-1][1] if line else None,
        "curve": [[float(f"{x:.5g}"), float(f"{y:.5g}")] for x, y in curves.thin(line, 200)],
    }


def curvature_lines(found: dict[str, Any]) -> list[str]:
    """Return the result of the peaks as lines."""
    lines = [exponent_line(found)]
    if late := _where(found, "peak_is_last"):
        lines.append(f"the peak lies at the end of what was measured for batch {late}; "
                     f"give more {setting('updates')}")  # fmt: skip
    if early := _where(found, "peak_is_first"):
        lines.append(f"the curvature is highest in the first updates for batch {early}: where it "
                     "only falls, the exponent is 1 whatever the rule")  # fmt: skip
    asked, base = found["suggested_warmup"], found["base"]["batch_size"]
    if any(row["still_above"] for row in found["runs"] if row["batch_size"] == base):
        lines.append("at the base batch L is still above 1/lr in the last third of what was "
                     f"measured: for the warmup that it asks for, give more "
                     f"{setting('updates')}")  # fmt: skip
    elif asked is not None and asked["updates"] == 0:
        lines.append("at the base batch L never exceeds 1/lr: it asks for no warmup")
    elif asked is not None:
        lines.append(
            f"at the base batch L stays below 1/lr after {number(asked['updates'])} updates: "
            f"a warmup of {number(asked['epochs'], 3)} epochs "
            f"(the base recipe has {number(asked['base_epochs'], 3)})"
        )
    return lines


def _where(found: dict[str, Any], which: str) -> str:
    """Return the batch sizes and seeds whose peak lies at an end, as text."""
    return ", ".join(
        f"{row['batch_size']} (seed {row['seed']})" for row in found["runs"] if row[which]
    )


def exponent_line(found: dict[str, Any]) -> str:
    """Return how the peak moves with the batch size, as a line."""
    power = found["peak_epoch_against_batch_size"]
    if power is None:
        return "one batch size: no exponent"
    between = "" if power["low"] is None else (
        f" (95 % interval {power['low']:.2f} to {power['high']:.2f})"
    )  # fmt: skip
    return (
        f"the peak's epoch grows as batch^{power['exponent']:.2f}{between}, n = {power['n']} runs; "
        "1 is a peak at the same update"
    )


# Noise scale ----------------------------------------------------------------------


def noise_result(base: Recipe, runs: Sequence[Probed], stretches: int) -> dict[str, Any]:
    """Return the noise scale over runs of one batch size, as plain values.

    Args:
        base: the recipe before scaling.
        runs: with their `noise.jsonl`.
        stretches: number of equal parts of each run, each with an estimate, at least 1.

    Raises:
        LegwError: nothing was measured.
    """
    each = [measurements.read(run.folder, Noise) for run in runs]
    together = [row for rows in each for row in rows]
    if not together:
        raise LegwError(
            f"{runs[0].folder}: no noise was measured; give a smaller {setting('every')}"
        )
    recipe = runs[0].recipe
    return {
        "base": to_dict(base),
        "batch_size": recipe.batch_size,
        "runs": [
            {
                "seed": run.seed,
                "status": run.summary.status,
                "updates": run.summary.updates,
                "noise_scale": asdict(noise_scale(rows)),
                "stretches": [asdict(noise_scale(part)) for part in in_stretches(rows, stretches)],
            }
            for run, rows in zip(runs, each, strict=True)
            if rows
        ],
        "noise_scale": asdict(noise_scale(together)),
        "late_noise_scale": asdict(noise_scale(last_half(together))),
        "stretches": [asdict(noise_scale(part)) for part in in_stretches(together, stretches)],
    }


def noise_lines(found: dict[str, Any]) -> list[str]:
    """Return the noise scale and its meaning as lines."""
    whole, late = found["noise_scale"], found["late_noise_scale"]
    lost = ("the gradient is lost in its noise: the noise scale is far above the batch size; "
            f"measure at a larger batch, or with more samples (a smaller {setting('every')})"
            )  # fmt: skip
    if whole["value"] is None:
        return [lost]
    ending = (
        "in its last half " + lost
        if late["value"] is None
        else f"{number(late['value'], 3)} ({interval(late)}) in its last half"
    )
    return [
        f"noise scale {number(whole['value'], 3)} examples ({interval(whole)}) over the run, "
        + ending,
        "a batch of that size needs twice the examples of a small one to the same loss, and "
        "twice the updates of a huge one; far beyond it, a larger batch hardly saves updates",
    ]


def interval(part: dict[str, Any]) -> str:
    """Return the 95 % interval of a noise scale as text; a dash where it has none."""
    if part["low"] is None:
        return "-"
    return f"{number(part['low'], 3)} to {number(part['high'], 3)}"
