"""Shards: the runs of a study that each of several machines makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from legw.errors import LegwError, given, one_line

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several equal parts.

    >>> Shard(2, 3).of("abcdefg")
    ['b', 'e']
    """

    number: int
    """Number of the part, from 1."""
    count: int
    """Number of parts, at least 1."""

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Return every `count`-th item, so that long and short runs mix in every part."""
        return list(items[self.number - 1 :: self.count])


WHOLE = Shard(1, 1)
"""All runs."""


def read(text: str) -> Shard:
    """Return the part that a text like 3/16 names.

    Raises:
        LegwError: it is not two whole numbers with ``1 <= I <= N``.

    >>> read("3/16")
    Shard(number=3, count=16)
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise LegwError(
            f"{given('shard', one_line(text, 60))}: must be I/N with 1 <= I <= N; give for "
            f"example 3/16"
        )
    return shard
