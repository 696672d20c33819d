"""Assumption check: verdicts on LEGW's assumptions for a task, by stated thresholds.

The check gives a verdict on each of four assumptions:

- **rates**: at the rule's learning rate, the loss falls at every batch size, and so it does at
  LR_HEADROOM times that rate.
- **curvature**: the curvature along the gradient peaks at the same update for every batch size, so
  the peak's epoch is proportional to the batch size.
- **noise**: the largest batch is at most FAR_PAST_NOISE times the gradient's noise scale.
- **clipping**: it does not shorten the base's steps alone.

The whole verdict is "does not hold" if one of them is, "holds" if all are, and otherwise "cannot
tell". This module needs no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from legw import schedule
from legw.analysis import clipping, probed
from legw.analysis.clipping import CLIPPED_MOSTLY, CLIPPED_RARELY, on_base_alone
from legw.analysis.curvature import Power
from legw.analysis.noise import NoiseScale, noise_scale
from legw.analysis.probed import Probed
from legw.analysis.stats import LEVEL, t_quantile
from legw.errors import setting
from legw.recipe import Recipe
from legw.recipe.cautions import FAR_PAST_NOISE, warmup_share
from legw.runs import measurements, records
from legw.runs.measurements import Noise

Answer = Literal["holds", "does not hold", "cannot tell"]

MIN_UPDATES = 10
"""Fewest updates from which the check can tell whether the loss rises."""

LR_MULTIPLES = (1.0, 2.0, 4.0, 8.0)
"""Multiples of the rule's learning rate that are tried in turn, until the loss rises."""

FAST = 4.0
"""Multiple of the learning rate whose loss at the end of a short run is compared with that at the
rate itself."""

LR_HEADROOM = 2.0
"""Multiple of the rule's learning rate at which the loss must still fall."""

EXPONENT_HOLDS = (0.75, 1.25)
"""Exponents of the peak's epoch against the batch size that count as 1: from, to."""

EXPONENT_UNCLEAR = (0.5, 1.5)
"""Exponents below the first or above the second number contradict the assumption."""

RISE_RATIO = 1.1
"""Ratio of the loss at the end to that at the start, above which the loss has risen."""

END_SHARE = 0.2
"""Share of a run's updates whose median loss counts as its start, and as its end."""


MAX_SEEDS = 8
"""No more seeds than these are said to be missing for a verdict."""


@dataclass(frozen=True)
class Missing:
    """Rough amounts that a verdict lacks; 0 where more of it would not help."""

    updates: int = 0
    """Further updates: of runs at the smallest batch, or of all where a peak lies at an end."""
    seeds: int = 0
    """Further seeds, one ladder each."""

    def said(self) -> str:
        """Return it as text: "about 300 updates more"."""
        lacking = [(self.updates, "update"), (self.seeds, "seed")]
        words = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in lacking if n]
        return f"about {' or '.join(words)} more" if words else ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one assumption."""

    assumption: str
    """rates, curvature, noise or clipping."""
    answer: Answer
    """Whether it holds."""
    why: str
    """The figures, with the threshold."""
    missing: Missing = Missing()
    """Amounts that are missing for another answer than "cannot tell"."""


def rises(losses: Sequence[float | None]) -> bool:
    """Whether the loss has risen over a run: it diverged, or ends above RISE_RATIO times its start.

    Args:
        losses: of each update, at least one; None where it is no number.

    >>> rises([2.0, 1.9, 1.8, 1.5]), rises([2.0, 1.9, 3.0, 3.5]), rises([2.0, None])
    (False, True, True)
    """
    if any(loss is None for loss in losses):
        return True
    known = [loss for loss in losses if loss is not None]
    begin = statistics.median(known[: _end_count(known)])
    return end_loss(known) > RISE_RATIO * begin  # type: ignore[operator] # all are known


def end_loss(losses: Sequence[float | None]) -> float | None:
    """Return the median loss of the last END_SHARE of a run; None where one of them is no number.

    Args:
        losses: of each update, at least one; None where it is no number.

    >>> end_loss([2.0] * 8 + [1.0, 1.5]), end_loss([2.0, None])
    (1.25, None)
    """
    last = losses[-_end_count(losses) :]
    known = [loss for loss in last if loss is not None]
    return statistics.median(known) if len(known) == len(last) else None


def _end_count(losses: Sequence[float | None]) -> int:
    return max(round(len(losses) * END_SHARE), 1)


def of_rates(risen: Mapping[int, Mapping[float, bool]]) -> Verdict:
    """Judge the rates.

    Args:
        risen: for each batch size, for each multiple of the rule's rate that was tried,
            whether the loss rose.

    >>> of_rates({16: {1.0: False, 2.0: False}, 64: {1.0: False, 2.0: True, 4.0: True}}).answer
    'cannot tell'
    """
    diverged = [size for size, tried in risen.items() if tried[1.0]]
    if diverged:
        return Verdict("rates", "does not hold", f"at the rule's own rate the loss rises for "
                       f"batch {_listed(diverged)}")  # fmt: skip
    near = [
        size for size, tried in risen.items()
        if any(rose for times, rose in tried.items() if times <= LR_HEADROOM)
    ]  # fmt: skip
    if near:
        return Verdict("rates", "cannot tell", f"the loss falls at the rule's rate, and rises at "
                       f"{LR_HEADROOM:g} times it for batch {_listed(near)}")  # fmt: skip
    return Verdict("rates", "holds", f"the loss falls at the rule's rate and at {LR_HEADROOM:g} "
                   "times it, for every batch")  # fmt: skip


def of_curvature(
    power: Power | None,
    late: Sequence[int] = (),
    early: Sequence[int] = (),
    *,
    sizes: int = 0,
    updates: int = 0,
) -> Verdict:
    """Judge the position of the curvature's peak.

    Args:
        power: power law of the peak's epoch over the batch size; None for fewer than two sizes.
        late: batch sizes whose peak lies at the end of the measurement.
        early: batch sizes whose peak lies at its beginning: a curvature that only falls is highest
            in the first update of every batch, under any rule.
        sizes: number of batch sizes, for what is missing; 0 where it is not known.
        updates: of each run, for what is missing.

    >>> of_curvature(Power(exponent=1.1, low=0.9, high=1.3, factor=1.0, n=3)).answer
    'holds'
    >>> of_curvature(Power(exponent=1.0, low=-7.5, high=9.5, factor=1.0, n=3)).answer
    'cannot tell'
    """
    lacking = _no_exponent(power, late, early)
    if lacking:
        more = Missing(updates=updates if late else 0, seeds=0 if late or early else 1)
        return Verdict("curvature", "cannot tell", lacking, more if sizes else Missing())
    assert power is not None and power.low is not None and power.high is not None, "three peaks"
    grows = (
        f"the peak's epoch grows as batch^{power.exponent:.2f} "
        f"(95 % interval {power.low:.2f} to {power.high:.2f})"
    )
    low, high = EXPONENT_HOLDS
    lowest, highest = EXPONENT_UNCLEAR
    if low <= power.exponent <= high:
        known = lowest <= power.low and power.high <= highest
        answer: Answer = "holds" if known else "cannot tell"
        why = f"{grows}, within {low:g} to {high:g}"
    elif lowest <= power.exponent <= highest:
        known, answer = True, "cannot tell"
        why = f"{grows}, between {lowest:g} to {highest:g} and {low:g} to {high:g}"
    else:
        known = not power.low <= 1 <= power.high
        answer = "does not hold" if known else "cannot tell"
        why = f"{grows}, out of {lowest:g} to {highest:g}"
    wide = "" if known else f"; the interval is too wide to tell: give more {setting('seeds')}"
    missing = _seeds_missing(power, sizes) if answer == "cannot tell" else Missing()
    return Verdict("curvature", answer, f"{why}{wide}", missing)


def _seeds_missing(power: Power, sizes: int) -> Missing:
    """Return the seeds after which the exponent's interval could be narrow enough.

    Its half-width falls as ``t / sqrt(n)`` with n runs, t Student's with n - 2 degrees of freedom.
    """
    if not sizes or power.low is None or power.high is None or power.n < 3:
        return Missing()
    half = (power.high - power.low) / 2
    low, high = EXPONENT_UNCLEAR
    near = min(abs(power.exponent - low), abs(power.exponent - high))
    seeds, scale = power.n // sizes, half / _width(power.n)
    for more in range(1, MAX_SEEDS - seeds + 1):
        if scale * _width((seeds + more) * sizes) <= near:
            return Missing(seeds=more)
    return Missing()


def _width(runs: int) -> float:
    return t_quantile(LEVEL, runs - 2) / math.sqrt(runs)


def _no_exponent(power: Power | None, late: Sequence[int], early: Sequence[int]) -> str:
    """Return why the exponent says nothing; empty where it does."""
    if power is None or power.n < 3:
        return f"fewer than three peaks; give more {setting('batch_sizes')} or {setting('seeds')}"
    if late:
        return (
            f"the peak lies at the end of the run for batch {_listed(late)}; give more "
            f"{setting('updates')}"
        )
    if early:
        return (
            f"the curvature is highest in the first updates for batch {_listed(early)}: there is "
            "no peak to follow"
        )
    return ""


def of_noise(
    largest: int,
    noise: NoiseScale | None,
    *,
    whole: bool = True,
    every: int = 1,
    left: int = 0,
    sizes: int = 0,
) -> Verdict:
    """Judge the largest batch by the noise scale, which grows during training.

    Args:
        largest: batch size, in examples.
        noise: measured at the smallest batch; None without a measurement.
        whole: True for a whole run; the start of a run gives a lower bound only.
        every: updates between two of its samples, at least 1.
        left: updates up to the end of the run at the smallest batch.
        sizes: number of batch sizes, for what is missing; 0 where it is not known.

    >>> scale = NoiseScale(value=200.0, low=150.0, high=250.0, from_epoch=0, to_epoch=1, n=20)
    >>> of_noise(512, scale).answer, of_noise(2048, scale).answer, of_noise(800, scale).answer
    ('holds', 'does not hold', 'cannot tell')
    """
    if noise is None or noise.value is None or noise.low is None or noise.high is None:
        return Verdict("noise", "cannot tell", "the noise scale could not be measured; give more "
                       f"{setting('updates')}", Missing(updates=left))  # fmt: skip
    scale = f"{noise.value:.3g} examples (95 % interval {noise.low:.3g} to {noise.high:.3g})"
    if largest <= FAR_PAST_NOISE * noise.low:
        return Verdict("noise", "holds", f"batch {largest} is at most {FAR_PAST_NOISE:g} times "
                       f"the noise scale, {scale}")  # fmt: skip
    if not whole:
        return Verdict("noise", "cannot tell", f"over the first updates the noise scale is "
                       f"{scale}, and it grows; give more {setting('updates')}",
                       Missing(updates=_updates_missing(largest, noise, every, left)))  # fmt: skip
    if largest > FAR_PAST_NOISE * noise.high:
        return Verdict("noise", "does not hold", f"batch {largest} is more than {FAR_PAST_NOISE:g} "
                       f"times the noise scale, {scale}: it saves hardly any updates")  # fmt: skip
    return Verdict("noise", "cannot tell", f"batch {largest} is about {FAR_PAST_NOISE:g} times "
                   f"the noise scale, {scale}", Missing(seeds=int(sizes > 0)))  # fmt: skip


def _updates_missing(largest: int, noise: NoiseScale, every: int, left: int) -> int:
    """Return the updates after which the interval of the noise scale could be narrow enough.

    It narrows with the square root of the samples. Where it would have to grow, as it does in
    training, that is the rest of the run.
    """
    assert noise.value is not None and noise.low is not None, "it was measured"
    room = noise.value - largest / FAR_PAST_NOISE
    if room <= 0:
        return left
    needed = noise.n * ((noise.value - noise.low) / room) ** 2 - noise.n
    return min(max(round(needed * every), 1), left)


def of_clipping(shares: Mapping[int, float | None]) -> Verdict:
    """Judge the clipping.

    Args:
        shares: share of clipped updates for each batch size, in [0, 1]; None where clipping does
            not change the steps.

    >>> of_clipping({20: 0.98, 640: 0.12}).answer, of_clipping({20: 0.4, 640: 0.0}).answer
    ('does not hold', 'holds')
    """
    known = {size: share for size, share in shares.items() if share is not None}
    if not known:
        return Verdict("clipping", "holds", "no step depends on it")
    listed = ", ".join(f"{share:.0%} at {size}" for size, share in sorted(known.items()))
    clipped = f"updates that are clipped: {listed}"
    base = known[min(known)]
    if any(on_base_alone(base, share) for share in known.values()):
        return Verdict("clipping", "does not hold", f"{clipped}; steps grow by less than the rate, "
                       "so tune a base with another clip_norm")  # fmt: skip
    return Verdict("clipping", "holds", f"{clipped}; below {CLIPPED_MOSTLY:.0%} at the "
                   f"smallest, or at none below {CLIPPED_RARELY:g} times that")  # fmt: skip


def together(verdicts: Sequence[Verdict]) -> Answer:
    """Return the whole verdict.

    >>> together([Verdict("rates", "holds", ""), Verdict("noise", "cannot tell", "")])
    'cannot tell'
    """
    answers = {verdict.answer for verdict in verdicts}
    if "does not hold" in answers:
        return "does not hold"
    return "holds" if answers == {"holds"} else "cannot tell"


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(str(size) for size in sizes)


def judged(
    base: Recipe,
    runs: Sequence[Probed],
    risen: dict[int, dict[float, bool]],
    *,
    every: int = 1,
) -> dict[str, Any]:
    """Return the verdicts and the measurements behind them, as plain values.

    Args:
        base: the recipe before scaling.
        runs: those at the rule's learning rates, with their probes' measurements.
        risen: for each batch size whether the loss rose, by multiples of the rate.
        every: updates between two samples of the noise at the smallest batch, at least 1.
    """
    curvature = probed.curvature_result(base, runs)
    power = curvature["peak_epoch_against_batch_size"]
    smallest = min(run.recipe.batch_size for run in runs)
    short = [run for run in runs if run.recipe.batch_size == smallest]
    noise = [row for run in short for row in measurements.read(run.folder, Noise)]
    scale = noise_scale(noise) if noise else None
    whole = all(run.summary.status == "finished" for run in short)
    shares = _clipped_shares(runs)
    late, early = (
        sorted({row["batch_size"] for row in curvature["runs"] if row[which]})
        for which in ("peak_is_last", "peak_is_first")
    )
    sizes = {run.recipe.batch_size: run for run in runs}
    left = max(schedule.updates(run.recipe, run.num_examples) - run.summary.updates
               for run in short)  # fmt: skip
    verdicts = [
        of_rates(risen),
        of_curvature(
            None if power is None else Power(**power),
            late,
            early,
            sizes=len(sizes),
            updates=min(run.summary.updates for run in runs),
        ),
        of_noise(max(sizes), scale, whole=whole, every=every, left=left, sizes=len(sizes)),
        of_clipping(shares),
    ]
    return {
        "verdict": together(verdicts),
        "assumptions": [asdict(verdict) for verdict in verdicts],
        "rates": [
            {"batch_size": size, "times": times, "loss_rises": rose}
            for size, tried in risen.items()
            for times, rose in tried.items()
        ],
        "clipped_shares": shares,
        "warmup_shares": {size: warmup_share(run.recipe) for size, run in sorted(sizes.items())},
        "noise_scale": None if scale is None else asdict(scale),
        "thresholds": {
            "headroom": LR_HEADROOM,
            "exponent_holds": EXPONENT_HOLDS,
            "exponent_cannot_tell": EXPONENT_UNCLEAR,
            "batch_over_noise": FAR_PAST_NOISE,
            "clipped_mostly": CLIPPED_MOSTLY,
            "clipped_seldom": CLIPPED_RARELY,
            "loss_rises_from": RISE_RATIO,
        },
    } | curvature


def warmup_line(found: Mapping[str, Any]) -> str:
    """Return how much of the run the warmup takes at each batch size, as a line."""
    shares = found["warmup_shares"]
    if not any(shares.values()):
        return "warmup: the base has none"
    listed = ", ".join(f"{share:.2%} at batch {size}"
                       for size, share in shares.items())  # fmt: skip
    return f"warmup: {listed} of the run"


def _clipped_shares(runs: Sequence[Probed]) -> dict[int, float | None]:
    """Return the mean share of clipped updates for each batch size."""
    found: dict[int, list[float]] = {}
    for run in runs:
        share = clipping.clipped_share(run.recipe, records.load(run.folder).updates)
        found.setdefault(run.recipe.batch_size, []).extend([] if share is None else [share])
    return {size: statistics.fmean(shares) if shares else None for size, shares in found.items()}
