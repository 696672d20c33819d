"""Gradient noise scale that is given beside a recipe: a number, or runs that have measured it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from legw.analysis import theory
from legw.analysis.theory import NoiseScale
from legw.errors import LegwError, one_line
from legw.recipe import Recipe
from legw.runs import measurements, records
from legw.runs.measurements import Noise


def read(text: str) -> NoiseScale:
    """Return the noise scale that a number states, or that runs below a folder have measured.

    Of a run the last half counts: the noise scale grows while training.

    Raises:
        LegwError: it is neither a number above 0 nor such a folder, or was lost in noise.

    >>> read("250").value
    250.0
    """
    if not text:
        raise LegwError("--noise: is empty; give a number of examples, or a folder")
    try:
        value = float(text)
    except ValueError:
        return _below(Path(text))
    if not 0 < value < 1e15:
        raise LegwError(f"--noise={one_line(text)}: must be above 0, in examples, or a folder")
    return theory.stated(value)


def _below(folder: Path) -> NoiseScale:
    here = f"--noise={one_line(str(folder))}"
    runs = {each: measurements.read(each, Noise) for each in records.find_runs(folder)}
    measured = {each: theory.late(rows) for each, rows in runs.items() if rows}
    if not measured:
        raise LegwError(f"{here}: no noise was measured below it; legw probe noise APP does")
    _check_alike(here, list(measured))
    found = theory.noise_scale([row for rows in measured.values() for row in rows])
    if found.value is None:
        raise LegwError(
            f"{here}: the gradient is lost in its noise in the last half of the run; measure at "
            "a larger batch (legw probe noise -b N), or give a number"
        )
    return found


def _check_alike(here: str, runs: Sequence[Path]) -> None:
    """Refuse to take the mean over runs of different things."""
    manifests = map(records.read_manifest, runs)
    kinds = {(each.task, each.recipe.batch_size) for each in manifests}
    if len(kinds) > 1:
        (one, b), (other, c), *_ = sorted(kinds)
        raise LegwError(
            f"{here}: holds noise of {one_line(one)} at batch {b} and of {one_line(other)} at "
            f"batch {c}; name the folder of one"
        )


def known(base: Recipe, noise: NoiseScale | str | None) -> Recipe:
    """Return the recipe with the noise scale that was given beside it, if one was.

    Raises:
        LegwError: as for `read`.
    """
    noise = read(noise) if isinstance(noise, str) else noise
    return base if noise is None else replace(base, noise_scale=noise.value)
