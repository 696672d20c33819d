"""Command `legw score`: the perplexity of a text under a trained language model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from legw.cli import output
from legw.cli.options import Flag
from legw.errors import number


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tell how well a trained language model predicts a text: its perplexity.

    Example: legw score runs/ptb-small-legw-b20-s0 letter.txt
    """

    run: Annotated[Positional[Path], arg(metavar="RUN", help_behavior_hint="")]
    """Run folder of ptb-small, ptb-medium, ptb-large or gpt-small."""
    file: Annotated[Positional[Path], arg(metavar="FILE", help_behavior_hint="")]
    """Text in UTF-8, plain or gzipped, as the training text writes it."""
    json: Flag = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Print perplexity, tokens and unknown words, and return 0."""
    from legw.apps import trained

    score = trained.score(trained.load(options.run), options.file)
    if options.json:
        found = {name: value for name, value in asdict(score).items() if value is not None}
        output.print_json({name: _finite(value) for name, value in found.items()})
        return 0
    of_words = score.word_perplexity
    also = "" if of_words is None else f" of a subword, {number(of_words)} of a word"
    output.say(
        f"perplexity {number(score.perplexity)}{also}, {score.tokens} tokens, "
        f"{score.unknown} of them unknown"
    )
    return 0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
