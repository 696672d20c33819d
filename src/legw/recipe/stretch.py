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
    """Return the epochs over the base's that a batch needs: ``(1 + B/Bn) / (1 + B0/Bn)`` and more.

    Bn is the recipe's `noise_batch`, which branches of the base have measured. LEGW warms up for k
    times the epochs, of which half is lost while the rate rises, and this is added.

    Args:
        base: the tuned recipe.
        batch_size: B, in examples.

    Raises:
        RecipeError: the noise batch is not known; the line goes on from the rule's name.

    Reference: McCandlish et al. 2018, arXiv 1812.06162, equation 2.11.

    >>> by_noise_batch(Recipe(batch_size=100, lr=1, epochs=9, noise_batch=300), 500)
    2.0
    >>> by_noise_batch(
    ...     Recipe(batch_size=100, lr=1, epochs=10, warmup_epochs=1, noise_batch=300), 500
    ... )
    2.2
    """
    noise = base.noise_batch
    if noise is None:
        raise RecipeError(
            "lengthens the run by the noise batch, which is not known; legw probe critical "
            f"measures it, and {setting('critical', 'DIR')} or noise_batch in the recipe gives it"
        )
    return examples_over(base.batch_size, batch_size, noise) + warmup_lost(base, batch_size)


def warmup_lost(base: Recipe, batch_size: int) -> float:
    """Return what LEGW's longer warmup loses, as a share of the base run: half of its length.

    >>> warmup_lost(Recipe(batch_size=100, lr=1, epochs=10, warmup_epochs=1), 500)
    0.2
    """
    rising = 1 - base.warmup_from_lr / base.lr
    longer = (batch_size / base.batch_size - 1) * base.warmup / base.length
    return longer * rising / 2
