"""Gradient noise scale: its estimate from samples, and its meaning for a batch size.

These functions take and return plain values and need no torch, so that a folder of runs can be read
on any machine.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from legw.analysis.stats import LEVEL, t_quantile
from legw.errors import LegwError, given, one_line
from legw.recipe import Recipe
from legw.recipe.stretch import examples_over
from legw.runs import measurements, records
from legw.runs.measurements import Noise
from legw.schedule import update_length

BLOCKS = 20
"""Most blocks of a jackknife. Neighbouring samples depend on each other; long blocks hardly do."""

MIN_SAMPLES = 5
"""Fewest samples from which an interval is given."""


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """The simple noise scale of a stretch of a run: ``B_simple = S / |G|**2``."""

    value: float | None
    """In examples; None where the gradient is lost in noise (``|G|**2`` not above 0)."""
    low: float | None
    """Lower end of its interval, at least 0; None for too few samples."""
    high: float | None
    """Upper end of it; None for too few samples."""
    from_epoch: float
    """Position of the first sample."""
    to_epoch: float
    """Position of the last sample."""
    n: int
    """Number of samples."""


def stated(value: float) -> NoiseScale:
    """Return a noise scale that the user gives, in examples, without an interval.

    >>> stated(250).value
    250
    """
    return NoiseScale(value=value, low=None, high=None, from_epoch=0.0, to_epoch=0.0, n=0)


def noise_scale(rows: Sequence[Noise], level: float = LEVEL) -> NoiseScale:
    """Return the noise scale of a part of a run: the ratio of the means of S and ``|G|**2``.

    The interval is a block jackknife's on the ratio, with Student's quantile.

    Args:
        rows: in the order of updates, at least one; samples that are not finite are left out.
        level: confidence level, in (0, 1).

    >>> rows = [Noise(update=i, epoch=i / 10, trace=100.0, squared_norm=0.5, examples=8)
    ...         for i in range(10)]
    >>> found = noise_scale(rows)
    >>> found.value, found.low, found.high
    (200.0, 200.0, 200.0)
    """
    pairs = [
        (row.trace, row.squared_norm)
        for row in rows
        if row.trace is not None and row.squared_norm is not None
    ]
    value, half = jackknife_ratio(pairs, level)
    return NoiseScale(
        value=value,
        low=None if half is None or value is None else max(value - half, 0.0),
        high=None if half is None or value is None else value + half,
        from_epoch=min(row.epoch for row in rows),
        to_epoch=max(row.epoch for row in rows),
        n=len(pairs),
    )


MAX_SPREAD = 1e150
"""Spread of ratios above which no float holds their variance."""


def jackknife_ratio(
    pairs: Sequence[tuple[float, float]], level: float = LEVEL, blocks: int = BLOCKS
) -> tuple[float | None, float | None]:
    """Return ``sum(a) / sum(b)`` and half the width of its interval, by a block jackknife.

    With ``r_i`` the ratio without block i of m, the variance is ``(m - 1)**2 / m`` times
    the sample variance of the ``r_i``.

    Args:
        pairs: (a, b), in the order in time.
        level: confidence level, in (0, 1).
        blocks: most blocks, at least 2; each has at least two samples where there are enough.

    Returns:
        None for the ratio where ``sum(b)`` is not above 0; None for the half-width where
        there are too few samples, or where b without some block is not above 0; None for either
        where no float holds it.

    Reference: Kuensch 1989, "The jackknife and the bootstrap for general stationary
    observations".

    >>> jackknife_ratio([(2.0, 1.0)] * 8)
    (2.0, 0.0)
    """
    try:
        return _jackknife_ratio(pairs, level, blocks)
    except OverflowError:  # sums of 1e308, and spreads of 1e200: of files that no run has written
        return None, None


def _jackknife_ratio(
    pairs: Sequence[tuple[float, float]], level: float, blocks: int
) -> tuple[float | None, float | None]:
    total_a, total_b = math.fsum(a for a, _ in pairs), math.fsum(b for _, b in pairs)
    if not total_b > 0 or not math.isfinite(total_a / total_b):
        return None, None
    count = min(blocks, max(len(pairs) // 2, MIN_SAMPLES))
    if len(pairs) < MIN_SAMPLES:
        return total_a / total_b, None
    cuts = [round(i * len(pairs) / count) for i in range(count + 1)]
    ratios = []
    for begin, end in itertools.pairwise(cuts):
        rest_a = total_a - math.fsum(a for a, _ in pairs[begin:end])
        rest_b = total_b - math.fsum(b for _, b in pairs[begin:end])
        if not rest_b > 0:
            return total_a / total_b, None
        ratios.append(rest_a / rest_b)
    if not all(map(math.isfinite, ratios)) or max(ratios) - min(ratios) > MAX_SPREAD:
        return total_a / total_b, None
    deviation = (count - 1) * math.sqrt(statistics.variance(ratios) / count)
    return total_a / total_b, t_quantile(level, count - 1) * deviation


def in_stretches(rows: Sequence[Noise], count: int) -> list[list[Noise]]:
    """Cut samples into at most `count` stretches of equal length in epochs, none empty.

    >>> rows = [Noise(update=i, epoch=e, trace=1.0, squared_norm=1.0, examples=2)
    ...         for i, e in enumerate([0.1, 0.2, 0.9, 1.0])]
    >>> [len(stretch) for stretch in in_stretches(rows, 2)]
    [2, 2]
    """
    if not rows:
        return []
    first, last = min(row.epoch for row in rows), max(row.epoch for row in rows)
    ends = [first + (last - first) * i / count for i in range(1, count)]
    found: list[list[Noise]] = [[] for _ in range(count)]
    for row in rows:
        found[bisect.bisect_left(ends, row.epoch)].append(row)
    return [stretch for stretch in found if stretch]


def examples_factor(batch_size: int, noise: float) -> float:
    """Return the factor of examples that a batch needs over a small one: ``1 + B / B_noise``.

    From ``(steps / least_steps - 1) * (examples / least_examples - 1) = 1``.

    Args:
        batch_size: B, in examples, at least 1.
        noise: the noise scale, in examples, above 0.

    Reference: McCandlish et al. 2018, arXiv 1812.06162, section 2.3, equations 2.7, 2.11.

    >>> examples_factor(200, noise=200.0)
    2.0
    """
    return 1.0 + batch_size / noise


def examples_against(batch_size: int, base: int, noise: float | None) -> float | None:
    """Return the examples that a batch needs over those of the base, to the same loss.

    Args:
        batch_size: in examples, at least 1.
        base: likewise.
        noise: the noise scale, in examples, above 0; None is not known.

    >>> examples_against(400, base=100, noise=200.0)
    2.0
    """
    if noise is None:
        return None
    return examples_over(base, batch_size, noise)


def last_half(rows: Sequence[Noise]) -> list[Noise]:
    """Return the samples of the run's last half in epochs: the noise scale grows in a run."""
    middle = max(row.epoch for row in rows) / 2
    return [row for row in rows if row.epoch > middle]


# As it is given beside a recipe ---------------------------------------------------------


def read_noise(text: str) -> NoiseScale:
    """Return the noise scale of a number, or of the measured runs below a folder.

    Only the last half of a run counts, as the noise scale grows during training.

    Raises:
        LegwError: it is neither a number above 0 nor such a folder, or it has no estimate.

    >>> read_noise("250").value
    250.0
    """
    if not text:
        raise LegwError(f"{given('noise', '')}: is empty; give a number of examples, or a folder")
    try:
        value = float(text)
    except ValueError:
        return _below(Path(text))
    if not 0 < value < 1e15:
        raise LegwError(
            f"{given('noise', one_line(text))}: must be above 0, in examples, or a folder"
        )
    return stated(value)


def _below(folder: Path) -> NoiseScale:
    here = given("noise", one_line(str(folder)))
    runs = {each: measurements.read(each, Noise) for each in records.find_runs(folder)}
    measured = {each: last_half(rows) for each, rows in runs.items() if rows}
    if not measured:
        raise LegwError(f"{here}: no noise was measured below it; legw probe noise APP does")
    _check_alike(here, list(measured))
    found = noise_scale([row for rows in measured.values() for row in rows])
    if found.value is None:
        raise LegwError(
            f"{here}: the gradient is lost in its noise in the last half of the run; measure at "
            "a larger batch (legw probe noise -b N), or give a number"
        )
    return found


STRETCHES = 10
"""Stretches of a run for each of which a noise scale is given."""


def along(rows: Sequence[Noise]) -> tuple[tuple[float, float], ...]:
    """Return the noise scale along a run: pairs of a position in epochs and of examples.

    There is one for the middle of each stretch in which the gradient is not lost in its noise.

    Args:
        rows: samples, at least one.

    >>> rows = [Noise(update=i, epoch=i / 2, trace=10.0 + i, squared_norm=0.5, examples=8)
    ...         for i in range(20)]
    >>> along(rows)[:2]
    ((0.25, 21.0), (1.25, 25.0))
    """
    found = map(noise_scale, in_stretches(rows, STRETCHES))
    pairs = [((part.from_epoch + part.to_epoch) / 2, part.value) for part in found]
    return tuple(
        (float(f"{at:.6g}"), float(f"{value:.4g}")) for at, value in pairs if value is not None
    )


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


def with_noise(base: Recipe, noise: NoiseScale | str | None) -> Recipe:
    """Return the recipe with the noise scale that was given beside it, if one was.

    Those along a run go with it, in the unit of the recipe's lengths, where that can be.

    Raises:
        LegwError: as for `read_noise`.
    """
    if noise is None:
        return base
    found = read_noise(noise) if isinstance(noise, str) else noise
    folder = isinstance(noise, str) and found.n > 0
    pairs = along(_rows_below(Path(noise))) if folder else ()  # type: ignore[arg-type]
    epoch = _epoch_length(base)
    if not pairs or epoch is None:
        return replace(base, noise_scale=found.value)
    scales = tuple((at * epoch, scale) for at, scale in pairs)
    return replace(base, noise_scale=found.value, noise_scales=scales)


def _rows_below(folder: Path) -> list[Noise]:
    """Return all samples of the runs below a folder, in the order of their epochs."""
    runs = [measurements.read(each, Noise) for each in records.find_runs(folder)]
    return sorted((row for run in runs for row in run), key=lambda row: row.epoch)


def _epoch_length(base: Recipe) -> float | None:
    """Return an epoch's length in the unit of a recipe's lengths; None where it is not known."""
    if base.unit == "epochs":
        return 1.0
    if base.epoch_examples is None:
        return None
    each, one = update_length(base)
    return base.epoch_examples * each / (base.batch_size * one)
