"""Critical batch and noise batch as branches of one base measured them, given beside a recipe.

    legw probe critical --writes--> OUT/critical.json --read_critical--> MeasuredCritical
    Recipe, MeasuredCritical --with_critical--> Recipe with its noise batch

Two numbers, kept apart: the largest batch within a tolerance at equal examples bounds the batch;
the noise batch, fitted to the branches, tells by how much a larger one makes the run longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from legw.analysis import critical
from legw.analysis.critical import CriticalBatch, Rung
from legw.analysis.noise_batch import NoiseBatch, over_run
from legw.analysis.verdict import Tolerance
from legw.errors import LegwError, RunError, given, number, one_line, setting, shown
from legw.recipe import Recipe, from_dict
from legw.recipe.stretch import examples_over, with_warmup
from legw.runs import reading
from legw.study.grid import differences

RESULT = "critical.json"
"""File of a result in the folder of its runs."""

FORMAT = 1
"""Version of the file; a reader refuses what is newer."""

SAME = ("name", "num_examples", "num_tokens", "window_tokens", "tokens_per_example", "ema_decay")
"""Fields in which a recipe may differ from the base that was measured: names, what is known of the
data, and an average of the weights, which trains nothing."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """The branches from one point of the base run."""

    epoch: float
    """Position of the point."""
    base_loss: float
    """The base's mean loss where branches are compared with it."""
    until_epoch: float
    """Up to here the point stands for the run, the first one from its start."""
    noise_batch: NoiseBatch
    """Fitted to the branches from this point."""
    branches: tuple[Rung, ...]
    """By ascending batch size."""


@dataclass(frozen=True, kw_only=True)
class MeasuredCritical:
    """Result of `legw probe critical` on one base."""

    task: str
    """Name of the task."""
    rule: str
    """Name of the rule that gave the branches their rates."""
    base: Recipe
    """The base that was measured."""
    tolerance: Tolerance
    """That of the measurement: past it no branch was made."""
    points: tuple[MeasuredPoint, ...]
    """At least one."""
    noise_batch: NoiseBatch
    """That of the whole run: the mean of the points' 1/Bn."""
    source: str
    """The word that named it, for errors."""

    @property
    def largest_tried(self) -> int:
        """The largest batch that was tried at every point, in examples."""
        return min(point.branches[-1].batch_size for point in self.points)

    def at(self, point: MeasuredPoint, tolerance: Tolerance) -> CriticalBatch:
        """Return the critical batch at a point for any tolerance of the loss.

        Of one above that of the measurement it may be a lower bound: no larger branch was made.
        """
        size = self.base.batch_size
        rungs = [_in_unit(one, point, self.tolerance, tolerance) for one in point.branches]
        return critical.critical_batch(rungs, size, tolerance.value)

    def largest_batch(self, tolerance: Tolerance) -> int:
        """Return the largest batch tried that is within a tolerance at every point."""
        return min(self.at(point, tolerance).largest for point in self.points)

    def epochs_to(self, epoch: float, batch_size: int) -> tuple[float, float, float] | None:
        """Return the epochs in which a batch comes as far as the base does in some.

        Each point's noise batch counts for the part of the run for which it stands, and half of
        LEGW's longer warmup is added.

        Args:
            epoch: of the base run, above 0.
            batch_size: in examples.

        Returns:
            The value, and both ends of its interval; None where a noise batch is not known.
        """
        size, ends = self.base.batch_size, [point.until_epoch for point in self.points]
        ends[-1] = max(ends[-1], epoch)
        parts = [
            (max(min(end, epoch) - begin, 0.0) / epoch, point.noise_batch)
            for begin, end, point in zip([0.0, *ends], ends, self.points, strict=False)
        ]
        noise = over_run(parts, size)
        if noise.cautious is None:
            return None
        least = 1.0 if noise.high is None else examples_over(size, batch_size, noise.high)
        value = examples_over(size, batch_size, noise.cautious)
        most = examples_over(size, batch_size, noise.low)
        first, low, high = (
            self._epochs_to(epoch, batch_size, each) for each in (value, least, most)
        )
        return first, low, high

    def _epochs_to(self, epoch: float, batch_size: int, stretch: float) -> float:
        """Return the epochs that a stretch makes of some of the base's, with the longer warmup."""
        run = self.points[-1].until_epoch
        return epoch * stretch + run * (with_warmup(self.base, batch_size, stretch) - stretch)

    def excess(self, batch_size: int) -> float | None:
        """Return how much a batch is above the base's loss at the last point that tells.

        It is in the unit of the measurement's own tolerance; between two batches tried, on a
        straight line in the logarithm of the batch.

        Returns:
            None where no branch was as large, or where it diverged.
        """
        k = batch_size / self.base.batch_size
        found = (critical.excess_at(point.branches, k) for point in reversed(self.points))
        return next((value for value in found if value is not None), None)


def _in_unit(one: Rung, point: MeasuredPoint, own: Tolerance, tolerance: Tolerance) -> Rung:
    """Return a branch with its excess in the unit of a tolerance, from that of its own."""
    if one.excess is None or own.relative is tolerance.relative:
        return one
    if not point.base_loss > 0:
        raise LegwError(
            "critical: the base's loss is not above 0, and cannot be compared by its share; give "
            f"{setting('keep_quality')} in the unit of {setting('tolerance')}"
        )
    factor = 1 / point.base_loss if tolerance.relative else point.base_loss
    half = None if one.half_width is None else one.half_width * factor
    return replace(one, excess=one.excess * factor, half_width=half)


def read_critical(text: str) -> MeasuredCritical:
    """Return the result that lies in a folder of `legw probe critical`, or in its file.

    Args:
        text: a folder with `critical.json`, or a file such as what `--json` prints.

    Raises:
        LegwError: there is none, or it cannot be read.
    """
    here = given("critical", one_line(text))
    if not text:
        raise LegwError(f"{here}: is empty; give a folder of legw probe critical")
    path = Path(text) / RESULT if Path(text).is_dir() else Path(text)
    if not reading.there(path):
        raise LegwError(
            f"{here}: holds no result of legw probe critical; legw probe critical APP measures it"
        )
    try:
        return from_values(reading.json_object(path), text)
    except LegwError as error:
        said = str(error).removeprefix("cannot be read: ")
        more = "" if "; " in said else "; measure it again"
        raise LegwError(
            f"{here}: is no result of legw probe critical: {one_line(said)}{more}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class _File:
    """Content of the file, types checked; its base is still plain values."""

    probe: str
    task: str
    rule: str
    base: dict[str, Any]
    tolerance: float
    absolute: bool
    points: tuple[MeasuredPoint, ...]
    noise_batch: NoiseBatch
    format: int = FORMAT


def from_values(values: Mapping[str, Any], source: str = "") -> MeasuredCritical:
    """Return the values that `legw.probes.measure_critical` returns as a result.

    Args:
        values: plain values.
        source: the word that names it, for errors.

    Raises:
        LegwError: a value is missing, or cannot be.
    """
    version = values.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise RunError("is from a newer legw; upgrade to read it")
    if values.get("probe") != "critical":
        raise RunError(f"probe={shown(values.get('probe'))}: must be critical")
    found = reading.typed(_File, dict(values))
    base = from_dict(found.base)
    _check(found, base)
    return MeasuredCritical(
        task=found.task, rule=found.rule, base=base, points=found.points,
        tolerance=Tolerance(found.tolerance, relative=not found.absolute),
        noise_batch=found.noise_batch, source=source,
    )  # fmt: skip


def _check(found: _File, base: Recipe) -> None:
    """Refuse numbers that no measurement gives."""
    critical.check_tolerance(found.tolerance, absolute=found.absolute)
    if not found.points:
        raise RunError("points: there are none")
    for point in found.points:
        sizes = [base.batch_size, *(one.batch_size for one in point.branches)]
        if len(sizes) < 2 or any(b <= a for a, b in itertools.pairwise(sizes)):
            raise RunError("branches: must be there, of ascending batch sizes above the base's")
        for one in point.branches:
            if one.k != one.batch_size / base.batch_size:
                raise RunError(f"k={number(one.k)}: is not batch_size over the base's")
    for noise in (found.noise_batch, *(point.noise_batch for point in found.points)):
        for name, value in asdict(noise).items():
            if value is not None and not (value > 0 or (name == "low" and value == 0)):
                raise RunError(f"noise_batch: {name}={number(value)}: must be above 0")
    ends = [point.until_epoch for point in found.points]
    if any(b <= a for a, b in itertools.pairwise([0.0, *ends])):
        raise RunError("until_epoch: must be above 0, and ascend from point to point")


# Beside a recipe ---------------------------------------------------------------------------


def with_critical(base: Recipe, critical: MeasuredCritical | str | None) -> Recipe:
    """Return the recipe with the noise batch that was given beside it, if one was.

    Raises:
        LegwError: as for `read_critical`, or another base was measured.
    """
    if critical is None:
        return base
    found = read_critical(critical) if isinstance(critical, str) else critical
    check_base(found, base)
    return replace(base, noise_batch=found.noise_batch.cautious)


def check_base(found: MeasuredCritical, base: Recipe) -> None:
    """Raise unless a base is the one that was measured.

    Raises:
        LegwError: it is another, by its settings.
    """
    other = differences(found.base, base)
    measured = differences(base, found.base)
    for name in [*other, *measured]:
        if name not in SAME:
            ours, theirs = (_value(each.get(name)) for each in (other, measured))
            raise LegwError(
                f"{given('critical', one_line(found.source))}: was measured on another base: "
                f"{name}={theirs}, not {ours}; measure this one, or give that one"
            )


def check_task(found: MeasuredCritical, name: str) -> None:
    """Raise unless a task is the one that was measured.

    Raises:
        LegwError: it is another, by its name.
    """
    if found.task != name:
        raise LegwError(
            f"{given('critical', one_line(found.source))}: was measured on "
            f"{one_line(found.task, 60)}, not on {one_line(name, 60)}; measure this one"
        )


def _value(value: object) -> str:
    return number(value) if isinstance(value, int | float) else one_line(shown(value), 60)
