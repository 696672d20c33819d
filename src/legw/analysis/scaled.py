"""Scaled recipes: a base carried to batch sizes by rules, side by side with the base.

base --carry--> Outcome        base --ladder--> [Outcome], one a batch size
base --all_rules--> [Outcome], one a rule
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from legw import rules, schedule
from legw.analysis import remarks
from legw.decays import UNITS
from legw.errors import DataError, RecipeError, number, setting
from legw.recipe import Recipe, to_dict
from legw.recipe import usual as settings_usual
from legw.recipe.cautions import warmup_share
from legw.recipe.notebook import paragraph, table, text
from legw.recipe.rule import Rule

MAIN = ("batch_size", "lr", "min_lr", "warmup_share", "warmup_updates", "updates", "steps",
        *(f"warmup_{unit}" for unit in UNITS))  # fmt: skip
"""Quantities that a headline shows in its own words, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A base recipe carried to a batch size, or the reason why it cannot be."""

    base: Recipe
    """The tuned base recipe."""
    rule: Rule
    """The rule that scaled it."""
    batch_size: int
    """The target batch size, in examples."""
    scaled: Recipe | None = None
    """The scaled recipe; None where the rule is an error here."""
    error: str | None = None
    """The reason for a missing recipe, as one line; empty where there is one."""
    warnings: tuple[str, ...] = ()
    """Warnings, each as one line."""

    @property
    def k(self) -> float:
        """Target over base batch size."""
        return self.batch_size / self.base.batch_size

    @property
    def remarks(self) -> list[str]:
        """Further remarks that are no warnings; none at the base's batch."""
        if self.scaled is None:
            return []
        return remarks.remarks(self.base, self.scaled, self.rule)

    @property
    def notes(self) -> list[str]:
        """The warnings, for a reader who knows which recipe it is about."""
        return [line.removeprefix(f"{self.base.name}: ") for line in self.warnings]

    def row(self) -> dict[str, Any]:
        """Return one flat row of plain values, for a data frame; None where there is none.

        >>> base = Recipe(batch_size=128, lr=0.1, steps=1000, warmup_steps=10)
        >>> carry(base, 512, rules.LEGW).row()["lr"]
        0.2
        """
        scaled = self.scaled
        about = {"recipe": self.base.name, "rule": self.rule.name, "batch_size": self.batch_size,
                 "k": self.k}  # fmt: skip
        if scaled is None:
            return about | {"lr": None, "error": self.error}
        found = {name: value for name, value in quantities(scaled).items() if value is not None}
        return about | found | {"error": None}

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the two recipes side by side."""
        if self.scaled is None:
            return paragraph(text(self.error or ""))
        return table(to_dict(self.scaled), to_dict(self.base))

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints: null where a count is not known."""
        scaled = self.scaled
        return {
            "rule": self.rule.name,
            "k": self.k,
            "base": to_dict(self.base),
            "scaled": None if scaled is None else to_dict(scaled),
            "num_examples": None if scaled is None else scaled.epoch_examples,
            "updates": None if scaled is None else updates(scaled),
            "warmup_updates": None if scaled is None else warmup_updates(scaled),
            "warmup_share": None if scaled is None else warmup_share(scaled),
            "remarks": self.remarks,
            "evidence": remarks.evidence(self.base.optimizer),
            "warnings": list(self.warnings),
        }


def carry(base: Recipe, batch_size: int, rule: Rule, *, lr: float | None = None) -> Outcome:
    """Return the base recipe carried to a batch size; a given `lr` beats the rule's.

    Raises:
        RecipeError: the rule is not defined here, or a value is out of range.
    """
    scaled = rules.apply(base, batch_size, rule)
    lines = rules.cautions(base, scaled, rule)
    if lr is not None:
        given = replace(scaled, lr=lr)
        if rules.steers(rule.name, given, base):
            raise RecipeError(
                f"{base.name}: lr={number(lr)}: {rule.name} takes its rates from the base while "
                f"the run goes on; give a base with another lr ({setting('recipe', 'FILE')})"
            )
        lines = [f"{base.name}: lr={number(lr)} is given; {rule.name} says "
                 f"{number(scaled.lr)}", *lines]  # fmt: skip
        scaled = given
    return Outcome(
        base=base, rule=rule, batch_size=batch_size, scaled=scaled, warnings=tuple(lines)
    )


def attempt(base: Recipe, batch_size: int, rule: Rule) -> Outcome:
    """Return the result of `carry`; an error is a result, too, for one row of a table."""
    try:
        return carry(base, batch_size, rule)
    except RecipeError as error:
        return Outcome(base=base, rule=rule, batch_size=batch_size, error=str(error))


def ladder(base: Recipe, batch_sizes: Iterable[int], rule: Rule | str = "legw") -> list[Outcome]:
    """Return the base carried to each batch size; `legw scale --ladder` as a call.

    Args:
        base: the tuned recipe.
        batch_sizes: in examples per update, each at least 1; `doublings` makes them.
        rule: a `Rule`, or the name of one that ships.

    Returns:
        One outcome a batch size, in the order given; where the rule is undefined, `scaled` is
        None and `error` says why.

    Raises:
        RecipeError: no rule has this name.

    >>> base = Recipe(batch_size=128, lr=0.1, epochs=25, warmup_epochs=0.1)
    >>> [one.scaled and one.scaled.warmup_epochs for one in ladder(base, [128, 512, 65536])]
    [0.1, 0.4, None]
    """
    found = rules.find(rule) if isinstance(rule, str) else rule
    return [attempt(base, size, found) for size in batch_sizes]


def all_rules(base: Recipe, batch_size: int) -> list[Outcome]:
    """Return the base carried by every rule that ships; `legw scale --all-rules` as a call.

    Args:
        base: the tuned recipe.
        batch_size: target, in examples per update, at least 1.

    Returns:
        One outcome a rule; where a rule is undefined, `scaled` is None and `error` says why.

    >>> base = Recipe(batch_size=128, lr=0.1, epochs=25, warmup_epochs=0.1)
    >>> [(one.rule.name, one.scaled.lr) for one in all_rules(base, 512)[:2] if one.scaled]
    [('legw', 0.2), ('legw-timescales', 0.2)]
    """
    return [attempt(base, batch_size, rule) for rule in rules.RULES.values()]


def scale_table(
    base: Recipe, batch_sizes: Iterable[int], *, rules: Iterable[Rule | str] = ("legw",)
) -> list[dict[str, Any]]:
    """Return one row a rule and batch size, as plain values for polars, pandas or `print`.

    Args:
        base: the tuned recipe.
        batch_sizes: in examples per update, each at least 1.
        rules: each a `Rule`, or the name of one that ships.

    Raises:
        RecipeError: no rule has a name.

    >>> base = Recipe(batch_size=128, lr=0.1, steps=1000, warmup_steps=10)
    >>> [(row["batch_size"], row["steps"]) for row in scale_table(base, [128, 512])]
    [(128, 1000), (512, 250.0)]
    """
    sizes = list(batch_sizes)
    return [one.row() for rule in rules for one in ladder(base, sizes, rule)]


def doublings(first: int, last: int) -> list[int]:
    """Return the batch sizes ``first, 2*first, 4*first, ...`` and ``last``.

    Args:
        first: at least 1.
        last: at least `first`.

    >>> doublings(128, 1000)
    [128, 256, 512, 1000]
    """
    rungs = [first]
    while rungs[-1] * 2 < last:
        rungs.append(rungs[-1] * 2)
    return sorted({*rungs, last})


def counted(outcome: Outcome, num_examples: Callable[[int], int]) -> Outcome:
    """Return the outcome with its updates counted for the data at hand, not the recipe's.

    Args:
        outcome: one with a scaled recipe.
        num_examples: batch size -> examples in one epoch; a DataError at the base's, for
            which a text may be too short, leaves the base's counts unknown.

    Raises:
        DataError: the data do not fill one batch of the target's size.
    """
    base, scaled = outcome.base, outcome.scaled
    assert scaled is not None, "only what came to something has updates"
    scaled = _with_examples(scaled, num_examples(scaled.batch_size))
    try:
        base = _with_examples(base, num_examples(base.batch_size))
    except DataError:
        base = replace(base, num_examples=None, num_tokens=None, window_tokens=None)
    return replace(outcome, base=base, scaled=scaled)


def _with_examples(recipe: Recipe, count: int) -> Recipe:
    if count == recipe.epoch_examples:
        return recipe
    if recipe.num_tokens is not None and recipe.batch_schedule is not None:
        # Another text, whose epochs at the smaller batch sizes are not known here.
        return replace(recipe, num_tokens=None, window_tokens=None)
    return recipe.with_num_examples(count)


def updates(recipe: Recipe) -> int | None:
    """Return the updates of the run; None where the number of examples is not known."""
    return schedule.counts(recipe)[0]


def warmup_updates(recipe: Recipe) -> int | None:
    """Return the updates of the warmup; None where the number of examples is not known."""
    return schedule.counts(recipe)[1]


def quantities(recipe: Recipe) -> dict[str, object]:
    """Return the quantities of a recipe, by the names that TOML and JSON use.

    The settings of decay and optimizer follow their kind, as `decay.rate`.

    >>> list(quantities(Recipe(batch_size=8, lr=1, epochs=2)))[:3]
    ['batch_size', 'lr', 'min_lr']
    """
    found: dict[str, object] = {
        "batch_size": recipe.batch_size,
        "lr": recipe.lr,
        "min_lr": recipe.min_lr,
        "warmup_from_lr": recipe.warmup_from_lr,
        f"warmup_{recipe.unit}": recipe.warmup,
        "warmup_updates": warmup_updates(recipe),
        "warmup_share": warmup_share(recipe),
        recipe.unit: recipe.length,
        "updates": updates(recipe),
        "tokens_per_example": recipe.tokens_per_example,
        "num_examples": recipe.epoch_examples,
    }
    for name, part in (("decay", recipe.decay), ("optimizer", recipe.optimizer)):
        found[name] = part.kind
        settings = asdict(part).items()
        found |= {f"{name}.{setting}": value for setting, value in settings if value is not None}
    if recipe.batch_schedule is not None:
        settings = recipe.batch_schedule.to_dict(recipe.unit).items()
        found["batch_schedule"] = "grows"
        found |= {f"batch_schedule.{setting}": value for setting, value in settings}
    return found | {"clip_norm": recipe.clip_norm, "ema_decay": recipe.ema_decay,
                    "norm_batch_size": recipe.norm_batch_size}  # fmt: skip


def usual(recipe: Recipe) -> dict[str, object]:
    """Return the quantities not to be shown: those with their default, or unknown ones."""
    silent: dict[str, object] = {"warmup_from_lr": 0.0, "clip_norm": None, "norm_batch_size": 128}
    silent |= {"updates": None, "warmup_updates": None, "num_examples": None}
    silent |= {"ema_decay": None, "min_lr": None, "tokens_per_example": None, "warmup_share": 0.0}
    if recipe.unit == "steps":  # which are the updates, but for their fraction
        silent |= {"updates": recipe.length, "warmup_updates": recipe.warmup}
    for name, part in (("decay", recipe.decay), ("optimizer", recipe.optimizer)):
        silent |= {f"{name}.{setting}": value for setting, value in settings_usual(part).items()}
    return silent


def comparison(base: Recipe, scaled: Recipe) -> list[tuple[str, object, object]]:
    """Return name, old and new value of each quantity that is not a default, or has changed."""
    old, new = quantities(base), quantities(scaled)
    silent, as_silent = usual(base), usual(scaled)
    return [
        (name, old.get(name), new.get(name))
        for name in [*old, *(name for name in new if name not in old)]
        if name not in silent
        or (old.get(name), new.get(name)) != (silent[name], as_silent.get(name))
    ]


def headline(outcome: Outcome) -> str:
    """Return the change in one line, old → new."""
    base, scaled = outcome.base, outcome.scaled
    assert scaled is not None, "only what came to something has a headline"
    if scaled == base:
        where = f"{base.name}: batch {base.batch_size} (the base recipe itself)"
    else:
        where = (
            f"{base.name}: batch {base.batch_size} → {scaled.batch_size} "
            f"(k={number(outcome.k)}, {outcome.rule.name})"
        )
    said = [f"lr {_arrow(base.lr, scaled.lr)}", _warmup(base, scaled)]
    said += [f"{short(name)} {_arrow(old, new)}" for name, old, new in others(base, scaled)]
    said += _growth(scaled)
    return f"{where}: {', '.join(said)}"


def _growth(scaled: Recipe) -> list[str]:
    """Return how the batch grows, in a few words; nothing for a constant one."""
    plan = scaled.batch_schedule
    if plan is None:
        return []
    end = f"{scaled.unit[:-1]} {number(float(plan.until[-1]))}"
    return [f"batch from {plan.sizes[0]} on, whole at {end}"]


def others(base: Recipe, scaled: Recipe) -> list[tuple[str, object, object]]:
    """Return the changes beside batch size, learning rate, warmup and counts."""
    shown = {*MAIN, "num_examples"}
    return [
        (name, old, new)
        for name, old, new in comparison(base, scaled)
        if old != new and name not in shown and not name.startswith("batch_schedule")
    ]


def short(name: str) -> str:
    """Return a quantity's name without the part that it belongs to.

    >>> short("optimizer.beta2")
    'beta2'
    """
    return name.rpartition(".")[2]


def _warmup(base: Recipe, scaled: Recipe) -> str:
    if base.warmup == scaled.warmup == 0:
        return "no warmup"
    count = None if scaled.unit == "steps" else warmup_updates(scaled)
    unit = "" if count is None else f" ({count} update{'' if count == 1 else 's'})"
    if base.unit != scaled.unit:  # the batch grows, and a step has no fixed length
        old = f"{number(base.warmup)} {base.unit}"
        return f"warmup {old} → {number(scaled.warmup)} {scaled.unit}{unit}"
    return f"warmup {_arrow(base.warmup, scaled.warmup)} {scaled.unit}{unit}"


def _arrow(old: object, new: object) -> str:
    return number(new) if old == new else f"{number(old)} → {number(new)}"
