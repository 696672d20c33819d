"""The language models: equations, streams, evaluation, texts.

Shapes: B streams, T tokens, L layers, H hidden units, V words, E evaluation streams.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from corpora import TINY, tiny_corpus, write_texts
from expect import GOLDEN, error_line
from legw import SGD, Recipe, presets
from legw.apps import Options, find, softmax
from legw.apps.ptb import SIZES, WordTask
from legw.apps.ptb.model import IGNORED, WordLSTM, perplexity
from legw.apps.ptb.text import (
    MAX_WORDS,
    PUBLISHED,
    Vocabulary,
    build,
    find_texts,
    read_corpus,
    read_lines,
)
from legw.errors import DataError, LegwWarning, RunError
from legw.runs import records
from legw.train import Settings, State, fit
from legw.train.checkpoint import load_newest
from legw.train.precision import autocast


@pytest.fixture
def double() -> Iterator[None]:
    """Let models be built in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# The model --------------------------------------------------------------------------


def unrolled(
    model: WordLSTM, inputs_BT: Tensor, targets_BT: Tensor, state: State, masks: list[Tensor]
) -> tuple[Tensor, State]:
    """Return summed loss and state by the equations of Zaremba et al. 2014, section 3.

    Args:
        model: the language model, of H hidden units.
        inputs_BT: word ids, int64.
        targets_BT: ids of the words that follow, int64.
        state: of the layers before the window; None is 0.
        masks: factors of the embedding and of each layer's output, each (B, T, H).
    """
    streams, window = inputs_BT.shape
    hidden = model.embed.weight.shape[1]
    layers: Any = list(model.layers)
    if state is None:
        state = (torch.zeros(streams, len(layers), hidden),) * 2
    h, c = ([s[:, index] for index in range(len(layers))] for s in state)
    loss = torch.zeros(())
    for t in range(window):
        x = model.embed.weight[inputs_BT[:, t]] * masks[0][:, t]
        for index, layer in enumerate(layers):
            gates = x @ layer.weight_ih_l0.T + layer.bias_ih_l0
            gates = gates + h[index] @ layer.weight_hh_l0.T + layer.bias_hh_l0
            i, f, g, o = gates.split(hidden, dim=1)
            c[index] = f.sigmoid() * c[index] + i.sigmoid() * g.tanh()
            h[index] = o.sigmoid() * c[index].tanh()
            x = h[index] * masks[index + 1][:, t]
        logits_BV = x @ model.decode.weight.T + model.decode.bias
        loss = loss - logits_BV.log_softmax(1)[torch.arange(streams), targets_BT[:, t]].sum()
    return loss, (torch.stack(h, 1), torch.stack(c, 1))


class Masks(nn.Module):
    """Stands in for dropout: multiplies by given masks in turn."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self.masks = list(masks)

    def forward(self, hidden_TBH: Tensor) -> Tensor:
        return hidden_TBH * self.masks.pop(0).transpose(0, 1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("logits", ["in one piece", "in pieces"])
@pytest.mark.parametrize("carried", [False, True])
def test_forward_and_gradient_are_the_equations(
    carried: bool, logits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout where the paper has it, and nowhere else."""
    if logits == "in pieces":
        monkeypatch.setattr(softmax, "CPU_PIECE", 240)
    torch.manual_seed(0)
    model = WordLSTM(11, 6, init=0.5)
    inputs_BT, targets_BT = torch.randint(0, 11, (2, 3, 5))
    state = tuple(torch.randn(2, 3, 2, 6)) if carried else None
    masks = list(torch.rand(3, 3, 5, 6).round() * 2)
    expected, expected_state = unrolled(model, inputs_BT, targets_BT, state, masks)
    expected_grads = torch.autograd.grad(expected, list(model.parameters()))

    model.drop = Masks(masks)  # type: ignore[assignment]
    found, found_state = model(inputs_BT, targets_BT, state)
    found.backward()

    assert not model.drop.masks, "embedding and every layer's output, once each"
    assert_close(found, expected)
    assert_close(found_state, expected_state)
    for (name, parameter), grad in zip(model.named_parameters(), expected_grads, strict=True):
        assert_close(parameter.grad, grad, msg=lambda text, name=name: f"{name}: {text}")


def test_dropout_works_in_training_alone() -> None:
    model = WordLSTM(11, 6, dropout=1.0)
    inputs_BT, targets_BT = torch.randint(0, 11, (2, 3, 5))
    loss, _ = model(inputs_BT, targets_BT, None)
    of_bias = -model.decode.bias.log_softmax(0)[targets_BT].sum()
    assert_close(loss, of_bias)
    plain = WordLSTM(11, 6)
    plain.load_state_dict(model.state_dict())
    assert_close(model.eval()(inputs_BT, targets_BT, None), plain(inputs_BT, targets_BT, None))


@pytest.mark.parametrize(("name", "millions"), [("small", 4.65), ("medium", 19.8), ("large", 66.0)])
def test_parameter_counts(name: str, millions: float) -> None:
    """66 M for the large one, as published."""
    size = SIZES[f"ptb-{name}"]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in size.model(10_000).parameters())
    words, hidden = 10_000, size.hidden_size
    layer = 4 * hidden * (hidden + hidden) + 2 * 4 * hidden
    assert count == words * hidden + 2 * layer + hidden * words + words
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_agree_with_the_recipes(name: str) -> None:
    published = {"small": (0.1, 1.0), "medium": (0.05, 0.5), "large": (0.04, 0.35)}
    ours = {"small-muon": (0.1, 0.7)}  # the small model with dropout
    size = SIZES[name]
    assert size.window == presets.RECIPES[name].window_tokens
    assert (size.init, size.keep) == (published | ours)[name.removeprefix("ptb-")]


def test_every_parameter_starts_uniform() -> None:
    for name, parameter in WordLSTM(500, 40, init=0.04).named_parameters():
        assert parameter.abs().max() <= 0.04, name
        assert parameter.abs().max() > 0.038, name
        assert abs(parameter.mean()) < 0.01, name


def test_bf16_keeps_state_and_loss_in_full_precision() -> None:
    model = WordLSTM(11, 6)
    ids_BT = torch.randint(0, 11, (4, 5))
    expected, _ = model(ids_BT, ids_BT, None)
    with autocast("cpu", "bf16"):
        loss, state = model(ids_BT, ids_BT, None)
        loss, state = model(ids_BT, ids_BT, state)
    assert loss.dtype == state[0].dtype == state[1].dtype == torch.float32
    assert_close(loss, expected, rtol=1e-2, atol=0)


# Streams in the loop -----------------------------------------------------------------


class Recording(WordTask):
    """Keeps what the loop gives to `loss`, and what comes back."""

    def __init__(self) -> None:
        super().__init__("tiny", TINY, tiny_corpus())
        self.calls: list[tuple[Tensor, Tensor, State, State]] = []

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, int, State]:
        total, weight, after = super().loss(model, batch, state)
        self.calls.append((*batch, state, after))
        return total, weight, after


def train(task: WordTask, out: Path, *, micro_batch_size: int = 6, **changes: Any) -> Any:
    recipe: dict[str, Any] = {"name": "tiny", "batch_size": 6, "lr": 0.5, "epochs": 2,
                              "clip_norm": 5.0, "optimizer": SGD()}  # fmt: skip
    settings = Settings(micro_batch_size=micro_batch_size, device="cpu")
    return fit(task, Recipe(**(recipe | changes)), out=out, settings=settings)


def losses(folder: Path) -> list[float]:
    """Return the losses of a run, update by update."""
    return [row.loss for row in records.load(folder).updates if row.loss is not None]


def test_state_is_carried_within_an_epoch_and_reset_between(tmp_path: Path) -> None:
    task = Recording()
    train(task, tmp_path)
    windows = (203 // 6 - 1) // 5
    assert len(task.calls) == 2 * windows == 12
    text = task.corpus.train[: 203 // 6 * 6].view(6, -1)
    for number, (inputs_BT, targets_BT, state, _) in enumerate(task.calls):
        begin = number % windows * 5
        assert_close(inputs_BT, text[:, begin : begin + 5])
        assert_close(targets_BT, text[:, begin + 1 : begin + 6].long())
        if number % windows == 0:
            assert state is None
            continue
        before = task.calls[number - 1][3]
        assert state is not None
        assert before is not None
        assert [s.shape for s in state] == [(6, 2, 6)] * 2
        assert not any(s.requires_grad for s in state), "the gradient is cut here"
        assert_close(state, before, rtol=0, atol=0)


@pytest.mark.usefixtures("double")
def test_micro_batches_keep_each_streams_state(tmp_path: Path) -> None:
    weights = []
    for micro_batch_size in (6, 4, 1):
        folder = tmp_path / str(micro_batch_size)
        train(WordTask("tiny", TINY, tiny_corpus()), folder, micro_batch_size=micro_batch_size)
        content = load_newest(folder, warn=print)
        assert content is not None
        weights.append(content["model"])
    for name, tensor in weights[0].items():
        assert tensor.dtype == torch.float64
        for other in weights[1:]:
            assert_close(other[name], tensor, rtol=0, atol=1e-10)


def test_the_loss_is_summed_over_time_and_averaged_over_streams(tmp_path: Path) -> None:
    task = Recording()
    train(task, tmp_path, epochs=1)
    assert losses(tmp_path)[0] == pytest.approx(5 * math.log(11), rel=0.05)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 33])
def test_an_epoch_is_every_window_of_every_stream(batch_size: int) -> None:
    task = WordTask("tiny", TINY, tiny_corpus())
    length = 203 // batch_size
    windows = (length - 1) // 5
    ids = task.order(seed=3, epoch=4, batch_size=batch_size)
    assert task.num_examples(batch_size) == len(ids) == windows * batch_size
    assert ids[:batch_size].tolist() == [stream * length for stream in range(batch_size)]
    assert ids[-1] == (batch_size - 1) * length + (windows - 1) * 5
    assert_close(ids, task.order(seed=0, epoch=0, batch_size=batch_size))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("batch_size", [1, 20, 640, 1280])
def test_an_epoch_is_as_long_as_the_recipe_says(name: str, batch_size: int) -> None:
    task = WordTask(name, SIZES[name], tiny_corpus(tokens=929_589))
    recipe = Recipe(name="r", batch_size=batch_size, lr=1, epochs=1, num_tokens=929_589,
                    window_tokens=SIZES[name].window)  # fmt: skip
    assert task.num_examples(batch_size) == recipe.epoch_examples


def test_too_many_streams_for_the_text() -> None:
    task = WordTask("tiny", TINY, tiny_corpus())
    assert task.num_examples(33) == 33
    error_line(task.num_examples, 34, kind=DataError)
    task = WordTask("tiny", TINY, tiny_corpus(tokens=5))
    error_line(task.num_examples, 1, kind=DataError)


# Evaluation -----------------------------------------------------------------------------


class Judged(nn.Module):
    """A model that keeps the targets that count, and says that all words are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, _: Tensor, targets_BT: Tensor, state: State) -> tuple[Tensor, State]:
        counted = targets_BT[targets_BT != IGNORED]
        self.seen += counted.tolist()
        return len(counted) * torch.tensor(7.0).log(), state


@pytest.mark.parametrize("streams", [1, 3, 10, 500])
@pytest.mark.parametrize("context", [0, 4, 1000])
@pytest.mark.parametrize("tokens", [2, 97, 100, 101])
def test_every_token_but_the_first_counts_once(tokens: int, context: int, streams: int) -> None:
    model = Judged()
    text = torch.randperm(tokens)
    assert perplexity(model, text, streams=streams, context=context) == pytest.approx(7.0)
    assert sorted(model.seen) == sorted(text[1:].tolist())


@pytest.mark.usefixtures("double")
def test_perplexity_is_that_of_one_walk_through_the_text() -> None:
    torch.manual_seed(1)
    model = WordLSTM(11, 6, init=1.0).eval().requires_grad_(False)
    text = tiny_corpus().train
    loss, _ = model(text[None, :-1], text[None, 1:].long(), None)
    whole = float((loss / (len(text) - 1)).exp())
    assert perplexity(model, text, streams=1) == pytest.approx(whole, rel=1e-12)
    for streams in (2, 7, 10):
        one_walk = perplexity(model, text, streams=streams, context=1000)
        assert one_walk == pytest.approx(whole, rel=1e-12), "no cut, no difference"
        assert perplexity(model, text, streams=streams) == pytest.approx(whole, rel=1e-6)


@pytest.mark.usefixtures("double")
def test_what_streams_change_is_the_cut_alone() -> None:
    torch.manual_seed(1)
    model = WordLSTM(11, 6, init=1.0).eval().requires_grad_(False)
    text = tiny_corpus().train
    total, bounds = 0.0, [n * 202 // 7 for n in range(8)]
    for begin, end in pairwise(bounds):
        part = text[None, begin : end + 1]
        total += float(model(part[:, :-1], part[:, 1:].long(), None)[0])
    found = perplexity(model, text, streams=7, context=0)
    assert found == pytest.approx(math.exp(total / 202), rel=1e-12)
    assert found != pytest.approx(perplexity(model, text, streams=1), rel=1e-6)


def test_a_lost_model_has_infinite_perplexity() -> None:
    model = WordLSTM(11, 6).eval()
    with torch.no_grad():
        model.decode.bias[0] = 1e6
    assert perplexity(model, torch.arange(11)) == math.inf


def test_metric_and_final_metrics() -> None:
    corpus = tiny_corpus()
    by_test = WordTask("tiny", TINY, corpus)
    by_validation = WordTask("tiny", TINY, corpus, holdout="validation")
    model = by_test.model().eval()
    final = by_test.final_metrics(model)
    assert final == {
        "validation_perplexity": by_validation.evaluate(model),
        "test_perplexity": by_test.evaluate(model),
        "held_out_loss": TINY.window * math.log(by_test.evaluate(model)),
    }
    ours = by_validation.final_metrics(model)["held_out_loss"]
    assert ours == TINY.window * math.log(by_validation.evaluate(model))
    assert final["test_perplexity"] == perplexity(model, corpus.test)
    assert final["validation_perplexity"] == perplexity(model, corpus.valid)
    assert (by_test.metric.name, by_test.metric.higher_is_better) == ("perplexity", False)


# Texts -------------------------------------------------------------------------------------


def test_words_are_numbered_by_frequency_then_alphabet(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("b a b <unk>\n\nc a")  # no end to the last line
    (tmp_path / "valid.txt").write_text("a z\n")
    (tmp_path / "test.txt").write_text("\ufeffb\r\n", encoding="utf-8")
    corpus = read_corpus(tmp_path)
    assert corpus.vocabulary.words == ("<eos>", "a", "b", "<unk>", "c")
    assert corpus.train.tolist() == [2, 1, 2, 3, 0, 0, 4, 1, 0]
    assert corpus.valid.tolist() == [1, 3, 0]
    assert corpus.test.tolist() == [2, 0]


@pytest.mark.parametrize(
    "names",
    [
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("ptb.train.txt.gz", "ptb.valid.txt", "ptb.test.txt.gz"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("train.txt.gz", "my_validation.txt", "TEST.TXT"),
    ],
)
def test_names_of_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in (*names, "README.txt", "latest.txt", "ptb.char.train.md"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_texts(tmp_path).values()] == list(names)


def test_gzipped_and_plain_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "zipped").mkdir()
    for name in ("train", "valid", "test"):
        content = (write_texts(tmp_path) / f"{name}.txt").read_bytes()
        (tmp_path / "zipped" / f"{name}.txt.gz").write_bytes(gzip.compress(content))
    plain, zipped = read_corpus(tmp_path), read_corpus(tmp_path / "zipped")
    assert_close(plain.train, zipped.train)
    tasks = [WordTask("tiny", TINY, corpus) for corpus in (plain, zipped)]
    assert tasks[0].fingerprint() == tasks[1].fingerprint()
    assert tasks[0].fingerprint() != WordTask("tiny", TINY, tiny_corpus()).fingerprint()
    other = WordTask("tiny", TINY, plain, holdout="validation").fingerprint()
    assert other == f"{tasks[0].fingerprint()}-validation"


def test_artifacts_are_the_vocabulary() -> None:
    task = WordTask("tiny", TINY, tiny_corpus())
    content = task.artifacts()["vocabulary.txt"]
    assert content.decode().splitlines()[:3] == ["<eos>", "<unk>", "w0"]
    assert Vocabulary.from_bytes(content) == task.corpus.vocabulary


@pytest.mark.parametrize("content", [b"", b"<eos>\n<unk>", b"<eos>\n<eos>\n<unk>\n", b"a\n"])
def test_a_damaged_vocabulary(content: bytes) -> None:
    with pytest.raises(ValueError, match="one word a line"):
        Vocabulary.from_bytes(content)


def test_a_limit_keeps_the_most_frequent_words(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a a a b b c d\n")
    (tmp_path / "valid.txt").write_text("c\n")
    (tmp_path / "test.txt").write_text("a\n")
    with pytest.warns(LegwWarning) as caught:
        corpus = read_corpus(tmp_path, limit=4)
    assert [str(warning.message) for warning in caught] == [
        f"{tmp_path}/train.txt: vocabulary=4: the 2 rarest of 6 words become <unk>, 25.0% of "
        "the tokens; it has no <unk> of its own, and one word gave way"
    ]
    assert corpus.vocabulary.words == ("a", "b", "<eos>", "<unk>")
    assert corpus.train.tolist() == [0, 0, 0, 1, 1, 3, 3, 2]
    assert corpus.valid.tolist() == [3, 2]


def test_words_that_training_never_sees(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a b\n")
    (tmp_path / "valid.txt").write_text("a c\n")
    (tmp_path / "test.txt").write_text("b\n")
    with pytest.warns(LegwWarning, match=r"valid\.txt: 1 of 3 tokens are not in the training "):
        corpus = read_corpus(tmp_path)
    assert corpus.vocabulary.words == ("<eos>", "a", "b", "<unk>")


def test_a_limit_that_is_not_reached_changes_nothing(tmp_path: Path) -> None:
    write_texts(tmp_path)
    assert read_corpus(tmp_path, limit=500).vocabulary == read_corpus(tmp_path).vocabulary


def test_the_ends_of_lines_and_unknown_words_are_always_kept() -> None:
    assert build({"a": 9, "b": 8, "c": 7, "<eos>": 1}, limit=3).words == ("a", "<eos>", "<unk>")


def with_file(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


BAD_FOLDERS = {
    "missing": (
        without("test.txt"),
        "ptb.test.txt[.gz]: is missing; put ptb.train.txt, ptb.valid.txt and ptb.test.txt there ",
    ),
    "empty": (with_file("valid.txt", b""), "valid.txt: is empty; give a text of at least one word"),
    "blank": (with_file("train.txt", b" \n\n"), "train.txt: is empty; "),
    "latin1": (
        with_file("test.txt", b"a b\ncaf\xe9 d\n"),
        "test.txt: byte 7: is not UTF-8 text; convert the file",
    ),
    "utf-16": (with_file("train.txt", "a b\n".encode("utf-16")), "train.txt: byte 0: is not UTF-8"),
    "two": (with_file("my.train.txt", b"a\n"), "train: my.train.txt, train.txt all fit; "),
    "no gzip": (with_file("ptb.train.txt.gz", b"a\n"), "ptb.train.txt.gz: cannot be read: "),
    "half a gzip": (
        with_file("ptb.train.txt.gz", gzip.compress(os.urandom(999).hex().encode())[:500]),
        "ptb.train.txt.gz: cannot be read: ",
    ),
    "not the published": (
        with_file("ptb.valid.txt", b"a bank\n"),
        "ptb.valid.txt: has 3 tokens, the Penn Treebank's has 73760; get it again, ",
    ),
    "too many words": (
        with_file("train.txt", " ".join(map(str, range(MAX_WORDS))).encode()),
        f"train.txt: has {MAX_WORDS + 2} different words, more than {MAX_WORDS}; `voc",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_texts_are_one_line(case: str, tmp_path: Path) -> None:
    spoil, expected = BAD_FOLDERS[case]
    spoil(write_texts(tmp_path))
    line = error_line(find, "ptb-small", Options(data=tmp_path), kind=DataError)
    assert line.removeprefix(f"{tmp_path}/").removeprefix(f"{tmp_path}: ").startswith(expected)


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGW_DATA", str(tmp_path / "nowhere"))
    line = error_line(find, "ptb-medium", kind=DataError)
    assert line.startswith(f"{tmp_path}/nowhere/ptb/ptb.train.txt[.gz]: is missing; ")
    monkeypatch.delenv("LEGW_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    line = error_line(find, "ptb-medium", kind=DataError)
    assert line.startswith(f"{tmp_path}/.cache/legw/ptb/ptb.train.txt[.gz]: is missing; ")


def test_a_limit_that_cannot_be(tmp_path: Path) -> None:
    options = Options(data=write_texts(tmp_path), vocabulary=2)
    error_line(find, "ptb-small", options, kind=DataError)
    error_line(find, "digits-lstm", options, kind=RunError)


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    error_line(lambda: list(read_lines(tmp_path)), kind=DataError)


needs_data = pytest.mark.skipif(
    "LEGW_DATA" not in os.environ, reason="LEGW_DATA is not set: no Penn Treebank here"
)


@needs_data
def test_the_penn_treebank_is_as_published() -> None:
    task = find("ptb-large")
    assert isinstance(task, WordTask)
    corpus = task.corpus
    lengths = {"train": len(corpus.train), "valid": len(corpus.valid), "test": len(corpus.test)}
    assert lengths == PUBLISHED
    assert len(corpus.vocabulary.words) == 10_000
    assert corpus.vocabulary.words[:6] == ("the", "<unk>", "<eos>", "N", "of", "to")
    assert task.name == "ptb-large"
    assert task.num_examples(20) == presets.RECIPES["ptb-large"].epoch_examples


@needs_data
@pytest.mark.slow
def test_losses_of_the_large_model(tmp_path: Path) -> None:
    """20 updates of the published recipe at a tenth of its rate, with its dropout.

    At the full rate the first updates overshoot (gradient norms in the thousands, also
    with torch's own layers in a loop by hand), and rounding grows to 1 % in 20 updates.
    The dropout draws are those of torch on x86.
    """
    recipe = presets.RECIPES["ptb-large"]
    task = find("ptb-large")
    epochs = 20 * recipe.batch_size / task.num_examples(recipe.batch_size)
    values = {name: getattr(recipe, name) for name in ("name", "batch_size", "clip_norm")}
    assert isinstance(task, WordTask)
    task.evaluate = lambda model: 0.0  # type: ignore[method-assign] # minutes, for nothing
    task.final_metrics = lambda model: {}  # type: ignore[method-assign]
    fit(
        task,
        Recipe(**values, lr=0.1, epochs=epochs, optimizer=SGD()),
        out=tmp_path,
        settings=Settings(micro_batch_size=20, device="cpu", checkpoint_seconds=1e9),
    )
    golden = [float(x) for x in (GOLDEN / "ptb-large-losses.txt").read_text().split()]
    assert losses(tmp_path) == pytest.approx(golden, rel=1e-3)
