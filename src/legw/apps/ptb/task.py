"""Language-model task: windows of parallel streams of a text; perplexity on another text.

Shapes: B streams, T tokens of a window.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from legw.apps import Options, measured_on
from legw.apps.ptb.model import WordLSTM, perplexity
from legw.apps.ptb.text import Corpus, read_corpus
from legw.errors import DataError
from legw.recipe import most_streams
from legw.runs.cache import cache_folder, data_folder
from legw.runs.records import HELD_OUT_LOSS
from legw.train.task import Metric, State

VOCABULARY = "vocabulary.txt"
"""The file in a run folder with the words of the model, one a line, in the order of ids."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of a model; the recipes are in `legw.presets`."""

    hidden_size: int
    """Units of the embedding and of each layer."""
    window: int
    """Tokens through which a gradient is propagated."""
    init: float
    """Half-width of the initial weights' range."""
    keep: float
    """Share of units that dropout keeps, in (0, 1]."""

    def model(self, num_words: int) -> WordLSTM:
        """Return a new model for a vocabulary of this size."""
        return WordLSTM(num_words, self.hidden_size, dropout=1 - self.keep, init=self.init)


SIZES = {
    "ptb-small": Size(hidden_size=200, window=20, init=0.1, keep=1.0),
    "ptb-small-muon": Size(hidden_size=200, window=20, init=0.1, keep=0.7),
    "ptb-medium": Size(hidden_size=650, window=35, init=0.05, keep=0.5),
    "ptb-large": Size(hidden_size=1500, window=35, init=0.04, keep=0.35),
}
"""The three models. Reference: Zaremba et al. 2014, arXiv 1409.2329, section 4.1 (there
"non-regularized", "medium" and "large" LSTM); TensorFlow's PTB tutorial."""


def task(name: str, options: Options) -> WordTask:
    """Return one of the models of `SIZES`, with the Penn Treebank or the user's own texts.

    Raises:
        DataError: a text is missing, or not the one expected.
    """
    if options.vocabulary is not None and options.vocabulary < 3:
        raise DataError(
            f"{name}: vocabulary={options.vocabulary}: must be at least 3; "
            "<eos> and <unk> take two places"
        )
    folder = data_folder("ptb", options.data) or cache_folder() / "ptb"
    corpus = read_corpus(folder, options.vocabulary)
    return WordTask(name, SIZES[name], corpus, holdout=options.holdout)


class WordTask:
    """Predict each next word of a text, read as parallel streams.

    With B streams of ``tokens // B`` tokens each, an epoch has ``(tokens // B - 1) // T`` updates.
    An update reads the next window of every stream, and the state is carried from window to window.
    The remaining tokens are dropped. An example is one window of one stream, and its id is the
    position in the text where it begins.

    Args:
        name: the application's name.
        size: of the model.
        corpus: the three texts.
        holdout: the text that the metric is measured on; training is the same for both.
    """

    metric = Metric("perplexity", higher_is_better=False)
    concurrent = True

    def __init__(self, name: str, size: Size, corpus: Corpus, *, holdout: str = "test") -> None:
        self.name, self.size, self.corpus = name, size, corpus
        self._texts = {"train": corpus.train, "validation": corpus.valid, "test": corpus.test}
        self._holdout = holdout
        self._resident: dict[tuple[str, torch.device], Tensor] = {}

    def num_examples(self, batch_size: int) -> int:
        """Return the windows of an epoch, over all streams: a multiple of the batch size.

        Raises:
            DataError: the streams are shorter than one window.
        """
        tokens, window = len(self.corpus.train), self.size.window
        windows = (tokens // batch_size - 1) // window
        if windows < 1:
            fits = most_streams(tokens, window)
            raise DataError(
                f"{self.name}: batch_size={batch_size}: the training text of {tokens} tokens "
                f"leaves no whole window of {window} tokens in a stream; "
                + (f"at most {fits} streams fit" if fits else "not even one stream fits")
            )
        return windows * batch_size

    def model(self) -> nn.Module:
        return self.size.model(len(self.corpus.vocabulary.words))

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        windows = self.num_examples(batch_size) // batch_size
        streams_B = torch.arange(batch_size) * (len(self.corpus.train) // batch_size)
        return (torch.arange(windows)[:, None] * self.size.window + streams_B).flatten()

    def batch(self, ids: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        text = self._text("train", device)
        starts_B1 = ids.to(device, non_blocking=True)[:, None]
        at_BT = starts_B1 + torch.arange(self.size.window, device=device)
        return text[at_BT], text[at_BT + 1].long()

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, int, State]:
        """Return the loss summed over time and streams; the weight is the number of streams."""
        inputs_BT, targets_BT = batch
        total, after = model(inputs_BT, targets_BT, state)
        return total, len(inputs_BT), after

    def evaluate(self, model: nn.Module) -> float:
        """Return the perplexity on the held-out text."""
        return self._perplexity(model, self._holdout)

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the perplexity on both held-out texts, and a window's loss on the one that
        counts.
        """
        found = {part: self._perplexity(model, part) for part in ("validation", "test")}
        loss = self.size.window * math.log(found[self._holdout])
        return {f"{part}_perplexity": value for part, value in found.items()} | {
            HELD_OUT_LOSS: loss
        }

    def artifacts(self) -> dict[str, bytes]:
        """Return the files that make a run's model usable: the vocabulary."""
        return {VOCABULARY: self.corpus.vocabulary.to_bytes()}

    def fingerprint(self) -> str:
        """Return a hash of the three texts and the vocabulary, and which text counts."""
        digest = hashlib.sha256(self.corpus.vocabulary.to_bytes())
        for text in self._texts.values():
            digest.update(text.numpy().astype("<i4").tobytes())
        return measured_on(self._holdout, f"sha256:{digest.hexdigest()[:16]}")

    def _perplexity(self, model: nn.Module, part: str) -> float:
        device = next(model.parameters()).device
        return perplexity(model, self._text(part, device))

    def _text(self, part: str, device: torch.device) -> Tensor:
        """Return a text on a device, where it stays."""
        if (part, device) not in self._resident:
            self._resident[part, device] = self._texts[part].to(device)
        return self._resident[part, device]
