"""Language-model task: shuffled windows of a text; perplexity on another text.

Shapes: B windows, T tokens of a window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from legw.apps import Options, measured_on
from legw.apps.gpt.model import GPT, perplexity_of, summed_text_loss, windows_of
from legw.apps.gpt.text import Texts, read_texts
from legw.apps.ptb.task import VOCABULARY
from legw.apps.ptb.text import Vocabulary
from legw.apps.translation.task import SUBWORDS
from legw.errors import DataError
from legw.runs.cache import cache_folder, data_folder
from legw.train.batches import shuffled
from legw.train.task import Metric, State


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of a model; the recipes are in `legw.presets`."""

    width: int
    """Numbers that stand for a token, from block to block."""
    num_layers: int
    """Blocks."""
    num_heads: int
    """Attention heads of each block."""
    window: int
    """Tokens of a window, which is what attention reaches back to."""
    dropout: float
    """Share of numbers that dropout takes away."""

    def model(self, num_tokens: int) -> GPT:
        """Return a new model for a vocabulary of this size."""
        return GPT(
            num_tokens,
            self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            window=self.window,
            dropout=self.dropout,
        )


SIZES = {
    "gpt-small": Size(width=192, num_layers=4, num_heads=3, window=64, dropout=0.2),
}
SIZES["gpt-small-muon"] = SIZES["gpt-small"]
"""The models. One of 3.7 million weights on the Penn Treebank, half of them in the table of
words, which both ends of the model share."""


class Batch(NamedTuple):
    """Windows of a text."""

    inputs_BT: Tensor
    targets_BT: Tensor
    tokens: int
    """Targets that count."""


def task(name: str, options: Options) -> WindowTask:
    """Return one of the models of `SIZES`, with the Penn Treebank or the user's own texts.

    Raises:
        DataError: a text is missing, not the one expected, or too short.
    """
    _check(name, options)
    folder = data_folder("ptb", options.data) or cache_folder() / "ptb"
    texts = read_texts(folder, options.vocabulary, options.subwords)
    return WindowTask(name, SIZES[name], texts, holdout=options.holdout)


def _check(name: str, options: Options) -> None:
    if options.vocabulary is not None and options.subwords is not None:
        raise DataError(
            f"{name}: vocabulary={options.vocabulary}: is for words, and subwords="
            f"{options.subwords} is given too; leave one of the two out"
        )
    if options.vocabulary is not None and options.vocabulary < 3:
        raise DataError(
            f"{name}: vocabulary={options.vocabulary}: must be at least 3; "
            "<eos> and <unk> take two places"
        )
    if options.subwords is not None and options.subwords < 8:
        raise DataError(
            f"{name}: subwords={options.subwords}: must be at least 8; "
            "four are needed for unknown words, padding, begin and end"
        )


class WindowTask:
    """Predict each next token of a text, in windows of T tokens that are shuffled anew each epoch.

    An example is one window, and its id is its number in the text: window i predicts the tokens
    from ``i*T + 1`` to ``(i + 1)*T``. So an epoch predicts every token but the first once; the last
    window may be shorter. Loss and gradient are means over the predicted tokens of a global batch.

    Args:
        name: the application's name.
        size: of the model.
        texts: the three texts.
        holdout: the text that the metric is measured on; training is the same for both.

    Raises:
        DataError: the training text is shorter than one window.
    """

    metric = Metric("perplexity", higher_is_better=False)
    concurrent = True
    output_layer = "decode"

    def __init__(self, name: str, size: Size, texts: Texts, *, holdout: str = "test") -> None:
        self.name, self.size, self.texts = name, size, texts
        self._parts = {"train": texts.train, "validation": texts.valid, "test": texts.test}
        self._holdout = holdout
        self._resident: dict[tuple[str, torch.device], Tensor] = {}
        if len(texts.train) <= size.window:
            raise DataError(
                f"{name}: the training text of {len(texts.train)} tokens is shorter than one "
                f"window of {size.window} and the token after it; give more text"
            )

    def num_examples(self, batch_size: int) -> int:
        """Return the windows of the training text; the last one may be shorter."""
        return -(-(len(self.texts.train) - 1) // self.size.window)

    def model(self) -> nn.Module:
        return self.size.model(len(self.texts.vocabulary))

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return shuffled(self.num_examples(batch_size), seed, epoch)

    def batch(self, ids: Tensor, device: torch.device) -> Batch:
        text, starts_B = self._text("train", device), ids * self.size.window
        tokens = int((len(text) - 1 - starts_B).clamp(max=self.size.window).sum())
        starts_B = starts_B.to(device, non_blocking=True)
        return Batch(*windows_of(text, starts_B, self.size.window), tokens)

    def loss(self, model: nn.Module, batch: Batch, state: State) -> tuple[Tensor, int, State]:
        """Return the loss summed over tokens; the weight is their number."""
        return model(batch.inputs_BT, batch.targets_BT), batch.tokens, None

    def evaluate(self, model: nn.Module) -> float:
        """Return the perplexity on the held-out text, of a token."""
        return perplexity_of(*self._loss(model, self._holdout))

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the perplexity on both held-out texts: of a token, and of a word too where
        tokens are subwords.
        """
        found = {}
        for part, kept in (("validation", "valid"), ("test", "test")):
            loss, tokens = self._loss(model, part)
            found[f"{part}_perplexity"] = perplexity_of(loss, tokens)
            if kept in self.texts.words:
                found[f"{part}_word_perplexity"] = perplexity_of(loss, self.texts.words[kept])
        return found

    def artifacts(self) -> dict[str, bytes]:
        """Return the files that make a run's model usable: its words or subwords."""
        vocabulary = self.texts.vocabulary
        if isinstance(vocabulary, Vocabulary):
            return {VOCABULARY: vocabulary.to_bytes()}
        return {SUBWORDS: vocabulary.subwords.content}

    def fingerprint(self) -> str:
        """Return a hash of the three texts and the vocabulary, and which text counts."""
        vocabulary = self.texts.vocabulary
        if isinstance(vocabulary, Vocabulary):
            pieces = list(vocabulary.words)
        else:
            pieces = vocabulary.subwords.pieces
        digest = hashlib.sha256("\n".join(pieces).encode())
        for text in self._parts.values():
            digest.update(text.numpy().astype("<i4").tobytes())
        return measured_on(self._holdout, f"sha256:{digest.hexdigest()[:16]}")

    def _loss(self, model: nn.Module, part: str) -> tuple[float, int]:
        """Return the summed loss of a text, and its tokens."""
        text = self._text(part, next(model.parameters()).device)
        return summed_text_loss(model, text, self.size.window), len(text)

    def _text(self, part: str, device: torch.device) -> Tensor:
        """Return a text on a device, where it stays."""
        if (part, device) not in self._resident:
            self._resident[part, device] = self._parts[part].to(device)
        return self._resident[part, device]
