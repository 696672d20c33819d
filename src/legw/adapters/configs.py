"""Recipes from what people have: Hugging Face TrainingArguments, and timm's argument files.

    config = from_config("args.yaml", num_examples=1281167)
    config.recipe               the base recipe
    config.scaled(4096)         the same form, scaled: .values, .write(path)
    config.left_out             what the recipe cannot say, one line each

A configuration goes out with every value that it came with; only batch, rate, warmup, length
and decay are written anew. A `Form` has one library's names: it reads a recipe's fields from
values, naming what does not go into a recipe, and writes a scaled recipe back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from legw.adapters import timm_config, transformers_config
from legw.adapters.fields import Fields, Values
from legw.errors import RecipeError, one_line, shown
from legw.recipe import Recipe, check_count
from legw.rules import LEGW, Rule, scale


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration of another library, and the recipe that it describes."""

    form: str
    """Whose: "transformers" or "timm"."""
    values: dict[str, Any]
    """The library's own values, by its own names."""
    recipe: Recipe
    """What they say about batch, rate, warmup, length, decay and optimizer."""
    processes: int = 1
    """Processes that train together, at least 1: the files do not say."""
    left_out: tuple[str, ...] = ()
    """What the recipe cannot say, and so is left as it is: ``name=value: why``."""

    def scaled(
        self, batch_size: int, rule: Rule | str = LEGW, *, processes: int | None = None
    ) -> Config:
        """Return the configuration for another global batch size.

        The examples of a pass on one device stay, and accumulation makes the batch; where
        that does not divide, the largest number of examples that does.

        Args:
            batch_size: the target, in examples per update over all processes, at least 1.
            rule: a `Rule`, or the name of one that ships.
            processes: that will train together, at least 1; None is as many as before.

        Raises:
            RecipeError: as for `legw.scale`; or the processes do not divide the batch.
        """
        count = self.processes if processes is None else processes
        check_count(self.form, "processes", count)
        big = scale(self.recipe, batch_size, rule)
        if batch_size % count:
            raise RecipeError(
                f"{self.form}: batch_size={batch_size}: is no whole number of examples on each "
                f"of {count} processes; choose a multiple of {count}"
            )
        form = FORMS[self.form]
        values, lost = form.write(self.values, self.recipe, big, count)
        _, left_out = form.read(values, self.recipe.num_examples, count)  # of the new values
        return replace(
            self, values=values, recipe=big, processes=count, left_out=(*left_out, *lost)
        )

    def write(self, path: str | Path) -> None:
        """Write the values to a file: YAML if it ends in .yaml or .yml, else JSON.

        Raises:
            RecipeError: it cannot be written, or YAML is not installed.
        """
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            text = _yaml(path).safe_dump(self.values, sort_keys=False)
        else:
            text = json.dumps(self.values, indent=2) + "\n"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path}: cannot be written: {error.strerror}") from None


def from_config(
    source: Mapping[str, Any] | str | os.PathLike[str] | Any,
    *,
    num_examples: int | None = None,
    processes: int = 1,
    name: str = "",
) -> Config:
    """Return the recipe that a Hugging Face or timm configuration describes.

    Args:
        source: a dict, a JSON or YAML file, or an object with `to_dict` (TrainingArguments)
            or with plain attributes (an argparse namespace).
        num_examples: examples in one epoch, at least 1; needed where a length is given in
            updates.
        processes: that train together, at least 1: the batch in such files is one device's.
        name: of the recipe; the file's, or the form's, if empty.

    Returns:
        The recipe, with what it could not carry over named.

    Raises:
        RecipeError: the file cannot be read, is of neither form, or a value cannot be.

    >>> mine = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2,
    ...         "learning_rate": 1e-4, "num_train_epochs": 3, "warmup_ratio": 0.01}
    >>> config = from_config(mine, processes=4)
    >>> config.recipe.batch_size, config.recipe.warmup_epochs
    (128, 0.03)
    >>> big = config.scaled(2048).values
    >>> big["gradient_accumulation_steps"], round(big["learning_rate"], 12), big["warmup_ratio"]
    (32, 0.0004, 0.16)
    """
    values, stem = _values(source)
    form = recognise(values)
    check_count(form, "processes", processes)
    if num_examples is not None:
        check_count(form, "num_examples", num_examples)
    found, left_out = FORMS[form].read(values, num_examples, processes)
    label = name or stem or form
    recipe = Recipe(name=label, num_examples=num_examples, source=f"{form} configuration", **found)
    return Config(
        form=form, values=dict(values), recipe=recipe, processes=processes, left_out=tuple(left_out)
    )


@dataclass(frozen=True)
class Form:
    """One library's names."""

    known_by: tuple[str, ...]
    """Names of which at least one is there."""
    read: Callable[[Values, int | None, int], tuple[Fields, list[str]]]
    """(values, num_examples, processes) -> (the recipe's fields, what is left out)."""
    write: Callable[[Values, Recipe, Recipe, int], tuple[Fields, list[str]]]
    """(values, base, scaled, processes) -> (new values, what they cannot say)."""


def recognise(values: Values) -> str:
    """Return the form of values: "transformers" or "timm".

    Raises:
        RecipeError: neither's names are there.

    >>> recognise({"learning_rate": 0.1}), recognise({"sched": "cosine"})
    ('transformers', 'timm')
    """
    for name, form in FORMS.items():
        if any(key in values for key in form.known_by):
            return name
    raise RecipeError(
        "from_config: is neither of Hugging Face TrainingArguments (learning_rate, "
        "per_device_train_batch_size) nor of timm (sched, lr, opt); give one of these"
    )


FORMS = {
    "transformers": Form(
        ("per_device_train_batch_size", "learning_rate", "num_train_epochs"),
        transformers_config.read,
        transformers_config.write,
    ),
    "timm": Form(
        ("sched", "opt", "lr_base", "grad_accum_steps"), timm_config.read, timm_config.write
    ),
}
"""The forms that are known, by name."""


def _values(source: Any) -> tuple[dict[str, Any], str]:
    """Return the values by name, and the file's name without its ending, if it is one."""
    if isinstance(source, Mapping):
        return dict(source), ""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _read(path), one_line(path.stem, 100)
    if hasattr(source, "to_dict"):
        return dict(source.to_dict()), ""
    try:
        return dict(vars(source)), ""
    except TypeError:
        raise RecipeError(
            f"from_config: source={shown(source)}: must be a dict, a file or an object with values"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text; save it as such") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"{one_line(str(path))}: cannot be read: {reason}; check the path"
        ) from None
    language, parse = "JSON", json.loads
    faults: tuple[type[Exception], ...] = (ValueError,)
    if path.suffix in (".yaml", ".yml"):
        yaml = _yaml(path)
        language, parse, faults = "YAML", yaml.safe_load, (ValueError, yaml.YAMLError)
    try:
        found = parse(text)
    except faults as error:
        raise RecipeError(f"{path}: is not {language}: {one_line(str(error), 120)}") from None
    except RecursionError:
        raise RecipeError(
            f"{path}: is nested too deeply; a configuration is values by name"
        ) from None
    if not isinstance(found, dict):
        raise RecipeError(f"{path}: must hold values by name, at the top")
    return found


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise RecipeError(f"{path}: YAML is not installed; pip install 'legw[timm]'") from None
    return yaml
