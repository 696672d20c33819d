"""`results/order.py`: mixed batches, and the noise of batches' gradients."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmarks.pairs import synthetic
from legw.apps.translation import SIZES, TranslationTask
from legw.apps.translation.batches import padding_share
from legw.presets import GNMT_SMALL
from legw.train import Settings, fit
from legw.train.batches import Batches

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RESULTS))
    import order

    return order


@pytest.fixture(scope="module")
def task() -> TranslationTask:
    """Return a task of 3,000 pairs with a model small enough for a test."""
    return synthetic(3000, replace(SIZES["gnmt-small"], hidden_size=8, num_subwords=60))


def batches_of(task: TranslationTask, batch_size: int) -> list[Tensor]:
    """Return the batches of two epochs but for the one that straddles them."""
    batches = Batches(lambda epoch: task.order(0, epoch, batch_size), 3000, batch_size)
    every = [(batches.ids(at), batches.epochs(at)) for at in range(6000 // batch_size)]
    return [ids for ids, epochs in every if len(epochs.unique()) == 1]


@pytest.mark.parametrize("batch_size", [1, 64, 128, 1000, 1024, 3000])
def test_mixed_batches_are_every_pair_once(
    batch_size: int, script: ModuleType, task: TranslationTask
) -> None:
    mixed = script.Mixed("mixed", task.size, task.corpus)
    for epoch in (0, 1):
        ids = mixed.order(5, epoch, batch_size)
        assert sorted(ids.tolist()) == list(range(3000))
        assert torch.equal(ids, mixed.order(5, epoch, batch_size))
        assert batch_size == 3000 or not torch.equal(ids, mixed.order(6, epoch, batch_size))


def test_mixed_batches_have_as_much_of_every_length(
    script: ModuleType, task: TranslationTask
) -> None:
    lengths_M = task.corpus.train.target_lengths_M.double()
    spreads = []
    for each in (task, script.Mixed("mixed", task.size, task.corpus)):
        means = torch.stack([lengths_M[ids].mean() for ids in batches_of(each, 256)])
        spreads.append(float(means.std() / lengths_M.std()))
    assert spreads[0] > 0.8, "of like lengths"
    assert spreads[1] < 0.3, "but for the strip of the very longest"
    strips = torch.stack(batches_of(script.Mixed("mixed", task.size, task.corpus), 256))
    assert lengths_M[strips.view(-1, 64)].std(1).mean() < 0.3 * lengths_M.std()


def test_mixed_batches_are_padded_little_in_small_micro_batches_alone(
    script: ModuleType, task: TranslationTask
) -> None:
    pairs, mixed = task.corpus.train, script.Mixed("mixed", task.size, task.corpus)
    usual, ours = (
        [
            padding_share(
                pairs.source_lengths_M, pairs.target_lengths_M - 1,
                torch.cat(batches_of(each, 1024)), batch_size=1024, micro_batch_size=micro,
            )
            for micro in (64, 1024)
        ]
        for each in (task, mixed)
    )  # fmt: skip
    assert ours[0] < 0.15
    assert ours[1] > usual[1]


def test_the_spread_of_gradients_is_unbiased(script: ModuleType) -> None:
    assert script.spread(torch.tensor([[0.0, 1.0], [2.0, 1.0]])) == (2.0, 0.0)
    gradients = torch.randn(400, 50, generator=torch.Generator().manual_seed(0)) * 3
    noise, deviation = script.spread(gradients)
    assert abs(noise - 450) < 3 * deviation < 30


@pytest.mark.ci
def test_it_prints_a_line_for_each_size_and_order(
    script: ModuleType,
    task: TranslationTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "BATCHES", {64: 4, 1024: 2})
    monkeypatch.setattr(script, "mixed", lambda: script.Mixed("m", task.size, task.corpus))
    recipe = replace(GNMT_SMALL, num_examples=3000, warmup_epochs=0.0)
    settings = Settings(device="cpu", micro_batch_size=64, stop_after=1)
    fit(task, recipe, out=tmp_path, settings=settings)
    monkeypatch.setattr(sys, "argv", ["order.py", str(tmp_path)])
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split() for line in lines] == [
        ["batch", size, *order]
        for size in ("64,", "1024,")
        for order in (["random"], ["legw", "train"], ["mixed"])
    ]
    assert "(n = 4), as noisy as 64 random pairs" in lines[0]
    assert "(n = 2), as noisy as 1024 random pairs" in lines[3]


def test_a_folder_without_a_checkpoint_is_one_line(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["order.py", str(tmp_path)])
    assert script.main() == 2
    assert capsys.readouterr().err == (
        f"{tmp_path}: has no checkpoint; train it first, or wait for the first one\n"
    )
