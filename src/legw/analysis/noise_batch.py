"""Noise batch fitted to branches: the batch size by which more examples are needed.

A batch of B examples needs, to the same loss, examples in proportion to ``1 + B / Bn`` (McCandlish
et al. 2018). Against the base's batch B0 that is the stretch

    (1 + B / Bn) / (1 + B0 / Bn)

A branch of k times the base's batch is behind by what it needs more: after x examples its loss is
that of the base after ``x / stretch``, where x counts an update at a smaller rate, while the branch
warms up again, by its share of the whole rate. With the base's loss a straight line over the window
(by least squares), which falls by r an example, the branch's loss is above the base's by

    d = r * (x - x' / stretch)        x: examples seen; x': the same, with the warmup's shares

Where branches cool down, one of the base's own batch does too, and takes the place of the base: x
counts an update of it by its share of the rate as well, and all are those where the rate is 0. r is
that of the base at its own rate, by a line about that place, as the loss falls ever more slowly.

Streams read other text in an update at another batch size. There d is the difference of the
losses of the last weights over the same text, x and x' are those of whole branches, and r is by how
much the base's loss over a text is lower when it reads it the next time, an example, about the
window's end. Blocks are then of text, and the variance is that of these falls. What one training
adds to its last weights is common to all blocks of its seed: with two seeds and more the spread is
at least that of the seeds' sums, and with one the interval is that of its weights alone.

Bn makes the sum of the residuals of all branches 0, each with the weight that least squares give
it: ``(d' / d Bn) / variance``, the variance being that of the base's losses about their line. The
interval holds every Bn at which that sum is no further from 0 than its own spread allows: that of
its parts over blocks of time, the line's included, with Student's quantile. So it has an end where
the loss falls clearly and branches are clearly behind, and none where they are not.

Early in a run the noise batch is small, and then it grows. A run as a whole has the mean of the
points' ``1/Bn``, each with the share of the run for which it stands: the first from the start on,
the last to the end, and in between up to the middle of two windows. One whose interval has no end
tells nothing, and the point before stands for its part, too.

The law is exact where steps are as long as is best for their noise. Under the square root a branch
that follows its gradient closely needs `sqrt(k)` times the examples; the fit then is the nearest
of its form. Where the base's loss does not fall there is nothing to fit.

Reference: McCandlish et al. 2018, arXiv 1812.06162, equation 2.11. The fit to branches is ours;
its interval follows Fieller 1954, "Some problems in interval estimation".
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from legw.analysis.critical import at_rate_0, end_pairs, pairs
from legw.analysis.stats import LEVEL, t_quantile
from legw.recipe.branch_rate import compared_from, share_of_rate

BLOCKS = 10
"""Blocks of time into which a window is cut for the interval."""

RATIOS = (0.0, *(10 ** (i / 40) for i in range(-120, 121)))
"""Base batch over noise batch, where the sum of residuals is looked at: 0, and 0.001 to 1000."""


@dataclass(frozen=True, kw_only=True)
class NoiseBatch:
    """The batch size at which a run needs twice the examples that a very small batch needs."""

    value: float | None
    """In examples; None where no branch is behind the base, or the base's loss does not fall."""
    low: float
    """Lower end of its interval; 0 where there is none."""
    high: float | None
    """Upper end; None where there is none."""

    @property
    def cautious(self) -> float | None:
        """The value, or without one the lower end of its interval; None without either."""
        return self.value or self.low or None


@dataclass(frozen=True)
class Window:
    """The losses of one base run over some examples, and those of its branches over the same."""

    base: Sequence[float]
    """One loss an update of the base, at least 3; with a cooldown those of a branch of its batch
    that cools down, too."""
    branches: Sequence[tuple[float, Sequence[float]]]
    """Batch size over the base's, and one loss an update; at least 2 each."""
    cooldown: float = 0.0
    """Share of the branches over which they cool down, in [0, 1)."""
    line: Sequence[float] = ()
    """Losses of the base at its own rate, at least 3, about the place of the comparison; those of
    `base` if not given. Of streams the text up to that place, and the same text once more."""
    ends: Sequence[Sequence[float]] = ()
    """Of streams the losses over the same text of the last weights of `base` and of each branch."""

    @property
    def own_line(self) -> bool:
        """Whether the base's line is that of the losses that are compared."""
        return not self.line


def noise_batch(
    windows: Sequence[Window], batch_size: int, warmup_updates: int = 0, level: float = LEVEL
) -> NoiseBatch:
    """Return the noise batch that is fitted to all branches of all windows.

    Args:
        windows: one a seed and a point of the run; a branch with a loss that is not finite is
            left out.
        batch_size: the base's, in examples.
        warmup_updates: updates in which a branch's rate rises again, at least 0.
        level: confidence level of the interval, in (0, 1).

    >>> base = [3 - update / 100 for update in range(100)]
    >>> behind = [3 - 2 * update / 100 / 1.25 for update in range(50)]  # 1.25 times the examples
    >>> found = noise_batch([Window(base, [(2, behind)])], batch_size=16)
    >>> round(found.value, 1)  # (1 + 32 / 48) / (1 + 16 / 48) = 1.25
    48.0
    """
    fits = [fit for fit in (_Fit(window, warmup_updates) for window in windows) if fit.fall > 0]
    fits = [fit for fit in fits if fit.branches]
    if not fits:
        return NoiseBatch(value=None, low=0.0, high=None)
    ratio, least, most = _solved(fits, level)
    return NoiseBatch(
        value=batch_size / ratio if ratio else None,
        low=batch_size / max(most, RATIOS[1]) if most < RATIOS[-1] else 0.0,
        high=batch_size / least if least else None,
    )


def predicted_excess(
    window: Window, k: float, batch_size: int, noise: NoiseBatch, warmup_updates: int = 0
) -> float | None:
    """Return how much a noise batch says that a branch is above the base, in the loss's unit.

    It is the mean over the updates of the branch that count, as a measured excess is.

    Args:
        window: the base's losses, and a branch of k among the branches.
        k: batch size over the base's.
        batch_size: the base's, in examples.
        noise: the noise batch; of one without a value the branch is nothing behind.
        warmup_updates: updates in which the branch's rate rises again.

    Returns:
        None where there is no such branch with finite losses.
    """
    fit = _Fit(window, warmup_updates)
    found = next((one for one in fit.branches if one.k == k), None)
    if found is None:
        return None
    ratio = 0.0 if noise.value is None else batch_size / noise.value
    return fit.fall * found.behind(ratio)


def over_run(points: Sequence[tuple[float, NoiseBatch]], batch_size: int) -> NoiseBatch:
    """Return the noise batch of a run as a whole: the mean of the points' 1/Bn.

    Args:
        points: the share of the run for which each stands, in [0, 1], and its noise batch, in the
            order of the run. The shares sum to 1.
        batch_size: the base's, in examples.

    Returns:
        Its interval takes the points' errors as independent.

    >>> early = NoiseBatch(value=100.0, low=50.0, high=None)
    >>> late = NoiseBatch(value=None, low=400.0, high=None)
    >>> round(over_run([(0.25, early), (0.75, late)], 16).value)
    400
    """
    points = [(share, each) for share, each in _telling(points) if share]
    ratio, below, above = 0.0, [], []
    for share, each in points:
        value = batch_size / each.value if each.value else 0.0
        ratio += share * value
        below.append(share * (value - (batch_size / each.high if each.high else 0.0)))
        above.append(share * ((batch_size / each.low if each.low else math.inf) - value))
    least = ratio - math.hypot(*below)
    most = ratio + math.hypot(*above) if points else math.inf
    return NoiseBatch(
        value=batch_size / ratio if ratio > 0 else None,
        low=batch_size / most if most > 0 else 0.0,
        high=batch_size / least if least > 0 else None,
    )


def _telling(points: Sequence[tuple[float, NoiseBatch]]) -> list[tuple[float, NoiseBatch]]:
    """Return the points whose interval has an end, with the shares of the others."""
    found: list[tuple[float, NoiseBatch]] = []
    lent = 0.0
    for share, each in points:
        if each.low > 0 or each.high is not None:
            found.append((share + lent, each))
            lent = 0.0
        elif found:
            found[-1] = (found[-1][0] + share, found[-1][1])
        else:
            lent += share
    return found


def stands_for(middles: Sequence[float], end: float) -> list[float]:
    """Return up to where each point of a run stands for it.

    Args:
        middles: of the points' windows, ascending; in any unit.
        end: of the run, in the same unit.

    >>> stands_for([2.0, 6.0], 30.0)
    [4.0, 30.0]
    """
    return [*((a + b) / 2 for a, b in itertools.pairwise(middles)), end]


class _Branch:
    """One branch: the sums of its updates that count, a block of time each; of streams, of what
    was read at its end, a block of text each."""

    def __init__(self, k: float, window: Window, index: int, warmup: int) -> None:
        self.k = k
        base, losses = window.base, window.branches[index][1]
        each = len(base) / len(losses)
        seen = _seen(len(base), 0, window.cooldown)
        warmed = [each * share for share in _seen(len(losses), warmup, window.cooldown)]
        if window.ends:
            skipped = 0
            differences = [d for d, _ in end_pairs(window.ends[0], window.ends[index + 1])]
            before, own = ([whole[-1]] * len(differences) for whole in (seen, warmed))
        else:
            first = compared_from(len(losses), window.cooldown)
            skipped = first if window.own_line else 0  # that line shares the blocks of time
            differences = [d for d, _ in pairs(base, losses, window.cooldown)]
            before = [seen[round(i * each)] for i in range(first, len(losses))]
            own = warmed[first : len(losses)]
            if window.cooldown:
                before, own = at_rate_0(before), at_rate_0(own)
        self.count = len(differences)
        self.blocks = [(0.0, 0.0, 0.0)] * BLOCKS
        """Sums of the differences, of the examples seen, and of those with the warmup's shares."""
        for i, (d, b, c) in enumerate(zip(differences, before, own, strict=True), skipped):
            block = i * BLOCKS // (self.count + skipped)
            sums = self.blocks[block]
            self.blocks[block] = (sums[0] + d, sums[1] + b, sums[2] + c)
        self.seen = sum(b for _, b, _ in self.blocks) / self.count
        self.warmed = sum(c for _, _, c in self.blocks) / self.count

    def behind(self, ratio: float) -> float:
        """Return the updates of the base by which the branch is behind, in the mean."""
        return self.seen - self.warmed * (1 + ratio) / (1 + self.k * ratio)

    def residual(self, block: int, fall: float, ratio: float) -> float:
        """Return a block's part of the difference that is left, in the mean over all updates."""
        a, b, c = self.blocks[block]
        return (a - fall * (b - c * (1 + ratio) / (1 + self.k * ratio))) / self.count

    def weight(self, ratio: float) -> float:
        """Return how fast `behind` grows with the ratio."""
        return self.warmed * (self.k - 1) / (1 + self.k * ratio) ** 2


def _seen(updates: int, warmup: int, cooldown: float) -> list[float]:
    """Return the updates before each of a branch, every one by its share of the rate."""
    shares = (
        share_of_rate(update, updates, warmup_updates=warmup, cooldown=cooldown)
        for update in range(updates)
    )
    return list(itertools.accumulate(shares, initial=0.0))


def _read(window: Window, index: int) -> bool:
    """Whether a branch has finite losses at its end, where these are compared."""
    if not window.ends:
        return True
    end = window.ends[index + 1]
    return bool(end) and all(map(math.isfinite, end))


class _Fit:
    """A window's line, and its branches."""

    def __init__(self, window: Window, warmup: int) -> None:
        self.of_text = bool(window.ends)
        self.few_ends = bool(window.cooldown and not window.ends)
        base = window.base if window.own_line else window.line
        self.branches = [
            _Branch(k, window, index, warmup)
            for index, (k, losses) in enumerate(window.branches)
            if all(map(math.isfinite, losses)) and _read(window, index)
        ]
        self.doubt = [0.0] * BLOCKS
        """Each block's part of the error of `fall`."""
        if window.ends:
            self._read_twice(base)
            return
        middle, level = (len(base) - 1) / 2, statistics.fmean(base)
        squares = sum((u - middle) ** 2 for u in range(len(base)))
        self.fall = -sum((u - middle) * loss for u, loss in enumerate(base)) / squares
        """By which the base's loss falls in an update."""
        left = [loss - level + self.fall * (u - middle) for u, loss in enumerate(base)]
        self.variance = statistics.fmean(each * each for each in left) or level**2 * 1e-24 or 1.0
        for u, each in enumerate(left):
            self.doubt[u * BLOCKS // len(base)] -= (u - middle) * each / squares

    def _read_twice(self, base: Sequence[float]) -> None:
        """Take the fall from a text that the base has read twice, one time after the other."""
        count = len(base) // 2
        falls = [a - b for a, b in zip(base[:count], base[count:], strict=True)]
        whole = statistics.fmean(falls)
        self.fall = whole / count
        self.variance = statistics.pvariance(falls) or whole**2 * 1e-24 or 1.0
        for u, each in enumerate(falls):
            self.doubt[u * BLOCKS // count] += (each - whole) / count**2

    def parts(self, ratio: float) -> tuple[float, list[float]]:
        """Return the weighted sum of residuals, and the parts that tell its spread."""
        weights = [one.weight(ratio) * self.fall / self.variance for one in self.branches]
        pull = sum(w * one.behind(ratio) for w, one in zip(weights, self.branches, strict=True))
        found = [
            sum(w * one.residual(block, self.fall, ratio)
                for w, one in zip(weights, self.branches, strict=True))
            for block in range(BLOCKS)
        ]  # fmt: skip
        doubted = [a - pull * b for a, b in zip(found, self.doubt, strict=True)]
        return sum(found), doubted


def _solved(fits: Sequence[_Fit], level: float) -> tuple[float, float, float]:
    """Return base batch over noise batch, and both ends of its interval."""
    sums, allowed = [], []
    # In the end of a line its last values weigh most: it has fewer degrees of freedom.
    blocks = BLOCKS // 2 if fits[0].few_ends else BLOCKS
    for ratio in RATIOS:
        total, found = _sum(fits, ratio)
        sums.append(total)
        bound = _bound([part for each in found for part in each], level, blocks * len(fits))
        if fits[0].of_text and len(fits) > 1:
            bound = max(bound, _bound([sum(each) for each in found], level, len(fits)))
        if abs(total) <= bound:
            allowed.append(ratio)
    ratio = _crossing(fits, sums)
    return ratio, min([*allowed, ratio]), max([*allowed, ratio])


def _sum(fits: Sequence[_Fit], ratio: float) -> tuple[float, list[list[float]]]:
    """Return the weighted sum of all residuals, and each fit's parts that tell its spread."""
    each = [fit.parts(ratio) for fit in fits]
    return sum(total for total, _ in each), [parts for _, parts in each]


def _bound(parts: Sequence[float], level: float, count: int) -> float:
    """Return how far from 0 the sum of parts may be, of which so many are independent."""
    return t_quantile(level, count - 1) * statistics.stdev(parts) * math.sqrt(len(parts))


def _crossing(fits: Sequence[_Fit], sums: Sequence[float]) -> float:
    """Return the first ratio at which the sum of residuals is no longer above 0, by bisection."""
    index = next((i for i, total in enumerate(sums) if total <= 0), len(sums))
    if index in (0, len(sums)):
        return RATIOS[0] if index == 0 else RATIOS[-1]
    low, high = RATIOS[index - 1], RATIOS[index]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sum(fits, middle)[0] > 0 else (low, middle)
    return (low + high) / 2
