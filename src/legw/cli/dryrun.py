"""`legw train --dry-run`: what a run would be and cost, without training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from legw.cli import outputs, tables
from legw.cli.outcome import Outcome, headline
from legw.train.estimate import Estimate

MOST_NAMES = 12
"""Names of tensors in a line; JSON has all of them."""


def show(outcome: Outcome, found: Estimate, notes: list[str], *, with_data: bool = True) -> None:
    """Print recipe, groups, updates, split, memory, time; without data, nothing of their speed."""
    assert outcome.scaled is not None
    outputs.say(headline(outcome))
    outputs.show(tables.side_by_side(outcome.base, outcome.scaled))
    for line in lines(found):
        if with_data or not line.startswith("data: "):
            outputs.say(line)
    outputs.notes(notes, to_stderr=False)


def as_json(outcome: Outcome, found: Estimate, notes: list[str]) -> dict[str, Any]:
    """Return the same as one object."""
    return {
        **outcome.to_dict(),
        "estimate": {
            **asdict(found),
            "available_bytes": min(found.available_bytes, 2.0**60),  # JSON knows no infinity
            "micro_batches": found.micro_batches,
            "update_seconds": found.update_seconds,
            "run_seconds": found.run_seconds,
        },
        "warnings": notes,
    }


def lines(found: Estimate) -> list[str]:
    """Return Muon's groups, updates, split, memory, speed and time, one line each."""
    groups = f", batch-norm in groups of {found.group}" if found.group > 1 else ""
    whole = found.fixed_bytes + found.pass_bytes
    ahead = "while others train" if found.data_ahead else "between passes"
    measured = {str(size): rate for size, rate in found.rates.items()} | found.laned
    rates = ", ".join(f"{way}: {_rate(rate)}" for way, rate in measured.items())
    return [
        *(f"optimizer: {_shortened(group)}" for group in found.optimizer_groups),
        f"updates: {found.updates}, of which {found.warmup_updates} warm up "
        f"({found.num_examples} examples an epoch)",
        f"split: {_count(found.processes, 'process', 'processes')} of at most "
        f"{_count(found.share, 'example')} an update, in "
        f"{_count(found.micro_batches, 'micro-batch', 'micro-batches')} of at most "
        f"{found.micro_batch_size}{groups}",
        f"memory: {_size(whole)} a process: {_size(found.fixed_bytes)} for "
        f"{found.parameters} parameters, their gradients and the optimizer, "
        f"{_size(found.pass_bytes)} for a micro-batch",
        f"measured: {found.device}: examples/s forward and backward by micro-batch: {rates}",
        f"data: {_rate(found.data_rate)} examples/s loaded {ahead}",
        f"time: {seconds_text(found.update_seconds)} an update, "
        f"{seconds_text(found.run_seconds)} in all; evaluations"
        f"{' and the network' if found.processes > 1 else ''} come on top",
    ]


def cautions(found: Estimate, *, made_up: str = "") -> list[str]:
    """Return what of an estimate deserves a second look."""
    notes = []
    if made_up:
        notes.append(f"measured on noise in place of images, without decoding: {made_up}")
    if found.fixed_bytes + found.pass_bytes > found.available_bytes:
        notes.append(
            f"a micro-batch of {found.micro_batch_size} would not fit: "
            f"{_size(int(found.available_bytes))} are free here; "
            "take a larger device, or a recipe with a smaller norm_batch_size"
        )
    if found.data_ahead and not made_up and found.data_rate < found.rate:
        notes.append(
            f"loading ({_rate(found.data_rate)} examples/s) is slower than compute "
            f"({_rate(found.rate)}): more --workers or cores would help"
        )
    return notes


def seconds_text(seconds: float) -> str:
    """Return a time as people say it.

    >>> seconds_text(0.0123), seconds_text(75), seconds_text(7500), seconds_text(400000)
    ('0.012 s', '75 s', '2.1 hours', '4.6 days')
    """
    if seconds < 300:
        return f"{outputs.number(seconds, 2)} s"
    for unit, size in (("minutes", 60.0), ("hours", 3600.0)):
        if seconds < 100 * size:
            return f"{outputs.number(seconds / size, 2)} {unit}"
    return f"{outputs.number(seconds / 86400, 2)} days"


def _shortened(group: str) -> str:
    """Return the line of a group with its first names, and how many more there are.

    >>> _shortened("AdamW: " + ", ".join(f"w{n}" for n in range(14)))
    'AdamW: w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11 and 2 more'
    """
    names = group.split(", ")
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _rate(rate: float) -> str:
    return outputs.number(rate, 3)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
