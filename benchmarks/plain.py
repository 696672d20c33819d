"""The loops that one would write in PyTorch without legw: the global batch in one piece.

Each is a generator that makes one update when asked for its next loss.
Shapes: B examples or streams, T rows or tokens, S source tokens, F pixels a row, C classes,
V words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from legw.apps.translation.batches import Pairs
from legw.recipe import Recipe

State = tuple[Tensor, Tensor]


class Words(nn.Module):
    """The language model as one writes it: both layers in one `nn.LSTM`, all logits at once."""

    def __init__(self, num_words: int, hidden_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_words, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, num_layers=2)
        self.decode = nn.Linear(hidden_size, num_words)

    def forward(self, inputs_BT: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the logits, shape (T, B, V), and the state after them."""
        outputs_TBH, after = self.lstm(self.embed(inputs_BT.t()), state)
        return self.decode(outputs_TBH), after


def words_from(ours: nn.Module) -> Words:
    """Return the plain model with the weights of a `WordLSTM`."""
    weights = ours.state_dict()
    model = Words(*weights["embed.weight"].shape)
    for layer in (0, 1):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            weights[f"lstm.{name}_l{layer}"] = weights.pop(f"layers.{layer}.{name}_l0")
    model.load_state_dict(weights)
    return model


def sgd(model: nn.Module, recipe: Recipe, fused: bool | None = None) -> torch.optim.SGD:
    """Return the recipe's optimizer, as torch makes it unless told otherwise."""
    momentum: float = getattr(recipe.optimizer, "momentum", 0.0)
    return torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=momentum, fused=fused)


def train_rows(
    model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor, batches: Iterable[Tensor]
) -> Iterator[float]:
    """Train the image model; `batches` are the ids of each update's examples."""
    optimizer = sgd(model, recipe)
    assert recipe.clip_norm is not None
    for ids_B in batches:
        rows_BTF = images[ids_B].float() / 255
        loss = functional.cross_entropy(model(rows_BTF), labels[ids_B])
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        yield loss.item()


def train_rows_in_pieces(
    model: nn.Module,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    batches: Iterable[Tensor],
    *,
    micro_batch_size: int,
) -> Iterator[float]:
    """Do the same in pieces of a size, and nothing else: the least that a loop can cost."""
    optimizer = sgd(model, recipe, fused=True)
    assert recipe.clip_norm is not None
    for ids_B in batches:
        optimizer.zero_grad()
        total = 0.0
        for ids in ids_B.split(micro_batch_size):
            logits = model(images[ids].float() / 255)
            loss = functional.cross_entropy(logits, labels[ids], reduction="sum") / len(ids_B)
            loss.backward()
            total += loss.item()
        clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        yield total


def train_words(
    model: Words, recipe: Recipe, text: Tensor, window: int, batches: Iterable[Tensor]
) -> Iterator[float]:
    """Train the language model; `batches` are where each stream's next window begins.

    The loss is summed over the window and averaged over the streams, as published.
    """
    optimizer = sgd(model, recipe)
    assert recipe.clip_norm is not None
    state: State | None = None
    for starts_B in batches:
        at_BT = starts_B[:, None] + torch.arange(window)
        targets_TB = text[at_BT + 1].t().long()
        logits_TBV, (h, c) = model(text[at_BT], state)
        state = h.detach(), c.detach()
        loss = functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten()) * window
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        yield loss.item()


class Translator(nn.Module):
    """The translation model as one writes it: packed sequences, all logits at once."""

    def __init__(self, num_subwords: int, hidden_size: int, num_layers: int, dropout: float):
        super().__init__()
        self.embed = nn.Embedding(num_subwords, hidden_size)
        self.both = nn.LSTM(hidden_size, hidden_size, bidirectional=True, batch_first=True)
        self.encoder = nn.ModuleList(
            nn.LSTM((1 + (index == 0)) * hidden_size, hidden_size, batch_first=True)
            for index in range(num_layers - 1)
        )
        self.first = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.direction = nn.Parameter(torch.empty(hidden_size))
        self.scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.decoder = nn.ModuleList(
            nn.LSTM(2 * hidden_size, hidden_size, batch_first=True) for _ in range(num_layers - 1)
        )
        self.classify = nn.Linear(hidden_size, num_subwords)
        self.drop = nn.Dropout(dropout)

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Return the logits of the tokens after those of the target, shape (B, T, V)."""
        lengths_B = (source_BS != 0).sum(1).cpu()
        packed = pack_padded_sequence(
            self.drop(self.embed(source_BS)), lengths_B, batch_first=True, enforce_sorted=False
        )
        memory_BSH, _ = pad_packed_sequence(self.both(packed)[0], batch_first=True)
        for index, layer in enumerate(self.encoder):
            output_BSH, _ = layer(self.drop(memory_BSH))
            memory_BSH = output_BSH + memory_BSH if index else output_BSH
        hidden_BTH, _ = self.first(self.drop(self.embed(target_BT)))
        mixed = self.query(hidden_BTH)[:, :, None] + (self.key(memory_BSH) + self.bias)[:, None]
        scores_BTS = torch.tanh(mixed) @ (self.scale * self.direction / self.direction.norm())
        scores_BTS = scores_BTS.masked_fill((source_BS == 0)[:, None], float("-inf"))
        context_BTH = scores_BTS.softmax(-1) @ memory_BSH
        for index, layer in enumerate(self.decoder):
            output_BTH, _ = layer(self.drop(torch.cat([hidden_BTH, context_BTH], -1)))
            hidden_BTH = output_BTH + hidden_BTH if index else output_BTH
        logits_BTV: Tensor = self.classify(hidden_BTH)
        return logits_BTV


def pairs_from(ours: nn.Module) -> Translator:
    """Return the plain model with the weights of a `GNMT`."""
    weights = ours.state_dict()
    dropout: float = ours.drop.p  # type: ignore[union-attr, assignment]
    model = Translator(*weights["embed.weight"].shape, 1 + len(ours.decoder), dropout)  # type: ignore[arg-type]
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        weights[f"both.{name}_l0"] = weights.pop(f"onward.{name}_l0")
        weights[f"both.{name}_l0_reverse"] = weights.pop(f"backward_.{name}_l0")
    for name in [name for name in weights if name.startswith("attention.")]:
        weights[name.removeprefix("attention.")] = weights.pop(name)
    model.load_state_dict(weights)
    return model


def train_pairs(
    model: Translator, recipe: Recipe, pairs: Pairs, batches: Iterable[Tensor], smoothing: float
) -> Iterator[float]:
    """Train the translation model; `batches` are the ids of each update's pairs."""
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    judge = nn.CrossEntropyLoss(ignore_index=0, label_smoothing=smoothing)
    sides = (pairs.source_MS, pairs.source_lengths_M), (pairs.target_MT, pairs.target_lengths_M)
    source, target = (
        [row[:length].long() for row, length in zip(rows, lengths, strict=True)]
        for rows, lengths in sides
    )
    assert recipe.clip_norm is not None
    for ids_B in batches:
        source_BS, target_BT = (
            pad_sequence([side[at] for at in ids_B.tolist()], batch_first=True)
            for side in (source, target)
        )
        logits_BTV = model(source_BS, target_BT[:, :-1])
        loss = judge(logits_BTV.flatten(0, 1), target_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        yield loss.item()
