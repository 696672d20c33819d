"""Growth of a batch: the laws by which batch sizes follow warmup, decay or measured noise.

Each law takes a base recipe and a target, and returns batch sizes with the positions at which
they begin, in the unit of the base's lengths; `Rule.growth` is one. The sizes are the base's,
doubled again and again, and the target: multiples divide well into micro-batches and devices,
and other tools take them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from legw.errors import RecipeError, setting
from legw.recipe import Recipe
from legw.recipe.batch_schedule import BatchSchedule

EXACT = 1e-12
"""Relative guard against rounding where a batch size or a position is found by division."""

DIGITS = 15
"""Significant digits of a position: a file stays readable, and rounding errors stay out."""

FALLING_POINTS = 1000
"""Positions at which a decay is checked for never rising."""


class Begin(NamedTuple):
    """One batch size, and where it begins."""

    batch_size: int
    """In examples."""
    position: float
    """In the unit of the recipe's lengths, from the run's start."""


Growth = Callable[[Recipe, int], list[Begin]]
"""Law of growth: base recipe, target batch size -> all batch sizes, ascending, the base's at 0."""


def doublings(first: int, last: int) -> list[int]:
    """Return the batch sizes ``first, 2*first, 4*first, ...`` and ``last``.

    >>> doublings(128, 1000)
    [128, 256, 512, 1000]
    """
    sizes = [first]
    while 2 * sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    return [*sizes, last]


def geometric_ramp(base: Recipe, batch_size: int) -> list[Begin]:
    """Return LEGW's warmup as a ramp of the batch, ``b = B * k**(x / (k*w))``, in doublings.

    The target is reached at ``k*w``, the end of LEGW's warmup; the base's own warmup ``w``
    lies in the first phase.

    >>> base = Recipe(batch_size=100, lr=1, epochs=9, warmup_epochs=0.5)
    >>> [tuple(each) for each in geometric_ramp(base, 400)]
    [(100, 0.0), (200, 1.0), (400, 2.0)]
    """
    k = batch_size / base.batch_size
    span = _ramp(base, k)
    return [
        Begin(size, span * (math.log2(size / base.batch_size) / math.log2(k)))
        for size in doublings(base.batch_size, batch_size)
    ]


def linear_ramp(base: Recipe, batch_size: int) -> list[Begin]:
    """Return the same ramp linear in the examples, ``b = B * (1 + (k - 1) * x / (k*w))``.

    It has about as many updates in each doubling as the base's warmup.

    >>> base = Recipe(batch_size=100, lr=1, epochs=9, warmup_epochs=0.75)
    >>> [tuple(each) for each in linear_ramp(base, 400)]
    [(100, 0.0), (200, 1.0), (400, 3.0)]
    """
    k = batch_size / base.batch_size
    span = _ramp(base, k)
    return [
        Begin(size, span * (size / base.batch_size - 1) / (k - 1))
        for size in doublings(base.batch_size, batch_size)
    ]


def _ramp(base: Recipe, k: float) -> float:
    """Return the length of LEGW's warmup, over which the batch grows."""
    if not base.warmup:
        raise RecipeError("grows the batch over k times the base's warmup, which is 0; give it one")
    span = base.warmup * k
    if span >= base.length * (1 - EXACT):
        largest = math.ceil(base.batch_size * base.length / base.warmup * (1 - EXACT)) - 1
        raise RecipeError(
            f"would grow the batch for {span:g} of {base.length:g} {base.unit}; "
            f"the largest batch that fits is {largest}"
        )
    return span


def from_decay(base: Recipe, batch_size: int) -> list[Begin]:
    """Return growth in place of the decay: where that is ``f``, the batch is ``B/f``.

    It grows at least twice at a time, and up to the target. With the rate in proportion to the
    batch (SGD), it stays at the base's where the decay is a stair, until the target is reached;
    from there on it falls as the decay says.

    Reference: Smith et al. 2018, arXiv 1711.00489; with the square root, for optimizers that
    normalise, "Seesaw": arXiv 2510.14717.

    >>> from legw.decays import Step
    >>> base = Recipe(batch_size=100, lr=1, epochs=90, decay=Step(milestones_epochs=(30, 60)))
    >>> [tuple(each) for each in from_decay(base, 5000)]
    [(100, 0.0), (1000, 30.0), (5000, 60.0)]
    """
    factor, low = _factor(base), base.length * (1 - 1e-9)
    _check_falling(base, factor)
    begins, size = [Begin(base.batch_size, 0.0)], base.batch_size
    while size < batch_size:
        share = base.batch_size / min(2 * size, batch_size) * (1 + EXACT)
        if factor(low) > share:
            largest = int(base.batch_size / factor(low) * (1 + EXACT))
            if largest == base.batch_size:
                raise RecipeError(
                    "grows the batch where the rate would fall, and it never falls; give the "
                    "recipe a decay"
                )
            raise RecipeError(
                f"grows the batch as the decay falls, to {factor(low):.4g} of the peak; "
                f"the largest batch that fits is {largest}"
            )
        position = _first(lambda x, share=share: factor(x) <= share, begins[-1].position, low)  # type: ignore[misc]
        reached = factor(position)
        size = min(2 * size, batch_size)
        if reached * batch_size > base.batch_size:  # a stair may fall far below half
            size = max(size, int(base.batch_size / reached * (1 + 1e-9)))
        else:
            size = batch_size
        begins.append(Begin(size, position))
    return begins


def _factor(base: Recipe) -> Callable[[float], float]:
    """Return the decay's factor at a position from the run's start."""
    start = base.warmup if base.decay.after_warmup else 0.0
    span = base.length - start
    return lambda position: base.decay.factor(max(position - start, 0.0), span)


def _check_falling(base: Recipe, factor: Callable[[float], float]) -> None:
    """Refuse a decay that rises again: the batch would have to shrink."""
    shares = [factor(base.length * i / FALLING_POINTS) for i in range(FALLING_POINTS)]
    if any(b > a * (1 + EXACT) for a, b in itertools.pairwise(shares)):
        raise RecipeError(
            f"grows the batch where the rate would fall, and {base.decay.kind} rises again here; "
            "choose another rule"
        )


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the first position at which something holds that then goes on holding.

    It is rounded where it holds there too: a milestone is found as it was given.
    """
    if holds(low):
        return low
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    near = float(f"{high:.12g}")
    return near if holds(near) else high


def from_noise(base: Recipe, batch_size: int) -> list[Begin]:
    """Return growth with the noise scale that was measured: the batch is never above it.

    Between two measurements the scale is on the line that joins them; it counts with the highest
    value so far, and ahead of the first measurement with that one's.

    Reference: McCandlish et al. 2018, arXiv 1812.06162: at a batch equal to the noise scale, a
    run needs about twice the least updates and twice the least examples. Critical batch that
    grows during a run: Merrill et al. 2025, arXiv 2505.23971.

    >>> base = Recipe(batch_size=100, lr=1, epochs=9, noise_scales=((1, 100), (3, 300), (5, 900)))
    >>> [tuple(each) for each in from_noise(base, 400)]
    [(100, 0.0), (200, 2.0), (400, 3.3333333333333335)]
    """
    scales = base.noise_scales
    if scales is None:
        raise RecipeError(
            "grows the batch with the noise scale, which is not known along this run; legw probe "
            f"noise measures it, and {setting('noise', 'DIR')} or noise_scales in the recipe "
            "gives it"
        )
    begins = [Begin(base.batch_size, 0.0)]
    for size in doublings(base.batch_size, batch_size)[1:]:
        position = _reached(scales, size)
        if position is None or position >= base.length:
            highest = max(scale for at, scale in scales if at < base.length or at == scales[0][0])
            raise RecipeError(
                f"grows the batch with the noise scale, which reaches {highest:.4g} examples in "
                f"this run; choose a batch of at most {max(int(highest), base.batch_size)}"
            )
        begins.append(Begin(size, max(position, begins[-1].position)))
    return begins


def _reached(scales: tuple[tuple[float, float], ...], size: int) -> float | None:
    """Return the position at which the measured noise scale first is a batch size."""
    if scales[0][1] >= size:
        return 0.0
    for (low, before), (high, after) in itertools.pairwise(scales):
        if before < size <= after:
            return low + (high - low) * (size - before) / (after - before)
    return None


def schedule(
    base: Recipe, batch_size: int, growth: Growth, lr_power: float
) -> BatchSchedule | None:
    """Return the batch schedule of a law of growth; None where the target is there from the start.

    For streams a batch begins with the next epoch, at the latest with the last one.

    Args:
        base: the tuned recipe.
        batch_size: the target, above the base's.
        growth: the law.
        lr_power: power with which the rate follows the batch.

    Raises:
        RecipeError: the law is not defined for this base or target; the line goes on from the
            rule's name.

    >>> base = Recipe(batch_size=100, lr=1, epochs=9, warmup_epochs=0.5)
    >>> schedule(base, 400, geometric_ramp, 0.5)
    BatchSchedule(sizes=(100, 200), until=(1.0, 2.0), lr_power=0.5)
    """
    found: dict[float, int] = {0.0: base.batch_size}
    for size, position in growth(base, batch_size):
        at = float(f"{position:.{DIGITS}g}")
        at = _next_epoch(base, at) if base.num_tokens is not None else at
        found[at] = size  # of several that begin together the largest counts
    if (last := found[max(found)]) != batch_size:
        raise RecipeError(f"grows the batch to {last}, not to the target; correct its law")
    (_, *ends), sizes = sorted(found), [found[at] for at in sorted(found)]
    if not ends:
        return None
    return BatchSchedule(sizes=tuple(sizes[:-1]), until=tuple(ends), lr_power=lr_power)


def _next_epoch(base: Recipe, position: float) -> float:
    last = math.ceil(base.length) - 1
    return float(min(math.ceil(position - EXACT), last)) if base.unit == "epochs" else position
