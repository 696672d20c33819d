"""Rules as data: the changes of a recipe with the batch size.

With ``k = batch_size / base.batch_size`` most rules are powers of k:

    lr * k**lr_power        warmup_epochs * k**warmup_power
    epochs, warmup and milestones * k**stretch_power

Your own rule is one line, and `scale` takes it like ours:

>>> mine = Rule(name="cube-root", lr_power=1 / 3, warmup_power=1.0)
>>> base = Recipe(batch_size=100, lr=0.5, epochs=90, warmup_epochs=1)
>>> round(scale(base, batch_size=800, rule=mine).lr, 12)
1.0
"""

from __future__ import annotations

import bisect
import math
import warnings
from dataclasses import replace

from legw.decays import Decay, power_of
from legw.errors import (
    LegwWarning,
    RecipeError,
    check_count,
    setting,
    unknown_name,
)
from legw.optimizers import SGD, Adam, Muon, Optimizer
from legw.recipe import Recipe, growth
from legw.recipe.cautions import (
    MAX_WARMUP,
    ROUNDING,
    few_updates,
    long_warmup,
    past_the_decay,
    past_the_noise,
    warmup_share,
)
from legw.recipe.rule import Rule
from legw.recipe.stretch import by_noise_batch
from legw.schedule import epoch_size, in_unit, update_length

MAX_LENGTH = 4.0
"""A steered run ends at the latest after this multiple of its base's epochs."""


def _adam_sde(optimizer: Optimizer, k: float) -> Optimizer:
    """``beta' = 1 - k*(1 - beta)``, ``epsilon' = epsilon/sqrt(k)``; needs ``k < 1/(1 - beta1)``."""
    assert isinstance(optimizer, Adam)
    for name, beta in (("beta1", optimizer.beta1), ("beta2", optimizer.beta2)):
        limit = 1.0 / (1.0 - beta)
        if k >= limit * (1 - ROUNDING):
            raise RecipeError(
                f"is undefined at k={k:g}: needs k < 1/(1-{name}) = {limit:g}; "
                "choose a smaller batch or another rule"
            )
    return replace(
        optimizer,
        beta1=1.0 - k * (1.0 - optimizer.beta1),
        beta2=1.0 - k * (1.0 - optimizer.beta2),
        epsilon=optimizer.epsilon / math.sqrt(k),
    )


LEGW = Rule(
    name="legw",
    lr_power=0.5,
    warmup_power=1.0,
    formula="lr*sqrt(k), warmup_epochs*k (the same number of warmup updates)",
    source="You et al. 2019, arXiv 1901.08256",
)
LINEAR = Rule(
    name="linear",
    lr_power=1.0,
    formula="lr*k, warmup unchanged",
    source="Krizhevsky 2014, arXiv 1404.5997",
)
LINEAR_EPOCH = Rule(
    name="linear-epoch",
    lr_power=1.0,
    warmup_power=1.0,
    formula="lr*k, warmup_epochs*k: shows what each half of LEGW does",
    source="an ablation of ours",
)
GOYAL = Rule(
    name="goyal",
    lr_power=1.0,
    warmup_epochs=5.0,
    formula="lr*k, 5 epochs of warmup from lr to lr*k",
    source="Goyal et al. 2017, arXiv 1706.02677",
)
SQRT = Rule(
    name="sqrt",
    lr_power=0.5,
    formula="lr*sqrt(k), warmup unchanged",
    source="Krizhevsky 2014, arXiv 1404.5997; Hoffer et al. 2017, arXiv 1705.08741",
)
FIXED = Rule(
    name="fixed",
    lr_power=0.0,
    formula="everything unchanged",
    source="the control",
)
HOFFER = Rule(
    name="hoffer",
    lr_power=0.5,
    stretch_power=1.0,
    formula="lr*sqrt(k); epochs, warmup and milestones*k (the same number of updates)",
    source="Hoffer et al. 2017, arXiv 1705.08741",
)
ADAM_SDE = Rule(
    name="adam-sde",
    lr_power=0.5,
    optimizer=_adam_sde,
    needs=Adam,
    formula="lr*sqrt(k), beta -> 1-k*(1-beta) for both, epsilon/sqrt(k); k < 1/(1-beta1)",
    source="Malladi et al. 2022, arXiv 2205.10287",
)
BETA2_HALF_LIFE = Rule(
    name="beta2-half-life",
    lr_power=0.0,
    beta2_power=1.0,
    needs=Adam,
    formula="beta2**k, beta1 and lr unchanged (the paper gives no law for lr)",
    source="Marek et al. 2025, arXiv 2507.07101",
)
LEGW_TIMESCALES = Rule(
    name="legw-timescales",
    lr_power=0.5,
    warmup_power=1.0,
    weight_decay_power=0.5,
    beta2_power=1.0,
    beta2_floor=0.9,
    ema_power=1.0,
    formula="legw, and weight_decay*sqrt(k) where it is decoupled, beta2**k down to 0.9, "
    "ema_decay**k: what is remembered spans the same number of examples",
    source="weight decay: Wang and Aitchison 2024, arXiv 2405.13698; beta2: Marek et al. 2025, "
    "arXiv 2507.07101; weight average: Busbridge et al. 2023, arXiv 2307.13813",
)
ADASCALE = Rule(
    name="adascale",
    lr_power=0.0,
    steers=True,
    needs=SGD,
    formula="lr*gain, 1 <= gain <= k measured at each update; ends when the gains add up to the "
    "base's updates, or after 4 times its epochs",
    source="Johnson et al. 2020, arXiv 2007.05105",
)

LEGW_RAMP = Rule(
    name="legw-ramp",
    lr_power=0.5,
    growth=growth.geometric_ramp,
    formula="legw's warmup as a ramp: over k times the base's warmup the batch grows "
    "geometrically, and lr with its square root",
    source="You et al. 2019, arXiv 1901.08256, made a ramp by us",
)
LEGW_RAMP_LINEAR = Rule(
    name="legw-ramp-linear",
    lr_power=0.5,
    growth=growth.linear_ramp,
    formula="the same ramp, linear in the examples: fewer updates",
    source="You et al. 2019, arXiv 1901.08256, made a ramp by us",
)
SMITH = Rule(
    name="smith",
    lr_power=1.0,
    growth=growth.from_decay,
    needs=SGD,
    formula="where the decay would divide lr, the batch is multiplied instead, up to k times",
    source="Smith et al. 2018, arXiv 1711.00489",
)
SEESAW = Rule(
    name="seesaw",
    lr_power=0.5,
    growth=growth.from_decay,
    formula="where the decay would halve lr, the batch doubles and lr falls by sqrt(2), "
    "up to k times the batch",
    source="Seesaw 2025, arXiv 2510.14717",
)
NOISE_RAMP = Rule(
    name="noise-ramp",
    lr_power=0.5,
    growth=growth.from_noise,
    formula="the batch grows with the noise scale measured along the base's run, and lr with "
    "its square root",
    source="McCandlish et al. 2018, arXiv 1812.06162; Merrill et al. 2025, arXiv 2505.23971",
)

STRETCH = Rule(
    name="stretch",
    lr_power=0.5,
    warmup_power=1.0,
    stretch=by_noise_batch,
    formula="legw, and epochs and the decay's lengths * (1 + B/Bn)/(1 + B0/Bn), with the noise "
    "batch Bn measured by branches of the base; the warmup is legw's, and half of it is lost",
    source="You et al. 2019, arXiv 1901.08256; stretch: McCandlish et al. 2018, arXiv 1812.06162, "
    "equation 2.11",
)
"""LEGW in as many epochs as the base's loss needs at this batch. The warmup keeps the base's number
of updates, as published: the curvature at a run's start, for which it is made, knows nothing of the
run's end. The decay, which ends with the run, is stretched."""

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        LEGW, LEGW_TIMESCALES, LINEAR, LINEAR_EPOCH, GOYAL, SQRT, FIXED, HOFFER, ADAM_SDE,
        BETA2_HALF_LIFE, ADASCALE, LEGW_RAMP, LEGW_RAMP_LINEAR, SMITH, SEESAW, NOISE_RAMP, STRETCH,
    )
}  # fmt: skip
"""The rules that ship, by name, in the order in which tables show them."""

STEERING = {rule.name for rule in RULES.values() if rule.steers}
"""Rules under which the length of a run is known only at its end."""


def steers(name: str, scaled: Recipe, base: Recipe) -> bool:
    """Say whether a rule of this name sets the learning rates during the run.

    >>> base = Recipe(batch_size=16, lr=1, epochs=9)
    >>> steers("adascale", apply(base, 32, ADASCALE), base), steers("legw", base, base)
    (True, False)
    """
    return name in STEERING and scaled != base


def find(name: str) -> Rule:
    """Return the rule of this name.

    Raises:
        RecipeError: there is none; the line names the nearest.

    >>> find("sqrt") is SQRT
    True
    """
    if name not in RULES:
        raise RecipeError(unknown_name("rule", name, RULES))
    return RULES[name]


def scale(recipe: Recipe, batch_size: int, rule: Rule | str = LEGW) -> Recipe:
    """Return the recipe carried to another batch size; at ``k = 1`` it comes back unchanged.

    Args:
        recipe: the base, tuned at its own batch size.
        batch_size: the target, in examples per update, at least 1.
        rule: a `Rule`, or the name of one that ships.

    Raises:
        RecipeError: the rule is unknown or not defined for this optimizer or k, or
            its warmup would not end before the run does.

    Warns:
        LegwWarning: each line of `cautions`.

    Reference: You et al. 2019, arXiv 1901.08256, section 3.

    >>> base = Recipe(batch_size=512, lr=4, epochs=90, warmup_epochs=0.15625)
    >>> big = scale(base, batch_size=32768)
    >>> big.lr, big.warmup_epochs
    (32.0, 10.0)
    """
    rule = find(rule) if isinstance(rule, str) else rule
    scaled = apply(recipe, batch_size, rule)
    for line in cautions(recipe, scaled, rule):
        warnings.warn(line, LegwWarning, stacklevel=2)
    if scaled is not recipe:
        object.__setattr__(scaled, "_base", recipe)  # for a notebook
    return scaled


def apply(recipe: Recipe, batch_size: int, rule: Rule) -> Recipe:
    """Return the result of `scale`, without its warnings.

    Args and Raises as for `scale`.

    >>> base = Recipe(batch_size=16, lr=0.1, epochs=9)
    >>> apply(base, 32, LINEAR).lr
    0.2
    """
    check_count(recipe.name, "batch_size", batch_size)
    k = batch_size / recipe.batch_size
    if k == 1:
        return recipe
    here = _here(recipe, batch_size, rule)
    if rule.needs is not None and not isinstance(recipe.optimizer, rule.needs):
        raise RecipeError(
            f"{here} is defined for the {rule.needs.__name__} family only, "
            f"not for {recipe.optimizer.kind}; choose another rule"
        )
    if (rule.steers or rule.growth is not None) and k < 1:
        raise RecipeError(f"{here} is undefined below the base's batch; choose another rule")
    if recipe.batch_schedule is not None:
        raise RecipeError(
            f"{here}: the recipe has a batch schedule already; scale the one without it"
        )
    if rule.growth is not None and recipe.unit == "steps":
        recipe = in_unit(recipe, "examples")  # the examples of a step are about to change
    length, warmup = _lengths(recipe, batch_size, rule)
    if warmup > 0 and warmup >= length * (1 - ROUNDING):
        raise RecipeError(
            f"{here} would warm up for {warmup:g} of {length:g} {recipe.unit}; "
            f"{_choices(recipe, batch_size, rule)}"
        )
    try:
        optimizer = (
            recipe.optimizer if rule.optimizer is None else rule.optimizer(recipe.optimizer, k)
        )
        grown = None
        if rule.growth is not None:
            grown = growth.schedule(recipe, batch_size, rule.growth, rule.lr_power)
    except RecipeError as error:
        raise RecipeError(f"{here} {error}") from None
    clip = recipe.clip_norm
    if clip is not None and rule.clip_norm_power:
        clip = power_of(clip, k, rule.clip_norm_power)
    average = recipe.ema_decay
    if average is not None and rule.ema_power:
        average **= math.pow(k, rule.ema_power)
    return replace(
        recipe.with_lengths(length, warmup),
        batch_size=batch_size,
        lr=recipe.lr * math.pow(k, rule.lr_power),
        warmup_from_lr=_warmup_from(recipe, rule, k),
        decay=_stretched(recipe, batch_size, rule),
        optimizer=_memory(optimizer, rule, k),
        clip_norm=clip,
        ema_decay=average,
        batch_schedule=grown,
    )


def stretched_by(recipe: Recipe, batch_size: int, rule: Rule) -> float:
    """Return the factor by which a rule multiplies the epochs of a run.

    Args as for `scale`.

    Raises:
        RecipeError: the rule needs a number that is not known of this base.

    >>> base = Recipe(batch_size=100, lr=1, epochs=9, noise_batch=300)
    >>> stretched_by(base, 500, STRETCH), stretched_by(base, 500, LEGW)
    (2.0, 1.0)
    """
    if rule.stretch is None or batch_size == recipe.batch_size:
        return math.pow(batch_size / recipe.batch_size, rule.stretch_power)
    try:
        return rule.stretch(recipe, batch_size)
    except RecipeError as error:
        raise RecipeError(f"{_here(recipe, batch_size, rule)} {error}") from None


def _here(recipe: Recipe, batch_size: int, rule: Rule) -> str:
    """Return the beginning of an error's line."""
    k = batch_size / recipe.batch_size
    return f"{recipe.name}: batch_size={batch_size} (k={k:g}): {rule.name}"


def _stretched(recipe: Recipe, batch_size: int, rule: Rule) -> Decay:
    """Return the decay over the scaled run, its lengths divided where that is exact."""
    k = batch_size / recipe.batch_size
    power = rule.stretch_power - (recipe.unit == "steps")
    if rule.stretch is not None:
        times, over = stretched_by(recipe, batch_size, rule), (k if recipe.unit == "steps" else 1.0)
    elif power == 0:
        return recipe.decay
    else:
        times, over = (math.pow(k, power), 1.0) if power > 0 else (1.0, math.pow(k, -power))
    if recipe.decay.unit is None:
        return recipe.decay.stretched(times / over)
    return recipe.decay.in_unit(recipe.decay.unit, times, over)


def _memory(optimizer: Optimizer, rule: Rule, k: float) -> Optimizer:
    """Return the optimizer with a rule's changes of weight decay and beta2."""
    new: dict[str, float] = {}
    if rule.weight_decay_power:
        new = {
            name: power_of(getattr(optimizer, name), k, rule.weight_decay_power)
            for name in optimizer.decoupled
        }
    if rule.beta2_power and isinstance(optimizer, Adam | Muon):
        beta2 = optimizer.beta2 ** math.pow(k, rule.beta2_power)
        new["beta2"] = max(beta2, min(rule.beta2_floor, optimizer.beta2))
    return replace(optimizer, **new) if new else optimizer


def _lengths(recipe: Recipe, batch_size: int, rule: Rule) -> tuple[float, float]:
    """Return length and warmup of the scaled recipe, in its unit.

    A length that is equal in epochs, examples or tokens has 1/k of the steps.
    """
    k = batch_size / recipe.batch_size
    less = 1 if recipe.unit == "steps" else 0
    length = power_of(recipe.length, k, rule.stretch_power - less)
    if rule.stretch is not None:
        length *= stretched_by(recipe, batch_size, rule)
    if rule.warmup_epochs is None:
        power = rule.warmup_power + rule.stretch_power - less
        return length, power_of(recipe.warmup, k, power) if power else recipe.warmup
    if recipe.unit == "epochs":
        return length, rule.warmup_epochs * math.pow(k, rule.stretch_power)
    if recipe.epoch_examples is None:
        raise RecipeError(
            f"{recipe.name}: num_examples is not known, and {rule.name} warms up for "
            f"{rule.warmup_epochs:g} epochs; give it, or choose another rule"
        )
    scaled = replace(recipe, batch_size=batch_size)
    each, one = update_length(scaled)
    epoch = epoch_size(scaled) * each / (batch_size * one)
    return length, rule.warmup_epochs * epoch * math.pow(k, rule.stretch_power)


def _warmup_from(recipe: Recipe, rule: Rule, k: float) -> float:
    if rule.warmup_epochs is not None:
        return min(recipe.lr, recipe.lr * math.pow(k, rule.lr_power))
    return recipe.warmup_from_lr * math.pow(k, rule.lr_power)


def _choices(recipe: Recipe, batch_size: int, rule: Rule) -> str:
    """Return the remedies that fit: a smaller batch, a shorter warmup of the base, other rules.

    The longest warmup has ``warmup * k**power < length``, or the length's stretch, which a longer
    warmup lengthens in proportion.
    """
    power, choices = rule.warmup_power, ["train for longer"]
    if rule.warmup_epochs is None and power > 0:
        choices = [f"the largest batch that fits is {_largest(recipe, batch_size, rule)}"]
        longer, by_warmup = 1.0, 0.0
        if rule.stretch is not None:
            longer = stretched_by(recipe.with_lengths(recipe.length, 0.0), batch_size, rule)
            by_warmup = (stretched_by(recipe, batch_size, rule) - longer) / recipe.warmup
        k = math.pow(batch_size / recipe.batch_size, power)
        longest = below(recipe.length * longer / (k - recipe.length * by_warmup))
        named = recipe.unit in ("epochs", "steps")
        option = f" ({setting(f'warmup_{recipe.unit}')})" if named else ""
        choices.append(f"at this one a base warmup of {longest:.12g} {recipe.unit}{option} fits")
    others = [other.name for other in RULES.values() if other != rule
              and _fits(recipe, batch_size, other)]  # fmt: skip
    if others:
        choices.append(f"rules that fit: {', '.join(others)}")
    return "; ".join(choices)


def _largest(recipe: Recipe, batch_size: int, rule: Rule) -> int:
    """Return the largest batch, below one that is too large, whose warmup ends before the run."""

    def is_too_large(size: int) -> bool:
        length, warmup = _lengths(recipe, size, rule)
        return warmup >= length * (1 - ROUNDING)

    sizes = range(recipe.batch_size, batch_size)
    return sizes[bisect.bisect_left(sizes, True, key=is_too_large) - 1]


def _fits(recipe: Recipe, batch_size: int, rule: Rule) -> bool:
    """Say whether a rule is defined here, and its warmup ends before the run does."""
    if rule.needs is not None and not isinstance(recipe.optimizer, rule.needs):
        return False
    try:
        length, warmup = _lengths(recipe, batch_size, rule)
        if rule.optimizer is not None:
            rule.optimizer(recipe.optimizer, batch_size / recipe.batch_size)
        if rule.growth is not None:
            at = in_unit(recipe, "examples") if recipe.unit == "steps" else recipe
            growth.schedule(at, batch_size, rule.growth, rule.lr_power)
    except RecipeError:
        return False
    return warmup < length * (1 - ROUNDING)


def below(limit: float) -> float:
    """Return a number of three digits that is less than a limit above 0, and near it.

    >>> below(25 / 300), below(0.5)
    (0.0833, 0.499)
    """
    limit *= 1 - 1e-9
    unit = 10.0 ** (math.floor(math.log10(limit)) - 2)
    digits = math.ceil(limit / unit) - 1
    return float(f"{digits * unit:.3g}")


def cautions(base: Recipe, scaled: Recipe, rule: Rule) -> list[str]:
    """Return the warnings about a scaled recipe, one line each.

    These are: no warmup to scale; a warmup past the first decay, or above half of the
    run; linear scaling of an
    adaptive optimizer; a batch far past the measured noise scale, or larger than the data
    set, or fewer than 5 updates an epoch (where the numbers are known); a rule that
    steers, whose rates and length these are not. At ``k = 1`` there are none.

    Args:
        base: the recipe that was scaled.
        scaled: the result of `apply`.
        rule: the rule that did.

    >>> base = Recipe(name="mine", batch_size=16, lr=1, epochs=9)
    >>> cautions(base, apply(base, 32, LEGW), LEGW)
    ['mine: the base recipe has no warmup, so legw equals sqrt here; give the base one']
    """
    if scaled.batch_size == base.batch_size:
        return []
    found = [
        _no_warmup(base, rule),
        past_the_decay(scaled),
        long_warmup(scaled) if warmup_share(scaled) > MAX_WARMUP else "",
        _adaptive_linear(base, rule),
        past_the_noise(base, scaled),
        _steered(rule, scaled.batch_size / base.batch_size),
        few_updates(scaled),
    ]
    return [f"{base.name}: {line}" for line in found if line]


def _no_warmup(base: Recipe, rule: Rule) -> str:
    if base.warmup > 0 or rule.warmup_power == 0:
        return ""
    twin = next((r for r in RULES.values() if r.lr_power == rule.lr_power and _only_lr(r)), None)
    same = f", so {rule.name} equals {twin.name} here" if twin and not rule.stretch else ""
    return f"the base recipe has no warmup{same}; give the base one"


def _only_lr(rule: Rule) -> bool:
    powers = (rule.warmup_power, rule.stretch_power, rule.weight_decay_power, rule.beta2_power,
              rule.clip_norm_power, rule.ema_power)  # fmt: skip
    others = (rule.warmup_epochs, rule.optimizer, rule.growth, rule.stretch)
    return not any(powers) and all(other is None for other in others)


def _adaptive_linear(base: Recipe, rule: Rule) -> str:
    if not (base.optimizer.adaptive and rule.lr_power >= 1):
        return ""
    return (
        f"{rule.name} was made for SGD; with {base.optimizer.kind} the rate grows as sqrt(k): "
        "choose legw or sqrt"
    )


def _steered(rule: Rule, k: float) -> str:
    said = f"{rule.name} sets rate and length while the run goes on: up to {k:g} times this rate, "
    return f"{said}up to {min(k, MAX_LENGTH):g} times these updates" if rule.steers else ""
