"""Configurations of other training libraries, turned into recipes and back.

    config = from_config("args.yaml", num_examples=1281167)
    config.recipe               the base recipe
    config.scaled(4096)         the same form, scaled: .values, .write(path)
    config.left_out             settings that no recipe has, one line each
    config.filled_in            the library's defaults for missing settings, one line each

A scaled configuration keeps every value; only batch, learning rate, warmup, length and decay are
written anew. A `Form` has one library's names. It reads a recipe's fields from values, lists the
settings that no recipe has, and writes a scaled recipe back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from legw.adapters import (
    axolotl_config,
    config_files,
    nanochat_config,
    nanogpt_config,
    timm_config,
    torchtitan_config,
    torchvision_config,
    transformers_config,
)
from legw.adapters.fields import Fields, Values
from legw.adapters.forms import Form, filled_in, has, left_as_is
from legw.adapters.other_forms import is_recipe, not_read, recipe_names
from legw.errors import RecipeError, check_count, one_line, shown
from legw.recipe import Recipe
from legw.recipe.rule import Rule
from legw.rules import LEGW, scale


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration of another library, and the recipe that it describes."""

    form: str
    """Name of the library in `FORMS`, such as "transformers" or "timm"."""
    values: dict[str, Any]
    """The library's own values, by its own names."""
    recipe: Recipe
    """The recipe of these values: batch, learning rate, warmup, length, decay and optimizer."""
    processes: int = 1
    """Number of processes that train together, at least 1; the files do not contain it."""
    left_out: tuple[str, ...] = ()
    """Settings that no recipe has and that stay unchanged: ``name=value: why``."""
    filled_in: tuple[str, ...] = ()
    """Defaults of the library for missing settings: ``name=value: ...``."""

    def scaled(
        self, batch_size: int, rule: Rule | str = LEGW, *, processes: int | None = None
    ) -> Config:
        """Return the configuration for another global batch size.

        The micro-batch of a device is kept, and gradient accumulation makes the global batch. Where
        it does not divide the batch, the largest divisor below it is taken.

        Args:
            batch_size: the target, in examples per update over all processes, at least 1.
            rule: a `Rule`, or the name of one that ships.
            processes: number that will train together, at least 1; None is as many as before.

        Raises:
            RecipeError: as for `legw.scale`; or the processes do not divide the batch.
        """
        count = self.processes if processes is None else processes
        check_count(self.form, "processes", count)
        big = scale(self.recipe, batch_size, rule)
        if big.batch_schedule is not None:
            named = rule if isinstance(rule, str) else rule.name
            raise RecipeError(
                f"{self.form}: its batch is constant, and {named} lets it grow; choose another "
                "rule, or leave the configuration out"
            )
        if batch_size % count:
            raise RecipeError(
                f"{self.form}: batch_size={batch_size}: is no whole number of examples on each "
                f"of {count} processes; choose a multiple of {count}"
            )
        form = FORMS[self.form]
        values, lost = form.write(self.values, self.recipe, big, count)
        if "world_size" in values:
            values["world_size"] = count
        fields, left_out = form.read(values, self.recipe.num_examples, count)  # of the new values
        left_out += left_as_is(self.form, form, values)
        left_out += _unsaid(form, fields, self.recipe, big)
        return replace(
            self,
            values=values,
            recipe=big,
            processes=count,
            left_out=tuple(dict.fromkeys((*left_out, *lost))),
        )

    def write(self, path: str | Path) -> None:
        """Write the values to a file, in the language of its suffix.

        That is YAML (.yaml, .yml), TOML (.toml), Python (.py) or else JSON. Paths, devices and
        dates become text where the language has no word for them, sets become lists.

        Raises:
            RecipeError: it cannot be written, YAML is not installed, or the language has no
                word for a value.
        """
        path = Path(path)
        if config_files.language_of(path) == "Python" and self.form != "nanogpt":
            raise RecipeError(
                f"{one_line(str(path))}: {self.form} is no Python file; write JSON, YAML or TOML"
            )
        text = config_files.text_of(self.form, self.values, path)
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RecipeError(
                f"{one_line(str(path))}: cannot be written: {error.strerror}"
            ) from None


def _unsaid(form: Form, fields: Fields, base: Recipe, big: Recipe) -> list[str]:
    """Return what a rule has changed and the new values do not say, one line each."""
    lines = []
    before, wanted, found = _memory(vars(base)), _memory(vars(big)), _memory(fields)
    for name, value in wanted.items():
        if value == before[name] or value is None:
            continue
        if not math.isclose(value, found.get(name) or math.nan, rel_tol=1e-9):
            lines.append(f"{name}={value:.6g}: is the rule's, and {form.title} has no word for it")
    return lines


def _memory(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a recipe's fields that a rule may change beside rate and lengths."""
    numbers = {name: fields.get(name) for name in ("clip_norm", "ema_decay")}
    settings = vars(fields["optimizer"]).items()
    return numbers | {name: value for name, value in settings if isinstance(value, float)}


def from_config(
    source: Mapping[str, Any] | str | os.PathLike[str] | Any,
    *,
    num_examples: int | None = None,
    processes: int | None = None,
    name: str = "",
) -> Config:
    """Return the recipe that a configuration of another library describes.

    It is recognised by names that only one library has: Transformers, timm, axolotl, nanoGPT,
    nanochat, torchtitan and torchvision's classification reference.

    Args:
        source: a dict, a JSON, YAML, TOML or Python file, or an object with `to_dict`
            (TrainingArguments) or with plain attributes (an argparse namespace).
        num_examples: examples in one epoch, at least 1; needed where a length is given in
            updates and the run in epochs.
        processes: number that train together, at least 1, each with a batch of its own: the batch
            in such files is one device's. None is the source's own `world_size`, or 1.
        name: of the recipe; the file's, or the form's, if empty.

    Returns:
        The recipe, with lists of the settings left out and the defaults filled in.

    Raises:
        RecipeError: the file cannot be read or is of an unknown form, a value is impossible, or an
            unknown name seems to give a missing setting.

    >>> mine = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2,
    ...         "learning_rate": 1e-4, "num_train_epochs": 3, "warmup_steps": 0.01}
    >>> config = from_config(mine, processes=4)
    >>> config.recipe.batch_size, config.recipe.warmup_epochs
    (128, 0.03)
    >>> config.filled_in[0]
    "lr_scheduler_type='linear': is not given; this is the default of Transformers"
    >>> big = config.scaled(2048).values
    >>> big["gradient_accumulation_steps"], round(big["learning_rate"], 12)
    (32, 0.0004)
    """
    values, stem = _values(source)
    form = recognise(values)
    found = _processes(form, source, values, processes)
    if num_examples is not None:
        check_count(form, "num_examples", num_examples)
    fields, left_out = FORMS[form].read(values, num_examples, found)
    left_out += left_as_is(form, FORMS[form], values)
    filled = filled_in(FORMS[form], values)
    if processes is None and found > 1:
        filled.append(f"processes={found}: is not given; this is the source's own world_size")
    label = name or stem or form
    recipe = Recipe(name=label, num_examples=num_examples, source=f"{form} configuration", **fields)
    return Config(
        form=form,
        values=dict(values),
        recipe=recipe,
        processes=found,
        left_out=tuple(dict.fromkeys(left_out)),
        filled_in=tuple(filled),
    )


def recognise(values: Values) -> str:
    """Return the form of values: a name in `FORMS`.

    Raises:
        RecipeError: it has the names of no form, of several, or of a known configuration that
            cannot be read.

    >>> recognise({"per_device_train_batch_size": 8}), recognise({"sched": "cosine"})
    ('transformers', 'timm')
    """
    refused = not_read(values)
    if refused is not None:
        raise RecipeError(f"from_config: {refused.refusal(values)}")
    known = {
        name: next((names for names in form.known_by if has(values, names)), None)
        for name, form in FORMS.items()
    }
    found = [name for name, names in known.items() if names is not None]
    if len(found) > 1:
        both = [f"{FORMS[name].title} ({', '.join(known[name] or ())})" for name in found]
        raise RecipeError(f"from_config: has names of {' and of '.join(both)}; give those of one")
    if not found:
        looked = [f"of {form.title} ({' with '.join(form.known_by[0])})"
                  for name, form in FORMS.items() if name != "transformers"]  # fmt: skip
        raise RecipeError(
            "from_config: is neither of Hugging Face TrainingArguments "
            f"(per_device_train_batch_size), nor {', '.join(looked)}; give one of these"
        )
    return found[0]


def of_another_library(path: str | Path) -> bool:
    """Say whether a file is a configuration of another library rather than a recipe.

    YAML and Python files are, and JSON and TOML files with another library's names, including those
    that are refused.

    Args:
        path: the file.
    """
    path = Path(path)
    language = config_files.language_of(path)
    if language in ("YAML", "Python"):
        return True
    try:
        values = config_files.read(path)
    except RecipeError:
        return False
    if is_recipe(values):
        return False
    if not_read(values) is not None:
        return True
    own = recipe_names()  # of which a slip of the pen is no other library's
    return any(
        has(values, names)
        for form in FORMS.values()
        for names in form.known_by
        if not set(names) <= own
    )


FORMS: dict[str, Form] = {
    "transformers": transformers_config.FORM,
    "timm": timm_config.FORM,
    "axolotl": axolotl_config.FORM,
    "nanogpt": nanogpt_config.FORM,
    "nanochat": nanochat_config.FORM,
    "torchtitan": torchtitan_config.FORM,
    "torchvision": torchvision_config.FORM,
}
"""The forms that are read, by name."""


def _processes(form: str, source: Any, values: Values, given: int | None) -> int:
    """Return the number of processes: the given one, the source's, or one."""
    if given is not None:
        check_count(form, "processes", given)
    stated = values.get("world_size")
    if stated is None and not isinstance(source, Mapping | str | os.PathLike):
        stated = _of_object(source)
    if stated is None:
        return 1 if given is None else given
    check_count(form, "world_size", stated)
    if given is not None and stated not in (1, given):  # 1 is what a parser has before it starts
        raise RecipeError(
            f"{form}: world_size={stated}: is not processes={given}; give one of the two"
        )
    return int(stated) if given is None else given


def _of_object(source: Any) -> int | None:
    """Return the processes, times the devices of each, that a TrainingArguments object has."""
    try:
        return int(source.world_size) * max(1, int(getattr(source, "n_gpu", 1)))
    except Exception:  # a property may ask for a device that is not there
        return None


def _values(source: Any) -> tuple[dict[str, Any], str]:
    """Return the values by name, and the file's name without its ending, if it is one."""
    if isinstance(source, Mapping):
        found: dict[str, Any] = dict(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        return config_files.read(path), one_line(path.stem, 100)
    elif hasattr(source, "to_dict"):
        found = dict(source.to_dict())
    else:
        try:
            found = dict(vars(source))
        except TypeError:
            raise RecipeError(
                f"from_config: source={shown(source)}: must be a dict, a file or an object with "
                "values"
            ) from None
    config_files.check_size("from_config", found)
    return found, ""
