"""Print how well trained LSTM language models predict frequent and rare words.

    python results/rare_words.py ../data/ptb NAME=RUN [NAME=RUN ...]

A run is a folder of `legw train` or of a study, with its checkpoint. The words of the
validation text are divided by how often the training text has them. For each part and run the
table has the mean loss, and the probability that the model gives to the words of the part, as
a multiple of their share of the text: 1 is right on average, below 1 is too little.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from legw.apps import trained
from legw.apps.ptb.model import WordLSTM
from legw.apps.ptb.text import Corpus, read_corpus
from legw.errors import LegwError, RunError

BOUNDS = (0, 30, 100, 300, 1000, 3000, 10**9)
"""Counts in the training text at which the words are divided."""

STREAMS, PIECE = 20, 50
"""The text is read as so many streams, in pieces of so many tokens."""


class Part(NamedTuple):
    """What a model makes of the words with a count in one range."""

    share: float
    """Of the tokens of the text, in [0, 1]."""
    loss: float
    """Mean negative log-likelihood, in nats a token."""
    given: float
    """Summed probability of these words over all tokens, over the number that are these words."""


@torch.no_grad()
def parts(model: WordLSTM, corpus: Corpus) -> list[Part]:
    """Return a part for each pair of neighbours of `BOUNDS`, of the validation text."""
    words = len(corpus.vocabulary.words)
    loss_V, seen_V, given_V = (torch.zeros(words, dtype=torch.double) for _ in range(3))
    text_EL = corpus.valid[: len(corpus.valid) // STREAMS * STREAMS].long().view(STREAMS, -1)
    state = None
    for begin in range(0, text_EL.shape[1] - 1, PIECE):
        piece_ET = text_EL[:, begin : begin + PIECE + 1]
        logs_NV, state = _log_probabilities(model, piece_ET[:, :-1], state)
        targets_N = piece_ET[:, 1:].t().reshape(-1)
        losses_N = -logs_NV.gather(1, targets_N[:, None])[:, 0].double()
        loss_V.index_add_(0, targets_N, losses_N)
        seen_V.index_add_(0, targets_N, torch.ones_like(losses_N))
        given_V += logs_NV.exp().sum(0).double()
    counts_V = torch.bincount(corpus.train.long(), minlength=words)
    found = []
    for low, high in pairwise(BOUNDS):
        here_V = (counts_V >= low) & (counts_V < high)
        seen = seen_V[here_V].sum()
        share, loss, given = seen / seen_V.sum(), loss_V[here_V].sum() / seen, given_V[here_V].sum()
        found.append(Part(float(share), float(loss), float(given / seen)))
    return found


def _log_probabilities(
    model: WordLSTM, ids_ET: Tensor, state: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return log-probabilities of shape (T·E, V), and the state after the piece."""
    hidden_TEH, after = model._read(ids_ET, state)
    return model.decode(hidden_TEH).flatten(0, 1).log_softmax(-1), after


def table(runs: dict[str, list[Part]]) -> str:
    """Return a Markdown table of runs, by name."""
    names = list(runs)
    columns = [f"{name}: {what}" for name in names for what in ("loss", "given")]
    lines = [f"| count in training | share | {' | '.join(columns)} |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for index, (low, high) in enumerate(pairwise(BOUNDS)):
        counts = f"{low} to {high - 1}" if high != BOUNDS[-1] else f"{low} and more"
        cells = [
            cell
            for name in names
            for cell in (f"{runs[name][index].loss:.2f}", f"{runs[name][index].given:.2f}")
        ]
        share = runs[names[0]][index].share
        lines.append(f"| {counts} | {share:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, help="folder with the texts")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a name and a run folder")
    asked = parser.parse_args()
    try:
        corpus = read_corpus(asked.texts)
        # A folder of a grid has a sign of equality in its own name.
        named = [each.partition("=") for each in asked.runs]
        print(table({name: parts(_model(folder), corpus) for name, _, folder in named}))
    except LegwError as error:
        parser.error(str(error))


def _model(folder: str) -> WordLSTM:
    model = trained.load(Path(folder)).model
    if not isinstance(model, WordLSTM):
        raise RunError(f"{folder}: holds no LSTM language model")
    return model


if __name__ == "__main__":
    main()
