"""The loops that one would write in PyTorch without legw: the global batch in one piece.

Each is a generator that makes one update when asked for its next loss.
Shapes: B examples or streams, T rows or tokens, F pixels a row, C classes, V words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

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
