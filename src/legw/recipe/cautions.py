"""Cautions about a scaled recipe: what may go wrong with it, whatever rule has made it."""

from __future__ import annotations

from legw.errors import setting
from legw.recipe import Recipe
from legw.recipe.stretch import examples_over

FAR_PAST_NOISE = 4.0
"""A batch this many times the noise scale is far past it: there, twice the batch saves less
than a tenth of the updates to the same loss."""

LONG_WARMUP_SHARE = 0.2
"""A warmup above this share of the run gets a note."""

MAX_WARMUP = 0.5
"""A warmup above this share of the run is a caution, wherever the recipe is scaled."""

ROUNDING = 1e-12
"""Relative difference up to which two numbers count as equal at a rule's limit."""


def warmup_share(recipe: Recipe) -> float:
    """Return the warmup's share of the run, in [0, 1).

    >>> warmup_share(Recipe(batch_size=8, lr=1, steps=1000, warmup_steps=50))
    0.05
    """
    return recipe.warmup / recipe.length


def long_warmup(scaled: Recipe) -> str:
    """Return a line for a warmup above a fifth of the run, else nothing.

    A base's warmup is often longer than it needs to be.

    >>> long_warmup(Recipe(batch_size=8, lr=1, steps=1000, warmup_steps=200))
    ''
    """
    share = warmup_share(scaled)
    if share <= LONG_WARMUP_SHARE * (1 + ROUNDING):
        return ""
    option = scaled.unit if scaled.unit in ("epochs", "steps") else "epochs"
    return (
        f"the warmup is {share:.0%} of the run; try a shorter one of the base "
        f"({setting(f'warmup_{option}')}): legw probe curvature says what the base needs"
    )


def past_the_decay(scaled: Recipe) -> str:
    """Return a line for a warmup that ends after the first decay, else nothing."""
    drop = scaled.decay.first_drop(scaled.length)
    if drop is None or scaled.decay.after_warmup or scaled.warmup <= drop:
        return ""
    one = scaled.unit[:-1]
    return (
        f"the warmup ends at {one} {scaled.warmup:g}, "
        f"after the first decay at {one} {drop:g}; choose a smaller batch"
    )


def past_the_noise(base: Recipe, scaled: Recipe) -> str:
    """Return a line for a batch far past the measured noise scale, else nothing.

    Reference: McCandlish et al. 2018, arXiv 1812.06162.
    """
    noise = base.noise_scale
    if noise is None or scaled.batch_size <= FAR_PAST_NOISE * noise:
        return ""
    factor = examples_over(base.batch_size, scaled.batch_size, noise)
    return (
        f"the batch is {scaled.batch_size / noise:.3g} times the measured noise scale "
        f"({noise:.3g} examples), which predicts {factor:.3g} times the base's examples to the "
        "same loss; choose a smaller batch, or see what a study says"
    )


def few_updates(scaled: Recipe) -> str:
    """Return a line for a batch that leaves fewer than five updates an epoch, else nothing."""
    size = scaled.epoch_examples
    if size is None:
        return ""
    said = ""
    if scaled.batch_size > size:
        said = f"the batch ({scaled.batch_size}) is larger than the data set ({size})"
    elif size / scaled.batch_size < 5:
        said = f"only {size / scaled.batch_size:.1f} updates per epoch, fewer than 5"
    return said and f"{said}; choose a smaller batch"
