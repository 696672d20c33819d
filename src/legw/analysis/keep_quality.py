"""Quality as a contract: the base's loss within a tolerance, at equal epochs or in a longer run.

With the largest batch L that is within the tolerance at equal examples, and the noise batch Bn that
is fitted to all branches, a batch B has one of two recipes:

    B <= L    LEGW's, in the base's epochs
    B >  L    LEGW's in (1 + B/Bn) / (1 + B0/Bn) times the epochs at the whole rate: rule `stretch`

Who asks for more than L is shown both: L at equal epochs, and B stretched. The second is
recommended where it has fewer updates and, as far as a speed was measured, takes less time. Where
one of the two is not so, the first is: it trains on fewer examples.

    kept(base, critical, tolerance) --Kept--> keep_quality(batch) --> Contract

The loss is that of training, over branches of a part of the run; what a whole run keeps, a study
measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from legw import rules
from legw.analysis import cost
from legw.analysis.cost import Option
from legw.analysis.critical import interval
from legw.analysis.measured_critical import MeasuredCritical, check_base, read_critical
from legw.analysis.noise_batch import NoiseBatch
from legw.analysis.verdict import Tolerance, read_tolerance
from legw.errors import (
    LegwError,
    RecipeError,
    check_count,
    duration,
    given,
    number,
    one_line,
    setting,
)
from legw.recipe import Recipe, to_dict
from legw.recipe.rule import Rule
from legw.recipe.stretch import examples_over, with_warmup
from legw.rules import LEGW, STRETCH
from legw.schedule import counts

Price = Callable[[int, Rule], Option]
"""Cost of a batch size under a rule, by the model of `legw plan`."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bound of the batch that keeps a base's loss within a tolerance, and the stretch beyond it."""

    base: Recipe
    """The tuned recipe, with the noise batch that stretches it."""
    tolerance: Tolerance
    """Of the loss."""
    largest_batch: int
    """Largest batch that is within the tolerance at equal epochs, in examples."""
    largest_tried: int
    """Largest batch of the branches, in examples."""
    noise_batch: NoiseBatch
    """Of the whole run, with its interval."""

    def rule(self, batch_size: int) -> Rule:
        """Return the rule that keeps the loss at a batch size."""
        return LEGW if batch_size <= self.largest_batch else STRETCH

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "tolerance": str(self.tolerance),
            "largest_batch": self.largest_batch,
            "largest_tried": self.largest_tried,
            "noise_batch": asdict(self.noise_batch),
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of two ways to keep the base's loss."""

    recipe: Recipe
    """The recipe to train."""
    rule: Rule
    """The rule that makes it of the base."""
    stretch: float
    """Epochs over the base's."""
    updates: int | None
    """Updates of the run; None where the number of examples is not known."""
    seconds: float | None = None
    """Predicted time; None where no speed was measured."""
    device_seconds: float | None = None
    """That time multiplied by the number of devices."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        plain = {name: value for name, value in vars(self).items() if name != "rule"}
        return plain | {
            "recipe": to_dict(self.recipe),
            "rule": self.rule.name,
            "batch_size": self.recipe.batch_size,
        }


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Both choices, and the recommended one."""

    kept: Kept
    """The bound and the stretch."""
    equal: Choice
    """At equal epochs: the asked-for batch, or the largest that is within the tolerance."""
    stretched: Choice | None
    """The asked-for batch in a longer run; None where it needs none, or none is known."""
    best: Choice
    """The recommended one."""
    reason: str
    """The reason for it."""
    notes: tuple[str, ...]
    """Cautions about it, one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, which JSON knows."""
        return {
            **self.kept.to_dict(),
            "equal_epochs": self.equal.to_dict(),
            "stretched": None if self.stretched is None else self.stretched.to_dict(),
            "recommended": "equal_epochs" if self.best is self.equal else "stretched",
            "reason": self.reason,
            "notes": list(self.notes),
        }


def kept(
    base: Recipe,
    critical: MeasuredCritical | str | None,
    tolerance: str,
    rule: Rule | str = LEGW,
) -> Kept:
    """Return the bound and the stretch that keep a base's loss within a tolerance.

    Args:
        base: the tuned recipe, the one that was measured.
        critical: the result of `legw probe critical`, or the folder or file of it.
        tolerance: of the loss: a number in its unit, or a share of the base's as in 1%.
        rule: of the recipes; LEGW is the only one whose quality is kept here.

    Raises:
        LegwError: nothing was measured, or another base or rule; the tolerance cannot be.
    """
    found = rules.find(rule) if isinstance(rule, str) else rule
    asked = read_tolerance(tolerance, name="keep_quality", of="loss")
    if critical is None:
        raise LegwError(
            f"{given('keep_quality', tolerance)}: needs the measured critical batch; give "
            f"{setting('critical', 'DIR')} (legw probe critical APP measures it)"
        )
    measured = read_critical(critical) if isinstance(critical, str) else critical
    check_base(measured, base)
    if found.name != LEGW.name:
        raise LegwError(
            f"{given('keep_quality', tolerance)}: is for {LEGW.name} and its stretch, not for "
            f"{found.name}; leave {setting('rule')} out"
        )
    if measured.rule != LEGW.name:
        raise LegwError(
            f"{given('critical', measured.source)}: its branches had the rates of "
            f"{one_line(measured.rule, 60)}, and {setting('keep_quality')} is for {LEGW.name}; "
            f"measure with {setting('rule', LEGW.name)}"
        )
    return Kept(
        base=replace(base, noise_batch=measured.noise_batch.cautious),
        tolerance=asked,
        largest_batch=measured.largest_batch(asked),
        largest_tried=measured.largest_tried,
        noise_batch=measured.noise_batch,
    )


def keep_quality(found: Kept, batch_size: int, price: Price | None = None) -> Contract:
    """Return the recipes that keep the base's loss, for a batch size that is asked for.

    Args:
        found: the bound and the stretch.
        batch_size: asked for, in examples, at least the base's.
        price: cost of a batch size under a rule; None compares by updates alone.

    Raises:
        RecipeError: the batch is below the base's, or LEGW is not defined there.
    """
    base = found.base
    check_count(base.name, "batch_size", batch_size)
    if batch_size < base.batch_size:
        raise RecipeError(
            f"{base.name}: batch_size={batch_size}: is below the base's {base.batch_size}, whose "
            f"quality is kept; give at least {base.batch_size}"
        )
    if batch_size <= found.largest_batch:
        return _decided(found, _choice(found, batch_size, LEGW, price), None, [])
    equal = _largest(found, price)
    try:
        stretched = _choice(found, batch_size, STRETCH, price)
    except RecipeError as error:
        return _decided(found, equal, None, [str(error)])
    return _decided(found, equal, stretched, [])


def of_options(found: Kept, options: Sequence[Option]) -> Contract:
    """Return both choices among priced batch sizes, each under the rule of `Kept.rule`.

    A batch below the base's is none of them.

    Raises:
        RecipeError: none is possible at equal epochs.
    """
    least = found.base.batch_size
    small = [one for one in options if least <= one.batch_size <= found.largest_batch]
    large = [one for one in options if one.batch_size > found.largest_batch]
    if not small:
        raise RecipeError(
            f"{found.base.name}: no batch size is from {least} to {found.largest_batch}, where the "
            "loss is kept in the base's epochs; give one of these, too"
        )
    equal = _of_option(found, cost.recommend(small), LEGW)
    if not any(one.recipe is not None for one in large):
        return _decided(found, equal, None, [line for one in large[:1] for line in one.notes])
    return _decided(found, equal, _of_option(found, cost.recommend(large), STRETCH), [])


def _largest(found: Kept, price: Price | None) -> Choice:
    """Return the choice at equal epochs: the largest batch, or of its halves one that LEGW takes.

    A warmup may leave no room for the largest.
    """
    size = found.largest_batch
    while True:
        try:
            return _choice(found, size, LEGW, price)
        except RecipeError:
            if size == found.base.batch_size:
                raise
            size = max(size // 2, found.base.batch_size)


def _choice(found: Kept, batch_size: int, rule: Rule, price: Price | None) -> Choice:
    recipe = rules.apply(found.base, batch_size, rule)
    if price is not None:
        return _of_option(found, price(batch_size, rule), rule)
    longer = rules.stretched_by(found.base, batch_size, rule)
    return Choice(recipe=recipe, rule=rule, stretch=longer, updates=counts(recipe)[0])


def _of_option(found: Kept, option: Option, rule: Rule) -> Choice:
    if option.recipe is None:
        raise RecipeError(option.notes[0])
    return Choice(
        recipe=option.recipe,
        rule=rule,
        stretch=rules.stretched_by(found.base, option.batch_size, rule),
        updates=option.updates,
        seconds=option.seconds,
        device_seconds=option.device_hours * 3600,
    )


# The decision -------------------------------------------------------------------------


def _decided(
    found: Kept, equal: Choice, stretched: Choice | None, notes: Sequence[str]
) -> Contract:
    best = equal if stretched is None or not _shortens(equal, stretched) else stretched
    return Contract(
        kept=found, equal=equal, stretched=stretched, best=best,
        reason=_reason(found, equal, stretched),
        notes=(*notes, *_cautions(found, stretched)),
    )  # fmt: skip


def _shortens(equal: Choice, stretched: Choice) -> bool:
    """Whether a longer run of a larger batch has fewer updates, and takes less time."""
    return _fewer(equal, stretched) and _faster(equal, stretched) is not False


def _fewer(equal: Choice, stretched: Choice) -> bool:
    ratio = stretched.stretch / stretched.recipe.batch_size * equal.recipe.batch_size
    if equal.updates is None or stretched.updates is None:
        return ratio < 1
    return stretched.updates < equal.updates


def _faster(equal: Choice, stretched: Choice) -> bool | None:
    """Whether the longer run takes less time; None where no speed is known."""
    if equal.seconds is None or stretched.seconds is None:
        return None
    return stretched.seconds < equal.seconds


def _reason(found: Kept, equal: Choice, stretched: Choice | None) -> str:
    small = equal.recipe.batch_size
    if stretched is None:
        return f"batch {small} is within {found.tolerance} of the base's loss in its epochs"
    large, fewer, faster = (
        stretched.recipe.batch_size, _fewer(equal, stretched), _faster(equal, stretched)
    )  # fmt: skip
    if not fewer:
        return f"batch {large} would have no fewer updates than batch {small}"
    if faster is None:
        return (
            f"batch {large} has fewer updates than batch {small}; no speed was measured, and "
            "legw plan predicts the time"
        )
    if not faster:
        return f"batch {large} has fewer updates than batch {small}, but takes no less time here"
    return f"batch {large} has fewer updates than batch {small}, and takes less time"


def _cautions(found: Kept, stretched: Choice | None) -> list[str]:
    lines = []
    noise = found.noise_batch
    if stretched is not None and noise.value is None:
        lines.append(
            "no branch was behind the base: the run is stretched by the lower end of the noise "
            "batch's interval"
        )
    if stretched is not None and noise.low == 0.0:
        lines.append(
            "the branches do not bound the noise batch from below, and the run may need up to k "
            f"times the epochs: give more {setting('seeds')} or a larger {setting('window')} to "
            "legw probe critical"
        )
    if stretched is not None and stretched.recipe.batch_size > 2 * found.largest_tried:
        lines.append(
            f"the largest branch was of batch {found.largest_tried}; what batch "
            f"{stretched.recipe.batch_size} needs is extrapolated"
        )
    return lines


def contract_lines(contract: Contract) -> list[str]:
    """Return the bound, the stretch and the recommendation, one line each."""
    found, best = contract.kept, contract.best
    noise = found.noise_batch
    lines = [
        f"loss within {found.tolerance} of the base's: at most batch {found.largest_batch} in "
        f"its epochs (of batches up to {found.largest_tried})",
        f"noise batch {'not found' if noise.value is None else number(noise.value, 3)} "
        f"({interval(asdict(noise))}): {_longer(contract)}",
    ]
    time = "" if best.seconds is None else f", {duration(best.seconds, 3)}"
    updates = "" if best.updates is None else f", {best.updates} updates{time}"
    lines.append(f"* take batch {best.recipe.batch_size}, {best.rule.name}{updates}: "
                 f"{contract.reason}")  # fmt: skip
    return lines


def _longer(contract: Contract) -> str:
    one = contract.stretched
    if one is None:
        return "a larger batch needs (1 + B/Bn) / (1 + B0/Bn) times the epochs"
    ends = [_stretch(contract.kept, one.recipe.batch_size, end)
            for end in (contract.kept.noise_batch.high, contract.kept.noise_batch.low)]  # fmt: skip
    return (
        f"batch {one.recipe.batch_size} in {number(one.stretch, 3)} times the epochs "
        f"({number(ends[0], 3)} to {number(ends[1], 3)})"
    )


def _stretch(found: Kept, batch_size: int, noise: float | None) -> float:
    """Return the epochs over the base's by a noise batch; one without an end needs none more, and
    at 0 they grow as the batch does."""
    base = found.base
    longer = 1.0 if noise is None else examples_over(base.batch_size, batch_size, noise)
    return with_warmup(base, batch_size, longer)
