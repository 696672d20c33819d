"""Translation task: trained on sentence pairs, scored by BLEU on held-out ones.

Shapes: B sentence pairs, S source tokens, T target tokens.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from legw.apps import Options, measured_on
from legw.apps.translation.batches import Batch, order, padding_share
from legw.apps.translation.bleu import Scorer
from legw.apps.translation.decoding import Search, translate
from legw.apps.translation.model import GNMT
from legw.apps.translation.perplexity import perplexity
from legw.apps.translation.text import Corpus, read_corpus
from legw.errors import DataError, given
from legw.runs.cache import cache_folder, data_folder
from legw.train.task import Metric, State

SUBWORDS = "subwords.model"
"""The file in a run folder with the subwords, as sentencepiece writes it."""

ABOUT = "translation.json"
"""The file in a run folder with the languages and the signatures of BLEU and chrF."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of a model; the recipes are in `legw.presets`."""

    hidden_size: int
    """Units of the table and of each layer."""
    num_layers: int
    """Layers of the encoder and of the decoder each."""
    num_subwords: int
    """Subwords of both languages together, unless the user says otherwise."""
    most_tokens: int
    """Pairs with more subwords on one side are left out of training."""
    dropout: float
    """Share of units that dropout takes away."""
    table_init: float
    """Half-width of the initial range of the table of subwords."""
    smoothing: float = 0.1
    """Share of the probability that training spreads over all subwords."""

    def model(self, num_subwords: int) -> GNMT:
        """Return a new model for a table of so many subwords."""
        return GNMT(
            num_subwords,
            self.hidden_size,
            num_layers=self.num_layers,
            dropout=self.dropout,
            smoothing=self.smoothing,
            table_init=self.table_init,
        )


SIZES = {
    "gnmt": Size(
        hidden_size=1024,
        num_layers=4,
        num_subwords=32_000,
        most_tokens=50,
        dropout=0.2,
        table_init=0.1,
    ),
    "gnmt-small": Size(
        hidden_size=256,
        num_layers=2,
        num_subwords=4_000,
        most_tokens=80,
        dropout=0.3,
        table_init=1.7,
    ),
}
SIZES["gnmt-small-muon"] = SIZES["gnmt-small"]
"""The models. `gnmt` is TensorFlow NMT's of four layers and MLPerf's: 1024 units, 32,000
subwords, at most 50 of them a sentence, dropout 0.2, smoothing 0.1."""


def task(name: str, options: Options) -> TranslationTask:
    """Return one of the models of `SIZES`, with Multi30k or the user's own texts.

    Raises:
        DataError: a text is missing, or not the one expected.
    """
    size = SIZES[name]
    if options.vocabulary is not None and options.vocabulary < 8:
        raise DataError(
            f"{name}: vocabulary={options.vocabulary}: must be at least 8; "
            "four are needed for unknown words, padding, begin and end"
        )
    data = "wmt16" if name == "gnmt" else "multi30k"
    corpus = read_corpus(
        data_folder(data, options.data) or cache_folder() / data,
        _language("source", options.source, "en"),
        _language("target", options.target, "de"),
        num_subwords=options.vocabulary or size.num_subwords,
        most_tokens=size.most_tokens,
    )
    return TranslationTask(name, size, corpus, holdout=options.holdout)


def _language(option: str, name: str | None, usual: str) -> str:
    if name == "":
        raise DataError(f"{given(option, '')}: is empty; give a language as files' names end: en")
    return usual if name is None else name


class TranslationTask:
    """Translate sentences; an example is a sentence pair, and the loss counts target tokens.

    Args:
        name: the application's name.
        size: of the model.
        corpus: the texts.
        holdout: the sentences that the metric is measured on, validation or test.
    """

    metric = Metric("BLEU")
    concurrent = True

    def __init__(self, name: str, size: Size, corpus: Corpus, *, holdout: str = "test") -> None:
        self.name, self.size, self.corpus = name, size, corpus
        self._holdout, self._held_out = holdout, corpus.held_out[holdout]
        self._source = corpus.subwords.encode(self._held_out.source)
        self._target = corpus.subwords.encode(self._held_out.target)
        self._scorer = Scorer(self._held_out.target)
        self._cut: tuple[int, int, int] | None = None

    def num_examples(self, batch_size: int) -> int:
        return len(self.corpus.train)

    def model(self) -> nn.Module:
        return self.size.model(len(self.corpus.subwords))

    def begin(self, seed: int, batch_size: int, micro_batch_size: int) -> None:
        """Note the seed and batch sizes, on which the padding of a run depends."""
        self._cut = seed, batch_size, micro_batch_size

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        pairs = self.corpus.train
        return order(
            pairs.source_lengths_M,
            pairs.target_lengths_M,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
        )

    def batch(self, ids: Tensor, device: torch.device) -> Batch:
        return self.corpus.train.batch(ids, device)

    def loss(self, model: nn.Module, batch: Batch, state: State) -> tuple[Tensor, int, State]:
        """Return the smoothed loss summed over target tokens; the weight is their number."""
        return model(*batch), len(batch.counted_N), None

    def evaluate(self, model: nn.Module) -> float:
        """Return the BLEU, in [0, 100], with the likeliest subword each time."""
        return self._scorer.bleu(self._translations(model))

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return BLEU and chrF by beam search, the unsmoothed perplexity of a subword, and
        the share of padding in the first epoch, cut into the micro-batches of training.
        """
        score = self._scorer.score(self._translations(model, Search()))
        found = {
            "beam_bleu": score.bleu,
            "beam_chrf": score.chrf,
            "subword_perplexity": perplexity(cast(GNMT, model), self._source, self._target),
        }
        return found | ({"padding_share": self._padding(*self._cut)} if self._cut else {})

    def artifacts(self) -> dict[str, bytes]:
        """Return the files that make a run's model usable."""
        source, target = self.corpus.languages
        bleu, chrf = self._scorer.signatures()
        about = {"source": source, "target": target, "bleu": bleu, "chrf": chrf}
        return {
            SUBWORDS: self.corpus.subwords.content,
            ABOUT: (json.dumps(about, indent=2) + "\n").encode(),
        }

    def fingerprint(self) -> str:
        """Return a hash of pairs, held-out lines and subwords, and which lines count.

        The subwords' file is not hashed, as each version of sentencepiece writes another one.
        """
        digest = hashlib.sha256("\n".join(self.corpus.subwords.pieces).encode())
        for rows in (self.corpus.train.source_MS, self.corpus.train.target_MT):
            digest.update(rows.numpy().astype("<i4").tobytes())
        for part in self.corpus.held_out.values():
            digest.update("\n".join([*part.source, *part.target]).encode())
        return measured_on(self._holdout, f"sha256:{digest.hexdigest()[:16]}")

    def _translations(self, model: nn.Module, search: Search | None = None) -> list[str]:
        found = translate(cast(GNMT, model), self._source, search)
        return self.corpus.subwords.decode(found)

    def _padding(self, seed: int, batch_size: int, micro_batch_size: int) -> float:
        pairs = self.corpus.train
        return padding_share(
            pairs.source_lengths_M,
            pairs.target_lengths_M - 1,  # what is predicted: all but BEGIN
            self.order(seed, 0, batch_size),
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
        )
