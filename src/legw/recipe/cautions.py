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

SHORT_MEMORY, ENOUGH_MEMORY = 100_000, 400_000
"""Second moments that average over fewer tokens than the first get a note, which proposes as many
as the second: our language models learned rare words far worse at 8,000 and 20,000 tokens, and at
40,000 worse, than at 400,000."""

LONGER = (0.99, 0.999, 0.9999, 0.99999)
"""Values of beta2 of which the first that averages over enough tokens is proposed."""

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


def short_memory(base: Recipe) -> str:
    """Return a line for second moments that forget rare words between two uses, else nothing.

    Adam and its kin divide by a mean of squared gradients over about ``1/(1 - beta2)`` updates.
    The row of a word that is seen less often takes steps of full length away from the word in
    between. Only a recipe that tells its tokens gets the line.

    >>> from legw.optimizers import AdamW
    >>> short_memory(Recipe(batch_size=8, lr=1, steps=9, tokens_per_example=1024,
    ...                     optimizer=AdamW(beta2=0.95)))
    ''
    """
    beta2, each = getattr(base.optimizer, "beta2", None), base.example_tokens
    if beta2 is None or each is None:
        return ""
    tokens = base.batch_size * each * (1 + ROUNDING)
    if tokens >= SHORT_MEMORY * (1 - beta2):
        return ""
    longer = next((b for b in LONGER if tokens >= ENOUGH_MEMORY * (1 - b)), LONGER[-1])
    return (
        f"beta2={beta2:g} averages over {1 / (1 - beta2):.3g} updates, "
        f"{tokens / (1 - beta2):,.0f} tokens: words that come less often are learned badly; try "
        f"beta2={longer:g} of the base"
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
