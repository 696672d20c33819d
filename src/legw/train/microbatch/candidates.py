"""Micro-batch candidates: the sizes and lanes to be timed, and the choice among them.

Every candidate is timed once, in ladders of ascending sizes (`climb`). The best three are timed
again in three rounds and compared by their medians (`settle`). Of the candidates that are about as
fast as the best, the one that needs least memory is taken (`best`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from legw.errors import RunError, setting

SMALLEST = 16
"""Below this many examples a micro-batch is never worth its overhead."""

LONG_SECONDS = 1.0
"""A longer pass ends its ladder if its throughput is not above the earlier ones': larger ones
would take minutes to time."""

FINALISTS = 3
"""Candidates that are timed again."""

ROUNDS = 3
"""Further timings of each finalist."""

CLOSE_SHARE = 0.98
"""Share of the best throughput from which on a candidate counts as equally fast."""


class Candidate(NamedTuple):
    """A micro-batch size, and the number of micro-batches at once.

    >>> str(Candidate(128)), str(Candidate(64, lanes=2)), Candidate.read("2 x 64")
    ('128', '2 x 64', Candidate(size=64, lanes=2))
    """

    size: int
    """Examples in a micro-batch."""
    lanes: int = 1
    """Micro-batches at once."""

    def __str__(self) -> str:
        return str(self.size) if self.lanes == 1 else f"{self.lanes} x {self.size}"

    @classmethod
    def read(cls, text: str) -> Candidate:
        """Return the candidate of a text that `str` wrote."""
        lanes, _, size = text.rpartition(" x ")
        return cls(int(size), int(lanes or 1))

    @property
    def examples(self) -> int:
        """Examples at once."""
        return self.size * self.lanes


def largest_share(batch_size: int, processes: int, group: int = 1) -> int:
    """Return the most examples of an update that a process has: whole groups, or the batch.

    Args:
        batch_size: examples per update, at least 1.
        processes: number of processes that share them, at least 1.
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


def in_lanes(sizes: Iterable[int], count: int, share: int) -> list[Candidate]:
    """Return the candidates for a number of lanes: all sizes of which so many fit into a share.

    >>> [str(candidate) for candidate in in_lanes([16, 32, 64, 128], 2, share=128)]
    ['2 x 16', '2 x 32', '2 x 64']
    >>> in_lanes([16, 20], 2, share=20)
    []
    """
    return [Candidate(size, count) for size in sizes if size * count <= share]


def climb(
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate], float],
    known: dict[Candidate, float],
) -> dict[Candidate, float]:
    """Time each candidate of a ladder once, until one no longer fits or takes long.

    Args:
        candidates: micro-batches to try, ascending in examples at once.
        measure: candidate -> examples per second, 0 where it does not fit.
        known: examples per second measured before, 0 where it does not fit now.

    >>> found = {16: 90.0, 32: 100.0, 64: 50.0, 128: 0.0, 256: 0.0}
    >>> rates = {Candidate(size): rate for size, rate in found.items()}
    >>> [str(candidate) for candidate in climb([*rates], rates.__getitem__, {})]
    ['16', '32', '64']
    """
    table: dict[Candidate, float] = {}
    for place, candidate in enumerate(candidates):
        rate = table[candidate] = known[candidate] if candidate in known else measure(candidate)
        long = candidate.examples > LONG_SECONDS * rate and rate < max(table.values())
        seen_further = any(larger in known for larger in candidates[place + 1 :])
        if (rate == 0 or long) and not seen_further:
            break
    return table


def settle(
    table: dict[Candidate, float], measure: Callable[[Candidate], float], share: int
) -> dict[Candidate, float]:
    """Time the best three again in three rounds, and put their medians into the table.

    Other work on the machine slows a whole round, and hardly changes the order of its candidates.
    So a candidate's throughput is taken as a share of the round's best, and the median of these
    shares counts. The best finalist keeps the highest throughput measured, and so stays above all
    candidates that were not timed again.

    Args:
        table: examples per second of each candidate.
        measure: candidate -> examples per second, 0 where it does not fit.
        share: examples of an update in a process that has most.

    >>> again = {Candidate(32): 50.0, Candidate(64): 25.0, Candidate(16): 20.0}
    >>> table = {Candidate(16): 50.0, Candidate(32): 80.0, Candidate(64): 90.0}
    >>> settled = settle(table, again.__getitem__, share=64)
    >>> {str(candidate): rate for candidate, rate in settled.items()}
    {'16': 36.0, '32': 90.0, '64': 45.0}
    """
    over_share = _over_share(table, share)
    finalists = sorted(over_share, key=lambda candidate: -over_share[candidate])[:FINALISTS]
    finalists = [candidate for candidate in finalists if table[candidate]]
    if len(finalists) < 2:
        return table
    rounds = []
    for number in range(ROUNDS):
        turn = finalists[:: -1 if number % 2 else 1]  # to and fro: none is always the last
        rounds.append({candidate: measure(candidate) for candidate in turn})
    shares = {
        candidate: median(rates[candidate] / (max(rates.values()) or 1.0) for rates in rounds)
        for candidate in finalists
    }
    most, top = max(shares.values()) or 1.0, max(table.values())
    return table | {candidate: top * shares[candidate] / most for candidate in finalists}


def best(table: dict[Candidate, float], share: int) -> Candidate:
    """Return the candidate with the highest throughput over a process's whole share of an update.

    Of those that are about as fast as the best, it is the one with the fewest examples at once,
    which needs least memory.

    Args:
        table: examples per second of each candidate, 0 where it does not fit.
        share: examples of an update in a process that has most.

    Raises:
        RunError: no size fits.

    >>> found = {16: 50.0, 32: 99.0, 64: 100.0, 128: 0.0}
    >>> best({Candidate(size): rate for size, rate in found.items()}, share=640)
    Candidate(size=32, lanes=1)
    >>> best({Candidate(16): 100.0, Candidate(20): 90.0}, share=20)
    Candidate(size=20, lanes=1)
    """
    rates = _over_share(table, share)
    most = max(rates.values())
    if most == 0:
        raise RunError(
            f"micro_batch_size: not even {min(table).size} examples fit into the memory limit; "
            f"raise {setting('memory_limit')} or give {setting('micro_batch_size')}"
        )
    close = [candidate for candidate, rate in rates.items() if rate >= CLOSE_SHARE * most]
    return min(close, key=lambda candidate: (candidate.examples, -rates[candidate]))


def _over_share(table: dict[Candidate, float], share: int) -> dict[Candidate, float]:
    """Return examples per second over a whole share.

    The last pass of a share may have fewer examples; it counts as taking as long as a full one.
    """
    return {
        candidate: rate * share / (-(-share // candidate.examples) * candidate.examples)
        for candidate, rate in table.items()
    }
