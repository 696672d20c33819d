"""Command `legw translate`: translates lines of text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Optional

from tyro.conf import Positional, arg

from legw.cli import output
from legw.errors import DataError, clean

# ruff: noqa: UP045 (as in cli/options: tyro reads Optional without importing typeguard)

AT_ONCE = 5000
"""Lines that are read before their translations are written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Translate the lines of the standard input with a trained model.

    Example: legw translate runs/gnmt-small-legw-b64-s0 < in.en > out.de
    """

    run: Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]
    """Run folder of gnmt-small or gnmt."""
    beam: Annotated[int, arg(metavar="N")] = 5
    """Hypotheses that are followed, 1 to 1000; 1 takes the likeliest subword each time."""
    length_penalty: Annotated[float, arg(metavar="X")] = 0.6
    """Exponent of the length that a score is divided by, 0 to 10; 0 prefers short ones."""
    coverage_penalty: Annotated[float, arg(metavar="X")] = 0.1
    """Weight of source tokens that got too little attention, 0 to 10."""
    reference: Annotated[Optional[Path], arg(metavar="FILE", help_behavior_hint="")] = None
    """Text to compare with, a line for each; BLEU and chrF are then printed on stderr."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""


def run(options: Options) -> int:
    """Write a line for each line, print the scores, and return 0."""
    from legw.apps.translation import bleu, decoding, text, trained
    from legw.train.dist import choose_device

    search = decoding.Search(
        beam=options.beam,
        length_penalty=options.length_penalty,
        coverage_penalty=options.coverage_penalty,
    )
    references = None if options.reference is None else list(text.read_lines(options.reference))
    found = trained.load(options.run, choose_device(options.device))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    lines = _lines()
    if references is not None:
        lines = iter(_paired(list(lines), len(references), options.reference))
    unknown, compared = 0, list[str]()
    while piece := list(islice(lines, AT_ONCE)):
        unknown += text.count_unknown(found.subwords, piece)
        translations = found.translate(piece, search)
        sys.stdout.writelines(f"{clean(line)}\n" for line in translations)
        sys.stdout.flush()
        if references is not None:
            compared += translations
    if unknown:
        output.notes([f"input: {text.unknown_line(unknown)}"], to_stderr=True)
    if references is not None:
        for line in bleu.Scorer(references).score(compared).lines():
            print(line, file=sys.stderr)
    return 0


def _paired(lines: list[str], count: int, reference: Path | None) -> list[str]:
    """Return the lines, after a check that each has its reference."""
    if count != len(lines):
        raise DataError(
            f"{reference}: has {count} lines, the input {len(lines)}: from "
            f"line {min(count, len(lines)) + 1} on there is no pair"
        )
    return lines


def _lines() -> Iterator[str]:
    """Yield the lines of the standard input, without white space around them.

    Raises:
        DataError: it is closed, cannot be read, or is not UTF-8.
    """
    for number, line in enumerate(_read(), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(
                f"input: line {number}: is not UTF-8 text; "
                "convert it, for example with iconv -f latin1 -t utf-8"
            ) from None


def _read() -> Iterator[bytes]:
    """Yield the lines of the standard input as they are."""
    if sys.stdin is None:  # Python's own word for a closed stream
        raise DataError("input: cannot be read: it is closed; give it with < FILE")
    try:
        yield from sys.stdin.buffer
    except OSError as error:
        raise DataError(f"input: cannot be read: {error}; give it with < FILE") from None
