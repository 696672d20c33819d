"""Hardware: the device, its memory and time, and the machine's description."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

import legw
from legw.errors import LegwWarning, setting
from legw.runs.environment import processor
from legw.train.dropout import seed_thread

STEERING = ("NVIDIA_TF32_OVERRIDE",)
"""Environment variables that change how a library computes: 1 makes single-precision products
on an NVIDIA GPU take TF32 operands, and 0 forbids it (torch's LSTM takes them unasked)."""

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",  # torch's allocator on a CPU, which has no error of its own
    "not enough memory",  # the same on Windows
    "cannot allocate memory",  # the system, as of a shared file
    "could not allocate memory",
)
"""Texts of errors when memory has run out; other errors mention memory, too."""


def describe_device(device: torch.device) -> str:
    """Return the device's type, and its name where it has one.

    >>> describe_device(torch.device("cpu")).startswith("cpu")
    True
    """
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({processor()}, {torch.get_num_threads()} threads)"


def environment() -> dict[str, str]:
    """Return versions, machine and date for the manifest."""
    steering = {name: os.environ[name] for name in STEERING if name in os.environ}
    return {
        "legw": legw.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(terse=True),
        "cores": str(os.cpu_count()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **steering,
    }


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes on a device, in seconds."""
    began = now(device)
    action()
    return now(device) - began


def times_of(
    action: Callable[[], object],
    device: torch.device,
    seconds: float = 0.0,
    *,
    least: int = 1,
    most: int = 1_000,
) -> list[float]:
    """Return how long each of several calls of an action takes, in seconds.

    Args:
        action: called until `seconds` are spent, at least `least` and at most `most` times.
        device: waited for after each call.
        seconds: time to spend, at least 0.
        least: fewest calls, at least 1.
        most: most calls, at least `least`.
    """
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds and len(times) < most):
        times.append(seconds_of(action, device))
    return times


def peak_memory(device: torch.device) -> float:
    """Return the most memory used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    high_water = _from_status("VmHWM")
    if high_water:
        return high_water
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on, where the system can do so."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux alone resets a process's high-water mark
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    True
    >>> out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)


def memory_in_use(device: torch.device) -> float:
    """Return the memory used now, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    return _from_status("VmRSS") or peak_memory(device)


def available_memory(device: torch.device) -> float:
    """Return the memory that is still free, in bytes; infinite where it is unknown.

    GPU memory that torch reserves for later tensors counts as free for this process.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    found = (line.split() for line in lines if line.startswith("MemAvailable"))
    return next((1024.0 * int(words[1]) for words in found), math.inf)


def _from_status(name: str) -> float:
    """Return a figure of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    found = (line.split() for line in lines if line.startswith(name + ":"))
    return next((1024.0 * int(words[1]) for words in found), 0.0)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout on this device draws from: torch's, and the thread's."""
    seed_thread(seed, device)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def warn_of_compiling(device: torch.device) -> None:
    """Warn before a model is compiled for a CPU: that takes minutes and rarely saves time.

    Warns:
        LegwWarning: the device is a CPU.
    """
    if device.type == "cpu":
        line = (
            f"{setting('compile')}: on a CPU torch.compile works for minutes before the first "
            f"update, as "
            "long as a hundred times the whole run of a small model; leave it out to begin at once"
        )
        warnings.warn(line, LegwWarning, stacklevel=2)
