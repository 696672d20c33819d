"""Decoding: translations from a model, greedily or by beam search.

All sentences of a batch are searched at once on the model's device. Finished sentences are read
from the device every `CHECK` steps and removed from the batch.

Shapes: B sentences, K hypotheses of each, S source tokens, T tokens written, V subwords.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legw.apps.translation.batches import padded
from legw.apps.translation.model import BEGIN, END, GNMT, PAD, LayerState, Memory
from legw.errors import RunError, check_count, check_range

ROWS = 1280
"""Most hypotheses that are searched at once."""

TOKENS = ROWS * 100
"""Most source tokens of these hypotheses, padding included: memory grows with them. A single
sentence may have more, as sentences are never cut."""

CHECK = 8
"""Steps between two checks for finished sentences."""

FIRST_ALLOWED = END
"""First subword id that translations may have; below it are padding, unknown and begin."""

MAX_PENALTY = 10
"""Largest penalty: far above any useful one, while scores of lines of up to 40,000 tokens still
differ in single precision."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the search for translations.

    A hypothesis of n tokens, `END` among them, is worth ``log p / lp(n) + cp`` with
    ``lp(n) = ((5 + n) / 6) ** length_penalty`` and ``cp = coverage_penalty * sum over
    source tokens of log(min(attention they got, 1))``.

    Raises:
        RunError: a value is out of its range.

    Reference: Wu et al. 2016, arXiv 1609.08144, section 7, equation 14.
    """

    beam: int = 5
    """Hypotheses that are followed, 1 to 1000; 1 takes the likeliest subword each time."""
    length_penalty: float = 0.6
    """Exponent of the length that a score is divided by, 0 to 10; 0 prefers short ones."""
    coverage_penalty: float = 0.1
    """Weight of the source tokens that got too little attention, 0 to 10."""

    def __post_init__(self) -> None:
        check_count("", "beam", self.beam, most=1000, error=RunError)
        for name in ("length_penalty", "coverage_penalty"):
            check_range("", name, getattr(self, name), 0, MAX_PENALTY, closed=True, error=RunError)


@torch.no_grad()
def translate(
    model: GNMT, sentences: Sequence[Sequence[int]], search: Search | None = None
) -> list[list[int]]:
    """Return the translation of each sentence, without `END`; that of an empty one is empty.

    Args:
        model: in evaluation mode.
        sentences: subword ids, without `END`.
        search: how; None takes the likeliest subword each time.
    """
    device = model.embed.weight.device
    found: dict[int, list[int]] = {}
    for places in _chunks([len(ids) for ids in sentences], search.beam if search else 1):
        rows = [[*sentences[at], END] for at in places]
        source_BS = padded(rows).int().to(device)
        limits_B = torch.tensor([limit(len(row)) for row in rows], device=device)
        longest = limit(len(rows[0]))
        if search is None:
            written_BT = greedy(model, source_BS, limits_B, longest)
        else:
            written_BT = beam_search(model, source_BS, limits_B, longest, search)
        for at, written in zip(places, written_BT.tolist(), strict=True):
            found[at] = written[: written.index(END)] if END in written else written
    return [found.get(at, []) for at in range(len(sentences))]


def _chunks(lengths: Sequence[int], beam: int) -> Iterator[list[int]]:
    """Yield the places of the sentences that are not empty, the longest first, as many at once
    as `ROWS` and `TOKENS` allow, and one at the least.
    """
    full = [at for at, length in enumerate(lengths) if length]
    longest_first = sorted(full, key=lambda at: -lengths[at])
    begin = 0
    while begin < len(full):
        rows = min(ROWS, TOKENS // (lengths[longest_first[begin]] + 1))  # with END
        end = begin + max(rows // beam, 1)
        yield longest_first[begin:end]
        begin = end


def limit(num_tokens: int) -> int:
    """Return the most tokens of a translation of so many, `END` among both."""
    return 2 * num_tokens + 10


def greedy(model: GNMT, source_BS: Tensor, limits_B: Tensor, longest: int) -> Tensor:
    """Return the likeliest subword each time, up to `END`, then `PAD`: shape (B, T).

    Args:
        model: in evaluation mode.
        source_BS: padded subword ids.
        limits_B: most tokens of each translation; the last of them is `END`.
        longest: the largest of the limits.
    """
    memory, states = model.encode(source_BS), None
    written_BT = torch.full((len(source_BS), longest), PAD, device=source_BS.device)
    ids_B = torch.full_like(limits_B, BEGIN)
    done_B = torch.zeros_like(limits_B, dtype=torch.bool)
    places_B = torch.arange(len(limits_B), device=limits_B.device)
    for step in range(1, longest + 1):
        hidden_TBH, _, states = model.decode(ids_B[:, None], memory, states)
        logits_BV = model.classify(hidden_TBH[0])
        logits_BV[:, :FIRST_ALLOWED] = -math.inf
        ids_B = torch.where(limits_B == step, END, logits_BV.argmax(1)).masked_fill(done_B, PAD)
        done_B = done_B | (ids_B == END)
        written_BT[places_B, step - 1] = ids_B
        if step % CHECK == 0:
            left_B = (~done_B).nonzero()[:, 0]
            if not len(left_B):
                break
            if len(left_B) < len(places_B):
                memory, states = _narrowed(memory, states, left_B)
                ids_B, done_B, limits_B, places_B = (
                    each[left_B] for each in (ids_B, done_B, limits_B, places_B)
                )
    return written_BT


def beam_search(
    model: GNMT, source_BS: Tensor, limits_B: Tensor, longest: int, search: Search
) -> Tensor:
    """Return the best hypothesis that was found of each sentence, with `END`: shape (B, T).

    Each step ranks all continuations of the hypotheses by probability. Those among the
    first K that end are finished and make room for the next that do not, so that K are
    always followed; a sentence is done when K hypotheses have finished, or at its limit,
    where all that are left end. The finished are compared by their score.

    Args and shape as for `greedy`; the rest of a row is `PAD`.
    """
    best_BT = torch.full((len(source_BS), longest), PAD, device=source_BS.device)
    places_B = torch.arange(len(source_BS), device=source_BS.device)
    beams = _Beams(model, source_BS, limits_B, longest, search)
    for step in range(1, longest + 1):
        beams.advance(step)
        if step % CHECK == 0 or step == longest:
            best_BT[places_B] = beams.best_BT
            left_B = (~beams.done_B).nonzero()[:, 0]
            if not len(left_B):
                break
            if len(left_B) < len(places_B):
                beams.keep(left_B)
                places_B = places_B[left_B]
    return best_BT


class _Beams:
    """The hypotheses of a batch of sentences: those that are followed, and the best that ended."""

    def __init__(
        self, model: GNMT, source_BS: Tensor, limits_B: Tensor, longest: int, search: Search
    ) -> None:
        count, beam = len(source_BS), search.beam
        device = source_BS.device
        self.model, self.search, self.limits_B = model, search, limits_B
        self.memory = _repeated(model.encode(source_BS), beam)
        self.states: list[LayerState] | None = None
        self.logs_BK = torch.full((count, beam), -math.inf, device=device)
        self.logs_BK[:, 0] = 0.0  # all begin alike: one is enough
        self.written_BKT = torch.full((count, beam, 1), BEGIN, device=device)
        self.covered_BKS = torch.zeros(count, beam, source_BS.shape[1], device=device)
        self.padding_B1S = (source_BS == PAD)[:, None]
        self.finished_B = torch.zeros_like(limits_B)
        self.done_B = torch.zeros_like(limits_B, dtype=torch.bool)
        self.best_B = torch.full((count,), -math.inf, device=device)
        self.best_BT = torch.full((count, longest), PAD, device=device)
        self.first_row_B1 = torch.arange(count, device=device)[:, None] * beam

    def keep(self, left_B: Tensor) -> None:
        """Keep only these sentences."""
        assert self.states is not None
        beam = self.search.beam
        rows_R = (left_B[:, None] * beam + torch.arange(beam, device=left_B.device)).flatten()
        self.memory, self.states = _narrowed(self.memory, self.states, rows_R)
        width = self.memory.padding_BS.shape[1]
        self.limits_B, self.logs_BK = self.limits_B[left_B], self.logs_BK[left_B]
        self.written_BKT = self.written_BKT[left_B]
        self.covered_BKS = self.covered_BKS[left_B, :, :width]
        self.padding_B1S = self.padding_B1S[left_B, :, :width]
        self.finished_B, self.done_B = self.finished_B[left_B], self.done_B[left_B]
        self.best_B, self.best_BT = self.best_B[left_B], self.best_BT[left_B]
        self.first_row_B1 = self.first_row_B1[: len(left_B)]

    def advance(self, step: int) -> None:
        """Make every hypothesis longer by one token; `step` is its length then."""
        beam = self.search.beam
        logs_BKV = self._continued()
        at_limit_B = self.limits_B == step
        others_V = torch.arange(logs_BKV.shape[2], device=logs_BKV.device) != END
        logs_BKV = logs_BKV.masked_fill(at_limit_B[:, None, None] & others_V, -math.inf)
        ranked = logs_BKV.flatten(1).topk(min(2 * beam, logs_BKV[0].numel()))
        logs_BC, parents_BC = ranked.values, ranked.indices // len(others_V)
        tokens_BC = ranked.indices % len(others_V)
        ends_BC = tokens_BC == END
        counts_BC = ends_BC & (logs_BC > -math.inf) & ~self.done_B[:, None]
        counts_BC[:, beam:] = False
        self._finish(logs_BC, parents_BC, counts_BC, step)
        self.finished_B = self.finished_B + counts_BC.sum(1)
        self.done_B = self.done_B | (self.finished_B >= beam) | at_limit_B
        self._follow(logs_BC.masked_fill(ends_BC, -math.inf), parents_BC, tokens_BC)

    def _continued(self) -> Tensor:
        """Return the log-probability of every hypothesis with every next token, (B, K, V)."""
        last_R1 = self.written_BKT[:, :, -1].reshape(-1, 1)
        hidden_TRH, weights_TRS, self.states = self.model.decode(last_R1, self.memory, self.states)
        logs_RV = self.model.classify(hidden_TRH[0]).log_softmax(1)
        logs_RV[:, :FIRST_ALLOWED] = -math.inf
        self.covered_BKS = self.covered_BKS + weights_TRS[0].view_as(self.covered_BKS)
        logs_BKV: Tensor = self.logs_BK[:, :, None] + logs_RV.view(*self.logs_BK.shape, -1)
        return logs_BKV

    def _finish(self, logs_BC: Tensor, parents_BC: Tensor, counts_BC: Tensor, length: int) -> None:
        """Keep the best of the hypotheses that end here, if it is better than all before."""
        covered_BKS = self.covered_BKS.clamp(1e-30, 1.0).masked_fill(self.padding_B1S, 1.0)
        coverage_BK = self.search.coverage_penalty * covered_BKS.log().sum(-1)
        divisor = ((5 + length) / 6) ** self.search.length_penalty
        scores_BC = logs_BC / divisor + coverage_BK.gather(1, parents_BC)
        score_B, place_B = scores_BC.masked_fill(~counts_BC, -math.inf).max(1)
        better_B1 = (score_B > self.best_B)[:, None]
        rows_B = self.first_row_B1[:, 0] + parents_BC.gather(1, place_B[:, None])[:, 0]
        text_BT = self.written_BKT.flatten(0, 1).index_select(0, rows_B)[:, 1:]
        self.best_B = torch.maximum(score_B, self.best_B)
        self.best_BT[:, : length - 1] = torch.where(
            better_B1, text_BT, self.best_BT[:, : length - 1]
        )
        self.best_BT[:, length - 1 : length] = torch.where(better_B1, END, PAD)

    def _follow(self, logs_BC: Tensor, parents_BC: Tensor, tokens_BC: Tensor) -> None:
        """Go on with the likeliest hypotheses that have not ended."""
        self.logs_BK, places_BK = logs_BC.topk(self.search.beam)
        parents_BK, tokens_BK = parents_BC.gather(1, places_BK), tokens_BC.gather(1, places_BK)
        rows_R = (self.first_row_B1 + parents_BK).flatten()
        assert self.states is not None
        self.states = [
            (h.index_select(1, rows_R), c.index_select(1, rows_R)) for h, c in self.states
        ]
        self.covered_BKS = _rows(self.covered_BKS, rows_R)
        self.written_BKT = torch.cat(
            [_rows(self.written_BKT, rows_R), tokens_BK[:, :, None]], dim=2
        )


def _narrowed(
    memory: Memory, states: Sequence[LayerState], rows_R: Tensor
) -> tuple[Memory, list[LayerState]]:
    """Return these rows of all tensors, without the source's padding that is common to them."""
    padding_RS = memory.padding_BS[rows_R]
    width = int((~padding_RS).sum(1).max())
    kept = Memory(
        memory.outputs_BSH[rows_R, :width], memory.keys_BSH[rows_R, :width], padding_RS[:, :width]
    )
    return kept, [(h[:, rows_R], c[:, rows_R]) for h, c in states]


def _rows(each_BKX: Tensor, rows_R: Tensor) -> Tensor:
    return each_BKX.flatten(0, 1).index_select(0, rows_R).view_as(each_BKX)


def _repeated(memory: Memory, times: int) -> Memory:
    return Memory(*(each.repeat_interleave(times, 0) for each in memory))
