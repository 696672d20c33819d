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
    """Run folder of ptb-small, ptb-medium or ptb-large."""
    file: Annotated[Positional[Path], arg(metavar="FILE", help_behavior_hint="")]
    """Text in UTF-8, plain or gzipped, as the training text writes it."""
    json: Flag = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Print perplexity, tokens and unknown words, and return 0."""
    from legw.apps.ptb import trained

    score = trained.score(trained.load(options.run), options.file)
    if options.json:
        finite = score.perplexity if math.isfinite(score.perplexity) else None
        output.print_json(asdict(score) | {"perplexity": finite})
        return 0
    output.say(
        f"perplexity {number(score.perplexity)}, {score.tokens} tokens, "
        f"{score.unknown} of them unknown"
    )
    return 0
