"""Runs of many cases: each from a seed of its own, so that one that fails can be run alone."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.cases import KINDS_OF_CASES, make


@dataclass
class Result:
    """What came of many cases."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Kind -> how many ended well, how many in one clear line, how many otherwise."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Kind -> CPU seconds."""
    failures: list[tuple[str, int, str]] = field(default_factory=list)
    """Kind, number of the case, traceback."""

    def grouped(self) -> str:
        """Return one failure of each sort, and how many there are of it."""
        sorts: dict[tuple[str, str], list[tuple[str, int, str]]] = {}
        for kind, number, trace in self.failures:
            lines = trace.strip().splitlines()
            where = [line.strip() for line in lines if line.strip().startswith("File ")]
            sorts.setdefault((where[-1], lines[-1].partition(":")[0]), []).append(
                (kind, number, trace)
            )
        return "\n".join(
            f"{len(found)} of this sort; --only '{found[0][0]}' --number {found[0][1]}:\n"
            + "\n".join(found[0][2].splitlines()[-24:])
            for found in sorts.values()
        )

    def line(self, kind: str) -> str:
        """Return what came of one kind."""
        return _line(kind, self.counts[kind], self.seconds[kind])

    def table(self) -> str:
        """Return the split by kind, as lines."""
        total = sum(self.counts.values(), Counter[str]())
        lines = [HEAD, *(self.line(kind) for kind in self.counts)]
        return "\n".join([*lines, _line("all", total, sum(self.seconds.values()))])


HEAD = f"{'kind':<24}{'cases':>8}{'ended well':>12}{'one line':>10}{'else':>6}{'CPU s':>8}"


def _line(kind: str, counts: Counter[str], seconds: float) -> str:
    return (
        f"{kind:<24}{sum(counts.values()):>8}{counts['ok']:>12}{counts['refused']:>10}"
        f"{counts['failed']:>6}{seconds:>8.1f}"
    )


def run(
    cases: int, folder: Path, *, seed: int = 0, only: str = "", number: int = -1,
    tell: Callable[[str], object] = lambda line: None,
) -> Result:  # fmt: skip
    """Run so many cases in an empty folder.

    Args:
        cases: how many, of all kinds by their shares.
        folder: where files are written.
        seed: of all draws; a case has a seed of its own, from it, its kind and its number.
        only: one kind.
        number: one case of that kind alone.
        tell: takes what came of each kind, a line, as soon as it is known.
    """
    result = Result()
    for kind, (_, share) in KINDS_OF_CASES.items():
        if only not in ("", kind):
            continue
        case = make(kind, folder)
        counts = result.counts[kind] = Counter()
        began = time.process_time()
        which = range(cases if only else cases * share // 1000) if number < 0 else [number]
        for each in which:
            try:
                counts[case(random.Random(f"{seed} {kind} {each}"))] += 1
            except Exception:
                counts["failed"] += 1
                result.failures.append((kind, each, traceback.format_exc()))
        result.seconds[kind] = time.process_time() - began
        tell(result.line(kind))
    return result
