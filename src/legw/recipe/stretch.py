"""Stretch of a run: the epochs that a larger batch needs over those of its base.

A law takes a base recipe and a target, and returns a factor; `Rule.stretch` is one.
"""

from __future__ import annotations

from collections.abc import Callable

from legw.errors import RecipeError, setting
from legw.recipe import Recipe

Stretch = Callable[[Recipe, int], float]
"""Law of stretch: base recipe, target batch size -> factor on the epochs, above 0."""


def examples_over(base: int, batch_size: int, noise: float) -> float:
    """Return the examples that a batch needs over those of the base, to the same loss.

    Args:
        base: the base's batch B0, in examples.
        batch_size: B, in examples.
        noise: the noise scale or noise batch Bn, in examples, at least 0; at 0 it is B/B0.

    Reference: McCandlish et al. 2018, arXiv 1812.06162, equation 2.11.

    >>> examples_over(100, 400, noise=200.0)
    2.0
    """
    return (noise + batch_size) / (noise + base)


def by_noise_batch(base: Recipe, batch_size: int) -> float:
    """Return the epochs over the base's that a batch needs, by its noise batch.

    Bn is the recipe's `noise_batch`, which branches of the base have measured. The law holds for
    epochs at the whole rate: half of a warmup is lost, and LEGW's has k times the epochs.

    Args:
        base: the tuned recipe.
        batch_size: B, in examples.

    Raises:
        RecipeError: the noise batch is not known; the line goes on from the rule's name.

    Reference: McCandlish et al. 2018, arXiv 1812.06162, equation 2.11.

    >>> by_noise_batch(Recipe(batch_size=100, lr=1, epochs=9, noise_batch=300), 500)
    2.0
    """
    noise = base.noise_batch
    if noise is None:
        raise RecipeError(
            "lengthens the run by the noise batch, which is not known; legw probe critical "
            f"measures it, and {setting('critical', 'DIR')} or noise_batch in the recipe gives it"
        )
    return with_warmup(base, batch_size, examples_over(base.batch_size, batch_size, noise))


def with_warmup(base: Recipe, batch_size: int, stretch: float) -> float:
    """Return the factor on the epochs that stretches all but half of the warmup.

    With E epochs, of which w warm up, and k times the batch, it is E'/E of

        E' - k * w / 2 = (E - w / 2) * stretch

    Args:
        base: the tuned recipe.
        batch_size: in examples.
        stretch: factor on epochs at the whole rate, above 0.

    >>> with_warmup(Recipe(batch_size=100, lr=1, epochs=10, warmup_epochs=1), 500, 2.0)
    2.15
    """
    half = (1 - base.warmup_from_lr / base.lr) * base.warmup / base.length / 2
    return stretch + half * (batch_size / base.batch_size - stretch)
