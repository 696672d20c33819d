"""Rules as data: how a recipe changes with the batch size.

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

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from legw.errors import LegwWarning, RecipeError, unknown_name
from legw.optimizers import SGD, Adam, Optimizer, check_range
from legw.recipe import Recipe, check_count, check_name
from legw.schedule import epoch_size

FAR = 4.0
"""A batch this many times the noise scale is far past it: there, twice the batch saves less
than a tenth of the updates to the same loss."""

MOST_LENGTH = 4.0
"""A steered run ends after this many times its base's epochs, whatever it has gained."""

ROUNDING = 1e-12
"""Two numbers this close, relatively, count as equal where a rule meets its limit."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to carry a recipe to another batch size.

    Raises:
        RecipeError: a name that is no line of text, a power out of [-8, 8).

    >>> LEGW.lr_power, LEGW.warmup_power
    (0.5, 1.0)
    """

    name: str
    """What the command line and tables call it; 1 to 100 printable characters."""
    lr_power: float
    """Power of k that multiplies the learning rate (and the rate the warmup starts from)."""
    warmup_power: float = 0.0
    """Power of k that multiplies the warmup's epochs; 1 keeps its number of updates."""
    stretch_power: float = 0.0
    """Power of k that multiplies epochs, warmup and milestones; 1 keeps the updates."""
    warmup_epochs: float | None = None
    """Fixed length of the warmup in epochs, at least 0, from the base's rate; None scales."""
    optimizer: Callable[[Optimizer, float], Optimizer] | None = None
    """How the optimizer's own settings change with k; None leaves them."""
    needs: type[Optimizer] | None = None
    """The optimizer family the rule is defined for; None is any."""
    steers: bool = False
    """Whether the rule works on while the run goes on: the recipe that it gives is the
    base's at another batch, which `legw.train` steers. Needs ``k >= 1``."""
    formula: str = ""
    """The rule in one line, for people."""
    source: str = ""
    """Authors, year, and where to find it."""

    def __post_init__(self) -> None:
        check_name("rule", self.name)
        what = f"rule {self.name}"
        for name in ("lr_power", "warmup_power", "stretch_power"):
            check_range(what, name, getattr(self, name), -8, 8)
        if self.warmup_epochs is not None:
            check_range(what, "warmup_epochs", self.warmup_epochs, 0)


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


def _beta2_half_life(optimizer: Optimizer, k: float) -> Optimizer:
    """``beta2' = beta2**k``: the average over squared gradients spans the same examples."""
    assert isinstance(optimizer, Adam)
    return replace(optimizer, beta2=optimizer.beta2**k)


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
    optimizer=_beta2_half_life,
    needs=Adam,
    formula="beta2**k, beta1 and lr unchanged (the paper gives no law for lr)",
    source="Marek et al. 2025, arXiv 2507.07101",
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

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        LEGW, LINEAR, LINEAR_EPOCH, GOYAL, SQRT, FIXED, HOFFER, ADAM_SDE, BETA2_HALF_LIFE,
        ADASCALE,
    )
}  # fmt: skip
"""The rules that ship, by name, in the order in which tables show them."""

STEERING = {rule.name for rule in RULES.values() if rule.steers}
"""The rules that tell only at a run's end how long it was."""


def steers(name: str, scaled: Recipe, base: Recipe) -> bool:
    """Say whether a rule of this name sets the rates of a run while it goes on.

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
    return scaled


def apply(recipe: Recipe, batch_size: int, rule: Rule) -> Recipe:
    """Return what `scale` returns, without its warnings.

    Args and Raises as for `scale`.

    >>> base = Recipe(batch_size=16, lr=0.1, epochs=9)
    >>> apply(base, 32, LINEAR).lr
    0.2
    """
    check_count(recipe.name, "batch_size", batch_size)
    k = batch_size / recipe.batch_size
    if k == 1:
        return recipe
    here = f"{recipe.name}: batch_size={batch_size} (k={k:g}): {rule.name}"
    if rule.needs is not None and not isinstance(recipe.optimizer, rule.needs):
        raise RecipeError(
            f"{here} is defined for the {rule.needs.__name__} family only, "
            f"not for {recipe.optimizer.kind}; choose another rule"
        )
    if rule.steers and k < 1:
        raise RecipeError(f"{here} is undefined below the base's batch; choose another rule")
    stretch = math.pow(k, rule.stretch_power)
    epochs = recipe.epochs * stretch
    warmup = _warmup(recipe, rule, k) * stretch
    if warmup > 0 and warmup >= epochs * (1 - ROUNDING):
        raise RecipeError(
            f"{here} would warm up for {warmup:g} of {epochs:g} epochs; {_largest(recipe, rule)}"
        )
    try:
        optimizer = (
            recipe.optimizer if rule.optimizer is None else rule.optimizer(recipe.optimizer, k)
        )
    except RecipeError as error:
        raise RecipeError(f"{here} {error}") from None
    return replace(
        recipe,
        batch_size=batch_size,
        lr=recipe.lr * math.pow(k, rule.lr_power),
        epochs=epochs,
        warmup_epochs=warmup,
        warmup_from_lr=_warmup_from(recipe, rule, k),
        decay=recipe.decay.stretched(stretch) if stretch != 1 else recipe.decay,
        optimizer=optimizer,
    )


def _warmup(recipe: Recipe, rule: Rule, k: float) -> float:
    if rule.warmup_epochs is not None:
        return rule.warmup_epochs
    return recipe.warmup_epochs * math.pow(k, rule.warmup_power)


def _warmup_from(recipe: Recipe, rule: Rule, k: float) -> float:
    if rule.warmup_epochs is not None:
        return min(recipe.lr, recipe.lr * math.pow(k, rule.lr_power))
    return recipe.warmup_from_lr * math.pow(k, rule.lr_power)


def _largest(recipe: Recipe, rule: Rule) -> str:
    """Say how large a batch fits: the largest with ``warmup_epochs * k**power < epochs``."""
    power = rule.warmup_power
    if rule.warmup_epochs is not None or power <= 0:
        return "train for more epochs or choose another rule"
    limit = recipe.batch_size * math.pow(recipe.epochs / recipe.warmup_epochs, 1.0 / power)
    return f"the largest batch that fits is {math.ceil(limit * (1 - ROUNDING)) - 1}"


def cautions(base: Recipe, scaled: Recipe, rule: Rule) -> list[str]:
    """Return one line for each thing about a scaled recipe that deserves a second look.

    These are: no warmup to scale; a warmup past the first decay; linear scaling of an
    adaptive optimizer; a batch far past the measured noise scale, or larger than the data
    set, or fewer than 5 updates an epoch (where the numbers are known); a rule that
    steers, whose rates and length these are not. At ``k = 1`` there are none.

    Args:
        base: the recipe that was scaled.
        scaled: what `apply` made of it.
        rule: the rule that did.

    >>> base = Recipe(name="mine", batch_size=16, lr=1, epochs=9)
    >>> cautions(base, apply(base, 32, LEGW), LEGW)
    ['mine: the base recipe has no warmup, so legw equals sqrt here; give the base one']
    """
    if scaled.batch_size == base.batch_size:
        return []
    found = [
        _no_warmup(base, rule),
        _past_the_decay(scaled),
        _adaptive_linear(base, rule),
        _past_the_noise(base, scaled),
        _steered(rule, scaled.batch_size / base.batch_size),
        _few_updates(scaled),
    ]
    return [f"{base.name}: {line}" for line in found if line]


def _no_warmup(base: Recipe, rule: Rule) -> str:
    if base.warmup_epochs > 0 or rule.warmup_power == 0:
        return ""
    twin = next((r for r in RULES.values() if r.lr_power == rule.lr_power and _only_lr(r)), None)
    same = f", so {rule.name} equals {twin.name} here" if twin else ""
    return f"the base recipe has no warmup{same}; give the base one"


def _only_lr(rule: Rule) -> bool:
    length = rule.warmup_power == rule.stretch_power == 0 and rule.warmup_epochs is None
    return length and rule.optimizer is None


def _past_the_decay(scaled: Recipe) -> str:
    drop = scaled.decay.first_drop(scaled.epochs)
    if drop is None or scaled.decay.after_warmup or scaled.warmup_epochs <= drop:
        return ""
    return (
        f"the warmup ends at epoch {scaled.warmup_epochs:g}, "
        f"after the first decay at epoch {drop:g}; choose a smaller batch"
    )


def _adaptive_linear(base: Recipe, rule: Rule) -> str:
    if not (base.optimizer.adaptive and rule.lr_power >= 1):
        return ""
    return (
        f"{rule.name} was made for SGD; with {base.optimizer.kind} the rate grows as sqrt(k): "
        "choose legw or sqrt"
    )


def _past_the_noise(base: Recipe, scaled: Recipe) -> str:
    """Warn of a batch far past the noise scale; McCandlish et al. 2018, arXiv 1812.06162."""
    noise = base.noise_scale
    if noise is None or scaled.batch_size <= FAR * noise:
        return ""
    factor = (1 + scaled.batch_size / noise) / (1 + base.batch_size / noise)
    return (
        f"the batch is {scaled.batch_size / noise:.3g} times the measured noise scale "
        f"({noise:.3g} examples), which predicts {factor:.3g} times the base's examples to the "
        "same loss; choose a smaller batch, or see what a study says"
    )


def _steered(rule: Rule, k: float) -> str:
    said = f"{rule.name} sets rate and length while the run goes on: up to {k:g} times this rate, "
    return f"{said}up to {min(k, MOST_LENGTH):g} times these updates" if rule.steers else ""


def _few_updates(scaled: Recipe) -> str:
    if scaled.epoch_examples is None:
        return ""
    size = epoch_size(scaled)
    said = ""
    if scaled.batch_size > size:
        said = f"the batch ({scaled.batch_size}) is larger than the data set ({size})"
    elif size / scaled.batch_size < 5:
        said = f"only {size / scaled.batch_size:.1f} updates per epoch, fewer than 5"
    return said and f"{said}; choose a smaller batch"
