"""Transformer: a decoder of pre-norm blocks over a window of tokens; its perplexity on a text.

Shapes: B windows, T tokens of a window, D width, A attention heads, K = D / A, V tokens of the
vocabulary, P positions that are predicted, W evaluation windows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from legw.apps.softmax import IGNORED, summed_loss
from legw.train.dropout import SeededDropout
from legw.train.task import State

INIT = 0.02
"""Standard deviation of the initial weights, as in GPT-2."""

ROTARY_BASE = 10_000.0
"""Ratio of the slowest to the fastest rotation, nearly (Su et al. 2021, section 3.2.2)."""

EVALUATION_WINDOWS = 64
"""Windows per forward pass of an evaluation."""


class Rotary(nn.Module):
    """Rotary positions: each pair of a head's numbers is turned by an angle that grows with time.

    The product of a query and a key then depends on the distance between their tokens alone. There
    is nothing to learn, and what is learned at one place of a window holds at every other.

    Args:
        head_width: numbers of a head, even.
        window: most tokens, at least 1.

    Reference: Su et al. 2021, arXiv 2104.09864, section 3.2.2.
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, head_width: int, window: int) -> None:
        super().__init__()
        pairs = head_width // 2
        rates = ROTARY_BASE ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        angles_TK = (torch.arange(window, dtype=torch.float64)[:, None] * rates).repeat(1, 2)
        kept = torch.get_default_dtype()
        self.register_buffer("cos_TK", angles_TK.cos().to(kept), persistent=False)
        self.register_buffer("sin_TK", angles_TK.sin().to(kept), persistent=False)

    def forward(self, values_BATK: Tensor) -> Tensor:
        """Return queries or keys, turned; number k is paired with number ``k + K/2``."""
        length = values_BATK.shape[2]
        one, other = values_BATK.chunk(2, dim=3)
        across_BATK = torch.cat((-other, one), dim=3)
        turned = values_BATK * self.cos_TK[:length] + across_BATK * self.sin_TK[:length]
        return turned.to(values_BATK.dtype)  # under autocast the values are in half precision


class Attention(nn.Module):
    """Causal self-attention: each token reads those before it, and itself.

    Query, key and value are layers of their own, so that Muon makes each orthogonal by itself.
    Attention weights are not dropped: the kernels draw from a generator that cannot be seeded.

    Args:
        width: D.
        num_heads: a divisor of the width.
        window: most tokens, at least 1.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.rotary = Rotary(width // num_heads, window)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        query_BATK, key_BATK, value_BATK = (
            layer(hidden_BTD).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found_BATK = functional.scaled_dot_product_attention(
            self.rotary(query_BATK), self.rotary(key_BATK), value_BATK, is_causal=True
        )
        read_BTD: Tensor = self.out(found_BATK.transpose(1, 2).flatten(2))
        return read_BTD


class Block(nn.Module):
    """Pre-norm block: ``x += attention(norm(x))``, then ``x += mlp(norm(x))``.

    Args:
        width: D; the hidden layer of the MLP is four times as wide.
        num_heads: a divisor of the width.
        window: most tokens, at least 1.
        dropout: share of what each half adds that is dropped in training, in [0, 1].

    Reference: Xiong et al. 2020, arXiv 2002.04745, section 3.2.
    """

    def __init__(self, width: int, num_heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, num_heads, window)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)
        self.drop = SeededDropout(dropout)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_BTD = hidden_BTD + self.drop(self.attention(self.attention_norm(hidden_BTD)))
        inner_BTI = functional.gelu(self.widen(self.mlp_norm(hidden_BTD)))
        after_BTD: Tensor = hidden_BTD + self.drop(self.narrow(inner_BTI))
        return after_BTD


class GPT(nn.Module):
    """Predicts each next token of a window: embedding, blocks, norm, softmax.

    The output layer is tied to the embedding: one table of weights serves both, so that a small
    text has half as many to teach. Dropout is applied to the embedding and to what each half of a
    block adds. Weights start normal with deviation 0.02; those that write into the sum over blocks
    are smaller by ``sqrt(2*num_layers)``. Linear layers and norms have no biases, the output has.

    Args:
        num_tokens: size of the vocabulary.
        width: of embedding and blocks, a multiple of twice the number of heads.
        num_layers: blocks, at least 1.
        num_heads: attention heads of each block.
        window: most tokens that are read at once, at least 2.
        dropout: share of numbers dropped in training, in [0, 1].

    Reference: Radford et al. 2019, "Language models are unsupervised multitask learners",
    section 2.3; tied weights: Press and Wolf 2016, arXiv 1608.05859.
    """

    def __init__(
        self,
        num_tokens: int,
        width: int,
        *,
        num_layers: int,
        num_heads: int,
        window: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.embed = nn.Embedding(num_tokens, width)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, window, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width, bias=False)
        self.decode = nn.Linear(width, num_tokens)
        self.decode.weight = self.embed.weight
        self.drop = SeededDropout(dropout)
        self._initialise(num_layers)

    def _initialise(self, num_layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("attention.out.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=INIT / math.sqrt(2 * num_layers if writes else 1))
        nn.init.zeros_(self.decode.bias)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of the targets.

        Args:
            inputs_BT: token ids, integers of shape (B, T), T at most `window`.
            targets_BT: the tokens after them, or after the last few of them, int64 of shape (B, T)
                or (B, S) with S below T; `IGNORED` does not count.
        """
        hidden_BTD = self._read(inputs_BT)[:, -targets_BT.shape[1] :]
        weight_VD, bias_V = self.decode.weight, self.decode.bias
        return summed_loss(hidden_BTD.flatten(0, 1), weight_VD, bias_V, targets_BT.flatten())

    def predict(self, ids_BT: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits of the token after the last one, shape (B, V), and the state.

        Args:
            ids_BT: token ids, integers of shape (B, T), at least one.
            state: the tokens before them; None is nothing. The last `window` tokens are read.
        """
        past_BT = ids_BT if state is None else torch.cat((state[0], ids_BT), dim=1)
        past_BT = past_BT[:, -self.window :]
        logits_BV: Tensor = self.decode(self._read(past_BT)[:, -1])
        return logits_BV, (past_BT,)

    def _read(self, ids_BT: Tensor) -> Tensor:
        hidden_BTD = self.drop(self.embed(ids_BT))
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        normed_BTD: Tensor = self.norm(hidden_BTD)
        return normed_BTD


def windows_of(text: Tensor, starts_B: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of windows that begin at these places of a text.

    Args:
        text: ids of shape (tokens,), at least 2.
        starts_B: places, int64, each from 0 to ``tokens - 2``, on the text's device.
        window: T.

    Returns:
        Inputs, and targets, int64, each of shape (B, T). Past the end of the text inputs repeat
        and targets are `IGNORED`.
    """
    at_BT = starts_B[:, None] + torch.arange(window, device=text.device)
    past_BT = at_BT > len(text) - 2
    at_BT = at_BT.clamp_(max=len(text) - 2)
    return text[at_BT], text[at_BT + 1].long().masked_fill(past_BT, IGNORED)


@torch.no_grad()
def summed_text_loss(model: nn.Module, text: Tensor, window: int) -> float:
    """Return the loss of a text, summed over all tokens but the first.

    The text is read in windows that overlap by half. Of each but the first only the second half is
    scored, so that every token counts once, and has at least half a window before it.

    Args:
        model: a `GPT`, in evaluation mode.
        text: ids of shape (tokens,), at least 2, on the model's device.
        window: tokens of a window, at least 2.
    """
    stride = window // 2
    starts_W = torch.arange(0, max(len(text) - 1 - (window - stride), 1), stride).to(text.device)
    others = torch.split(starts_W[1:], EVALUATION_WINDOWS) if len(starts_W) > 1 else ()
    losses: list[Tensor] = []
    for starts_B in (starts_W[:1], *others):
        inputs_BT, targets_BT = windows_of(text, starts_B, window)
        scored_BS = targets_BT if not losses else targets_BT[:, window - stride :]
        losses.append(model(inputs_BT, scored_BS))
    return float(torch.stack(losses).cpu().double().sum())


def perplexity_of(loss: float, tokens: int) -> float:
    """Return the perplexity of a text: exp of the loss over all tokens but the first.

    Args:
        loss: summed over all tokens but the first.
        tokens: of the text, at least 2: or its words, for the perplexity of a word.

    >>> perplexity_of(0.0, 7), perplexity_of(1e6, 2)
    (1.0, inf)
    """
    return float(torch.tensor(loss / (tokens - 1), dtype=torch.float64).exp())
