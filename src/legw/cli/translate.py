"""`legw translate`: translate lines of text with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Optional

from tyro.conf import Positional, arg

from legw.cli import outputs
from legw.errors import DataError

# ruff: noqa: UP045 (as in inputs: tyro reads Optional without importing typeguard)

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
    """Text to compare with, a line for each; BLEU and chrF are then told on stderr."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""


def run(options: Options) -> int:
    """Write a line for each line, tell the scores, and return 0."""
    from legw.apps.translation import decoding, scoring, text, trained
    from legw.train.dist import choose_device

    search = decoding.Search(
        beam=options.beam,
        length_penalty=options.length_penalty,
        coverage_penalty=options.coverage_penalty,
    )
    references = None if options.reference is None else list(text.read_lines(options.reference))
    found = trained.load(options.run, choose_device(options.device))
    lines, unknown, written = _lines(), 0, []
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    while piece := list(islice(lines, AT_ONCE)):
        unknown += text.count_unknown(found.subwords, piece)
        translations = found.translate(piece, search)
        sys.stdout.writelines(f"{line}\n" for line in translations)
        written += translations
    if unknown:
        outputs.notes([f"input: {text.unknown_line(unknown)}"], to_stderr=True)
    if references is None:
        return 0
    if len(references) != len(written):
        raise DataError(
            f"{options.reference}: has {len(references)} lines, the input {len(written)}: from "
            f"line {min(len(references), len(written)) + 1} on there is no pair"
        )
    for line in scoring.Scorer(references).score(written).lines():
        print(line, file=sys.stderr)
    return 0


def _lines() -> Iterator[str]:
    """Yield the lines of the standard input, without white space around them."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise DataError(
                f"input: line {number}: is not UTF-8 text; "
                "convert it, for example with iconv -f latin1 -t utf-8"
            ) from None
