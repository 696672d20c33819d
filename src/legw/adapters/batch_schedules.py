"""Batch schedules of other tools: Megatron-LM's option, OLMo-core's callback, Levanter's list.

Each begins a phase after exactly the examples after which ours does. What a tool does not do, such
as letting the rate follow the batch, is named.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from legw.errors import RecipeError, number, unknown_name
from legw.optimizers import Adam
from legw.recipe import Recipe
from legw.schedule import Phase, phases

Tool = Literal["megatron", "olmo-core", "levanter"]
"""The tools whose batch schedules are written."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A batch schedule in a tool's own form."""

    text: str
    """Text that the tool takes: an option, or values as JSON."""
    left_out: tuple[str, ...] = ()
    """Parts of the recipe that it does not do by it, one line each."""


def written(recipe: Recipe, tool: Tool, num_examples: int | None = None) -> Written:
    """Return a recipe's batch schedule as another tool takes it.

    - megatron: ``--step-batch-size-schedule``, its thresholds in tokens.
    - olmo-core: the fields of `BatchSizeSchedulerCallback`, batches and positions in tokens. It
      waits with a larger batch until the examples seen are a multiple of it.
    - levanter: `train_batch_size` of the trainer, its positions in updates.

    Args:
        recipe: the recipe to train, its batch growing or constant.
        tool: the tool's name.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the tool is unknown, or has no word for this schedule; tokens or examples
            that it needs are not known.

    >>> from legw import AdamW, BatchSchedule
    >>> grown = Recipe(batch_size=256, lr=1e-3, examples=10_000, tokens_per_example=1024,
    ...     optimizer=AdamW(), batch_schedule=BatchSchedule(sizes=(64,), until=(640,)))
    >>> written(grown, "megatron").text
    '--step-batch-size-schedule "0:64 655360:256"'
    >>> written(grown, "levanter").text
    '{"train_batch_size": [{"start": 0, "value": 64}, {"start": 10, "value": 256}]}'
    """
    if tool not in get_args(Tool):
        raise RecipeError(f"{recipe.name}: {unknown_name('tool', tool, get_args(Tool))}")
    return _WRITERS[tool](recipe, phases(recipe, num_examples))


def _megatron(recipe: Recipe, found: list[Phase]) -> Written:
    tokens = _tokens(recipe, "Megatron-LM")
    pairs = " ".join(f"{phase.seen * tokens}:{phase.batch_size}" for phase in found)
    return Written(
        text=f'--step-batch-size-schedule "{pairs}"', left_out=_rate_stays(recipe, "Megatron-LM")
    )


def _olmo(recipe: Recipe, found: list[Phase]) -> Written:
    tokens = _tokens(recipe, "OLMo-core")
    for before, after in itertools.pairwise(found):
        if after.batch_size % before.batch_size:
            raise RecipeError(
                f"{recipe.name}: batch_schedule: OLMo-core multiplies a batch by whole numbers, "
                f"and {after.batch_size} is no multiple of {before.batch_size}; choose sizes that "
                "are"
            )
    plan, left_out = recipe.batch_schedule, []
    if plan is not None and (plan.lr_power != 0.5 or not isinstance(recipe.optimizer, Adam)):
        raise RecipeError(
            f"{recipe.name}: batch_schedule: OLMo-core multiplies the rate of Adam and AdamW by "
            f"the batch's square root, and this is lr_power={plan.lr_power:g} with "
            f"{recipe.optimizer.kind}; choose another rule"
        )
    if plan is not None:
        lr = recipe.lr * found[0].share
        left_out.append(f"give the peak rate of the first batch, lr={number(lr)}: it grows there")
    late = [phase.batch_size for phase in found if phase.seen % phase.batch_size]
    if late:
        sizes = ", ".join(map(str, late))
        left_out.append(f"batches of {sizes} begin up to one such batch later")
    values = {
        "batch_sizes": [phase.batch_size * tokens for phase in found],
        "schedule": [{"value": phase.seen * tokens, "unit": "tokens"} for phase in found],
    }
    return Written(text=json.dumps(values), left_out=tuple(left_out))


def _levanter(recipe: Recipe, found: list[Phase]) -> Written:
    steps = [{"start": phase.first, "value": phase.batch_size} for phase in found]
    values: dict[str, Any] = {"train_batch_size": steps}
    return Written(text=json.dumps(values), left_out=_rate_stays(recipe, "Levanter"))


_WRITERS: dict[Tool, Callable[[Recipe, list[Phase]], Written]] = {
    "megatron": _megatron, "olmo-core": _olmo, "levanter": _levanter,
}  # fmt: skip


def _tokens(recipe: Recipe, title: str) -> int:
    tokens = recipe.example_tokens
    if tokens is None:
        raise RecipeError(
            f"{recipe.name}: tokens_per_example is not known, and {title} counts tokens; give it"
        )
    return tokens


def _rate_stays(recipe: Recipe, title: str) -> tuple[str, ...]:
    plan = recipe.batch_schedule
    if plan is None or plan.lr_power == 0:
        return ()
    return (
        f"lr_power={plan.lr_power:g}: {title} leaves the rate where the batch grows; "
        "legw.in_steps has it for each update",
    )
