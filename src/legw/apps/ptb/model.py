"""Language model: embedding, LSTM layers and softmax; and its perplexity on a text.

Shapes: B streams, T tokens of a window, L layers, H hidden units, V words, N = T·B rows,
E evaluation streams.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from legw.apps.softmax import IGNORED, summed_loss
from legw.train.dropout import SeededDropout
from legw.train.task import State

STREAMS = 20
"""Parts into which a text is cut for evaluation, which are read side by side."""

CONTEXT = 64
"""Tokens before its part that a stream reads without scoring them, to warm up its state."""

PIECE = 50
"""Tokens of each stream per forward pass of an evaluation."""


class WordLSTM(nn.Module):
    """Predicts each next word: embedding, LSTM layers of the same width, softmax.

    Dropout is applied to the embedding and to the output of every layer, and to nothing
    that goes from one token to the next. All parameters start uniform in ±init, so the
    forget gate has no bias of its own. A layer has two bias vectors, as in the authors'
    own code and in torch.

    Each layer is a module of its own: cuDNN draws dropout between the layers of one module from a
    generator that cannot be seeded.

    Args:
        num_words: size of the vocabulary.
        hidden_size: width of the embedding and of each layer.
        num_layers: at least 1.
        dropout: share of units dropped in training, in [0, 1].
        init: half-width of the initial weights' range, above 0.

    Reference: Zaremba, Sutskever, Vinyals 2014, arXiv 1409.2329, sections 3.1 and 4.1.
    """

    def __init__(
        self,
        num_words: int,
        hidden_size: int,
        *,
        num_layers: int = 2,
        dropout: float = 0.0,
        init: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_words, hidden_size)
        self.layers = nn.ModuleList(nn.LSTM(hidden_size, hidden_size) for _ in range(num_layers))
        self.decode = nn.Linear(hidden_size, num_words)
        self.drop = SeededDropout(dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the summed negative log-likelihood of the targets, and the state after them.

        Args:
            inputs_BT: word ids, integers of shape (B, T).
            targets_BT: the words after them, int64 of shape (B, T); `IGNORED` does not count.
            state: (h, c), each of shape (B, L, H); None is zero.
        """
        hidden_TBH, after = self._read(inputs_BT, state)
        targets_N = targets_BT.t().reshape(-1)
        weight_VH, bias_V = self.decode.weight, self.decode.bias
        return summed_loss(hidden_TBH.flatten(0, 1), weight_VH, bias_V, targets_N), after

    def predict(self, ids_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits of the word after the last one, shape (B, V), and the state."""
        hidden_TBH, after = self._read(ids_BT, state)
        logits_BV: Tensor = self.decode(hidden_TBH[-1])
        return logits_BV, after

    def _read(self, ids_BT: Tensor, state: State) -> tuple[Tensor, State]:
        hidden_TBH = self.drop(self.embed(ids_BT.t()))
        states = []
        for index, layer in enumerate(self.layers):
            before = None
            if state is not None:
                before = tuple(s_BLH[:, index].unsqueeze(0).contiguous() for s_BLH in state)
            hidden_TBH, after = layer(hidden_TBH, before)
            states.append(after)
            hidden_TBH = self.drop(hidden_TBH)
        dtype = self.decode.weight.dtype  # a state from autocast is in half precision
        return hidden_TBH, tuple(
            torch.cat(layers).transpose(0, 1).to(dtype) for layers in zip(*states, strict=True)
        )


@torch.no_grad()
def perplexity(
    model: nn.Module, text: Tensor, *, streams: int = STREAMS, context: int = CONTEXT
) -> float:
    """Return the perplexity of a text: exp of the mean loss over all tokens but the first.

    The text is cut into parts that are read side by side. Every part but the first begins with the
    `context` tokens before it, which are read and not scored. So every token counts once. The cuts
    change the result only by what the state would hold from before the context.

    Args:
        model: a `WordLSTM`, in evaluation mode.
        text: ids of shape (tokens,), at least 2, on the model's device.
        streams: number of parts, at least 1.
        context: tokens read before each part, at least 0.
    """
    predictions = len(text) - 1
    streams = min(streams, predictions)
    bounds = torch.arange(streams + 1, device=text.device) * predictions // streams
    first_E1, end_E1 = bounds[:-1, None], bounds[1:, None]
    start_E1 = (first_E1 - context).clamp(min=0)
    longest = int((end_E1 - start_E1).max())
    state: State = None
    losses = []
    for begin in range(0, longest, PIECE):
        steps_T = torch.arange(begin, min(begin + PIECE, longest), device=text.device)
        at_ET = start_E1 + steps_T
        judged_ET = (at_ET >= first_E1) & (at_ET < end_E1)
        at_ET.clamp_(max=predictions - 1)
        targets_ET = text[at_ET + 1].long().masked_fill(~judged_ET, IGNORED)
        loss, state = model(text[at_ET], targets_ET, state)
        losses.append(loss)
    mean = torch.stack(losses).cpu().double().sum() / predictions
    return float(mean.exp())
