"""Command line: finds a command, runs it, and prints each mistake as one line.

Each command is one module of `legw.cli.commands` with two names, `Options` (a frozen
dataclass whose attribute docstrings are the help) and `run(options) -> int`.
Only the module of the called command is imported, so that `legw scale` answers quickly and without
torch.

Exit codes: 0; 2 a user's mistake, or training whose output was closed; 3 a diverged run; 130
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from legw.cli import output
from legw.cli.usage import one_line
from legw.errors import (
    DivergedError,
    LegwError,
    LegwWarning,
    clean,
    on_command_line,
    unknown_name,
)

COMMANDS: dict[str, str] = {
    "recipes": "list the base recipes that ship, with their sources",
    "scale": "carry a recipe to another batch size: old and new side by side",
    "schedule": "draw the learning rate of each update, or write it out",
    "train": "train a shipped application at any batch size",
    "study": "train a grid of rules, batch sizes and seeds; compare them",
    "tune": "choose a base at its own batch: of equal ones, the one to carry",
    "probe": "measure why the rule works, and how far it goes",
    "check": "say whether the rule's assumptions hold for your own task",
    "plan": "tell which batch size finishes soonest, here or on many devices",
    "sample": "let a trained language model write",
    "score": "tell how well a trained language model predicts a text",
    "translate": "translate lines of text with a trained model",
    "watch": "show what is running, how far it is, and when it will end",
    "report": "make one HTML page from a folder of runs",
    "env": "tell versions and machine, for the report of a bug",
    "demo": "see in about a minute why the rule works",
    "completion": "print a script that lets your shell complete all this",
}
"""The commands, in the order in which the overview lists them, and a line of help for each."""

READER_GONE = "output: was closed by its reader"
"""Message of a training command whose output was closed by its reader."""

GOES_ON = {
    "train": "the run folder is kept, and --resume goes on with the run",
    "study": "the folder is kept, and the same command goes on",
    "tune": "the folder is kept, and the same command goes on",
    "probe": "the folder is kept, and the same command goes on",
}
"""For each command that trains: what remains when its output is closed. The others only print."""

PRINTS = {"-h", "--help", "--dry-run"}
"""Options with which a command that trains only prints."""

EXTRAS = {
    "torch": ("torch", "train"),
    "torchvision": ("torchvision", "train"),
    "numpy": ("numpy", "train"),
    "sklearn": ("scikit-learn", "train"),
    "sentencepiece": ("sentencepiece", "train"),
    "sacrebleu": ("sacrebleu", "train"),
    "altair": ("altair", "report"),
    "vl_convert": ("vl-convert-python", "report"),
}
"""For each module of an extra: its distribution, and the extra's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `legw`; None takes the process's own.

    Raises:
        Exception: any error that is a bug of ours and not a user's mistake.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else "--help"
    try:
        with on_command_line(), output.ready(), _warnings_as_notes():
            return _answer(name, words[1:])
    except LegwError as error:
        quiet = not _first() if error.reported is None else error.reported
        return _complain(f"legw: {error}", 3 if isinstance(error, DivergedError) else 2, quiet)
    except ModuleNotFoundError as error:
        return _complain(_missing_extra(name, error), 2)
    except KeyboardInterrupt as interrupt:
        line = f"legw: {interrupt}" if interrupt.args else "legw: interrupted"
        return _complain(line, 130, quiet=not _first())
    except BrokenPipeError:  # our reader has gone (`legw recipes | head`): that is no error
        trains = name in GOES_ON and not PRINTS & {*words}
        line = f"legw: {READER_GONE}; {GOES_ON[name]}" if trains else ""
        return _complain(line, 2, quiet=not _first()) if line else 0
    finally:
        output.settle()


def _answer(name: str, words: list[str]) -> int:
    if name in ("-h", "--help") or (name == "help" and not words):
        print(_overview())
        return 0
    if name == "help":
        name, words = words[0], ["--help"]
    if name in ("-V", "--version"):
        from legw import __version__

        print(f"legw {__version__}")
        return 0
    if name not in COMMANDS:
        raise LegwError(unknown_name("command", name, COMMANDS))
    return _run(name, words)


def _run(name: str, words: list[str]) -> int:
    """Import one command, let tyro read its options, and run it."""
    import tyro

    command: Any = importlib.import_module(f"legw.cli.commands.{name}")
    spoken = _spoken(name, words, getattr(command, "SUBCOMMANDS", ()))
    plain = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(
                command.Options,
                args=words,
                prog=f"legw {name}",
                config=plain,
                console_outputs=_first(),
            )
    except SystemExit as done:  # after --help, and after tyro has said what is wrong
        if not done.code:
            return 0
        return _complain(f"legw: {one_line(said.getvalue(), spoken)}", 2, not _first())
    sys.stderr.write(said.getvalue())  # it parsed, and yet had something to say
    return int(command.run(options))


def _spoken(name: str, words: list[str], subcommands: Sequence[str]) -> str:
    """Return a command as it is called: with its subcommand, if it has one.

    Raises:
        LegwError: the first word is none of its subcommands.
    """
    given = words[0] if words else "-"
    if not subcommands or given.startswith("-"):
        return f"legw {name}"
    if given not in subcommands:
        raise LegwError(unknown_name(name, given, subcommands))
    return f"legw {name} {given}"


def _overview() -> str:
    lines = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return f"""\
usage: legw COMMAND [OPTIONS]

Carry a tuned training recipe to a larger batch size, without tuning it again.

commands:
{lines}

examples:
  legw scale mnist-lstm -b 8192         the recipe for a batch 64 times larger
  legw schedule mnist-lstm -b 8192      its learning rate, drawn in the terminal
  legw help COMMAND                     all options of a command

legw --version (or -V) tells the version."""


def _first() -> bool:
    """Whether this is the first of the processes that torchrun started, or the only one."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _complain(line: str, code: int, quiet: bool = False) -> int:
    if not quiet:
        output.to_stderr(clean(line))
    return code


def _missing_extra(command: str, error: ModuleNotFoundError) -> str:
    """Return the line with the install command; raise any other missing module's error again."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    distribution, extra = EXTRAS[module]
    return f"legw {command}: {distribution} is not installed; pip install 'legw[{extra}]'"


@contextlib.contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show a `LegwWarning` as one `note:` line on stderr; leave all other warnings alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LegwWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, LegwWarning):
                if _first():
                    output.to_stderr(f"note: {clean(str(message))}")
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield
