"""Command `legw sample`: lets a trained language model write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from legw.cli import output
from legw.errors import LegwError, check_count, check_range, clean, one_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Let a trained language model go on from a prompt.

    Example: legw sample runs/ptb-small-legw-b20-s0 --prompt "the company"
    """

    run: Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]
    """Run folder of ptb-small, ptb-medium, ptb-large or gpt-small."""
    prompt: Annotated[str, arg(metavar="WORDS", help_behavior_hint="")]
    """Beginning of the text, as the training text writes it: lower case, words apart."""
    tokens: Annotated[int, arg(metavar="N")] = 50
    """Words (or subwords) to write, at least 1."""
    temperature: Annotated[float, arg(metavar="X")] = 1.0
    """Below 1 the likely words are preferred, above 1 the unlikely; 0 takes the likeliest."""
    seed: int = 0
    """Seed of the draws; one seed writes one text."""


def run(options: Options) -> int:
    """Print the prompt and its continuation, and return 0."""
    words = options.prompt.split()
    _check(options, words)
    from legw.apps import trained  # what can be told without torch has been told
    from legw.apps.ptb.text import UNKNOWN

    found = trained.load(options.run)
    prompt, strange = trained.known(found.vocabulary, words)
    if strange:
        names = one_line(", ".join(strange))
        output.notes([f"not in the vocabulary, taken as {UNKNOWN}: {names}"], to_stderr=True)
    written = trained.write(
        found,
        prompt,
        tokens=options.tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    print("\n".join(clean(line) for line in written.split("\n")).rstrip("\n"))
    return 0


def _check(options: Options, words: list[str]) -> None:
    if not words:
        raise LegwError("--prompt: is empty; give at least one word")
    check_count("", "--tokens", options.tokens)
    check_range("", "--temperature", options.temperature, 0)
