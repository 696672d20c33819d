"""The same training on a GPU: left out where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import TINY_GPT, tiny_corpus, tiny_texts
from legw import SGD, Recipe
from legw.apps import Options, find
from legw.apps.gpt import WindowTask
from legw.apps.ptb.task import Size, WordTask
from legw.presets import DIGITS_LSTM
from legw.runs import records
from legw.train import Observer, Settings, Task, fit
from legw.train.loop import _Run
from train.runs import weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def _streams() -> WordTask:
    return WordTask(
        "words", Size(hidden_size=16, window=5, init=0.3, keep=1.0), tiny_corpus(tokens=2003)
    )


def _windows() -> WindowTask:
    return WindowTask("windows", TINY_GPT, tiny_texts(tokens=2003))


MODELS = pytest.mark.parametrize("make", [_streams, _windows])
"""The language models: an LSTM over streams, a transformer over windows."""


def _recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"batch_size": 20, "lr": 0.05, "epochs": 2.0, "clip_norm": 1.0}
    return Recipe(**(values | {"optimizer": SGD(momentum=0.9)} | changes))


def _fit(
    task: Task,
    out: Path,
    device: str = "cuda",
    observers: Sequence[Observer] = (),
    **settings: Any,
) -> records.Summary:
    recipe = DIGITS_LSTM if task.name == "digits-lstm" else _recipe()
    settings = {"micro_batch_size": 8, "device": device} | settings
    return fit(task, recipe, out=out, settings=Settings(**settings), observers=observers)


class Stopper(Observer):
    """Asks the run to stop, as a scheduler of jobs does."""

    def on_update(self, row: records.Update) -> None:
        if row.update == 10:
            os.kill(os.getpid(), signal.SIGTERM)


@MODELS
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, make: Callable[[], Task]) -> None:
    """To the rounding of single precision, with the carried state in uneven pieces."""
    _fit(make(), tmp_path / "cpu", "cpu")
    _fit(make(), tmp_path / "gpu")
    found, expected = weights(tmp_path / "gpu"), weights(tmp_path / "cpu")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].cpu(), tensor, rtol=0, atol=5e-3, msg=name)
    losses = [[row.loss for row in records.load(tmp_path / d).updates] for d in ("gpu", "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_digits_are_learned(tmp_path: Path, precision: str) -> None:
    summary = _fit(find("digits-lstm", Options()), tmp_path, precision=precision)
    assert summary.metric["value"] > 0.95


@MODELS
def test_no_update_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Task]
) -> None:
    """A synchronisation within an update is an error while it is made."""
    update = _Run._update

    def watched(run: _Run, number: int) -> bool:
        if number and number % 50 < 45:  # the first uploads the data, every 50th reads losses
            torch.cuda.set_sync_debug_mode("error")
        try:
            return update(run, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_Run, "_update", watched)
    assert _fit(make(), tmp_path).status == "finished"


def test_memory_that_runs_out_ends_the_ladder(tmp_path: Path) -> None:
    """The largest sizes do not fit: the measurement says so and goes on."""

    class Greedy(WordTask):
        def loss(self, model: Any, batch: Any, state: Any) -> Any:
            if len(batch[0]) > 64:
                torch.empty(2**60, dtype=torch.uint8, device="cuda")
            return super().loss(model, batch, state)

    task = Greedy("greedy", _streams().size, tiny_corpus(tokens=20003))
    recipe = _recipe(batch_size=256, epochs=1.0)
    fit(task, recipe, out=tmp_path, settings=Settings(device="cuda"))
    table = records.read_manifest(tmp_path).extra["micro_batch_table"]
    assert table["128"] == 0
    assert records.read_manifest(tmp_path).micro_batch_size <= 64


def test_a_gpu_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Stopped after half of its updates and resumed, it ends with the same weights."""
    _fit(_streams(), tmp_path / "whole")
    first = _fit(_streams(), tmp_path / "twice", observers=[Stopper()])
    assert first.status == "interrupted"
    assert _fit(_streams(), tmp_path / "twice", resume=True).status == "finished"
    found = weights(tmp_path / "twice")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(found[name], tensor), name


def test_the_device_is_named(tmp_path: Path) -> None:
    _fit(_streams(), tmp_path)
    assert records.read_manifest(tmp_path).device.startswith("cuda (")
