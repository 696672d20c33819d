"""Environment of a run: versions, machine and variables, as a report of a bug needs them.

Nothing is imported to find it out, torch least of all, and nothing in it names a person, a host or
a folder: what it returns can be pasted anywhere.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from legw.errors import clean, one_line
from legw.runs.cache import cache_folder

NEEDED = ("msgspec", "plotext", "rich", "tomli-w", "tyro")
"""Packages without which there is no legw."""

OPTIONAL = (
    "torch", "torchvision", "numpy", "scikit-learn", "pillow", "sentencepiece", "sacrebleu",
    "altair", "vl-convert-python", "tensorboard", "wandb", "mlflow-skinny", "transformers",
    "accelerate", "lightning", "timm", "pyyaml", "jax", "optax", "pandas",
)  # fmt: skip
"""Packages of the extras, and those that functions use where they are there."""

SHOWN = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE", "RANK", "LOCAL_RANK",
    "NO_COLOR", "COLUMNS", "WANDB_MODE",
)  # fmt: skip
"""Variables that change a run or what is shown of it, and whose values tell nothing private."""

NAMED = (
    "MASTER_ADDR", "PYTHONPATH", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "MLFLOW_TRACKING_URI", "WANDB_PROJECT",
)  # fmt: skip
"""Variables of which is told only that they are set: their values are folders or hosts."""

NVIDIA = Path("/proc/driver/nvidia")
"""Folder in which NVIDIA's driver describes itself on Linux."""


def describe() -> dict[str, Any]:
    """Return versions, machine, folders and variables, by their names.

    Returns:
        Plain values, as ``legw env --json`` prints them. A version is None where the package is
        missing.

    >>> sorted(describe())
    ['folders', 'machine', 'needed', 'optional', 'torch', 'variables', 'versions']
    """
    from legw import __version__

    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if libc := " ".join(platform.libc_ver()).strip():
        system += f", {libc}"
    return {
        "versions": {
            "legw": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": clean(system),
        },
        "machine": {
            "processor": clean(processor()),
            "cores": os.cpu_count(),
            "cores_to_use": cores_to_use(),
            "memory_gib": _memory_gib(),
            "gpus": gpus(),
            "nvidia_driver": _driver(),
        },
        "torch": torch_build(),
        "needed": {name: version_of(name) for name in NEEDED},
        "optional": {name: version_of(name) for name in OPTIONAL},
        "folders": folders(os.environ),
        "variables": variables(os.environ),
    }


def version_of(package: str) -> str | None:
    """Return the installed version of a distribution; None where it is missing.

    >>> version_of("no-such-package")
    """
    try:
        return clean(metadata.version(package))
    except metadata.PackageNotFoundError:
        return None


def torch_build() -> dict[str, str | None]:
    """Return what torch was built for, from the file in which it says so; empty without torch."""
    found: dict[str, str | None] = {}
    try:
        place = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return found
    if place is None or not place.origin:
        return found
    try:
        text = Path(place.origin).with_name("version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return found
    for name, value in re.findall(r"^(\w+)(?:: [^=]+)? = '([^'\n]*)'$", text, re.MULTILINE):
        if name in ("__version__", "cuda", "hip", "xpu"):
            found["version" if name == "__version__" else name] = clean(value)
    return found


def folders(environment: Mapping[str, str]) -> dict[str, str]:
    """Return whether the folders of data and caches are set, and are there; not where they are.

    >>> folders({})["data (LEGW_DATA)"]
    'not set'
    """
    data = environment.get("LEGW_DATA")
    usual = "as usual" if "XDG_CACHE_HOME" not in environment else "set by XDG_CACHE_HOME"
    return {
        "data (LEGW_DATA)": "not set" if data is None else f"set, {_there(Path(data))}",
        "cache": f"{usual}, {_there(cache_folder())}",
    }


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change a run, with their values where those tell nothing private.

    >>> variables({"OMP_NUM_THREADS": "2", "MASTER_ADDR": "a-host", "HOME": "/home/me"})
    {'OMP_NUM_THREADS': '2', 'MASTER_ADDR': '(set)'}
    """
    shown = {name: one_line(environment[name], 60) for name in SHOWN if name in environment}
    return shown | {name: "(set)" for name in NAMED if name in environment}


def processor() -> str:
    """Return the processor's name, or its architecture where the system does not say."""
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Return the names of NVIDIA's GPUs, as their driver on Linux knows them."""
    found = (_field(path, "Model") for path in sorted(NVIDIA.glob("gpus/*/information")))
    return [clean(name) for name in found if name]


def _driver() -> str | None:
    try:
        text = (NVIDIA / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found.group(1) if found else None


def cores_to_use() -> int:
    """Return the cores that this process may run on: Linux knows, elsewhere all of them."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _memory_gib() -> float | None:
    found = re.match(r"(\d+) kB", _field(Path("/proc/meminfo"), "MemTotal"))
    return round(int(found.group(1)) / 2**20, 1) if found else None


def _field(path: Path, name: str) -> str:
    """Return the first value behind ``NAME:`` in a file of the system; empty without it."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                key, sign, value = line.partition(":")
                if sign and key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""


def _there(folder: Path) -> str:
    return "a folder" if folder.is_dir() else "not there"
