"""Command `legw completion`: a script with which a shell completes commands and options."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg, subcommand


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print a script with which a shell completes the commands and options of legw.

    Example: legw completion bash > ~/.local/share/bash-completion/completions/legw
    """

    shell: Annotated[
        Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL", help_behavior_hint="")
    ]
    """bash, zsh (as _legw in a folder of $fpath), or fish (as legw.fish in
    ~/.config/fish/completions)."""


def run(options: Options) -> int:
    """Print the script; no command is run for it, and torch is not imported."""
    import tyro

    from legw.cli import COMMANDS

    commands: Any = Union[  # noqa: UP007 # made of a list
        tuple(
            Annotated[
                importlib.import_module(f"legw.cli.commands.{name}").Options,
                subcommand(name, prefix_name=False, description=text),
            ]
            for name, text in COMMANDS.items()
        )
    ]
    try:
        tyro.cli(
            commands,
            args=["--tyro-print-completion", options.shell],
            prog="legw",
            config=(FlagCreatePairsOff, DisallowNone),
        )
    except SystemExit as done:
        return int(done.code or 0)
    raise AssertionError("tyro ends after it has printed a script")
