"""Run the benchmarks: `python -m benchmarks [NAME ...]`, all of them by default.

Prints the machine, then a line for each ratio as it is measured: the median, the
quartiles, the number of alternating rounds, and the floor. The exit status is 1 if a
median is below its floor.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.ratios import Ratio
from legw.train.hardware import describe_device, environment

NAMES = ("rows", "overhead", "words", "pairs", "images", "memory", "optimizers")
PACKAGES = ("jax", "optax", "numpy", "torchvision")
LINE = "{:<42} {:>7} {:>15} {:>6} {:>6}  {}"


def main(names: Sequence[str]) -> int:
    """Measure, print and judge; return the exit status."""
    print(describe(), end="\n\n")
    print(
        LINE.format(
            "how many times faster (or smaller)", "median", "quartiles", "rounds", "floor", ""
        )
    )
    bf16 = fast_bf16()
    ratios: list[Ratio] = []
    seconds: dict[str, float] = {}
    # The micro-batches are measured here and now, whatever was measured before.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for name in names or NAMES:
            began = time.perf_counter()
            for ratio in importlib.import_module(f"benchmarks.{name}").measure(bf16):
                ratios.append(ratio)
                print(line(ratio), flush=True)
            seconds[name] = time.perf_counter() - began
    print(f"\n{total(seconds)}")
    text, status = verdict(ratios)
    print(text)
    return status


def describe() -> str:
    """Return the machine and the versions, one line each."""
    found = environment() | {name: version(name) for name in PACKAGES}
    found["bf16 in hardware"] = "yes" if fast_bf16() else "no: its floors do not apply"
    device = describe_device(torch.device("cpu"))
    if torch.cuda.is_available():
        device += f"; {describe_device(torch.device('cuda'))}"
    return "\n".join([device, ", ".join(f"{name} {value}" for name, value in found.items())])


def fast_bf16() -> bool:
    """Say whether the CPU multiplies matrices in bf16 itself."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def line(ratio: Ratio) -> str:
    """Return a ratio as a line of the table."""
    first, third = ratio.quartiles
    floor = "" if ratio.floor is None else f"{ratio.floor:.3g}x"
    note = "; ".join([*([] if ratio.held else ["MISSED"]), *([ratio.note] if ratio.note else [])])
    median, quartiles = f"{ratio.median:.3f}x", f"{first:.3f} - {third:.3f}"
    return LINE.format(ratio.name, median, quartiles, len(ratio.values), floor, note).rstrip()


def total(seconds: Mapping[str, float]) -> str:
    """Return how long it took, and what of it each benchmark.

    >>> total({"rows": 61.2, "words": 50.1})
    '111 seconds: rows 61, words 50'
    """
    parts = ", ".join(f"{name} {each:.0f}" for name, each in seconds.items())
    return f"{sum(seconds.values()):.0f} seconds: {parts}"


def verdict(ratios: Sequence[Ratio]) -> tuple[str, int]:
    """Return the last line, and the exit status: 1 if a floor is missed."""
    judged = [ratio for ratio in ratios if ratio.floor is not None]
    held = sum(ratio.held for ratio in judged)
    last = f"{held} of {len(judged)} ratios at or above their floor"
    return last, 0 if held == len(judged) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
