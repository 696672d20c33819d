"""Configuration fields: single values, as files and command lines give them.

YAML reads ``1e-5`` as text, and a command line gives values by name as JSON text. Each function
takes `form`, the library's name, for errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from legw.errors import MAX_COUNT, RecipeError, is_count, shown

Values = Mapping[str, Any]
Fields = dict[str, Any]


def number(form: str, values: Values, name: str, default: float) -> float:
    """Return a value as a number; the default where it is missing or None.

    Raises:
        RecipeError: it is no finite number.

    >>> number("timm", {"lr": "1e-5"}, "lr", 0.1), number("timm", {}, "lr", 0.1)
    (1e-05, 0.1)
    """
    value = values.get(name)
    return default if value is None else _float(form, name, value)


def positive(form: str, values: Values, name: str, default: float) -> float:
    """Return a value as a number above 0; the default where it is missing or None.

    Raises:
        RecipeError: it is no finite number above 0.

    >>> positive("timm", {"lr": 2}, "lr", 0.1)
    2.0
    """
    found = number(form, values, name, default)
    if found <= 0:
        raise RecipeError(f"{form}: {name}={shown(values[name])}: must be above 0")
    return found


def numbers(form: str, values: Values, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return a list as numbers; one number is a list of one.

    Raises:
        RecipeError: an entry is no finite number.

    >>> numbers("timm", {"decay_milestones": 30}, "decay_milestones", ())
    (30.0,)
    """
    value = values.get(name)
    if value is None:
        return default
    entries = value if isinstance(value, list | tuple) else (value,)
    return tuple(_float(form, name, entry) for entry in entries)


def count(form: str, values: Values, name: str, default: int) -> int:
    """Return a value as a whole number of at least 1; the default where it is missing or None.

    Raises:
        RecipeError: it is none.

    >>> count("timm", {"batch_size": 8}, "batch_size", 128)
    8
    """
    value = values.get(name)
    value = default if value is None else value
    if not is_count(value) or value < 1:
        raise RecipeError(f"{form}: {name}={shown(value)}: must be a whole number, at least 1")
    if value > MAX_COUNT:
        raise RecipeError(f"{form}: {name}={shown(value)}: must be at most {MAX_COUNT}")
    return value


def below_lr(form: str, values: Values, name: str, default: float, lr: float) -> float:
    """Return a lowest rate as a share of the peak.

    Args:
        form: the library's name, for errors.
        values: by name.
        name: of the lowest rate.
        default: value of a missing field.
        lr: the peak, above 0.

    Raises:
        RecipeError: it is no number, below 0, or not below the peak.

    >>> below_lr("timm", {"min_lr": 0.25}, "min_lr", 0.0, lr=1.0)
    0.25
    """
    found = number(form, values, name, default)
    if not 0 <= found < lr:
        raise RecipeError(
            f"{form}: {name}={found:g}: must be at least 0 and below the learning rate, {lr:g}"
        )
    return found / lr


def by_name(form: str, values: Values, name: str) -> dict[str, Any]:
    """Return values by name, from a dict or from JSON text of one; none where it is missing.

    Raises:
        RecipeError: it is neither.

    >>> by_name("transformers", {"lr_scheduler_kwargs": '{"power": 2}'}, "lr_scheduler_kwargs")
    {'power': 2}
    """
    value = values.get(name)
    try:
        found = json.loads(value) if isinstance(value, str) and value else value or {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise RecipeError(
            f"{form}: {name}={shown(value)}: must be values by name, as a dict or as JSON text"
        )
    return dict(found)


def rounded(form: str, name: str, value: float) -> int:
    """Return a length as the nearest whole number of updates.

    Raises:
        RecipeError: there are more than 2**53.

    >>> rounded("nanogpt", "lr_decay_iters", 2500.4)
    2500
    """
    if not abs(value) <= MAX_COUNT:
        raise RecipeError(f"{form}: {name}={value:g}: must be at most {MAX_COUNT}")
    return round(value)


def examples(form: str, name: str, value: Any, num_examples: int | None) -> int:
    """Return the examples of an epoch, which the setting `name` needs in epochs.

    Raises:
        RecipeError: they are not known.

    >>> examples("transformers", "max_steps", 100, num_examples=60000)
    60000
    """
    if num_examples is None:
        raise RecipeError(
            f"{form}: {name}={shown(value)}: counts updates; give num_examples, to have epochs"
        )
    return num_examples


def passes(batch_size: int, micro_batch_size: int, processes: int) -> tuple[int, int]:
    """Return (examples per pass on one device, passes per update) that make a batch.

    Args:
        batch_size: examples per update, a multiple of `processes`.
        micro_batch_size: most examples per pass, at least 1.
        processes: at least 1.

    >>> passes(2048, 16, 4), passes(96, 64, 1), passes(8, 16, 1)
    ((16, 32), (48, 2), (8, 1))
    """
    share = batch_size // processes
    size = _largest_divisor(share, min(micro_batch_size, share))
    return size, share // size


def few_at_once(size: int, times: int, old: int, word: str) -> list[str]:
    """Return a note that the batch takes many small passes, as no larger size divides it.

    Args:
        size: examples per pass.
        times: passes per update.
        old: examples per pass before.
        word: the library's name for the passes.

    >>> few_at_once(1, 1021, 16, "accumulation")
    ['accumulation=1021: passes of 1 instead of 16 on a device, for nothing larger divides 1021; \
1024 would take 64']
    """
    share = size * times
    if times == 1 or 2 * size > old:
        return []
    near = -(-share // old)
    return [f"{word}={times}: passes of {size} instead of {old} on a device, for nothing larger "
            f"divides {share}; {near * old} would take {near}"]  # fmt: skip


def _largest_divisor(share: int, most: int) -> int:
    """Return the largest divisor of `share`, at most `most`; exact to shares of 2**40.

    Above, a pair of divisors that are both over 2**20 may be missed.
    """
    if most == share:
        return share
    least = 1
    for one in range(1, min(math.isqrt(share), 2**20) + 1):
        if share % one == 0:
            other = share // one
            if other <= most:
                return max(other, least)
            least = one if one <= most else least
    return least


def _float(form: str, name: str, value: Any) -> float:
    try:
        found = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{form}: {name}={shown(value)}: must be a number") from None
    if not math.isfinite(found):
        raise RecipeError(f"{form}: {name}={shown(value)}: must be a finite number")
    return found
