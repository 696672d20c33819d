"""Which ways of cutting a batch to time, and which of them to take. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import NamedTuple, TypeVar

from legw.errors import RunError

SMALLEST = 16
"""Below this many examples a micro-batch is never worth its overhead."""

GIVE_UP = 0.6
"""The ladder ends after two sizes in a row below this share of the best throughput."""

WORTH = 1.05
"""By how much two ways must differ for the one that has less to be said for it (`_favour`): a small
gain while all cores are free is soon lost on a machine that others share."""

APART = 4
"""Micro-batches that a lane takes from one update to the next for lanes to be favoured."""

LONG_SECONDS = 1.0
"""A pass that takes longer ends the ladder, if it is no faster than what came before it: the
larger ones would take minutes to time."""

NEAR = 0.7
"""Sizes above this share of the best are timed again. One look may be off by as much on a
machine that others share."""

NEARER = (0.8, 0.9, 0.9)
"""After each two rounds, what is above this share of the best goes on to two more: the better half
of them, and three at the least."""

CANDIDATES = 12
"""Most sizes that are timed again."""

CLOSE = 0.98
"""Of ways this close to the best the one with the fewest examples at once is taken: it needs
less memory."""


class Way(NamedTuple):
    """How a batch is cut, and how many pieces are worked on at once.

    >>> str(Way(128)), str(Way(64, lanes=2)), Way.read("2 x 64")
    ('128', '2 x 64', Way(size=64, lanes=2))
    """

    size: int
    """Examples in a micro-batch."""
    lanes: int = 1
    """Micro-batches at once."""

    def __str__(self) -> str:
        return str(self.size) if self.lanes == 1 else f"{self.lanes} x {self.size}"

    @classmethod
    def read(cls, text: str) -> Way:
        """Return what was written with `str`."""
        lanes, _, size = text.rpartition(" x ")
        return cls(int(size), int(lanes or 1))

    @property
    def examples(self) -> int:
        """Examples at once."""
        return self.size * self.lanes


K = TypeVar("K", bound="int | Way")


def largest_share(batch_size: int, processes: int, group: int = 1) -> int:
    """Return the most examples of an update that a process has: whole groups, or the batch.

    Args:
        batch_size: examples per update, at least 1.
        processes: how many share them, at least 1.
        group: examples that must stay together (batch-norm groups), at least 1.

    >>> largest_share(100, 3)
    34
    >>> largest_share(128, 2, group=128)
    128
    """
    groups = -(-batch_size // group)
    return min(-(-groups // processes) * group, batch_size)


def ladder(share: int, group: int = 1) -> list[int]:
    """Return the sizes to try for a process's share of the batch: whole groups, ascending.

    >>> ladder(100)
    [16, 32, 64, 100]
    >>> ladder(512, group=128)
    [128, 256, 512]
    >>> ladder(90, group=15)
    [30, 60, 90]
    """
    size = -(-SMALLEST // group) * group
    sizes = []
    while size < share:
        sizes.append(size)
        size *= 2
    return [*sizes, share]


def climb(sizes: list[K], measure: Callable[[K], float], known: dict[K, float]) -> dict[K, float]:
    """Measure sizes in ascending order until larger ones no longer fit or pay, or take long.

    Args:
        sizes: what to try, ascending: numbers, or ways.
        measure: size -> examples per second, 0 where it does not fit.
        known: what was measured before, 0 where it does not fit now.

    >>> climb([16, 32, 64, 128], {16: 900.0, 32: 1000.0, 64: 500.0, 128: 400.0}.__getitem__, {})
    {16: 900.0, 32: 1000.0, 64: 500.0, 128: 400.0}
    """
    table: dict[K, float] = {}
    slow = 0
    for place, size in enumerate(sizes):
        table[size] = known[size] if size in known else measure(size)
        slow = slow + 1 if table[size] < GIVE_UP * max(table.values()) else 0
        seen_further = any(larger in known for larger in sizes[place + 1 :])
        if (table[size] == 0 or slow == 2 or _long(size, table)) and not seen_further:
            break
    return table


def _long(size: K, table: dict[K, float]) -> bool:
    """Say whether the last size's pass takes long, and is no faster than one before."""
    examples = size.examples if isinstance(size, Way) else size
    return examples > LONG_SECONDS * table[size] and table[size] < max(table.values())


def in_lanes(sizes: Iterable[int], count: int, share: int) -> list[Way]:
    """Return what to try in lanes: all sizes of which so many at once fit into a share.

    Those that are slow alone, too: what one look at each size says of them is not enough to leave
    the best in lanes out, and a ladder in lanes ends by itself.

    >>> [str(way) for way in in_lanes([16, 32, 64, 128], 2, share=128)]
    ['2 x 16', '2 x 32', '2 x 64']
    >>> in_lanes([16, 20], 2, share=20)
    []
    """
    return [Way(size, count) for size in sizes if size * count <= share]


def settle(table: dict[K, float], measure: Callable[[K], float]) -> dict[K, float]:
    """Time the sizes that come near the best again, in turn, and compare them round by round.

    Other work on the machine slows whatever is timed at that moment, and one look at each
    size would take that for the size's own; what a round's sizes are to each other, it leaves
    as it is. So they are compared by the median of their shares of a round: all that are near
    the best in two rounds, and the better half of what is still nearer in two more, three times.
    The best of them keeps the highest rate that was seen: it stays above all that were not timed
    again.

    Args:
        table: examples per second of each size.
        measure: size -> examples per second, 0 where it does not fit.

    >>> again = {32: 50.0, 64: 25.0}
    >>> settle({16: 50.0, 32: 80.0, 64: 90.0}, again.__getitem__)
    {16: 50.0, 32: 90.0, 64: 45.0}
    """
    top = max(table.values())
    near = [key for key, rate in table.items() if rate and rate >= NEAR * top]
    near = sorted(near, key=lambda key: -table[key])[:CANDIDATES]
    if len(near) < 2:
        return table
    rounds = _to_and_fro(near, measure)
    shares = _shares(rounds, near)
    for least in NEARER:
        near.sort(key=lambda key: -shares[key])
        near = [key for key in near[: max(len(near) // 2, 3)] if shares[key] >= least]
        if len(near) > 1:
            rounds += _to_and_fro(near, measure)
            shares |= _shares(rounds, near)
    return table | {key: top * share for key, share in shares.items()}


def _to_and_fro(keys: list[K], measure: Callable[[K], float]) -> list[dict[K, float]]:
    """Measure all, and again in the other order, so that none is always the last."""
    return [{key: measure(key) for key in turn} for turn in (keys, keys[::-1])]


def _shares(rounds: list[dict[K, float]], keys: list[K]) -> dict[K, float]:
    """Return how the keys compare with each other: the best has 1, and 0 is what has no rate."""
    means = [fmean(rates[key] for key in keys) or 1.0 for rates in rounds]
    shares = {
        key: median(rates[key] / mean for rates, mean in zip(rounds, means, strict=True))
        for key in keys
    }
    most = max(shares.values()) or 1.0  # none fits any more
    return {key: share / most for key, share in shares.items()}


def best(table: dict[Way, float], share: int) -> Way:
    """Return the way whose throughput over a whole share is close to the best, with the least
    memory; where others are about as fast, a favoured one (`_favour`).

    A share that is no multiple of what is worked on at once ends with a short round, which is
    counted as if it took as long as a full one.

    Raises:
        RunError: no size fits.

    >>> best({Way(16): 50.0, Way(32): 99.0, Way(64): 100.0, Way(128): 0.0}, share=640)
    Way(size=32, lanes=1)
    >>> best({Way(16): 100.0, Way(20): 90.0}, share=20)
    Way(size=20, lanes=1)
    >>> best({Way(32): 100.0, Way(16, lanes=2): 104.0}, share=32)
    Way(size=32, lanes=1)
    >>> best({Way(32): 104.0, Way(16, lanes=2): 100.0}, share=320)
    Way(size=16, lanes=2)
    """
    rates = {
        way: rate * share / (_rounds(way, share) * way.examples) for way, rate in table.items()
    }
    if max(rates.values()) == 0:
        raise RunError(
            f"micro_batch_size: not even {min(table).size} examples fit into the memory limit; "
            "raise --memory-limit or give --micro-batch-size"
        )
    judged = {way: rate * _favour(way, share) for way, rate in rates.items()}
    near = [way for way, rate in judged.items() if rate >= CLOSE * max(judged.values())]
    return min(near, key=lambda way: (way.examples, -judged[way]))


def _rounds(way: Way, share: int) -> int:
    """Return how often a way's micro-batches are taken in one update."""
    return -(-share // way.examples)


def _favour(way: Way, share: int) -> float:
    """Return by what a way's throughput is multiplied before it is compared.

    Lanes meet once an update, and the threads of one micro-batch after every operation; so
    lanes lose less to other work on the machine, unless they have hardly anything to do
    apart. Halves save little memory for what the second piece costs the loop.
    """
    rounds = _rounds(way, share)
    if way.lanes > 1:
        return WORTH if rounds >= APART else 1 / WORTH
    return 1 / WORTH if rounds == 2 else 1.0
