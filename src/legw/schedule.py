"""From a recipe to the learning rate of each update, in closed form.

With ``N`` examples an epoch, batch size ``B``, ``w`` warmup epochs, ``E`` epochs
and ``s`` the update from 0:

    ramp(s) = min(1, (s + 1) * B / (w * N))        read at the end of the update
    lr(s) = (from + (peak - from) * ramp(s)) * decay(s * B / N)
    warmup updates = ceil(w * N / B)        updates = max(1, ceil(E * N / B))

So no update of the run has rate 0, the last warmup update is at the peak, and a
per-epoch decay changes exactly on the epoch's boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from legw.errors import RecipeError, shown
from legw.recipe import Recipe, check_count

Ramp = Literal["end", "start"]

GUARD = 1e-9
"""Guard, in updates, against counting one more for a rounding error.

Above a million updates it grows with them, as rounding errors do: 1e-15 of the count.
"""


def updates(recipe: Recipe, num_examples: int | None = None) -> int:
    """Return the number of updates of the run: ``max(1, ceil(E * N / B))``.

    Args:
        recipe: what is trained.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the number of examples is not known or out of range.

    >>> updates(Recipe(batch_size=128, lr=0.1, epochs=2), num_examples=1000)
    16
    """
    return max(1, _ceil(recipe.epochs * epoch_size(recipe, num_examples) / recipe.batch_size))


def warmup_updates(recipe: Recipe, num_examples: int | None = None) -> int:
    """Return the number of updates of the warmup: ``ceil(w * N / B)``.

    Args and Raises as for `updates`.

    >>> big = Recipe(batch_size=512, lr=4, epochs=90, warmup_epochs=0.15625)
    >>> warmup_updates(big, num_examples=1281167)
    391
    """
    return _ceil(recipe.warmup_epochs * epoch_size(recipe, num_examples) / recipe.batch_size)


def counts(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return the updates of the run and of its warmup; None where the examples are not known.

    >>> counts(Recipe(batch_size=8, lr=1, epochs=2)), counts(Recipe(
    ...     batch_size=8, lr=1, epochs=2, warmup_epochs=0.5, num_examples=80))
    ((None, None), (20, 5))
    """
    if recipe.epoch_examples is None:
        return None, None
    return updates(recipe), warmup_updates(recipe)


def lr_at(
    recipe: Recipe, update: int, num_examples: int | None = None, *, ramp: Ramp = "end"
) -> float:
    """Return the learning rate of one update.

    Args:
        recipe: what is trained.
        update: which update, from 0; past the end of the run the rate at its end stays.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        ramp: where in the update the ramp is read: "end" is ``(s+1)/n``; "start" is
            ``s/n``, the convention of the code published with the paper, whose first
            update has the rate `warmup_from_lr`.

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
    if ramp not in ("end", "start"):
        raise RecipeError(f"{recipe.name}: ramp={shown(ramp)}: must be 'end' or 'start'")
    size = epoch_size(recipe, num_examples)
    batch, warmup, epochs = recipe.batch_size, recipe.warmup_epochs, recipe.epochs
    peak, low, decay = recipe.lr, recipe.warmup_from_lr, recipe.decay
    decay_start = warmup if decay.after_warmup else 0.0
    ramp_updates = warmup_updates(recipe, size)
    shift = 1 if ramp == "end" else 0

    def lr(update: int) -> float:
        if update < 0:
            raise RecipeError(f"{recipe.name}: update={update}: must be at least 0")
        top = peak
        if update + shift < ramp_updates:
            top = low + (peak - low) * ((update + shift) * batch / (warmup * size))
        epoch = min(update * batch / size, epochs)
        return top * decay.factor(max(epoch - decay_start, 0.0), epochs - decay_start)

    return lr


def epoch_size(recipe: Recipe, num_examples: int | None = None) -> int:
    """Return the examples in one epoch: what is given, or else the recipe's own.

    Args:
        recipe: what is trained; for streams the number depends on its batch size.
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
            "give it (--num-examples, or num_examples in the recipe)"
        )
    check_count(recipe.name, "num_examples", size)
    return size


def _ceil(count: float) -> int:
    return math.ceil(count - GUARD * max(1.0, count / 1e6))
