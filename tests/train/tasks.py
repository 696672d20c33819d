"""Small tasks with what can go wrong in a split: unequal weights, carried state, batch-norm.

Shapes: B examples, T tokens of a window, V words, H hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corpora import TINY_GPT, tiny_texts
from legw.apps.gpt import WindowTask
from legw.train import Metric, State
from legw.train.batches import shuffled


class Lines:
    """Regression whose examples weigh unequally, as sentences with unequal tokens do."""

    name = "lines"
    metric = Metric("error", higher_is_better=False)
    concurrent = True

    def __init__(self, examples: int = 200) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
        self.targets = self.inputs.sin().sum(1, keepdim=True)
        self.weights = torch.randint(1, 9, (examples, 1), generator=generator).double()

    def num_examples(self, batch_size: int) -> int:
        return len(self.inputs)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return shuffled(len(self.inputs), seed, epoch)

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        return self.inputs[ids], self.targets[ids], self.weights[ids]

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        inputs, targets, weights = batch
        return ((model(inputs) - targets) ** 2 * weights).sum(), weights.sum(), None

    def evaluate(self, model: nn.Module) -> float:
        return float(((model(self.inputs) - self.targets) ** 2).mean())


class Normalised(Lines):
    """The same with batch normalisation."""

    name = "normalised"

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)
        ).double()


class WordModel(nn.Module):
    """Embedding, LSTM, logits; the state of each stream goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.lstm = nn.LSTM(5, 7, batch_first=True)
        self.decode = nn.Linear(7, 11)

    def forward(self, ids_BT: Tensor, state: State) -> tuple[Tensor, State]:
        given = None if state is None else tuple(s.transpose(0, 1).contiguous() for s in state)
        hidden_BTH, after = self.lstm(self.embed(ids_BT), given)
        return self.decode(hidden_BTH), tuple(s.transpose(0, 1) for s in after)


class Streams:
    """A language model over parallel streams, with the state carried from window to window."""

    name = "streams"
    metric = Metric("loss", higher_is_better=False)
    concurrent = True
    window = 4

    def __init__(self, tokens: int = 3000) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, 11, (tokens,), generator=generator).cumsum(0) % 11
        self.lanes: dict[int, Tensor] = {}
        self.batch_size = 0

    def num_examples(self, batch_size: int) -> int:
        self.batch_size = batch_size
        return (len(self.tokens) // batch_size - 1) // self.window * batch_size

    def model(self) -> nn.Module:
        return WordModel().double()

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return torch.arange(self.num_examples(batch_size))

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        length = len(self.tokens) // self.batch_size
        starts = ids % self.batch_size * length + ids // self.batch_size * self.window
        at_BT = starts[:, None] + torch.arange(self.window)
        return self.tokens[at_BT], self.tokens[at_BT + 1]

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        inputs_BT, targets_BT = batch
        logits_BTV, after = model(inputs_BT, state)
        total = functional.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum"
        )
        return total, len(inputs_BT), after

    def evaluate(self, model: nn.Module) -> float:
        few = self.tokens[:301]
        logits_BTV, _ = model(few[None, :-1], None)
        return float(functional.cross_entropy(logits_BTV[0], few[1:]))


class Windows(WindowTask):
    """The transformer, very small: tied weights, and a last window that is shorter."""

    def __init__(self) -> None:
        super().__init__(self.name, TINY_GPT, tiny_texts(tokens=1500))

    name = "windows"

    def model(self) -> nn.Module:
        return super().model().double()


TASKS: dict[str, type[Any]] = {task.name: task for task in (Lines, Normalised, Streams, Windows)}
