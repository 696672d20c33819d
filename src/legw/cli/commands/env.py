"""Command `legw env`: versions, machine and variables, for the report of a bug."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from legw.cli import output
from legw.cli.options import Flag
from legw.runs import environment

WIDTH = 80
"""Columns that a line has at most, wherever it is printed: it is meant to be pasted."""

GLUE = "\N{NO-BREAK SPACE}"
"""Space at which no line is broken."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print what a report of a bug needs: versions, machine, variables that change a run.

    It names no folder, no host and no person, and imports nothing.

    Example: legw env
    """

    json: Flag = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Print the environment."""
    found = environment.describe()
    if options.json:
        output.print_json(found)
        return 0
    for line in lines(found):
        print(line)
    return 0


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of an environment, each of at most 80 columns."""
    machine, torch = found["machine"], found["torch"]
    cores = f"{machine['cores']} cores"
    if machine["cores_to_use"] != machine["cores"]:
        cores += f", {machine['cores_to_use']} of them to use"
    memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
    built = [f"{name} {torch[name]}" for name in ("cuda", "hip", "xpu") if name in torch]
    driver = f", driver {machine['nvidia_driver']}" if machine["nvidia_driver"] else ""
    optional = found["optional"]
    facts = {
        **found["versions"],
        "processor": f"{machine['processor']}, {cores}{memory}",
        "gpu": (", ".join(machine["gpus"]) or "none found") + driver,
        "torch": f"{torch.get('version', 'missing')}, built for {', '.join(built) or 'the CPU'}"
        if torch
        else "missing",
        "needs": _versions(found["needed"]),
        "optional": _versions({name: v for name, v in optional.items() if v is not None}),
        "missing": ", ".join(name for name, v in optional.items() if v is None) or "nothing",
        **found["folders"],
        "variables": ", ".join(f"{k}={v}" for k, v in found["variables"].items()) or "none",
    }
    for name, value in facts.items():
        yield from _wrapped(name, str(value))


def _versions(found: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}{GLUE}{version or 'missing'}" for name, version in found.items())


def _wrapped(name: str, value: str) -> list[str]:
    """Return a name and its value, broken between words and set in."""
    import textwrap

    lines = textwrap.wrap(
        f"{name + ':':<18}{value}", WIDTH, subsequent_indent=" " * 18, break_on_hyphens=False
    )
    return [line.replace(GLUE, " ") for line in lines]
