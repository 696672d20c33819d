"""Word list of other tools' names in a recipe's file: `max_steps`, `min_lr`, `betas`, `gamma`.

Each is converted to the field that it stands for. Nothing is guessed: if a conversion needs the
recipe's unit, length or learning rate and the file lacks it, this is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from legw.decays import UNITS
from legw.errors import (
    RecipeError,
    check_count,
    check_range,
    is_count,
    is_number,
    one_line,
    shown,
    unknown_name,
)

Values = dict[str, Any]

FIELDS = {
    "learning_rate": "lr",
    "global_batch_size": "batch_size",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "max_iters": "steps",
    "train_iters": "steps",
    "warmup_iters": "warmup_steps",
    "num_warmup_steps": "warmup_steps",
    "max_grad_norm": "clip_norm",
    "grad_clip": "clip_norm",
    "model_ema_decay": "ema_decay",
    "sequence_length": "tokens_per_example",
}
"""Words that are another name of a recipe's field."""

OPTIMIZER = {"eps": "epsilon"}
"""Words that are another name of an optimizer's setting; `betas` is two of them."""

DECAY = {
    "gamma": "rate",
    "min_lr_ratio": "end",
    "min_lr_factor": "end",
    "final_lr_frac": "end",
    "decay_ratio": "tail",
    "warmdown_ratio": "tail",
}
"""Words that are another name of a decay's setting."""

KINDS = {
    "linear": "polynomial",
    "multistep": "step",
    "trapezoid": "wsd",
    "warmup-stable-decay": "wsd",
    "warmup_stable_decay": "wsd",
    "inverse_sqrt": "inverse-sqrt",
}
"""Other names of decays."""


def of_recipe(what: str, data: Mapping[str, Any]) -> Values:
    """Return a recipe's values with its own names for its fields.

    `warmup_ratio` is a share of the run, `batch_tokens` a batch of `tokens_per_example`
    each; `min_lr` goes to the decay.

    Args:
        what: the recipe's name, for errors.
        data: values by name.

    Raises:
        RecipeError: a field is given under two names, or a name needs a missing value.

    >>> of_recipe("mine", {"max_steps": 1000, "warmup_ratio": 0.02})
    {'steps': 1000, 'warmup_steps': 20.0}
    """
    values = _renamed(what, data, FIELDS)
    if "batch_tokens" in values:
        tokens = values.pop("batch_tokens")
        _once(what, values, "batch_tokens", "batch_size")
        values["batch_size"] = batch_size(
            what, tokens, values.get("tokens_per_example", values.get("window_tokens"))
        )
    if "warmup_ratio" in values:
        ratio, unit = values.pop("warmup_ratio"), _unit(values)
        name = f"warmup_ratio={shown(ratio)}"
        check_range(what, "warmup_ratio", ratio, 0, 1)
        if unit is None or not is_number(values[unit]):
            raise RecipeError(f"{what}: {name}: is a share of a length; give epochs or steps")
        _once(what, values, "warmup_ratio", f"warmup_{unit}")
        values[f"warmup_{unit}"] = ratio * values[unit]
    if "min_lr" in values:
        decay = values.get("decay")
        decay = {"kind": decay} if isinstance(decay, str) else decay
        if not isinstance(decay, Mapping):
            raise RecipeError(
                f"{what}: min_lr={shown(values['min_lr'])}: is where a decay ends; give the "
                'decay, for example decay = {kind = "cosine"}'
            )
        _once(what, decay, "min_lr", "min_lr")
        values["decay"] = {**decay, "min_lr": values.pop("min_lr")}
    return values


def batch_size(what: str, batch_tokens: Any, tokens_per_example: object) -> int:
    """Return the examples of a batch that is given in tokens.

    Args:
        what: the recipe's name, for errors.
        batch_tokens: tokens of one update, a multiple of those of an example.
        tokens_per_example: at least 1.

    Raises:
        RecipeError: one of them is missing or no whole number, or there is a rest.

    >>> batch_size("mine", 524288, 1024)
    512
    """
    name = f"batch_tokens={shown(batch_tokens)}"
    check_count(what, "batch_tokens", batch_tokens)
    each = tokens_per_example
    if not is_count(each) or each < 1:
        raise RecipeError(f"{what}: {name}: needs tokens_per_example; give it")
    if batch_tokens % each:
        near = max(round(batch_tokens / each), 1) * each
        raise RecipeError(
            f"{what}: {name}: is no multiple of tokens_per_example={each}; {near} is one"
        )
    return int(batch_tokens // each)


def of_optimizer(what: str, settings: Mapping[str, Any]) -> Values:
    """Return an optimizer's settings with its own names.

    Raises:
        RecipeError: a setting is given in two words, or `betas` are not two.

    >>> of_optimizer("mine", {"betas": [0.9, 0.95], "eps": 1e-8})
    {'epsilon': 1e-08, 'beta1': 0.9, 'beta2': 0.95}
    """
    values = _renamed(what, settings, OPTIMIZER)
    if "betas" in values:
        betas = values.pop("betas")
        if not (isinstance(betas, list | tuple) and len(betas) == 2):
            raise RecipeError(
                f"{what}: betas={shown(betas)}: must be two numbers, like [0.9, 0.999]"
            )
        for name, beta in zip(("beta1", "beta2"), betas, strict=True):
            _once(what, values, "betas", name)
            values[name] = beta
    return values


def of_decay(
    what: str, settings: Mapping[str, Any], lengths: Iterable[str], recipe: Mapping[str, Any]
) -> Values:
    """Return a decay's settings with its own names.

    A length without a unit, as `milestones`, is in the recipe's. `min_lr` is a rate, and so
    a share of the recipe's peak; `num_cycles` counts whole waves.

    Args:
        what: the recipe's and the decay's name, for errors.
        settings: values by name, without the kind.
        lengths: the decay's settings that are lengths, without their unit.
        recipe: the recipe's values, by its own names.

    Raises:
        RecipeError: a setting is given in two words, or a word lacks what it refers to.

    >>> of_decay("mine", {"milestones": [3], "gamma": 0.1}, ["milestones"], {"steps": 9})
    {'rate': 0.1, 'milestones_steps': [3]}
    """
    values = _renamed(what, settings, DECAY)
    unit = _unit(recipe) or "epochs"
    for name in lengths:
        if name in values:
            _once(what, values, name, f"{name}_{unit}")
            values[f"{name}_{unit}"] = values.pop(name)
    if "num_cycles" in values:
        cycles = values.pop("num_cycles")
        _once(what, values, "num_cycles", "half_cycles")
        values["half_cycles"] = 2 * cycles if is_number(cycles) else cycles
    if "min_lr" in values:
        low, lr = values.pop("min_lr"), recipe.get("lr")
        _once(what, values, "min_lr", "end")
        if not (is_number(low) and is_number(lr) and 0 <= low < lr):
            raise RecipeError(
                f"{what}: min_lr={shown(low)}: must be a number, at least 0 and below "
                f"lr={shown(lr)}"
            )
        values["end"] = low / lr
    return values


def of_batch_schedule(what: str, settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> Values:
    """Return a batch schedule's settings; its positions without the unit, which is the recipe's.

    Args:
        what: the recipe's name, for errors.
        settings: values by name.
        recipe: the recipe's values, by its own names.

    Raises:
        RecipeError: the positions are given twice, or in another unit than the recipe's.

    >>> of_batch_schedule("mine", {"sizes": [8], "until_epochs": [0.5]}, {"epochs": 9})
    {'sizes': [8], 'until': [0.5]}
    """
    values, own = dict(settings), _unit(recipe) or "epochs"
    for unit in UNITS:
        name = f"until_{unit}"
        if name not in values:
            continue
        if unit != own:
            raise RecipeError(
                f"{what}: batch_schedule: {name}: the run is counted in {own}, and so is all of "
                f"it; give until_{own}"
            )
        _once(f"{what}: batch_schedule", values, name, "until")
        values["until"] = values.pop(name)
    for name in ("sizes", "until"):
        if name not in values:
            missing = f"until_{own}" if name == "until" else name
            raise RecipeError(f"{what}: batch_schedule: {missing} is missing; give it")
    return values


@dataclass(frozen=True)
class Place:
    """One table of a file, whose names are checked."""

    name: str
    """Name before its fields: empty for the recipe itself, or, for example, "decay cosine"."""
    values: Mapping[str, Any]
    """Values of the table, by its own names."""
    known: tuple[str, ...]
    """Names that the table may have."""


def check_known(what: str, places: list[Place], elsewhere: Callable[[str], str]) -> None:
    """Refuse all names that no table knows, at once, each with its nearest.

    Args:
        what: the recipe's name.
        places: the tables of the file.
        elsewhere: returns a hint to the table in which an unknown name of the recipe belongs; empty
            without one.

    Raises:
        RecipeError: there are such names.
    """
    wrong = [
        (place, str(name)) for place in places for name in place.values if name not in place.known
    ]
    if not wrong:
        return
    if len(wrong) == 1:
        place, name = wrong[0]
        where = f"{what}: {place.name}" if place.name else what
        home = "" if place.name else elsewhere(name)
        if home:
            raise RecipeError(f"{where}: field '{one_line(name, 60)}' is unknown; {home}")
        raise RecipeError(f"{where}: {unknown_name('field', name, place.known)}")
    said = []
    for place, name in wrong:
        near = get_close_matches(name, place.known, n=1)
        home = "" if place.name else elsewhere(name)
        hint = home or (f"did you mean '{near[0]}'?" if near else "")
        table = f"{place.name}: " if place.name else ""
        said.append(f"{table}'{one_line(name, 60)}'" + (f" ({hint})" if hint else ""))
    raise RecipeError(f"{what}: {len(wrong)} fields are unknown: {', '.join(said)}")


def _renamed(what: str, data: Mapping[str, Any], names: Mapping[str, str]) -> Values:
    values = {name: value for name, value in data.items() if name not in names}
    for name, value in data.items():
        if name in names:
            _once(what, values, name, names[name])
            values[names[name]] = value
    return values


def _once(what: str, values: Mapping[str, Any], word: str, field: str) -> None:
    if field in values:
        raise RecipeError(f"{what}: {word}: is given twice, as {field} too; leave one out")


def _unit(values: Mapping[str, Any]) -> str | None:
    return next((unit for unit in UNITS if values.get(unit) is not None), None)
