"""Command `legw scale`: carries a recipe to another batch size, old and new side by side."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from legw import recipe, rules
from legw.analysis import remarks
from legw.analysis.scaled import Outcome, all_rules, carry, headline, ladder
from legw.cli import output
from legw.cli.options import (
    BatchSize,
    Count,
    Critical,
    File,
    Flag,
    KeepQuality,
    Ladder,
    Named,
    Noise,
    Number,
    RuleName,
    file_format,
    find_recipe,
    overridden,
    read_ladder,
)
from legw.errors import LegwError, number, one_line
from legw.recipe import Recipe, to_dict
from legw.schedule import counts

if TYPE_CHECKING:
    from legw.adapters.configs import Config
    from legw.analysis.keep_quality import Contract


@dataclass(frozen=True, kw_only=True)
class Options:
    """Carry a recipe to another batch size: old and new side by side.

    Example: legw scale mnist-lstm -b 8192
    """

    recipe: Named
    """The base: a shipped recipe (legw recipes lists them), a TOML or JSON file, or a
    configuration of Transformers, timm, axolotl, nanoGPT, nanochat, torchtitan or torchvision."""
    batch_size: BatchSize = None
    """Target batch size: examples per update, over all devices; at least 1."""
    rule: RuleName = "legw"
    """Rule that scales; `legw.rules.RULES` has the names."""
    all_rules: Flag = False
    """Every rule at this batch size, one row each."""
    ladder: Ladder = None
    """The rule at batch sizes A, 2A, 4A, ... and B (and N), one row each."""
    num_examples: Count = None
    """Examples in one epoch, in place of the recipe's own; at least 1."""
    noise: Noise = None
    """Noise scale in examples, or a folder with runs in which legw probe noise measured it:
    a batch far past it gets a note."""
    critical: Critical = None
    """Folder in which legw probe critical measured this base: --rule stretch and --keep-quality
    take its numbers."""
    keep_quality: KeepQuality = None
    """Keep the loss within this of the base's, a share or a number: the batch at most as large as
    --critical allows, or the run as long as the batch asks for."""
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
    write: File = None
    """Write the scaled configuration to this file, in its own words (.json, .yaml, .toml; .py
    for nanoGPT)."""
    processes: Count = None
    """Processes that train together, for a configuration whose batch is one device's."""
    json: Flag = False
    """Print one JSON object; notes go to stderr."""


def run(options: Options) -> int:
    """Print one scaled recipe, or one for each rule or rung."""
    _check(options)
    rule = rules.find(options.rule)
    config = _config(options)
    found = find_recipe(options.recipe, options.num_examples) if config is None else config.recipe
    base = overridden(found, options)
    if options.noise is not None:
        from legw.analysis.noise import with_noise

        base = with_noise(base, options.noise)
    if options.critical is not None:
        from legw.analysis.measured_critical import with_critical

        base = with_critical(base, options.critical)
    if options.keep_quality is not None:
        return _keep(options, base, config)
    if options.all_rules or options.ladder:
        outcomes = _rows(options, base)
        (_print_rows_json if options.json else _print_rows)(base, outcomes, options)
        _say_of_config(config, options)
        return 0
    assert options.batch_size is not None
    outcome = carry(base, options.batch_size, rule, lr=options.lr)
    scaled = _scaled(config, options) if config is not None else None
    _show(outcome, options, scaled)
    return 0


def _keep(options: Options, base: Recipe, config: Config | None) -> int:
    """Print both recipes that keep the base's loss, and the recommended one."""
    from legw.analysis.keep_quality import keep_quality, kept

    assert options.batch_size is not None and options.keep_quality is not None
    found = kept(base, options.critical, options.keep_quality, options.rule)
    contract = keep_quality(found, options.batch_size)
    best = contract.best
    outcome = carry(found.base, best.recipe.batch_size, best.rule)
    _show(outcome, options, None, contract)
    _say_of_config(config, options)
    return 0


def _config(options: Options) -> Config | None:
    """Return another library's configuration that the options name; None where it is a recipe."""
    from legw import presets

    if options.recipe not in presets.RECIPES:
        from legw.adapters import configs

        if configs.of_another_library(options.recipe):
            return configs.from_config(
                options.recipe, num_examples=options.num_examples, processes=options.processes
            )
    for name, value in (("--write", options.write), ("--processes", options.processes)):
        if value is not None:
            raise LegwError(
                f"{name} is for the configuration of another library, and "
                f"{one_line(options.recipe, 60)} is a recipe; --toml writes it"
            )
    return None


def _scaled(config: Config, options: Options) -> Config | None:
    """Return the configuration at the target batch; None where the command changes the base."""
    if any(value is not None for _, value in _changes(options)):
        return None
    rule = rules.find(options.rule)
    if options.write is None and (rule.growth is not None or rule.stretch is not None):
        return None  # only its writing is refused
    assert options.batch_size is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the outcome has them
        return config.scaled(options.batch_size, options.rule)


def _changes(options: Options) -> list[tuple[str, float | None]]:
    return [
        ("--lr", options.lr), ("--epochs", options.epochs), ("--steps", options.steps),
        ("--warmup-epochs", options.warmup_epochs), ("--warmup-steps", options.warmup_steps),
    ]  # fmt: skip


def _say_of_config(config: Config | None, options: Options) -> None:
    """Print the settings that the recipe leaves out, and the library's defaults in it."""
    if config is None:
        return
    stream = sys.stderr if options.json or options.toml == "-" else sys.stdout
    for title, lines in (("filled in", config.filled_in), ("left out", config.left_out)):
        for line in lines:
            print(f"{title}: {line}", file=stream)


def _check(options: Options) -> None:
    """Refuse options that contradict each other."""
    many = "--all-rules" if options.all_rules else "--ladder" if options.ladder else None
    if options.all_rules and options.ladder:
        raise LegwError("--all-rules and --ladder are two tables; give one of the two")
    if options.batch_size is None and not options.ladder:
        raise LegwError("--batch-size is missing; give the target, for example -b 8192")
    ours = [("--lr", options.lr), ("--toml", options.toml),
            ("--keep-quality", options.keep_quality)]  # fmt: skip
    for name, value in ours:
        if many and value is not None:
            raise LegwError(f"{name} means one recipe, {many} makes many; give one of the two")
    for name, value in (("--lr", options.lr), ("--write", options.write)):
        if options.keep_quality is not None and value is not None:
            raise LegwError(
                f"--keep-quality chooses the recipe, and {name} asks for another; give one of the "
                "two"
            )
    if options.write is not None:
        file_format("--write", options.write, ("json", "yaml", "yml", "toml", "py"))
        for name, value in _changes(options):
            if value is not None:
                raise LegwError(
                    f"{name} changes the recipe, --write the configuration; change the file first"
                )
        if many:
            raise LegwError(f"--write means one batch size, {many} makes many; give one of the two")
    if options.json and options.toml == "-":
        raise LegwError("--json and --toml - both want stdout; give the TOML a file name")


def _rows(options: Options, base: Recipe) -> list[Outcome]:
    if options.ladder:
        rungs = set(read_ladder(options.ladder)) | ({options.batch_size} - {None})
        return ladder(base, sorted(r for r in rungs if r is not None), options.rule)
    assert options.batch_size is not None
    return all_rules(base, options.batch_size)


def _show(
    outcome: Outcome,
    options: Options,
    config: Config | None,
    contract: Contract | None = None,
) -> None:
    """Print one outcome, in the requested form, after the contract that chose it."""
    assert outcome.scaled is not None
    if options.toml is not None and outcome.scaled.optimizer.elsewhere:
        raise LegwError(
            f"--toml: {outcome.scaled.name}: its optimizer is none of legw's, and no recipe's file "
            "can name it; --write writes the configuration"
        )
    text = recipe.to_toml(outcome.scaled)
    if options.toml == "-":
        output.print_toml(text)
    elif options.json:
        quality = {} if contract is None else {"keep_quality": contract.to_dict()}
        output.print_json(outcome.to_dict() | _of_config(config) | quality)
    else:
        if contract is not None:
            say_contract(contract)
        _print_one(outcome)
    quiet = options.json or options.toml == "-"
    more = () if contract is None else contract.notes
    output.notes([*outcome.notes, *outcome.remarks, *more], to_stderr=quiet)
    if not quiet:
        output.say(f"evidence: {remarks.evidence(outcome.base.optimizer)}")
    _say_of_config(config, options)
    if options.write is not None and config is not None:
        config.write(options.write)
        output.wrote(options.write, to_stderr=options.json or options.toml == "-")
    if options.toml not in (None, "-"):
        output.write(str(options.toml), text)
        output.wrote(str(options.toml), to_stderr=options.json)


def _of_config(config: Config | None) -> dict[str, Any]:
    if config is None:
        return {}
    return {
        "form": config.form,
        "filled_in": list(config.filled_in),
        "left_out": list(config.left_out),
    }


def _print_one(outcome: Outcome) -> None:
    from legw.cli import tables

    assert outcome.scaled is not None
    output.say(headline(outcome))
    output.show(tables.side_by_side(outcome.base, outcome.scaled))
    _say_what_is_unknown(outcome.base)


def say_contract(contract: Contract) -> None:
    """Print both choices of a contract, and the recommendation."""
    from legw.analysis.keep_quality import contract_lines
    from legw.cli import tables

    output.show(tables.choices_table(contract))
    for line in contract_lines(contract):
        output.say(line)


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
    """Return a line about one row with the row's name, without values that the table shows."""
    line = line.removeprefix(f"{outcome.base.name}: ")
    line = line.removeprefix(f"batch_size={outcome.batch_size} (k={outcome.k:g}): ")
    name = outcome.rule.name if options.all_rules else f"batch {outcome.batch_size}"
    return line if line.startswith(f"{name} ") else f"{name}: {line}"


def _shared_notes(outcomes: list[Outcome], options: Options) -> list[str]:
    """Return the warnings of all rows; a shared one appears once, without the rows' names."""
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
