"""Remarks on a scaled recipe: published results for its optimizer, and values the rule keeps.

They are no warnings: `legw scale` prints them. The warnings are in `legw.rules.cautions`.
"""

from __future__ import annotations

import math

from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Muon, Optimizer
from legw.recipe import Recipe
from legw.recipe.cautions import MAX_WARMUP, long_warmup, short_memory, warmup_share
from legw.recipe.rule import Rule
from legw.rules import RULES

NOTED_FACTOR = 2.0
"""A change of the weight decay's sum over the run by more than this factor gets a remark."""

EVIDENCE: dict[type[Optimizer], str] = {
    LARS: "LARS and LAMB: published with legw to 64 times the batch (ResNet-50 and BERT, 512 to "
    "32K: arXiv 1901.08256, 1904.00962)",
    Muon: "Muon: nanochat takes lr*sqrt(k) and the same warmup updates, and calls it not "
    "studied carefully",
    Adam: "Adam: lr*sqrt(k) follows from the SDE limit, together with scaled betas and epsilon: "
    "adam-sde (arXiv 2205.10287)",
    SGD: "momentum SGD: on convolutional networks the linear rate was better in print, 23.74 "
    "against 26.22 % error at batch 8K (arXiv 1706.02677)",
}
"""Published results for each family of optimizers, each as one line."""


def evidence(optimizer: Optimizer) -> str:
    """Return the published results on large batches for an optimizer's family, as one line.

    >>> from legw.optimizers import LAMB, AdamW
    >>> evidence(AdamW()).partition(":")[0], evidence(LAMB()).partition(":")[0]
    ('Adam', 'LARS and LAMB')
    """
    if isinstance(optimizer, LAMB):
        return EVIDENCE[LARS]
    for family, line in EVIDENCE.items():
        if isinstance(optimizer, family):
            return line
    return f"{optimizer.kind}: we know of nothing in print; take the rate as one of several"


def remarks(base: Recipe, scaled: Recipe, rule: Rule) -> list[str]:
    """Return the remarks on a scaled recipe, one line each; none at ``k = 1``.

    These are: a warmup above a fifth of the run (above half it is a caution); a base whose second
    moments average over few tokens; weight decay whose sum over the run, lr times weight decay,
    changes by more than twice; weight decay that a rule would scale and cannot, or scales so far
    that it bounds the weights; a weight average over other examples; a lowest rate that is kept as
    a share of the peak.

    Args:
        base: the recipe that was scaled.
        scaled: the result of `legw.rules.apply`.
        rule: the rule that did.

    Reference: Wang and Aitchison 2024, arXiv 2405.13698 (the time scale of weight decay).

    >>> from legw.optimizers import AdamW
    >>> from legw.rules import LEGW, apply
    >>> base = Recipe(batch_size=16, lr=1e-3, epochs=9, warmup_epochs=0.01, optimizer=AdamW())
    >>> remarks(base, apply(base, 512, LEGW), LEGW)
    ['summed over the run, lr*weight_decay falls 5.7 times; legw-timescales keeps it']
    """
    if scaled.batch_size == base.batch_size:
        return []
    warmup = long_warmup(scaled) if warmup_share(scaled) <= MAX_WARMUP else ""
    found = [warmup, short_memory(base), _decay_left(base, scaled), _coupled(base, rule),
             _bound(base, scaled), _average_left(base, scaled, rule),
             _lowest(base, scaled)]  # fmt: skip
    return [line for line in found if line]


def decay_sum_factor(base: Recipe, scaled: Recipe) -> float | None:
    """Return the factor of change of lr*weight_decay summed over the run; None without decay.

    Only decoupled weight decay counts: each update removes the share lr*weight_decay of a weight.

    >>> from legw.optimizers import AdamW
    >>> base = Recipe(batch_size=16, lr=1e-3, steps=900, optimizer=AdamW())
    >>> decay_sum_factor(base, base), decay_sum_factor(base.with_lengths(90, 0), base)
    (1.0, 10.0)
    """
    sums = []
    for recipe in (base, scaled):
        decays = [float(getattr(recipe.optimizer, name)) for name in recipe.optimizer.decoupled]
        sums.append(recipe.lr * max(decays, default=0.0) * _updates(recipe))
    return sums[1] / sums[0] if sums[0] else None


def _updates(recipe: Recipe) -> float:
    """Return the updates of a run, up to a factor of the unit, each times its share of the rate."""
    if recipe.unit == "steps":
        return recipe.length
    plan = recipe.batch_schedule
    if plan is None:
        return recipe.length / recipe.batch_size
    sizes, ends = (*plan.sizes, recipe.batch_size), (*plan.until, recipe.length)
    begins = (0.0, *plan.until)
    return sum(
        (end - begin) / size * math.pow(size / recipe.batch_size, plan.lr_power)
        for size, begin, end in zip(sizes, begins, ends, strict=True)
    )


def _decay_left(base: Recipe, scaled: Recipe) -> str:
    factor = decay_sum_factor(base, scaled)
    if factor is None or 1 / NOTED_FACTOR <= factor <= NOTED_FACTOR:
        return ""
    way = f"falls {1 / factor:.2g}" if factor < 1 else f"grows {factor:.2g}"
    keeper = next(rule.name for rule in RULES.values() if rule.weight_decay_power)
    return f"summed over the run, lr*weight_decay {way} times; {keeper} keeps it"


def _coupled(base: Recipe, rule: Rule) -> str:
    optimizer = base.optimizer
    if not (rule.weight_decay_power and getattr(optimizer, "weight_decay", 0.0)):
        return ""
    if optimizer.decoupled:
        return ""
    return f"{optimizer.kind}'s weight decay is added to the gradient, and stays as it is"


def _bound(base: Recipe, scaled: Recipe) -> str:
    """Tell of AdamW's weights, which cannot grow far past 1/weight_decay, where that is small."""
    old, new = base.optimizer, scaled.optimizer
    if not (isinstance(old, AdamW) and isinstance(new, AdamW)):
        return ""
    if new.weight_decay <= max(1.0, old.weight_decay):
        return ""
    before = f"{1 / old.weight_decay:.2g}" if old.weight_decay else "no bound"
    return (f"weight_decay {new.weight_decay:.3g} holds AdamW's weights below about "
            f"{1 / new.weight_decay:.2g} (the base's: {before}); on our base that cost far more "
            "than it kept")  # fmt: skip


def _average_left(base: Recipe, scaled: Recipe, rule: Rule) -> str:
    """Tell of a weight average (EMA) whose span in examples moves against the run's length."""
    decay, k = base.ema_decay, scaled.batch_size / base.batch_size
    if not decay or scaled.ema_decay != decay or rule.stretch_power:
        return ""
    keeper = next(rule for rule in RULES.values() if rule.ema_power)
    return (f"ema_decay {decay:g} averages over {k:.3g} times the examples: {keeper.name} "
            f"takes {decay**k:.4g}")  # fmt: skip


def _lowest(base: Recipe, scaled: Recipe) -> str:
    if not base.min_lr or not scaled.min_lr or base.min_lr == scaled.min_lr:
        return ""
    return (
        f"min_lr stays {base.min_lr / base.lr:.4g} of the peak: {base.min_lr:.4g} → "
        f"{scaled.min_lr:.4g}"
    )
