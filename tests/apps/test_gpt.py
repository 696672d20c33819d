"""The transformer: its equations, the windows of a text, evaluation, texts as words or subwords.

Shapes: B windows, T tokens, D width, A attention heads, K = D / A, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from corpora import TEXT, TINY_GPT, tiny_texts, write_texts
from expect import error_line
from legw import AdamW, Muon, Recipe, presets
from legw.apps import Options, find, softmax
from legw.apps.gpt import SIZES, WindowTask
from legw.apps.gpt.model import GPT, Attention, perplexity_of, summed_text_loss, windows_of
from legw.apps.gpt.text import SubwordVocabulary, read_texts
from legw.apps.ptb import WordTask
from legw.apps.softmax import IGNORED
from legw.errors import DataError, LegwWarning, RunError
from legw.runs import records
from legw.train import Settings, fit
from legw.train.muon_groups import muon_choices
from legw.train.optim import for_task
from legw.train.precision import autocast
from train.runs import weights


@pytest.fixture
def double() -> Iterator[None]:
    """Let models be built in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def a_model(seed: int = 0, std: float = 0.4, **changes: Any) -> GPT:
    """Return a small model whose weights are large enough that all of them matter."""
    torch.manual_seed(seed)
    model = replace(TINY_GPT, **changes).model(11)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


# The model --------------------------------------------------------------------------


def turned(values_K: Tensor, place: int) -> Tensor:
    """Turn pairs of numbers as Su et al. 2021 have it: as products of complex numbers."""
    pairs = len(values_K) // 2
    found = values_K.clone()
    for k in range(pairs):
        angle = place * 10_000 ** (-k / pairs)
        number = complex(values_K[k], values_K[k + pairs]) * complex(
            math.cos(angle), math.sin(angle)
        )
        found[k], found[k + pairs] = number.real, number.imag
    return found


def attention_by_hand(layer: Attention, hidden_TD: Tensor) -> Tensor:
    """Return causal self-attention, one softmax for each token and head, from the weights."""
    tokens, width = hidden_TD.shape
    head = width // layer.num_heads
    read_TD = torch.zeros(tokens, width)
    for a in range(layer.num_heads):
        own = slice(a * head, (a + 1) * head)
        query_TK, key_TK, value_TK = (
            hidden_TD @ each.weight.detach()[own].T
            for each in (layer.query, layer.key, layer.value)
        )
        for t in range(tokens):
            query_K = turned(query_TK[t], t)
            scores = torch.stack([query_K @ turned(key_TK[s], s) for s in range(t + 1)])
            shares = (scores / math.sqrt(head)).softmax(0)
            read_TD[t, own] = shares @ value_TK[: t + 1]
    return read_TD @ layer.out.weight.detach().T


def loss_by_hand(model: GPT, inputs_T: Tensor, targets_T: Tensor) -> float:
    """Return the summed loss of one window, step by step."""
    table_VD = model.embed.weight.detach()
    hidden_TD = table_VD[inputs_T]
    width = hidden_TD.shape[1]

    def normed(values_TD: Tensor, layer: Any) -> Tensor:
        centred = values_TD - values_TD.mean(1, keepdim=True)
        variance = (centred**2).mean(1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * layer.weight.detach()

    for block in model.blocks:
        block: Any
        hidden_TD = hidden_TD + attention_by_hand(
            block.attention, normed(hidden_TD, block.attention_norm)
        )
        inner = normed(hidden_TD, block.mlp_norm) @ block.widen.weight.detach().T
        assert inner.shape[1] == 4 * width
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        hidden_TD = hidden_TD + inner @ block.narrow.weight.detach().T
    logits_TV = normed(hidden_TD, model.norm) @ table_VD.T + model.decode.bias.detach()
    shares_TV = logits_TV.exp() / logits_TV.exp().sum(1, keepdim=True)
    return -sum(math.log(shares_TV[t, target]) for t, target in enumerate(targets_T.tolist()))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("logits", ["in one piece", "in pieces"])
def test_the_loss_is_the_equations_step_by_step(
    logits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if logits == "in pieces":
        monkeypatch.setattr(softmax, "CPU_PIECE", 240)
    model = a_model()
    inputs_BT, targets_BT = torch.randint(0, 11, (2, 3, 6))
    expected = sum(
        loss_by_hand(model, inputs, targets)
        for inputs, targets in zip(inputs_BT, targets_BT, strict=True)
    )
    assert float(model(inputs_BT, targets_BT).detach()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("double")
def test_attention_is_a_literal_softmax_and_so_is_its_gradient() -> None:
    """A softmax over a matrix of scores, with the future taken out, differentiated by autograd."""
    torch.manual_seed(0)
    layer = Attention(8, 2, 6)
    hidden_BTD = torch.randn(3, 6, 8, requires_grad=True)
    found_BTD = layer(hidden_BTD)
    for each, own in zip(found_BTD.detach(), hidden_BTD.detach(), strict=True):
        assert_close(each, attention_by_hand(layer, own))

    query, key, value = (
        each(hidden_BTD).unflatten(2, (2, 4)).transpose(1, 2)
        for each in (layer.query, layer.key, layer.value)
    )
    scores = layer.rotary(query) @ layer.rotary(key).transpose(2, 3) / 2
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    literal_BTD = layer.out((scores.softmax(3) @ value).transpose(1, 2).flatten(2))
    assert_close(found_BTD, literal_BTD)
    factor = torch.randn(3, 6, 8)
    inputs = [hidden_BTD, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((found_BTD * factor).sum(), inputs),
        torch.autograd.grad((literal_BTD * factor).sum(), inputs),
        strict=True,
    ):
        assert_close(one, other)


@pytest.mark.usefixtures("double")
def test_a_later_token_changes_nothing_before_it() -> None:
    model = a_model()
    inputs_BT, targets_BT = torch.randint(0, 11, (2, 1, 6))
    for place in range(6):
        other_BT = inputs_BT.clone()
        other_BT[:, place] = (other_BT[:, place] + 1) % 11
        for scored in range(6):
            only = torch.full_like(targets_BT, IGNORED)
            only[:, scored] = targets_BT[:, scored]
            same = torch.equal(model(inputs_BT, only), model(other_BT, only))
            assert same == (scored < place), f"token {place}, prediction {scored}"


@pytest.mark.usefixtures("double")
def test_attention_knows_distances_alone() -> None:
    """Each layer's output is the same wherever in a window its tokens stand."""
    layer = Attention(8, 2, 12)
    hidden = torch.randn(1, 4, 8)
    scores = []
    for shift in (0, 7):
        kept = torch.zeros(1, 2, 12, 4)
        query, key = (
            each(hidden).unflatten(2, (2, 4)).transpose(1, 2) for each in (layer.query, layer.key)
        )
        pair = []
        for values in (query, key):
            moved = kept.clone()
            moved[:, :, shift : shift + 4] = values
            pair.append(layer.rotary(moved)[:, :, shift : shift + 4])
        scores.append(pair[0] @ pair[1].transpose(2, 3))
    assert_close(scores[0], scores[1])


def test_output_and_embedding_share_one_table() -> None:
    model = a_model()
    assert model.decode.weight is model.embed.weight
    names = [name for name, _ in model.named_parameters()]
    assert "embed.weight" in names and "decode.weight" not in names
    for optimizer in (AdamW(), Muon()):
        recipe = Recipe(batch_size=8, lr=1.0, steps=1, optimizer=optimizer)
        made = for_task(WindowTask("tiny", TINY_GPT, tiny_texts()), recipe, model)
        taken = [id(p) for group in made.param_groups for p in group["params"]]
        assert taken.count(id(model.embed.weight)) == 1
        assert len(taken) == len(set(taken)) == len(names)
    model(*torch.randint(0, 5, (2, 3, 6))).backward()
    assert model.embed.weight.grad is not None
    assert model.embed.weight.grad.abs().amax(1).min() > 0, "of words that are not read too"


def test_muon_takes_every_matrix_of_a_block_by_itself_and_no_table() -> None:
    model = a_model()
    choices = muon_choices(model, output=WindowTask.output_layer)
    own = {choice.name: choice.split for choice in choices if choice.use_muon}
    parts = ("attention.query", "attention.key", "attention.value", "attention.out",
             "widen", "narrow")  # fmt: skip
    assert own == {f"blocks.{n}.{part}.weight": 1 for n in range(2) for part in parts}
    rest = {choice.name: choice.why for choice in choices if not choice.use_muon}
    assert rest.pop("embed.weight") == "embedding"
    assert set(rest.values()) == {"bias or norm"}


def test_parameters_of_the_shipped_model() -> None:
    size = SIZES["gpt-small"]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in size.model(10_000).parameters())
    d = size.width
    assert count == 10_000 * (d + 1) + size.num_layers * (12 * d * d + 2 * d) + d == 3_701_200
    assert SIZES["gpt-small-muon"] is size
    for name in SIZES:
        assert presets.RECIPES[name].tokens_per_example == size.window


def test_initial_weights() -> None:
    model = replace(TINY_GPT, width=64, num_layers=8).model(500)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            writes = name.endswith(("out.weight", "narrow.weight"))
            expected = 0.02 / (4 if writes else 1)
            assert float(parameter.std().detach()) == pytest.approx(expected, rel=0.06), name
        else:
            assert set(parameter.tolist()) == ({0.0} if name == "decode.bias" else {1.0})


def test_dropout_works_in_training_alone() -> None:
    model = a_model(dropout=1.0)
    inputs_BT, targets_BT = torch.randint(0, 11, (2, 3, 6))
    of_bias = -model.decode.bias.log_softmax(0)[targets_BT].sum()
    assert_close(model(inputs_BT, targets_BT), of_bias, msg="nothing is left of the tokens")
    plain = a_model()
    assert_close(model.eval()(inputs_BT, targets_BT), plain(inputs_BT, targets_BT))


def test_bf16_keeps_the_loss_in_full_precision() -> None:
    model = a_model(std=0.1)
    ids_BT = torch.randint(0, 11, (4, 6))
    expected = model(ids_BT, ids_BT)
    with autocast("cpu", "bf16"):
        loss = model(ids_BT, ids_BT)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, rtol=2e-2, atol=0)


@pytest.mark.usefixtures("double")
def test_predictions_read_the_last_window() -> None:
    model = a_model().eval()
    text = torch.randint(0, 11, (1, 15))
    state, logits = None, torch.zeros(0)
    for step in range(15):
        logits, state = model.predict(text[:, step : step + 1], state)
    of_window, _ = model.predict(text[:, -6:], None)
    assert_close(logits, of_window)
    loss = model(text[:, -6:], torch.full((1, 6), IGNORED).index_fill_(1, torch.tensor([5]), 3))
    assert_close(loss, -logits.log_softmax(1)[0, 3])


# Windows in the loop -----------------------------------------------------------------


@pytest.mark.parametrize("tokens", [7, 8, 12, 13, 14, 200])
def test_an_epoch_predicts_every_token_but_the_first_once(tokens: int) -> None:
    task = WindowTask("tiny", TINY_GPT, tiny_texts(tokens))
    text = task.texts.train
    assert task.num_examples(1) == task.num_examples(4) == math.ceil((tokens - 1) / 6)
    task.texts.train.copy_(torch.arange(tokens))
    model = TINY_GPT.model(tokens)
    for epoch in (0, 1):
        seen, weight = [], 0
        for ids in task.order(0, epoch, 4).split(4):
            batch = task.batch(ids, torch.device("cpu"))
            counted = batch.targets_BT != IGNORED
            assert torch.equal(batch.inputs_BT[counted] + 1, batch.targets_BT[counted].int())
            assert task.loss(model, batch, None)[1] == batch.tokens == int(counted.sum())
            seen += batch.targets_BT[counted].tolist()
            weight += batch.tokens
        assert sorted(seen) == list(range(1, tokens))
        assert weight == tokens - 1 == len(text) - 1


def test_the_order_is_a_permutation_of_seed_and_epoch() -> None:
    task = WindowTask("tiny", TINY_GPT, tiny_texts(700))
    orders = {(s, e): task.order(s, e, 16).tolist() for s in (0, 1) for e in (0, 1)}
    for order in orders.values():
        assert sorted(order) == list(range(task.num_examples(16)))
    assert len({tuple(order) for order in orders.values()}) == 4
    assert task.order(0, 0, 256).tolist() == orders[0, 0], "whatever the batch size"


def test_the_loss_of_an_update_is_a_mean_over_tokens(tmp_path: Path) -> None:
    task = WindowTask("tiny", TINY_GPT, tiny_texts(203))
    recipe = Recipe(name="tiny", batch_size=34, lr=1e-9, steps=1)
    settings = Settings(micro_batch_size=5, device="cpu")
    fit(task, recipe, out=tmp_path, settings=settings)
    (row,) = records.load(tmp_path).updates
    assert row.loss == pytest.approx(math.log(11), rel=0.02)


def test_a_run_that_was_stopped_goes_on_bitwise(tmp_path: Path) -> None:
    """With dropout, AdamW, clipping, and lengths in updates."""
    recipe = Recipe(name="tiny", batch_size=8, lr=0.01, steps=12, warmup_steps=3, clip_norm=1.0,
                    optimizer=AdamW(weight_decay=0.1, beta2=0.95))  # fmt: skip
    size = replace(TINY_GPT, dropout=0.3)

    def run(out: str, **changes: Any) -> None:
        settings = Settings(micro_batch_size=4, device="cpu", **changes)
        task = WindowTask("tiny", size, tiny_texts())
        fit(task, recipe, out=tmp_path / out, settings=settings)

    run("whole")
    run("cut", stop_after=5)
    run("cut", resume=True)
    found, expected = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(expected["embed.weight"], expected["decode.weight"])
    assert [row.update for row in records.load(tmp_path / "cut").updates] == list(range(12))


@pytest.mark.usefixtures("double")
def test_dropout_in_lanes_is_the_same_run(tmp_path: Path) -> None:
    size = replace(TINY_GPT, dropout=0.4)
    recipe = Recipe(name="tiny", batch_size=12, lr=0.01, steps=8, optimizer=Muon(), clip_norm=1.0)
    for out, lanes in (("alone", 1), ("one", 3), ("two", 3)):
        settings = Settings(device="cpu", micro_batch_size=4, lanes=lanes)
        task = WindowTask("tiny", size, tiny_texts())
        fit(task, recipe, out=tmp_path / out, settings=settings)
    alone, one, two = (weights(tmp_path / out) for out in ("alone", "one", "two"))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
        assert_close(tensor, alone[name], rtol=0, atol=1e-10, msg=name)


# Evaluation -----------------------------------------------------------------------------


class Judged(nn.Module):
    """A model that keeps the targets that count, and the tokens that each has before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.context: list[int] = []

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        counted_BT = targets_BT != IGNORED
        self.seen += targets_BT[counted_BT].tolist()
        unscored = inputs_BT.shape[1] - targets_BT.shape[1]
        self.context += (counted_BT.nonzero()[:, 1] + 1 + unscored).tolist()
        return counted_BT.sum() * torch.tensor(7.0).log()


@pytest.mark.parametrize("window", [2, 3, 5, 8, 64])
@pytest.mark.parametrize("tokens", [2, 3, 9, 97, 100, 101])
def test_every_token_but_the_first_counts_once_with_half_a_window_before_it(
    tokens: int, window: int
) -> None:
    model, text = Judged(), torch.arange(tokens)
    loss = summed_text_loss(model, text, window)
    assert perplexity_of(loss, tokens) == pytest.approx(7.0)
    assert sorted(model.seen) == list(range(1, tokens))
    for target, context in zip(model.seen, model.context, strict=True):
        assert context == target or context > window - window // 2


@pytest.mark.usefixtures("double")
def test_the_loss_of_a_text_is_that_of_each_token_in_turn() -> None:
    """Window by window of the text, of each the tokens that no window before it has scored."""
    model = a_model(window=5).eval().requires_grad_(False)
    text = tiny_texts().test
    assert len(text) == 61
    total, scored = 0.0, 0
    for start in range(0, 60, 2):
        logits_T = [model.predict(text[None, start : start + n], None)[0][0] for n in range(1, 6)]
        for place, logits_V in enumerate(logits_T):
            target = start + place + 1
            if target == scored + 1 and target < len(text):
                total -= float(logits_V.log_softmax(0)[text[target]])
                scored = target
    assert scored == 60
    assert summed_text_loss(model, text, 5) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("tokens", [2, 3, 6, 7, 8, 300])
def test_texts_of_any_length_have_a_perplexity(tokens: int) -> None:
    model = TINY_GPT.model(11).eval()
    loss = summed_text_loss(model, tiny_texts(tokens).train, 6)
    assert perplexity_of(loss, tokens) == pytest.approx(11, rel=0.2)


def test_windows_past_the_end_count_nothing() -> None:
    text = torch.arange(10)
    inputs_BT, targets_BT = windows_of(text, torch.tensor([0, 6]), 6)
    assert inputs_BT.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 8, 8, 8]]
    assert targets_BT.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, IGNORED, IGNORED, IGNORED]]


def test_metric_and_final_metrics() -> None:
    texts = tiny_texts()
    by_test = WindowTask("tiny", TINY_GPT, texts)
    by_validation = WindowTask("tiny", TINY_GPT, texts, holdout="validation")
    model = by_test.model().eval()
    assert by_test.final_metrics(model) == {
        "validation_perplexity": by_validation.evaluate(model),
        "test_perplexity": by_test.evaluate(model),
    }
    assert by_test.evaluate(model) == pytest.approx(11, rel=0.05)
    assert (by_test.metric.name, by_test.metric.higher_is_better) == ("perplexity", False)
    assert by_validation.fingerprint() == f"{by_test.fingerprint()}-validation"


# Texts -------------------------------------------------------------------------------------


def test_words_are_those_of_the_lstms(tmp_path: Path) -> None:
    options = Options(data=write_texts(tmp_path), vocabulary=12)
    with pytest.warns(LegwWarning, match="vocabulary=12"):
        ours, theirs = find("gpt-small", options), find("ptb-small", options)
    assert isinstance(ours, WindowTask) and isinstance(theirs, WordTask)
    assert ours.texts.vocabulary == theirs.corpus.vocabulary
    for part in ("train", "valid", "test"):
        assert_close(getattr(ours.texts, part), getattr(theirs.corpus, part))
    assert ours.artifacts() == theirs.artifacts()


def test_subwords_are_the_text(tmp_path: Path) -> None:
    texts = read_texts(write_texts(tmp_path), num_subwords=60)
    assert isinstance(texts.vocabulary, SubwordVocabulary)
    assert len(texts.vocabulary) == 60
    for part in ("train", "valid", "test"):
        written = (tmp_path / f"{part}.txt").read_text()
        ids = getattr(texts, part)
        assert texts.vocabulary.text(ids.tolist()) == written
        assert texts.words[part] == sum(len(line.split()) + 1 for line in written.splitlines())
        assert len(ids) > texts.words[part]
    task = WindowTask("tiny", TINY_GPT, texts)
    assert list(task.artifacts()) == ["subwords.model"]
    assert task.fingerprint() != WindowTask("tiny", TINY_GPT, tiny_texts()).fingerprint()


def test_the_perplexity_of_a_word_is_the_same_loss_over_fewer(tmp_path: Path) -> None:
    task = WindowTask("tiny", TINY_GPT, read_texts(write_texts(tmp_path), num_subwords=60))
    model = task.model().eval()
    found = task.final_metrics(model)
    assert set(found) == {
        f"{part}{of}_perplexity" for part in ("validation", "test") for of in ("", "_word")
    }
    tokens, words = len(task.texts.test) - 1, task.texts.words["test"] - 1
    loss = math.log(found["test_perplexity"]) * tokens
    assert math.log(found["test_word_perplexity"]) * words == pytest.approx(loss)
    assert task.evaluate(model) == found["test_perplexity"]


def test_characters_that_training_never_sees(tmp_path: Path) -> None:
    write_texts(tmp_path)
    (tmp_path / "test.txt").write_text("the ж company\n", encoding="utf-8")
    with pytest.warns(LegwWarning, match=r"test\.txt: 1 subword is unknown"):
        read_texts(tmp_path, num_subwords=60)


def with_file(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


BAD_TEXTS: dict[str, tuple[Callable[[Path], None], Options]] = {
    "too few words": (with_file("train.txt", TEXT), Options()),
    "too few subwords": (with_file("train.txt", TEXT), Options(subwords=40)),
    "missing": (lambda folder: (folder / "test.txt").unlink(), Options()),
    "missing, of subwords": (lambda folder: (folder / "test.txt").unlink(), Options(subwords=60)),
    "empty": (with_file("valid.txt", " \n"), Options(subwords=60)),
    "invisible": (with_file("valid.txt", "\u200b"), Options(subwords=60)),
    "not the published": (with_file("ptb.valid.txt", "a bank\n"), Options(subwords=60)),
    "too many subwords": (lambda folder: None, Options(subwords=5000)),
    "words and subwords": (lambda folder: None, Options(vocabulary=50, subwords=60)),
    "no room for words": (lambda folder: None, Options(vocabulary=2)),
    "no room for subwords": (lambda folder: None, Options(subwords=7)),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_texts_are_one_line(case: str, tmp_path: Path) -> None:
    spoil, options = BAD_TEXTS[case]
    spoil(write_texts(tmp_path))
    error_line(find, "gpt-small", replace(options, data=tmp_path), kind=DataError)


def test_subwords_are_for_the_transformer_alone() -> None:
    error_line(find, "ptb-small", Options(subwords=100), kind=RunError)


@pytest.mark.skipif("LEGW_DATA" not in os.environ, reason="LEGW_DATA is not set: no Penn Treebank")
def test_the_recipes_count_the_penn_treebank() -> None:
    for name in SIZES:
        task = find(name)
        assert isinstance(task, WindowTask)
        base = presets.RECIPES[name]
        assert task.num_examples(16) == base.num_examples == 14_525
        assert base.batch_size * base.steps / base.num_examples == pytest.approx(6, abs=0.01)
