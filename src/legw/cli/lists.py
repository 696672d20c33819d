"""Lists on the command line: batch sizes and seeds, separated by commas."""

from __future__ import annotations

from typing import TypeVar

from legw.errors import LegwError, one_line

Value = TypeVar("Value", int, str)

MOST = 1000
"""Most numbers in a list of seeds or batch sizes: more is a slip of the finger."""


def seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that are meant: so many from 0 on, or those of a list with a comma.

    Raises:
        LegwError: it cannot be read, has one twice, or too many.

    >>> seeds("3"), seeds("3,"), seeds("0,7")
    ((0, 1, 2), (3,), (0, 7))
    """
    if "," in text:
        return whole_numbers("--seeds", text, least=0)
    (count,) = whole_numbers("--seeds", text, least=1)
    if count > MOST:
        raise LegwError(f"--seeds={count}: must be at most {MOST}")
    return tuple(range(count))


def whole_numbers(name: str, text: str, *, least: int) -> tuple[int, ...]:
    """Return the whole numbers of a list, each at least `least`.

    Args:
        name: the option's, for errors.
        text: as in ``16,64``.
        least: the smallest that may be.

    Raises:
        LegwError: it cannot be read, has one twice, or too many.

    >>> whole_numbers("--batch-sizes", "16,64", least=1)
    (16, 64)
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    here = f"{name}={one_line(text, 60)}"
    if not all(part.isdecimal() and len(part) <= 16 for part in parts):
        raise LegwError(f"{here}: must be whole numbers, separated by commas")
    numbers = tuple(int(part) for part in parts)
    if min(numbers) < least:
        raise LegwError(f"{here}: must be at least {least}")
    if len(numbers) > MOST:
        raise LegwError(f"{here}: are {len(numbers)} numbers; at most {MOST}")
    return no_twice(name, numbers)


def no_twice(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values that are all different.

    Raises:
        LegwError: one is given twice.
    """
    for value in values:
        if values.count(value) > 1:
            raise LegwError(f"{name}: {value} is given twice; leave one out")
    return values
