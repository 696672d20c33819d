"""Five hundred mutated configurations of each form: no traceback, nothing dropped in silence."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest

from adapters.their_configs import TABLE
from legw import from_config
from legw.adapters.configs import FORMS, Config
from legw.errors import RecipeError

pytestmark = pytest.mark.filterwarnings("ignore::legw.errors.LegwWarning")

TIMES = 500

FOREIGN = {
    "batch": ("micro_batch_sz_batch", "global_batch_tokens", "train_bsz", "bs"),
    "accumulation": ("accumulate_grad_batches", "accum_steps_n", "grad_accumulation"),
    "length": ("total_train_iters", "num_training_epochs", "max_updates_run", "niter"),
    "warmup": ("num_warmup_updates", "warmup_pct", "lr_rampup_steps"),
    "rate": ("peak_learning_rate", "base_lr", "encoder_lr"),
    "schedule": ("scheduler_name", "lr_policy", "lr_decay_kind"),
}
"""Names that no form has, each with what it seems to set."""

SETS = {
    "transformers": "per_device_train_batch_size gradient_accumulation_steps learning_rate "
                    "num_train_epochs warmup_steps lr_scheduler_type",
    "timm": "batch_size grad_accum_steps lr epochs warmup_epochs sched",
    "axolotl": "micro_batch_size gradient_accumulation_steps learning_rate num_epochs "
               "warmup_steps lr_scheduler",
    "nanogpt": "batch_size gradient_accumulation_steps learning_rate max_iters warmup_iters "
               "lr_decay_iters",
    "nanochat": "total_batch_size max_seq_len matrix_lr num_iterations warmup_steps warmdown_ratio",
    "torchtitan": "training.global_batch_size optimizer.lr "
                  "training.steps lr_scheduler.warmup_steps lr_scheduler.decay_ratio",
    "torchvision": "batch_size lr epochs lr_warmup_epochs lr_scheduler lr_step_size",
}  # fmt: skip
"""The names of each form that set batch, accumulation, rate, length, warmup and schedule."""

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 3, 17, 1e9, 10**30, 10**5000, float("nan"), float("inf"), "", "auto",
    "1e-3", "8", "cosine", "linear", [], [1], {}, {"value": 3}, (), b"x", object(), "\ud800",
    {1: 2}, [[[]]],
)  # fmt: skip


def base_of(form: str) -> dict[str, Any]:
    found = [theirs.values for theirs in TABLE if theirs.base and theirs.base[0] == form]
    return copy.deepcopy(found[-1])


def put(values: dict[str, Any], name: str, value: Any) -> None:
    table, _, rest = name.partition(".")
    if rest and isinstance(values.get(table), dict):
        values[table][rest] = value
    elif rest:
        values[table] = {rest: value}
    else:
        values[name] = value


def mutated(form: str, chance: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return values with a few changes, and those that were put in under foreign names."""
    values, foreign = base_of(form), {}
    for _ in range(chance.randint(1, 4)):
        kind = chance.random()
        own = chance.choice(SETS[form].split())
        if kind < 0.35:
            put(values, own, chance.choice(ODD))
        elif kind < 0.5:
            values.pop(chance.choice(list(values)), None)
        elif kind < 0.7:
            put(values, chance.choice(list(FORMS[form].settings)), chance.choice(ODD))
        else:
            name = chance.choice(FOREIGN[chance.choice(list(FOREIGN))])
            values[name] = foreign[name] = chance.choice((3, 17, 0.25, "7", [5]))
    return values, foreign


def told(call: Callable[[], Config]) -> Config | str:
    """Return what a call returns, or the one line of its error."""
    try:
        return call()
    except RecipeError as error:
        line = str(error)
        assert line.isprintable() and len(line) <= 450, line
        return line


@pytest.mark.ci
@pytest.mark.parametrize("form", SETS)
def test_mutations_end_in_a_recipe_or_in_one_line(form: str) -> None:
    chance, read = random.Random(f"legw {form}"), 0
    for _ in range(TIMES):
        values, foreign = mutated(form, chance)
        given = dict(values)
        config = told(lambda v=values: from_config(v, num_examples=40_000))  # type: ignore[misc]
        if isinstance(config, str):
            continue
        read += 1
        said = (*config.left_out, *config.filled_in)
        for name in foreign:
            if name in given:
                assert any(line.startswith(f"{name}=") for line in said), (name, said)
        if config.form == form:
            check_accounted(config, given, said)
        big = told(lambda c=config: c.scaled(4 * c.recipe.batch_size))  # type: ignore[misc]
        if isinstance(big, Config):
            assert set(big.values) >= set(given) - {"batch_size", "warmup_ratio"}
            assert told(lambda b=big: from_config(b.values, num_examples=40_000))  # type: ignore[misc]
    assert read > TIMES / 10, "most mutations may be refused, not all"


def check_accounted(config: Config, given: dict[str, Any], said: tuple[str, ...]) -> None:
    """A value that sets one of these changes what is read, or a line says why it does not."""
    for name in SETS[config.form].split()[:-1]:
        value = find(given, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            continue
        other = copy.deepcopy(given)
        put(other, name, value / 2 if value < 1 else value * 2)
        found = told(lambda: from_config(other, num_examples=40_000))  # noqa: B023 # used at once
        changed = isinstance(found, str) or found.recipe != config.recipe
        word = name.rpartition(".")[2]
        why = [line for line in said if word in line or "warm" in line or "decay_lr" in line]
        assert changed or why, (name, value, said)


def find(values: dict[str, Any], name: str) -> Any:
    table, _, rest = name.partition(".")
    inner = values.get(table)
    return inner.get(rest) if rest and isinstance(inner, dict) else values.get(name)


@pytest.mark.parametrize("form", SETS)
def test_each_value_that_sets_something_changes_what_is_read(form: str) -> None:
    """Of what sets batch, rate, length, warmup and schedule, a doubled value shows."""
    base = base_of(form)
    config = from_config(base, num_examples=40_000)
    doubled = 0
    for name in SETS[form].split():
        old = find(base, name)
        if isinstance(old, str) or not old:
            continue
        values = copy.deepcopy(base)
        put(values, name, old / 2 if isinstance(old, float) and old < 1 else old * 2)
        found = told(lambda v=values: from_config(v, num_examples=40_000))  # type: ignore[misc]
        assert isinstance(found, str) or (found.recipe, found.left_out) != (
            config.recipe, config.left_out,
        ), name  # fmt: skip
        doubled += 1
    assert doubled >= 2
