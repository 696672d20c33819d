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
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from legw.decays import UNITS, Constant, Unit
from legw.errors import RecipeError, check_count, setting, shown
from legw.recipe import Recipe

Ramp = Literal["end", "start", "between"]

GUARD = 1e-9
"""Guard, in updates, against counting one more for a rounding error.

Above a million updates it grows with them, as rounding errors do: 1e-15 of the count.
"""


def updates(recipe: Recipe, num_examples: int | None = None) -> int:
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
    each, unit = update_length(recipe, num_examples)
    return max(1, _ceil(recipe.length * unit / each))


def warmup_updates(recipe: Recipe, num_examples: int | None = None) -> int:
    """Return the number of updates of the warmup: ``ceil(w * N / B)``.

    Args and Raises as for `updates`.

    >>> big = Recipe(batch_size=512, lr=4, epochs=90, warmup_epochs=0.15625)
    >>> warmup_updates(big, num_examples=1281167)
    391
    """
    each, unit = update_length(recipe, num_examples)
    return _ceil(recipe.warmup * unit / each)


def lr_at(
    recipe: Recipe, update: int, num_examples: int | None = None, *, ramp: Ramp = "end"
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
    recipe: Recipe, num_examples: int | None = None, *, ramp: Ramp = "end"
) -> Callable[[int], float]:
    """Return the schedule as a plain function ``lr(update)``, for any training loop.

    Args and Raises as for `lr_at`.

    >>> lr = in_steps(Recipe(batch_size=100, lr=0.4, epochs=10, warmup_epochs=0.2), 1000)
    >>> [lr(0), lr(1), lr(2)]
    [0.2, 0.4, 0.4]
    """
    if ramp not in get_args(Ramp):
        raise RecipeError(f"{recipe.name}: ramp={shown(ramp)}: must be 'end', 'start' or 'between'")
    batch, size = update_length(recipe, num_examples)
    warmup, length = recipe.warmup, recipe.length
    peak, low, decay = recipe.lr, recipe.warmup_from_lr, recipe.decay
    decay_start = warmup if decay.after_warmup else 0.0
    ramp_updates = warmup_updates(recipe, num_examples)
    shift = 0 if ramp == "start" else 1
    gap = batch if ramp == "between" else 0
    last = ramp_updates - 1 if ramp == "end" else ramp_updates

    def lr(update: int) -> float:
        if update < 0:
            raise RecipeError(f"{recipe.name}: update={update}: must be at least 0")
        top = peak
        if update < last:
            top = low + (peak - low) * ((update + shift) * batch / (warmup * size + gap))
        position = min(update * batch / size, length)
        return top * decay.factor(max(position - decay_start, 0.0), length - decay_start)

    return lr


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
    unit, batch = recipe.unit, recipe.batch_size
    if unit == "epochs":
        return batch, epoch_size(recipe, num_examples)
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


def epoch_size(recipe: Recipe, num_examples: int | None = None) -> int:
    """Return the examples in one epoch: the given number, or else the recipe's own.

    Args:
        recipe: the recipe to train; for streams the number depends on its batch size.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: neither is known, or it is not a whole number of at least 1.

    >>> epoch_size(Recipe(batch_size=20, lr=1, epochs=1, num_tokens=929589, window_tokens=20))
    46460
    """
    size = recipe.epoch_examples if num_examples is None else num_examples
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
    other = replace(recipe, **(empty | {unit: 1.0, "decay": Constant()}))
    new, new_one = update_length(other, num_examples)
    times, over = one * new, each * new_one
    lengths = {unit: recipe.length * times / over, f"warmup_{unit}": recipe.warmup * times / over}
    decay = recipe.decay.in_unit(unit, times, over)
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
