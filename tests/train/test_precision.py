"""bf16 on a CPU that has none: LSTMs in single precision, and a word about it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from legw import cli
from legw.apps import find
from legw.apps.weights import newest
from legw.errors import LegwWarning
from legw.presets import DIGITS_LSTM
from legw.train import Settings, fit, precision
from legw.train.precision import autocast, has_bf16_lstm, warn_if_slow

NOTE = (
    "precision bf16: this CPU has no bf16 arithmetic; fp32 is several times as fast, "
    "and LSTMs are computed in it"
)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this CPU one without bf16, as far as training can see."""
    monkeypatch.setattr(precision, "has_bf16_lstm", lambda: False)


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16_lstm", lambda: True)


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_an_lstm_can_be_trained_in_bf16_on_this_cpu() -> None:
    layer, linear = nn.LSTM(8, 8), nn.Linear(8, 3)
    with autocast("cpu", "bf16"):
        hidden, _ = layer(torch.randn(5, 2, 8))
        out = linear(hidden)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.usefixtures("without_bf16")
def test_without_bf16_an_lstm_is_computed_in_single_precision() -> None:
    layer = nn.LSTM(8, 8)
    inputs = torch.randn(5, 2, 8).bfloat16()
    state = torch.randn(1, 2, 8).bfloat16(), torch.randn(1, 2, 8)
    expected, after = layer(inputs.float(), (state[0].float(), state[1]))
    with autocast("cpu", "bf16"):
        hidden, found = layer(inputs, state)
        product = hidden.flatten(1) @ hidden.flatten(1).T
    assert hidden.dtype == found[0].dtype == found[1].dtype == torch.float32
    assert_close(hidden, expected, rtol=0, atol=0)
    assert_close(found, after, rtol=0, atol=0)
    assert product.dtype == torch.bfloat16, "all else is in bf16"


@pytest.mark.usefixtures("without_bf16")
def test_without_bf16_packed_sentences_are_too() -> None:
    layer = nn.LSTM(8, 8)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 2, 8), torch.tensor([5, 3]))
    with autocast("cpu", "bf16"):
        hidden, _ = layer(packed)
    assert hidden.data.dtype == torch.float32
    assert_close(hidden.data, layer(packed)[0].data, rtol=0, atol=0)


def test_to_ask_the_cpu_moves_no_random_numbers() -> None:
    """Else two machines would not draw the same weights."""
    before = torch.get_rng_state()
    has_bf16_lstm.cache_clear()
    has_bf16_lstm()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_type_does_not_matter_to_the_answer() -> None:
    before = has_bf16_lstm()
    has_bf16_lstm.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert has_bf16_lstm() == before
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("without_bf16")
def test_a_warning_says_that_fp32_is_faster() -> None:
    with pytest.warns(LegwWarning) as caught:
        warn_if_slow("cpu", "bf16")
    assert [str(each.message) for each in caught] == [NOTE]
    with no_warnings():
        warn_if_slow("cpu", "fp32")
        warn_if_slow("cuda", "bf16")


@pytest.mark.usefixtures("with_bf16")
def test_no_warning_where_the_cpu_has_bf16() -> None:
    with no_warnings():
        warn_if_slow("cpu", "bf16")


@pytest.mark.usefixtures("without_bf16")
def test_without_bf16_every_lane_is_computed_so(tmp_path: Path) -> None:
    task, recipe = find("digits-lstm"), replace(DIGITS_LSTM, epochs=1, batch_size=64)
    for lanes in (1, 2):
        settings = Settings(device="cpu", precision="bf16", micro_batch_size=16, lanes=lanes)
        with pytest.warns(LegwWarning, match="precision bf16"):
            fit(task, recipe, out=tmp_path / str(lanes), settings=settings)
    for key, weight in newest(tmp_path / "1").items():
        assert_close(newest(tmp_path / "2")[key], weight, rtol=0, atol=1e-5, msg=key)


@pytest.mark.usefixtures("without_bf16")
@pytest.mark.parametrize(
    "asked",
    ["train digits-lstm -b 32 --epochs 1", "train digits-lstm -b 32 --dry-run", "plan digits-lstm"],
)
def test_commands_say_it_once_and_go_on(
    asked: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*asked.split(), "--precision", "bf16"]) == 0
    assert capsys.readouterr().err.count(f"note: {NOTE}\n") == 1
