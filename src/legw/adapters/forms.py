"""What two libraries call things: Hugging Face TrainingArguments, and timm's arguments.

A form reads a recipe's fields from a library's values, naming what does not go into a
recipe, and writes a scaled recipe back under the library's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from legw.adapters import timm_config, transformers_config
from legw.adapters.fields import Fields, Values
from legw.errors import RecipeError
from legw.recipe import Recipe


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
