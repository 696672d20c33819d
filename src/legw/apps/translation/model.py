"""GNMT model: two stacks of LSTM layers with attention between them.

Shapes: B sentence pairs, S source tokens, T target tokens, H units, V subwords, N target
tokens that count, of all pairs. Padding is `PAD` and always on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from legw.apps.softmax import summed_loss
from legw.apps.translation.attention_scores import additive_scores
from legw.train.dropout import SeededDropout

PAD, UNKNOWN, BEGIN, END = range(4)
"""Ids of the special subwords, which stand for no text."""

LayerState = tuple[Tensor, Tensor]
"""The state of an LSTM layer, (h, c), each of shape (1, B, H)."""


class Memory(NamedTuple):
    """Input of the decoder's attention: the encoded source sentences."""

    outputs_BSH: Tensor
    keys_BSH: Tensor
    padding_BS: Tensor
    """True where there is no source token."""


class Attention(nn.Module):
    """Normed additive attention: ``score = g * v/|v| . tanh(W query + U output + b)``.

    The scale g starts at 1. TensorFlow NMT starts at 1/sqrt(H), where no score is above 1 and all
    tokens get about the same weight. Adam changes a single number by at most its learning rate an
    update, so a short run would spend most of its updates on this number.

    Reference: Bahdanau, Cho, Bengio 2014, arXiv 1409.0473, appendix A.1.2; normed with
    Salimans and Kingma 2016, arXiv 1602.07868, as in TensorFlow NMT.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.direction = nn.Parameter(torch.empty(hidden_size))
        self.scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(hidden_size))

    def remember(self, outputs_SBH: Tensor, padding_BS: Tensor) -> Memory:
        """Return the attention's keys of the encoder's outputs."""
        outputs_BSH = outputs_SBH.transpose(0, 1).contiguous()
        return Memory(outputs_BSH, self.key(outputs_BSH) + self.bias, padding_BS)

    def forward(self, hidden_TBH: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the contexts, shape (T, B, H), and the weights, shape (T, B, S)."""
        query_TBH = self.query(hidden_TBH)
        direction_H = self.scale * self.direction / self.direction.norm()
        scores_TBS = additive_scores(query_TBH, memory.keys_BSH, direction_H)
        scores_TBS = scores_TBS.masked_fill(memory.padding_BS, float("-inf"))
        weights_TBS = scores_TBS.softmax(-1)
        context_BTH = torch.bmm(
            weights_TBS.transpose(0, 1).to(memory.outputs_BSH.dtype), memory.outputs_BSH
        )
        return context_BTH.transpose(0, 1), weights_TBS


class GNMT(nn.Module):
    """Translates: an encoder and a decoder of as many layers, one table of subwords.

    The first layer of the encoder reads in both directions; from the third layer of each
    stack on, a layer's input is added to its output. The first layer of the decoder queries the
    attention, and the attention's context is joined to the input of every layer above it. So each
    layer runs over the whole sentence in one call. TensorFlow NMT feeds the last step's context
    into the first layer, which would not allow this. Dropout is
    applied to the input of every layer.

    Args:
        num_subwords: of both languages together.
        hidden_size: width of the table and of each layer.
        num_layers: of the encoder and of the decoder each, at least 2.
        dropout: share of units dropped in training, in [0, 1].
        smoothing: share of the probability that training spreads evenly over all
            subwords, in [0, 1].
        init: half-width of the initial weights' range, above 0.
        table_init: the same of the table of subwords.

    Forget gates start with a bias of 1, as TensorFlow NMT's do.

    Reference: Wu et al. 2016, arXiv 1609.08144, section 3; the attention as in
    TensorFlow NMT's `gnmt_v2`; label smoothing: Szegedy et al. 2015, arXiv 1512.00567,
    section 7.
    """

    def __init__(
        self,
        num_subwords: int,
        hidden_size: int,
        *,
        num_layers: int,
        dropout: float = 0.0,
        smoothing: float = 0.0,
        init: float = 0.1,
        table_init: float = 0.1,
    ) -> None:
        super().__init__()
        upper = range(1, num_layers)
        self.embed = nn.Embedding(num_subwords, hidden_size)
        self.onward = nn.LSTM(hidden_size, hidden_size)
        self.backward_ = nn.LSTM(hidden_size, hidden_size)
        self.encoder = nn.ModuleList(
            nn.LSTM(2 * hidden_size if index == 1 else hidden_size, hidden_size) for index in upper
        )
        self.first = nn.LSTM(hidden_size, hidden_size)
        self.attention = Attention(hidden_size)
        self.decoder = nn.ModuleList(nn.LSTM(2 * hidden_size, hidden_size) for _ in upper)
        self.classify = nn.Linear(hidden_size, num_subwords)
        self.drop = SeededDropout(dropout)
        self.smoothing = smoothing
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init)
        nn.init.uniform_(self.embed.weight, -table_init, table_init)
        nn.init.ones_(self.attention.scale)
        nn.init.zeros_(self.attention.bias)
        forget = slice(hidden_size, 2 * hidden_size)  # gates: input, forget, cell, output
        for layer in self.modules():
            if isinstance(layer, nn.LSTM):
                nn.init.ones_(layer.get_parameter("bias_ih_l0")[forget])
                nn.init.zeros_(layer.get_parameter("bias_hh_l0")[forget])

    def forward(self, source_BS: Tensor, target_BT: Tensor, counted_N: Tensor) -> Tensor:
        """Return the summed loss of the targets, each predicted from those before it.

        Args:
            source_BS: subword ids, integers of shape (B, S), padded.
            target_BT: int64 of shape (B, T): `BEGIN`, the sentence, `END`, padding.
            counted_N: places of the targets that count, in the (T - 1, B) grid of all that
                are predicted, flattened: int64 of shape (N,). The loop that has the
                sentences' lengths at hand knows them; a GPU would have to be waited for.
        """
        hidden_TBH, _, _ = self.decode(target_BT[:, :-1], self.encode(source_BS))
        hidden_NH = hidden_TBH.flatten(0, 1).index_select(0, counted_N)
        targets_N = target_BT[:, 1:].t().reshape(-1).index_select(0, counted_N)
        return summed_loss(
            hidden_NH,
            self.classify.weight,
            self.classify.bias,
            targets_N,
            smoothing=self.smoothing if self.training else 0.0,
        )

    def encode(self, source_BS: Tensor) -> Memory:
        """Return the encoded sentences."""
        padding_BS = source_BS == PAD
        mirror_SB = _mirror(padding_BS)
        hidden_SBH = self.drop(self.embed(source_BS.t()))
        onward_SBH, _ = self.onward(hidden_SBH)
        backward_SBH, _ = self.backward_(_reordered(hidden_SBH, mirror_SB))
        hidden_SBH = torch.cat([onward_SBH, _reordered(backward_SBH, mirror_SB)], -1)
        for index, layer in enumerate(self.encoder):
            output_SBH, _ = layer(self.drop(hidden_SBH))
            hidden_SBH = output_SBH + hidden_SBH if index else output_SBH
        return self.attention.remember(hidden_SBH, padding_BS)

    def decode(
        self, target_BT: Tensor, memory: Memory, before: Sequence[LayerState] | None = None
    ) -> tuple[Tensor, Tensor, list[LayerState]]:
        """Return the last layer's outputs, the attention's weights, and the state after.

        Args:
            target_BT: subword ids, int64 of shape (B, T).
            memory: of the same B sentences.
            before: of each layer; None is zero.

        Returns:
            (T, B, H), (T, B, S), and a state for each layer.
        """
        states: Sequence[LayerState | None] = before or [None] * (1 + len(self.decoder))
        query_TBH, state = self.first(self.drop(self.embed(target_BT.t())), states[0])
        context_TBH, weights_TBS = self.attention(query_TBH, memory)
        hidden_TBH, after = query_TBH, [state]
        for index, layer in enumerate(self.decoder):
            joined_TBH = torch.cat([hidden_TBH, context_TBH], -1)
            output_TBH, state = layer(self.drop(joined_TBH), states[1 + index])
            hidden_TBH = output_TBH + hidden_TBH if index else output_TBH
            after.append(state)
        return hidden_TBH, weights_TBS, after


def _mirror(padding_BS: Tensor) -> Tensor:
    """Return each token's position in the reversed sentence; padding keeps its place."""
    lengths_B1 = (~padding_BS).sum(1, keepdim=True)
    at_S = torch.arange(padding_BS.shape[1], device=padding_BS.device)
    mirror_BS = lengths_B1 - 1 - at_S
    return torch.where(mirror_BS < 0, at_S, mirror_BS).t().contiguous()


def _reordered(hidden_SBH: Tensor, at_SB: Tensor) -> Tensor:
    return hidden_SBH.gather(0, at_SB[:, :, None].expand_as(hidden_SBH))
