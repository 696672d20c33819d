"""Translation: the model's equations, padding, decoding, order, texts, scores.

Shapes: B sentence pairs, S source tokens, T target tokens, H units, V subwords.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from expect import error_line
from legw.apps.translation import SIZES
from legw.apps.translation.batches import Batch, Pairs, padded
from legw.apps.translation.decoding import Search, _narrowed, translate
from legw.apps.translation.model import BEGIN, END, GNMT, PAD, Memory
from legw.apps.translation.perplexity import perplexity
from legw.errors import RunError
from legw.train.precision import autocast

SOURCE = [[4, 5, 6], [7], [6, 6, 4, 5, 7, 8], [5, 9]]
TARGET = [[9, 8, 8, 4, 5], [5, 4], [6], [7, 9, 4]]
CPU = torch.device("cpu")


@pytest.fixture
def double() -> Iterator[None]:
    """Let models be built in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small_model(*, num_subwords: int = 10, init: float = 0.8, **changes: Any) -> GNMT:
    """Return a model whose words depend much on what it reads."""
    torch.manual_seed(0)
    return GNMT(num_subwords, 6, **({"num_layers": 4, "init": init} | changes)).eval()


def batch() -> Batch:
    """Return four pairs of different lengths."""
    return Pairs(SOURCE, TARGET).batch(torch.arange(4), CPU)


# The model ------------------------------------------------------------------------------


def cell(layer: Any, x_H: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (h, c) of one step of an LSTM layer, by its equations."""
    h_H, c_H = state
    gates = layer.weight_ih_l0 @ x_H + layer.bias_ih_l0 + layer.weight_hh_l0 @ h_H
    i, f, g, o = (gates + layer.bias_hh_l0).chunk(4)
    c_H = f.sigmoid() * c_H + i.sigmoid() * g.tanh()
    return o.sigmoid() * c_H.tanh(), c_H


def read(layer: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs of an LSTM layer, one token after the other."""
    state, outputs = (torch.zeros(6), torch.zeros(6)), []
    for x_H in inputs:
        state = cell(layer, x_H, state)
        outputs.append(state[0])
    return outputs


def reference_losses(model: Any, source: list[int], target: list[int]) -> list[Tensor]:
    """Return the loss of each target token, by Wu et al. 2016, section 3, step by step."""
    words = [model.embed.weight[number] for number in [*source, END]]
    backward = read(model.backward_, words[::-1])[::-1]
    encoded = [torch.cat(pair) for pair in zip(read(model.onward, words), backward, strict=True)]
    for index, layer in enumerate(model.encoder):
        outputs = read(layer, encoded)
        if index:
            outputs = [out + x for out, x in zip(outputs, encoded, strict=True)]
        encoded = outputs
    attention = model.attention
    direction = attention.scale * attention.direction / attention.direction.norm()
    states = [(torch.zeros(6), torch.zeros(6))] * (1 + len(model.decoder))
    losses = []
    for before, after in itertools.pairwise([BEGIN, *target, END]):
        states[0] = cell(model.first, model.embed.weight[before], states[0])
        hidden = query = states[0][0]
        scores = [
            direction
            @ (attention.query.weight @ query + attention.key.weight @ out + attention.bias).tanh()
            for out in encoded
        ]
        shares = torch.stack(scores).softmax(0)
        context = sum(share * out for share, out in zip(shares, encoded, strict=True))
        for index, layer in enumerate(model.decoder):
            joined = torch.cat([hidden, context])
            states[1 + index] = cell(layer, joined, states[1 + index])
            output = states[1 + index][0]
            hidden = output + hidden if index else output
        logits = model.classify.weight @ hidden + model.classify.bias
        losses.append(-logits.log_softmax(0)[after])
    return losses


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("num_layers", [2, 4])
def test_loss_and_gradient_are_those_of_a_step_by_step_reference(num_layers: int) -> None:
    model = small_model(num_layers=num_layers)
    parts = [reference_losses(model, *pair) for pair in zip(SOURCE, TARGET, strict=True)]
    expected = torch.stack([loss for losses in parts for loss in losses]).sum()
    found = model(*batch())
    assert_close(found, expected)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(found, list(parameters.values()))
    theirs = torch.autograd.grad(expected, list(parameters.values()))
    for name, one, other in zip(parameters, ours, theirs, strict=True):
        assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
        assert one.abs().max() > 0, name


def logits_of(model: GNMT, pairs: Batch) -> Tensor:
    """Return the logits of every target token, shape (T, B, V)."""
    hidden_TBH, _, _ = model.decode(pairs.target_BT[:, :-1], model.encode(pairs.source_BS))
    return model.classify(hidden_TBH)


def test_padding_changes_nothing() -> None:
    """The same sentence alone and among longer ones: the same logits to 1e-5."""
    model = GNMT(50, 64, num_layers=4).eval()
    torch.manual_seed(1)
    lengths = [(3, 40), (17, 2), (40, 1), (1, 5), (25, 25)]
    source, target = (
        [torch.randint(4, 50, (pair[side],)).tolist() for pair in lengths] for side in (0, 1)
    )
    together = logits_of(model, Pairs(source, target).batch(torch.arange(5), CPU))
    for at, (_, tokens) in enumerate(lengths):
        alone = logits_of(model, Pairs(source, target).batch(torch.tensor([at]), CPU))
        assert_close(together[: tokens + 1, at], alone[:, 0], rtol=0, atol=1e-5)


def test_padding_would_be_noticed() -> None:
    """The test above fails for a model that looks at padding."""
    model = small_model()
    source_BS = padded([[4, 5, END], [4, 5, 6, 7, END]]).int()
    blind = model.encode(source_BS)
    looking = Memory(blind.outputs_BSH, blind.keys_BSH, torch.zeros_like(blind.padding_BS))
    target_BT = torch.tensor([[BEGIN, 4], [BEGIN, 4]])
    one, other = (model.decode(target_BT, memory)[0] for memory in (blind, looking))
    assert_close(one[:, 1], other[:, 1])
    assert (one[:, 0] - other[:, 0]).abs().max() > 1e-3


@pytest.mark.usefixtures("double")
def test_attention_looks_at_the_source_alone() -> None:
    model = small_model()
    _, weights_TBS, _ = model.decode(batch().target_BT, model.encode(batch().source_BS))
    lengths = [len(ids) + 1 for ids in SOURCE]
    for at, length in enumerate(lengths):
        assert_close(weights_TBS[:, at, :length].sum(-1), torch.ones(len(weights_TBS)))
        assert weights_TBS[:, at, :length].min() > 0
        assert (weights_TBS[:, at, length:] == 0).all()


@pytest.mark.usefixtures("double")
def test_smoothing_is_torchs_and_for_training_alone() -> None:
    model = small_model(smoothing=0.1)
    logits_NV = logits_of(model, batch()).flatten(0, 1)[batch().counted_N]
    targets_N = batch().target_BT[:, 1:].t().flatten()[batch().counted_N]
    for training, smoothing in ((True, 0.1), (False, 0.0)):
        expected = functional.cross_entropy(
            logits_NV, targets_N, reduction="sum", label_smoothing=smoothing
        )
        assert_close(model.train(training)(*batch()), expected)


def test_dropout_works_in_training_alone() -> None:
    model, plain = small_model(dropout=0.5), small_model()
    assert_close(model(*batch()), plain(*batch()))
    one, other = (float(model.train()(*batch()).detach()) for _ in range(2))
    assert one != other


MILLIONS = {"gnmt": 160, "gnmt-small": 5.34}


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name: str) -> None:
    """160 million for the full size with its 32,000 subwords, as MLPerf's has."""
    size = SIZES[name]
    with torch.device("meta"):
        count = sum(p.numel() for p in size.model(size.num_subwords).parameters())
    h, v, layers = size.hidden_size, size.num_subwords, size.num_layers

    def lstm(inputs: int) -> int:
        return 4 * h * (inputs + h) + 2 * 4 * h

    encoder = 2 * lstm(h) + lstm(2 * h) + (layers - 2) * lstm(h)
    decoder = lstm(h) + (layers - 1) * lstm(2 * h)
    attention = 2 * h * h + h + 1 + h
    assert count == v * h + encoder + attention + decoder + h * v + v
    assert count / 1e6 == pytest.approx(MILLIONS[name.removesuffix("-muon")], rel=2e-3)


def loss_and_gradient(model: GNMT, *, bf16: bool = False) -> tuple[Tensor, Tensor]:
    """Return the loss, and its gradient as one vector."""
    with autocast("cpu", "bf16" if bf16 else "fp32"):
        loss = model(*batch())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def test_bf16_is_near() -> None:
    """Nearer than a model of which a small part is wrong."""

    def distances(other: GNMT, **how: bool) -> tuple[float, float]:
        loss, gradient = loss_and_gradient(small_model(init=1.5, table_init=1.5))
        found, found_gradient = loss_and_gradient(other, **how)
        assert found.dtype == torch.float32
        return abs(float(found / loss) - 1), float(
            (found_gradient - gradient).norm() / gradient.norm()
        )

    model = small_model(init=1.5, table_init=1.5)
    in_loss, in_gradient = distances(model, bf16=True)
    assert in_loss < 2e-3
    assert in_gradient < 0.02
    for spoil in (
        lambda model: model.attention.direction.neg_(),
        lambda model: model.first.bias_ih_l0[6:12].zero_(),  # its forget gates
    ):
        wrong = small_model(init=1.5, table_init=1.5)
        with torch.no_grad():
            spoil(wrong)
        in_loss, in_gradient = distances(wrong)
        assert in_loss > 2e-3
        assert in_gradient > 0.05


# Decoding -------------------------------------------------------------------------------


@torch.no_grad()
def scored(model: GNMT, source: list[int], written: list[int], search: Search) -> float:
    """Return what a finished hypothesis is worth, by Wu et al. 2016, equation 14."""
    tokens = [*written, END]
    memory = model.encode(torch.tensor([[*source, END]]))
    hidden, weights_TBS, _ = model.decode(torch.tensor([[BEGIN, *written]]), memory)
    logs_TV = model.classify(hidden[:, 0]).log_softmax(-1)
    log = float(logs_TV[torch.arange(len(tokens)), tokens].sum())
    coverage = float(weights_TBS[:, 0].sum(0).clamp(max=1).log().sum())
    length = ((5 + len(tokens)) / 6) ** search.length_penalty
    return log / length + search.coverage_penalty * coverage


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.ci) for seed in (1, 2, 3))]
)
@pytest.mark.parametrize(
    ("length_penalty", "coverage_penalty"), [(0, 0), (0.6, 0), (0.6, 0.1), (2, 0), (1, 1.5)]
)
def test_a_wide_beam_is_brute_force(
    seed: int, length_penalty: float, coverage_penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all texts of up to three of three words, `END` after them."""
    monkeypatch.setattr("legw.apps.translation.decoding.limit", lambda tokens: 4)
    torch.manual_seed(seed)
    model = GNMT(7, 6, num_layers=3, init=1.5).eval()
    search = Search(beam=60, length_penalty=length_penalty, coverage_penalty=coverage_penalty)
    words = (4, 5, 6)
    texts = [list(text) for n in range(4) for text in itertools.product(words, repeat=n)]
    assert len(texts) == 40
    sources = [[4, 5, 6], [5], [6, 6, 4, 5]]
    for source, found in zip(sources, translate(model, sources, search), strict=True):
        worth = [scored(model, source, text, search) for text in texts]
        best = texts[worth.index(max(worth))]
        assert found == best or scored(model, source, found, search) == pytest.approx(max(worth))


def random_sources(count: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 9, (count,), generator=generator).tolist()
    return [torch.randint(4, 10, (n,), generator=generator).tolist() for n in lengths]


def wordy_model(*, seed: int = 11, end: float = 1.0) -> GNMT:
    """Return a model whose translations have many lengths, whatever those of the sources."""
    torch.manual_seed(seed)
    model = GNMT(10, 6, num_layers=2, init=2.0, table_init=4.0).eval()
    with torch.no_grad():
        model.classify.bias[END] += end
    return model


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("search", [None, Search(beam=3, coverage_penalty=1.0)])
def test_a_wordy_model_is_one(search: Search | None) -> None:
    """Or the tests that use it would see the longest sources end last, in order."""
    sources = sorted(filter(None, random_sources()), key=len, reverse=True)
    lengths = [len(text) for text in translate(wordy_model(), sources, search)]
    assert len(set(lengths)) > 10
    assert sum(one < other for one, other in itertools.pairwise(lengths)) > 10


@torch.no_grad()
def followed(model: GNMT, source: list[int], texts: list[list[int]]) -> list[list[float]]:
    """Return the log-probability of every next token after each of the texts, all as long."""
    memory = model.encode(torch.tensor([[*source, END]] * len(texts)))
    hidden, _, _ = model.decode(torch.tensor([[BEGIN, *text] for text in texts]), memory)
    return [row.tolist() for row in model.classify(hidden[-1]).log_softmax(-1)]


def plain_beam_search(model: GNMT, source: list[int], search: Search) -> list[int]:
    """Return the best translation of one sentence.

    Each step ranks all live hypotheses with every next token by log-probability. Of the
    first K those with `END` have finished; the first K without it live on. It is over when
    K have finished, or at 2n + 10 tokens, where only `END` may follow.
    """
    most = 2 * (len(source) + 1) + 10
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[list[int]] = []
    for length in range(1, most + 1):
        allowed = [END] if length == most else range(END, len(model.embed.weight))
        nexts = followed(model, source, [text for _, text in live])
        ranked = sorted(
            (
                (log + logs[token], [*text, token])
                for (log, text), logs in zip(live, nexts, strict=True)
                for token in allowed
            ),
            reverse=True,
        )
        finished += [text[:-1] for _, text in ranked[: search.beam] if text[-1] == END]
        if len(finished) >= search.beam or length == most:
            break
        live = [(log, text) for log, text in ranked if text[-1] != END][: search.beam]
    return max(finished, key=lambda text: scored(model, source, text, search))


@pytest.mark.ci
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("beam", "length_penalty", "coverage_penalty"),
    [(3, 0.6, 0.1)]
    + [pytest.param(*each, marks=pytest.mark.ci) for each in ((2, 0.0, 0.0), (5, 1.0, 1.0))],
)
def test_a_narrow_beam_is_a_plain_beam_search(
    beam: int, length_penalty: float, coverage_penalty: float
) -> None:
    """One that leaves hypotheses behind, as the wide one above never does.

    The second model hardly ever ends, so that most of its translations are cut; in the third
    several hypotheses end at once.
    """
    search = Search(beam=beam, length_penalty=length_penalty, coverage_penalty=coverage_penalty)
    sources = [source for source in random_sources(20) if source]
    never = small_model(num_layers=2, init=1.5, table_init=4.0)
    for model, varied in (
        (wordy_model(), True),
        (never, True),
        (wordy_model(seed=1, end=3), False),
    ):
        found = translate(model, sources, search)
        assert found == [plain_beam_search(model, source, search) for source in sources]
        if varied:
            assert len({len(text) for text in found}) > 1, "of different lengths"
            assert found != translate(model, sources, replace(search, beam=60)), "none was left"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    torch.manual_seed(seed)
    for model in (GNMT(10, 6, num_layers=2, init=2.0).eval(), wordy_model()):
        sources = random_sources()
        ours = translate(model, sources)
        assert translate(model, sources, Search(beam=1)) == ours
        assert len({len(text) for text in ours}) > 1, "of different lengths"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("search", [None, Search(), Search(beam=3, coverage_penalty=1.0)])
def test_a_sentence_is_translated_alike_alone_and_among_others(search: Search | None) -> None:
    model, sources = wordy_model(), random_sources(12)
    together = translate(model, sources, search)
    assert together == [translate(model, [source], search)[0] for source in sources]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("search", [None, Search(beam=4)])
def test_what_never_ends_is_cut(search: Search | None) -> None:
    model = small_model()
    with torch.no_grad():
        model.classify.bias[END] = -1e3
    sources = [[4], [4, 5, 6, 7, 8, 9], []]
    assert [len(text) for text in translate(model, sources, search)] == [13, 23, 0]


@contextlib.contextmanager
def shapes_of(module: torch.nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Note the shapes of the weights of each call of an attention: (T, B, S)."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, __: Any, output: tuple[Tensor, Tensor]) -> None:
        shapes.append(tuple(output[1].shape))

    handle = module.register_forward_hook(note)
    yield shapes
    handle.remove()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("search", [None, Search(beam=3, coverage_penalty=1.0)])
def test_what_has_ended_is_left_behind(
    search: Search | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with it the padding that it needed; what comes out is the same."""
    model, sources = wordy_model(), random_sources()
    monkeypatch.setattr("legw.apps.translation.decoding.CHECK", 1000)
    expected = translate(model, sources, search)
    monkeypatch.setattr("legw.apps.translation.decoding.CHECK", 2)
    with shapes_of(model.attention) as shapes:
        assert translate(model, sources, search) == expected
    beam = search.beam if search else 1
    rows, widths = ([shape[axis] for shape in shapes] for axis in (1, 2))
    assert rows == sorted(rows, reverse=True) and widths == sorted(widths, reverse=True)
    assert rows[0] == beam * sum(map(bool, sources)) and rows[-1] < rows[0] / 2
    if search is None:  # a beam goes on until its last hypothesis has ended
        looks = [step - step % 2 for step in range(2, len(rows))]
        assert rows[2:] == [sum(len(ids) >= look for ids in expected) for look in looks]


def test_padding_that_nobody_needs_any_more_is_cut_off() -> None:
    model = small_model()
    source_BS = torch.tensor([[4, 5, 6, 7, END], [4, 5, END, PAD, PAD], [4, END, PAD, PAD, PAD]])
    memory = model.encode(source_BS)
    _, _, states = model.decode(torch.tensor([[BEGIN]] * 3), memory)
    left, rest = _narrowed(memory, states, torch.tensor([1, 2]))
    assert left.padding_BS.tolist() == [[False, False, False], [False, False, True]]
    next_B1 = torch.tensor([[7], [8]])
    alone = model.decode(
        next_B1, model.encode(source_BS[1:]), [(h[:, 1:], c[:, 1:]) for h, c in states]
    )
    torch.testing.assert_close(model.decode(next_B1, left, rest)[0], alone[0])


@pytest.mark.ci
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("search", [None, Search(beam=4)])
def test_a_long_sentence_is_translated_among_few(
    search: Search | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one long line does not take memory for all; short ones go on many at once."""
    torch.manual_seed(3)
    model = GNMT(10, 6, num_layers=2, init=2.0).eval()
    sources = [*random_sources(30), [4] * 40, *random_sources(30)]
    expected = translate(model, sources, search)
    monkeypatch.setattr("legw.apps.translation.decoding.TOKENS", 100)
    with shapes_of(model.attention) as shapes:
        assert translate(model, sources, search) == expected
    beam = search.beam if search else 1
    assert all(rows * source <= 100 or rows == beam for _, rows, source in shapes)
    assert max(rows for _, rows, _ in shapes) > 2 * beam


def test_a_long_line_takes_no_more_than_many_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legw.apps.translation.decoding.limit", lambda tokens: 1)
    model = small_model(num_layers=2)
    with shapes_of(model.attention) as shapes:
        translate(model, [[4] * 1999, *[[5, 6]] * 3000])
        translate(model, [[5] * 99] * 1300)
    assert shapes[0][1:] == (64, 2000)
    assert [rows for _, rows, _ in shapes] == [64, 1280, 1280, 377, 1280, 20]


@pytest.mark.parametrize("search", [None, Search(beam=4)])
def test_nothing_but_text_is_written(search: Search | None) -> None:
    model = small_model()
    with torch.no_grad():
        model.classify.bias[:END] = 1e3
        model.classify.bias[END] = 1.0
    for text in translate(model, random_sources(), search):
        assert all(number > END for number in text)


def test_a_longer_length_penalty_writes_longer_texts() -> None:
    torch.manual_seed(3)
    model = GNMT(10, 6, num_layers=2, init=1.0).eval()
    short, long = (
        sum(map(len, translate(model, random_sources(), Search(length_penalty=penalty))))
        for penalty in (0.0, 3.0)
    )
    assert short < long


@pytest.mark.parametrize("name", ["length_penalty", "coverage_penalty"])
def test_penalties_are_bounded(name: str) -> None:
    """At the bound, scores still tell hypotheses from each other."""
    torch.manual_seed(3)
    model = GNMT(10, 6, num_layers=2, init=2.0).eval()
    most: dict[str, Any] = {name: 10.0}
    for text in translate(model, [[4] * 60, [5, 6]], Search(**most)):
        assert all(number > END for number in text)
    for value in (-0.1, 10.1, 1e300, math.inf, math.nan):
        wrong: dict[str, Any] = {name: value}
        error_line(Search, **wrong, kind=RunError)


# Perplexity -----------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("rows", "cells"), [(128, 320_000), (2, 320_000), (128, 20), (3, 1)])
def test_perplexity_is_that_of_the_summed_loss(
    rows: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few pairs, and of a pair however few target tokens, are read at once."""
    monkeypatch.setattr("legw.apps.translation.perplexity.ROWS", rows)
    monkeypatch.setattr("legw.apps.translation.perplexity.CELLS", cells)
    model = small_model(smoothing=0.1)
    mean = float(model(*batch()).detach()) / sum(len(ids) + 1 for ids in TARGET)
    with shapes_of(model.attention) as shapes:
        assert perplexity(model, SOURCE, TARGET) == pytest.approx(math.exp(mean), rel=1e-12)
    assert all(math.prod(shape) <= max(cells, shape[2]) for shape in shapes)
    assert {shape[1] <= rows for shape in shapes} == {True}


def test_sentences_of_usual_lengths_are_read_many_at_once() -> None:
    model = small_model(num_layers=2)
    with shapes_of(model.attention) as shapes:
        perplexity(model, [[4] * 49] * 300, [[5] * 49] * 300)
    assert shapes == [(50, 128, 50), (50, 128, 50), (50, 44, 50)]


def test_a_lost_model_has_infinite_perplexity() -> None:
    model = small_model()
    with torch.no_grad():
        model.classify.bias[5] = 1e4
    assert perplexity(model, SOURCE, [[4]] * 4) == math.inf


def test_padded_rows_keep_large_ids() -> None:
    assert padded([[5], [6, 7]]).tolist() == [[5, PAD], [6, 7]]
    assert padded([[5]]).dtype == torch.int16
    assert padded([[5], [40_000]]).tolist() == [[5], [40_000]]


def test_the_grid_of_targets() -> None:
    pairs = batch()
    grid_TB = pairs.target_BT[:, 1:].t()
    counted = grid_TB.flatten()[pairs.counted_N]
    assert len(counted) == sum(len(ids) + 1 for ids in TARGET)
    assert (counted != PAD).all()
    assert (grid_TB != PAD).sum() == len(counted)
    assert math.isfinite(float(small_model()(*pairs).detach()))


# On a GPU -------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@needs_gpu
@pytest.mark.usefixtures("double")
def test_a_gpu_computes_and_translates_as_a_cpu_does() -> None:
    torch.manual_seed(0)
    ours = GNMT(10, 6, num_layers=3, init=1.5).eval()
    theirs = GNMT(10, 6, num_layers=3).cuda().eval()
    theirs.load_state_dict(ours.state_dict())
    pairs = Pairs(SOURCE, TARGET)
    losses = [
        model(*pairs.batch(torch.arange(4), torch.device(kind)))
        for model, kind in ((ours, "cpu"), (theirs, "cuda"))
    ]
    assert_close(losses[1].cpu(), losses[0])
    for loss in losses:
        loss.backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert_close(other.grad.cpu(), one.grad, msg=lambda text, name=name: f"{name}: {text}")
    for search in (None, Search(beam=3)):
        sources = random_sources()
        assert translate(theirs, sources, search) == translate(ours, sources, search)


@needs_gpu
def test_no_pass_waits_for_the_gpu() -> None:
    model, pairs, cuda = small_model(dropout=0.1).cuda().train(), Pairs(SOURCE, TARGET), "cuda"
    model(*pairs.batch(torch.arange(4), torch.device(cuda))).backward()  # the data go there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(*pairs.batch(torch.arange(3), torch.device(cuda))).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
