"""Schedule: from a recipe to the learning rate of each update, in closed form.

With ``N`` examples an epoch, batch size ``B``, ``w`` warmup epochs, ``E`` epochs
and ``s`` the update from 0:

    ramp(s) = min(1, (s + 1) * B / (w * N))        read at the end of the update
    lr(s) = (from + (peak - from) * ramp(s)) * decay(s * B / N)
    warmup updates = ceil(w * N / B)        updates = max(1, ceil(E * N / B))

So no update of the run has rate 0, the last warmup update is at the peak, and a
per-epoch decay changes exactly on the epoch's boundary. Lengths in another unit have the
same formulas: of updates with ``B/N = 1/1``, of examples with ``B/1``, of tokens with ``B*T/1``,
``T`` tokens an example.

Where the batch grows (`Recipe.batch_schedule`), they hold in each phase: with ``e`` the examples
before update s and ``b`` its batch, the ramp is at ``(e + b)/N``, the decay at ``e/N``, and the
rate is multiplied by ``(b/B)**lr_power``. A phase begins with the first update at or after its
position. So the positions of a run do not depend on how its batches grow, and every example is
used once an epoch.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

from legw.decays import UNITS, Constant, Unit
from legw.errors import RecipeError, check_count, setting, shown
from legw.recipe import Recipe

Ramp = Literal["end", "start", "between"]

Examples = int | Callable[[int], int] | None
"""Examples in one epoch: a number, a function of the batch size (streams), or the recipe's."""

GUARD = 1e-9
"""Guard, in updates, against counting one more for a rounding error.

Above a million updates it grows with them, as rounding errors do: 1e-15 of the count.
"""


def updates(recipe: Recipe, num_examples: Examples = None) -> int:
    """Return the number of updates of the run: ``max(1, ceil(E * N / B))``.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own. Only
            lengths in epochs need it.

    Raises:
        RecipeError: the number of examples is not known or out of range.

    >>> updates(Recipe(batch_size=128, lr=0.1, epochs=2), num_examples=1000)
    16
    >>> updates(Recipe(batch_size=128, lr=0.1, steps=100_000 / 3))
    33334
    """
    last = phases(recipe, num_examples)[-1]
    return last.first + last.updates


def warmup_updates(recipe: Recipe, num_examples: Examples = None) -> int:
    """Return the number of updates of the warmup: ``ceil(w * N / B)``.

    Args and Raises as for `updates`.

    >>> big = Recipe(batch_size=512, lr=4, epochs=90, warmup_epochs=0.15625)
    >>> warmup_updates(big, num_examples=1281167)
    391
    """
    return _updates_to(recipe.warmup, phases(recipe, num_examples))


def lr_at(
    recipe: Recipe, update: int, num_examples: Examples = None, *, ramp: Ramp = "end"
) -> float:
    """Return the learning rate of one update.

    Args:
        recipe: the recipe to train.
        update: number of the update, from 0; past the end of the run the rate at its end stays.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        ramp: point of the update at which the ramp is read: "end" is ``(s+1)/n``; "start" is
            ``s/n``, the convention of the code published with the paper, whose first
            update has the rate `warmup_from_lr`; "between" is ``(s+1)/(n+1)``, nanoGPT's,
            whose warmup has neither end.

    Raises:
        RecipeError: the number of examples is not known, or a value is out of range.

    Reference: You et al. 2019, arXiv 1901.08256, section 3.

    >>> big = Recipe(batch_size=100, lr=1.0, epochs=10, warmup_epochs=0.5)
    >>> [lr_at(big, s, num_examples=1000) for s in (0, 1, 4, 5)]
    [0.2, 0.4, 1.0, 1.0]
    """
    return in_steps(recipe, num_examples, ramp=ramp)(update)


def in_steps(
    recipe: Recipe, num_examples: Examples = None, *, ramp: Ramp = "end"
) -> Callable[[int], float]:
    """Return the schedule as a plain function ``lr(update)``, for any training loop.

    Args and Raises as for `lr_at`.

    >>> lr = in_steps(Recipe(batch_size=100, lr=0.4, epochs=10, warmup_epochs=0.2), 1000)
    >>> [lr(0), lr(1), lr(2)]
    [0.2, 0.4, 0.4]
    """
    if ramp not in get_args(Ramp):
        raise RecipeError(f"{recipe.name}: ramp={shown(ramp)}: must be 'end', 'start' or 'between'")
    found = phases(recipe, num_examples)
    firsts = [phase.first for phase in found]
    warmup, length = recipe.warmup, recipe.length
    peak, low, decay = recipe.lr, recipe.warmup_from_lr, recipe.decay
    decay_start = warmup if decay.after_warmup else 0.0
    ramp_updates = _updates_to(warmup, found)
    shift = 0 if ramp == "start" else 1
    between = ramp == "between"
    last = ramp_updates - 1 if ramp == "end" else ramp_updates

    def lr(update: int) -> float:
        if update < 0:
            raise RecipeError(f"{recipe.name}: update={update}: must be at least 0")
        phase = found[bisect.bisect_right(firsts, update) - 1]
        batch, size = phase.each, phase.unit
        begin = phase.start + (update - phase.first) * batch
        top = peak
        if update < last:
            gap = batch if between else 0
            top = low + (peak - low) * ((begin + shift * batch) / (warmup * size + gap))
        position = min(begin / size, length)
        falling = decay.factor(max(position - decay_start, 0.0), length - decay_start)
        return top * falling * phase.share

    return lr


# Phases: where the batch grows ---------------------------------------------------------


class Phase(NamedTuple):
    """Updates in a row with one batch size; a constant batch is one phase."""

    batch_size: int
    """Examples of each of its updates."""
    first: int
    """Number of its first update, from 0."""
    updates: int
    """Number of its updates."""
    seen: int
    """Examples seen before its first update."""
    begin: int
    """Position of its first update in examples, an epoch having as many as in this phase: for
    streams they depend on the batch, else it is `seen`."""
    epoch_size: int | None
    """Examples in one epoch at this batch size; None where it is not known."""
    start: int
    """Position of its first update in the recipe's unit, times `unit`."""
    each: int
    """Length of an update in the recipe's unit, times `unit`."""
    unit: int
    """Denominator of both: the examples of an epoch, or 1."""
    share: float
    """Factor of the rate, ``(batch_size / recipe.batch_size)**lr_power``."""


def phases(recipe: Recipe, num_examples: Examples = None) -> list[Phase]:
    """Return the phases of a run, each with the exact number of its updates.

    An update belongs to the phase in which it begins; a phase in which none begins is left out.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; for streams of another text a function
            of the batch size; None takes the recipe's own.

    Raises:
        RecipeError: the number of examples is not known or out of range, or depends on the
            batch, which then changes within an epoch.

    >>> from legw.recipe.batch_schedule import BatchSchedule
    >>> grown = Recipe(batch_size=100, lr=1, epochs=2,
    ...     batch_schedule=BatchSchedule(sizes=(30,), until=(0.5,)))
    >>> [(each.batch_size, each.updates, each.seen) for each in phases(grown, 1000)]
    [(30, 17, 0), (100, 15, 510)]
    """
    plan = recipe.batch_schedule
    sizes = (recipe.batch_size,) if plan is None else (*plan.sizes, recipe.batch_size)
    ends = (recipe.length,) if plan is None else (*plan.until, recipe.length)
    found: list[Phase] = []
    first = seen = start = 0
    before: tuple[int | None, int] | None = None  # epoch and unit in which `start` is counted
    for size, end in zip(sizes, ends, strict=True):
        each, unit = _update_length(recipe, size, _examples_at(recipe, size, num_examples))
        epoch = unit if recipe.unit == "epochs" else _known_examples(recipe, size, num_examples)
        if before is not None and epoch != before[0]:
            start = _new_epoch(recipe, start, before[1]) * unit
        before = epoch, unit
        count = max(_ceil((end * unit - start) / each), 0)
        if not (count or found) and end == recipe.length:
            count = 1  # a run has one update at least
        if count:
            begin = start if recipe.unit == "epochs" else seen
            share = 1.0 if plan is None else math.pow(size / recipe.batch_size, plan.lr_power)
            found.append(Phase(size, first, count, seen, begin, epoch, start, each, unit, share))
        first, seen, start = first + count, seen + count * size, start + count * each
    return found


def _examples_at(recipe: Recipe, batch_size: int, num_examples: Examples) -> int | None:
    """Return what is given for the examples of an epoch at a batch size; None for nothing."""
    if callable(num_examples):
        return num_examples(batch_size)
    streams = recipe.num_tokens is not None and recipe.batch_schedule is not None
    if streams and num_examples is not None:
        if num_examples != recipe.epoch_examples:
            raise RecipeError(
                f"{recipe.name}: num_examples={shown(num_examples)}: depends on the batch, which "
                "grows; give num_tokens in the recipe"
            )
        return None
    return num_examples


def _known_examples(recipe: Recipe, batch_size: int, num_examples: Examples) -> int | None:
    given = _examples_at(recipe, batch_size, num_examples)
    return recipe.epoch_examples_at(batch_size) if given is None else given


def _new_epoch(recipe: Recipe, start: int, unit: int) -> int:
    """Return the whole epochs before a phase whose epochs have other examples."""
    epochs, rest = divmod(start, unit)
    if rest or recipe.unit != "epochs":
        raise RecipeError(
            f"{recipe.name}: batch_schedule: the examples of an epoch depend on the batch here "
            "(streams), so it can change only between epochs; give whole until_epochs"
        )
    return epochs


def _updates_to(position: float, found: list[Phase]) -> int:
    """Return the number of updates that begin before a position, in the recipe's unit."""
    for phase in found:
        count = max(_ceil((position * phase.unit - phase.start) / phase.each), 0)
        if count <= phase.updates or phase is found[-1]:
            return phase.first + count
    raise AssertionError("a run has a phase")


class Progress:
    """Progress of a run, update by update: its batch sizes, examples seen and epochs.

    Args:
        recipe: the recipe to train.
        num_examples: as for `phases`.

    Raises:
        RecipeError: as for `phases`.

    >>> from legw.recipe.batch_schedule import BatchSchedule
    >>> grown = Recipe(batch_size=100, lr=1, epochs=2,
    ...     batch_schedule=BatchSchedule(sizes=(30,), until=(0.5,)))
    >>> run = Progress(grown, 1000)
    >>> run.batch_size(16), run.batch_size(17), run.seen(17), run.epochs(17)
    (30, 100, 510, 0.51)
    """

    def __init__(self, recipe: Recipe, num_examples: Examples = None) -> None:
        self.phases = phases(recipe, num_examples)
        self._firsts = [phase.first for phase in self.phases]
        self.updates = self.phases[-1].first + self.phases[-1].updates
        """Updates of the run."""
        self.sizes = tuple(phase.batch_size for phase in self.phases)
        """Batch sizes of the run, ascending."""

    def phase(self, update: int) -> Phase:
        """Return the phase of an update; past the end of the run the last one goes on."""
        return self.phases[bisect.bisect_right(self._firsts, update) - 1]

    def batch_size(self, update: int) -> int:
        """Return the examples of an update, numbered from 0."""
        return self.phase(update).batch_size

    def seen(self, updates: int) -> int:
        """Return the examples that so many updates see."""
        phase = self.phase(updates)
        return phase.seen + (updates - phase.first) * phase.batch_size

    def updates_to(self, examples: int) -> int:
        """Return the number of updates that see the nearest number of examples."""
        place = bisect.bisect_right([each.seen for each in self.phases], examples) - 1
        phase = self.phases[max(place, 0)]
        whole, rest = divmod(examples - phase.seen, phase.batch_size)
        return phase.first + whole + (2 * rest > phase.batch_size)

    def begin(self, update: int) -> tuple[int, int]:
        """Return an update's first example, counted from the run's begin, and those of an epoch.

        Both count as the update's phase does: the whole quotient is the epoch, the rest the
        place in it.

        Raises:
            RecipeError: the number of examples in an epoch is not known.
        """
        phase = self.phase(update)
        if phase.epoch_size is None:
            raise RecipeError("num_examples is not known; give it")
        return phase.begin + (update - phase.first) * phase.batch_size, phase.epoch_size

    def epochs(self, updates: int) -> float:
        """Return the passes over the data that so many updates make."""
        examples, epoch = self.begin(updates)
        return examples / epoch

    def passes(self, span_epochs: float, update: int) -> bool:
        """Say whether a multiple of a number of epochs, above 0, is reached within an update."""
        begin, epoch = self.begin(update)
        span = span_epochs * epoch
        return (begin + self.batch_size(update)) // span > begin // span

    def order_size(self, epoch: int) -> int:
        """Return the batch size with which an epoch, numbered from 0, begins."""
        sizes = [p.batch_size for p in self.phases if p.begin <= epoch * (p.epoch_size or 1)]
        return sizes[-1]


def batches(recipe: Recipe, num_examples: Examples = None) -> Iterator[int]:
    """Yield the batch size of each update of the run, in examples over all devices.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the number of examples is not known.

    >>> list(batches(Recipe(batch_size=400, lr=1, epochs=2), num_examples=1000))
    [400, 400, 400, 400, 400]
    """
    found = phases(recipe, num_examples)
    return itertools.chain.from_iterable(
        itertools.repeat(phase.batch_size, phase.updates) for phase in found
    )


def update_length(recipe: Recipe, num_examples: int | None = None) -> tuple[int, int]:
    """Return the length of one update in the recipe's unit, as a fraction.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Returns:
        Numerator and denominator: ``B/N`` epochs, 1/1 step, ``B/1`` examples, ``B*T/1``
        tokens.

    Raises:
        RecipeError: lengths are in epochs, and the number of examples is not known.

    >>> update_length(Recipe(batch_size=128, lr=0.1, epochs=2), num_examples=1000)
    (128, 1000)
    >>> update_length(Recipe(batch_size=128, lr=0.1, steps=2000))
    (1, 1)
    """
    return _update_length(recipe, recipe.batch_size, num_examples)


def _update_length(recipe: Recipe, batch: int, num_examples: int | None) -> tuple[int, int]:
    """Return the length of one update of a batch size, as `update_length` does."""
    unit = recipe.unit
    if unit == "epochs":
        return batch, epoch_size(recipe, num_examples, batch_size=batch)
    if num_examples is not None:
        check_count(recipe.name, "num_examples", num_examples)
    return {"steps": 1, "examples": batch, "tokens": batch * (recipe.example_tokens or 1)}[unit], 1


def updates_per_epoch(batches: int, accumulation: int = 1, *, keep_last: bool = True) -> int:
    """Return the updates that a loop with gradient accumulation makes in an epoch.

    Args:
        batches: micro-batches of one epoch on one process, ``len(loader)``; at least 1.
        accumulation: micro-batches of one update, at least 1.
        keep_last: True makes an update of a short window at the epoch's end; False drops it.

    Raises:
        RecipeError: a number is none, or no window is full.

    >>> updates_per_epoch(45, 8), updates_per_epoch(45, 8, keep_last=False)
    (6, 5)
    """
    for name, value in (("batches", batches), ("accumulation", accumulation)):
        check_count("updates_per_epoch", name, value)
    whole, rest = divmod(batches, accumulation)
    count = whole + (rest > 0 and keep_last)
    if not count:
        raise RecipeError(
            f"updates_per_epoch: batches={batches}: fill no window of {accumulation}; "
            "accumulate fewer, or keep the last"
        )
    return count


def counts(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return the updates of the run and of its warmup; None where they cannot be counted.

    >>> counts(Recipe(batch_size=8, lr=1, epochs=2)), counts(Recipe(
    ...     batch_size=8, lr=1, epochs=2, warmup_epochs=0.5, num_examples=80))
    ((None, None), (20, 5))
    >>> counts(Recipe(batch_size=128, lr=0.1, steps=2000, warmup_steps=100))
    (2000, 100)
    """
    if recipe.unit == "epochs" and recipe.epoch_examples is None:
        return None, None
    return updates(recipe), warmup_updates(recipe)


def epoch_size(
    recipe: Recipe, num_examples: int | None = None, *, batch_size: int | None = None
) -> int:
    """Return the examples in one epoch: the given number, or else the recipe's own.

    Args:
        recipe: the recipe to train; for streams the number depends on its batch size.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        batch_size: in examples, at least 1; None is the recipe's own.

    Raises:
        RecipeError: neither is known, or it is not a whole number of at least 1.

    >>> epoch_size(Recipe(batch_size=20, lr=1, epochs=1, num_tokens=929589, window_tokens=20))
    46460
    """
    size = num_examples
    if size is None:
        size = recipe.epoch_examples_at(recipe.batch_size if batch_size is None else batch_size)
    if size is None:
        raise RecipeError(
            f"{recipe.name}: num_examples is not known; "
            f"give {setting('num_examples')}, or put it into the recipe"
        )
    check_count(recipe.name, "num_examples", size)
    return size


def _ceil(count: float) -> int:
    return math.ceil(count - GUARD * max(1.0, count / 1e6))


def in_unit(recipe: Recipe, unit: Unit, num_examples: int | None = None) -> Recipe:
    """Return the same recipe with its lengths, and those of its decay, in another unit.

    Args:
        recipe: the recipe to train.
        unit: "epochs", "steps", "examples" or "tokens".
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the unit is unknown, or the number of examples in an epoch, or of tokens in an
            example, which the conversion needs.

    >>> base = Recipe(batch_size=100, lr=1, epochs=90, warmup_epochs=5)
    >>> in_unit(base, "steps", num_examples=1000).warmup_steps
    50.0
    """
    if unit not in UNITS:
        raise RecipeError(f"{recipe.name}: unit={shown(unit)}: must be one of {', '.join(UNITS)}")
    if unit == recipe.unit:
        return recipe
    if unit == "tokens" and recipe.example_tokens is None:
        raise RecipeError(f"{recipe.name}: tokens_per_example is not known; give it")
    empty: dict[str, Any] = {name: None for old in UNITS for name in (old, f"warmup_{old}")}
    each, one = update_length(recipe, num_examples)
    bare = {"decay": Constant(), "batch_schedule": None, "noise_scales": None}
    other = replace(recipe, **(empty | {unit: 1.0} | bare))
    new, new_one = update_length(other, num_examples)
    times, over = one * new, each * new_one
    lengths: dict[str, Any] = {
        unit: recipe.length * times / over, f"warmup_{unit}": recipe.warmup * times / over
    }  # fmt: skip
    decay = recipe.decay.in_unit(unit, times, over)
    plan, noise = recipe.batch_schedule, recipe.noise_scales
    if plan is not None:
        lengths["batch_schedule"] = plan.stretched(times, over)
    if noise is not None:
        lengths["noise_scales"] = tuple((at * times / over, scale) for at, scale in noise)
    return replace(recipe, **(empty | lengths), decay=decay)


def epochs_of(recipe: Recipe, num_examples: int | None = None) -> tuple[float | None, float | None]:
    """Return the warmup and the run in passes over the data; None each where not known.

    >>> epochs_of(Recipe(batch_size=100, lr=1, steps=90, warmup_steps=5), num_examples=1000)
    (0.5, 9.0)
    >>> epochs_of(Recipe(batch_size=100, lr=1, steps=90))
    (None, None)
    """
    if recipe.unit != "epochs" and num_examples is None and recipe.epoch_examples is None:
        return None, None
    found = in_unit(recipe, "epochs", num_examples)
    return found.warmup, found.length


def with_lengths(
    recipe: Recipe,
    *,
    epochs: float | None = None,
    warmup_epochs: float | None = None,
    steps: float | None = None,
    warmup_steps: float | None = None,
) -> Recipe:
    """Return the recipe with the given lengths, and all its lengths in their unit.

    Args:
        recipe: the recipe to train.
        epochs: of the run, in passes over the data; None keeps the recipe's length.
        warmup_epochs: of the warmup; None keeps the recipe's.
        steps: of the run, in updates, in place of epochs.
        warmup_steps: of the warmup, in updates.

    Raises:
        RecipeError: lengths are given in two units, one is out of range, or the recipe is in the
            other unit and the number of examples is not known.

    >>> with_lengths(Recipe(batch_size=100, lr=1, epochs=90), steps=500, warmup_steps=50).length
    500
    """
    run: dict[Unit, float | None] = {"epochs": epochs, "steps": steps}
    ramp: dict[Unit, float | None] = {"epochs": warmup_epochs, "steps": warmup_steps}
    given: list[Unit] = [u for u in run if run[u] is not None or ramp[u] is not None]
    if not given:
        return recipe
    if len(given) > 1:
        raise RecipeError(
            f"{recipe.name}: lengths are given in epochs and in steps; give both in one unit"
        )
    unit = given[0]
    length, warmup = run[unit], ramp[unit]
    whole = length is not None and (warmup is not None or recipe.warmup == 0)
    if whole and recipe.decay.unit is None:  # nothing of the recipe's own has to be converted
        empty: dict[str, Any] = {name: None for u in UNITS for name in (u, f"warmup_{u}")}
        return replace(recipe, **(empty | {unit: length, f"warmup_{unit}": warmup}))
    here = in_unit(recipe, unit)
    return here.with_lengths(
        here.length if length is None else length, here.warmup if warmup is None else warmup
    )
