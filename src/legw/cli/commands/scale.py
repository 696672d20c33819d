"""`legw scale`: carry a recipe to another batch size, old and new side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from legw import recipe, remarks, rules
from legw.analysis.scaled import Outcome, all_rules, carry, headline, ladder
from legw.cli import output
from legw.cli.options import (
    BatchSize,
    Count,
    File,
    Flag,
    Ladder,
    Named,
    Noise,
    Number,
    RuleName,
    find_recipe,
    overridden,
    read_ladder,
)
from legw.errors import LegwError, number
from legw.recipe import Recipe, to_dict
from legw.schedule import counts


@dataclass(frozen=True, kw_only=True)
class Options:
    """Carry a recipe to another batch size: old and new side by side.

    Example: legw scale mnist-lstm -b 8192
    """

    recipe: Named
    """The base: a shipped recipe (legw recipes lists them), or a TOML or JSON file."""
    batch_size: BatchSize = None
    """Target batch size: examples per update, over all devices; at least 1."""
    rule: RuleName = "legw"
    """How to scale; `legw.rules.RULES` has the names."""
    all_rules: Flag = False
    """Every rule at this batch size, one row each."""
    ladder: Ladder = None
    """The rule at batch sizes A, 2A, 4A, ... and B (and N), one row each."""
    num_examples: Count = None
    """Examples in one epoch, in place of the recipe's own; at least 1."""
    noise: Noise = None
    """Noise scale in examples, or a folder with runs in which legw probe noise measured it:
    a batch far past it gets a note."""
    epochs: Number = None
    """The base's length in epochs, in place of the recipe's own."""
    warmup_epochs: Number = None
    """The base's warmup in epochs, in place of the recipe's own; the rule scales it."""
    steps: Number = None
    """The base's length in updates, in place of the recipe's own."""
    warmup_steps: Number = None
    """The base's warmup in updates, in place of the recipe's own; legw keeps it."""
    lr: Number = None
    """Peak learning rate, in place of the rule's; above 0."""
    toml: File = None
    """Write the scaled recipe to this file as TOML; a lone - means stdout."""
    json: Flag = False
    """Print one JSON object; notes go to stderr."""


def run(options: Options) -> int:
    """Print one scaled recipe, or one for each rule or rung."""
    _check(options)
    rule = rules.find(options.rule)
    base = overridden(find_recipe(options.recipe, options.num_examples), options)
    if options.noise is not None:
        from legw.analysis.noise import with_noise

        base = with_noise(base, options.noise)
    if options.all_rules or options.ladder:
        outcomes = _rows(options, base)
        (_print_rows_json if options.json else _print_rows)(base, outcomes, options)
        return 0
    assert options.batch_size is not None
    outcome = carry(base, options.batch_size, rule, lr=options.lr)
    _show(outcome, options)
    return 0


def _check(options: Options) -> None:
    """Refuse options that contradict each other, rather than ignore one of them."""
    many = "--all-rules" if options.all_rules else "--ladder" if options.ladder else None
    if options.all_rules and options.ladder:
        raise LegwError("--all-rules and --ladder are two tables; give one of the two")
    if options.batch_size is None and not options.ladder:
        raise LegwError("--batch-size is missing; give the target, for example -b 8192")
    for name, value in (("--lr", options.lr), ("--toml", options.toml)):
        if many and value is not None:
            raise LegwError(f"{name} means one recipe, {many} makes many; give one of the two")
    if options.json and options.toml == "-":
        raise LegwError("--json and --toml - both want stdout; give the TOML a file name")


def _rows(options: Options, base: Recipe) -> list[Outcome]:
    if options.ladder:
        rungs = set(read_ladder(options.ladder)) | ({options.batch_size} - {None})
        return ladder(base, sorted(r for r in rungs if r is not None), options.rule)
    assert options.batch_size is not None
    return all_rules(base, options.batch_size)


def _show(outcome: Outcome, options: Options) -> None:
    """Print one outcome, in the form that was asked for."""
    assert outcome.scaled is not None
    text = recipe.to_toml(outcome.scaled)
    if options.toml == "-":
        output.print_toml(text)
    elif options.json:
        output.print_json(outcome.to_dict())
    else:
        _print_one(outcome)
    quiet = options.json or options.toml == "-"
    output.notes([*outcome.notes, *outcome.remarks], to_stderr=quiet)
    if not quiet:
        output.say(f"evidence: {remarks.evidence(outcome.base.optimizer)}")
    if options.toml not in (None, "-"):
        output.write(str(options.toml), text)
        output.wrote(str(options.toml), to_stderr=options.json)


def _print_one(outcome: Outcome) -> None:
    from legw.cli import tables

    assert outcome.scaled is not None
    output.say(headline(outcome))
    output.show(tables.side_by_side(outcome.base, outcome.scaled))
    _say_what_is_unknown(outcome.base)


def _say_what_is_unknown(base: Recipe) -> None:
    if counts(base)[0] is None:
        output.say("note: num_examples is not known; --num-examples N counts the updates")


def _print_rows(base: Recipe, outcomes: list[Outcome], options: Options) -> None:
    from legw.cli import tables

    if options.all_rules:
        k = number(outcomes[0].k)
        output.say(
            f"{base.name}: batch {base.batch_size} → {options.batch_size} (k={k}), rule by rule"
        )
        output.show(tables.by_rule(base, outcomes))
    else:
        rule = outcomes[0].rule
        output.say(
            f"{base.name}, scaled from batch {base.batch_size} by {rule.name}: {rule.formula}"
        )
        output.show(tables.by_batch(base, outcomes))
    for outcome in outcomes:
        if outcome.error is not None:
            output.say(_in_its_row(outcome.error, outcome, options))
    output.notes(_shared_notes(outcomes, options), to_stderr=False)
    _say_what_is_unknown(base)
    output.say(f"evidence: {remarks.evidence(base.optimizer)}")


def _in_its_row(line: str, outcome: Outcome, options: Options) -> str:
    """Return a line about one row with the row's name, and without what the table says."""
    line = line.removeprefix(f"{outcome.base.name}: ")
    line = line.removeprefix(f"batch_size={outcome.batch_size} (k={outcome.k:g}): ")
    name = outcome.rule.name if options.all_rules else f"batch {outcome.batch_size}"
    return line if line.startswith(f"{name} ") else f"{name}: {line}"


def _shared_notes(outcomes: list[Outcome], options: Options) -> list[str]:
    """Return the warnings of all rows; one that all rows share once, without their names."""
    scaled = [o for o in outcomes if o.scaled is not None and o.k != 1]
    lines = dict.fromkeys(line for outcome in scaled for line in outcome.warnings)
    found: list[str] = []
    for line in lines:
        about = [outcome for outcome in scaled if line in outcome.warnings]
        if len(about) == len(scaled):
            found.append(line.removeprefix(f"{scaled[0].base.name}: "))
        else:
            found += [_in_its_row(line, outcome, options) for outcome in about]
    return found


def _print_rows_json(base: Recipe, outcomes: list[Outcome], options: Options) -> None:
    rows: list[dict[str, Any]] = [
        outcome.to_dict() | {"batch_size": outcome.batch_size, "error": outcome.error}
        for outcome in outcomes
    ]
    output.print_json({"base": to_dict(base), "rows": rows})
    output.notes(_shared_notes(outcomes, options), to_stderr=True)
