"""What this machine is, and what a run uses of it."""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import UTC, datetime

import torch

import legw


def describe_device(device: torch.device) -> str:
    """Return the device's type, and its name where it has one.

    >>> describe_device(torch.device("cpu")).startswith("cpu")
    True
    """
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({_processor()}, {torch.get_num_threads()} threads)"


def environment() -> dict[str, str]:
    """Return versions, machine and date for the manifest."""
    return {
        "legw": legw.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(terse=True),
        "cores": str(os.cpu_count()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory(device: torch.device) -> float:
    """Return the most memory used so far, in bytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout on this device draws from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
