"""`legw train --dry-run`: what a run would be and cost, and that it leaves nothing behind."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apps.photographs import tiny_net, write_photographs
from expect import error_line
from legw import LAMB, LARS, SGD, Recipe, RunError
from legw.apps.images import imagenet
from legw.cli import main
from legw.cli.commands import train
from legw.train import estimate as module
from legw.train.estimate import Estimate, estimate
from train.tasks import Lines, Normalised, Streams

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LEGW_DATA", raising=False)
    return tmp_path


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"batch_size": 64, "lr": 0.1, "epochs": 2.0, "norm_batch_size": 8}
    return Recipe(**(values | changes))


def out(capsys: pytest.CaptureFixture[str], words: str) -> str:
    assert main(["train", *words.split(), "--dry-run", "--device", "cpu"]) == 0
    return capsys.readouterr().out


# The estimate ----------------------------------------------------------------------------


def test_the_share_of_a_process_is_whole_groups() -> None:
    found = estimate(Normalised(), recipe(), device=CPU, processes=3)
    assert (found.group, found.share) == (8, 24)  # 8 groups over 3 processes
    assert found.micro_batch_size % 8 == 0
    assert found.micro_batches == -(-24 // found.micro_batch_size)


def test_updates_are_the_tasks_own() -> None:
    found = estimate(Lines(), recipe(warmup_epochs=0.5, num_examples=10**6), device=CPU)
    assert (found.num_examples, found.updates, found.warmup_updates) == (200, 7, 2)


def test_streams() -> None:
    found = estimate(Streams(), recipe(), device=CPU)
    assert found.share == 64 and found.group == 1
    assert found.num_examples == (3000 // 64 - 1) // 4 * 64


@pytest.mark.parametrize(
    ("optimizer", "tensors"),
    [(SGD(), 2), (SGD(momentum=0.9), 3), (LARS(momentum=0.9), 3), (LAMB(), 4)],
    ids=["sgd", "momentum", "lars", "lamb"],
)
def test_memory_counts_weights_gradients_and_state(optimizer: Any, tensors: int) -> None:
    """In doubles; LAMB counts updates in a number of 4 bytes for each of the 4 tensors."""
    found = estimate(Lines(), recipe(optimizer=optimizer), device=CPU)
    assert found.parameters == 6 * 8 + 8 + 8 + 1
    counts = 4 * 4 if optimizer.kind == "lamb" else 0
    assert found.fixed_bytes == tensors * 8 * found.parameters + counts


def test_a_given_micro_batch_is_kept() -> None:
    found = estimate(Normalised(), recipe(), device=CPU, micro_batch_size=16)
    assert (found.micro_batch_size, found.micro_batches) == (16, 4)
    assert "smaller than a batch-norm group of 8" in error_line(
        estimate, Normalised(), recipe(), device=CPU, micro_batch_size=4, kind=RunError
    )


def test_more_processes_than_examples() -> None:
    line = error_line(estimate, Lines(), recipe(), device=CPU, processes=65, kind=RunError)
    assert line.startswith("world_size=65: is larger than batch_size=64;")


def test_a_slow_pass_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_SECONDS", 0.0)
    assert list(estimate(Lines(), recipe(), device=CPU).rates) == [8]


class LongFirst(Lines):
    """Lines of which the first takes long, as the longest sentences do."""

    def loss(self, model: nn.Module, batch: Any, state: Any) -> Any:
        if torch.equal(batch[0][0], self.inputs[0]):
            time.sleep(0.1)
        return super().loss(model, batch, state)

    def order(self, seed: int, epoch: int, batch_size: int) -> torch.Tensor:
        return torch.arange(len(self.inputs))


def test_the_rate_is_that_of_the_whole_epoch() -> None:
    """Passes of its first 8, 16, 32 and 64 examples take 0.1 s, and hardly any other does."""
    found = estimate(LongFirst(4000), recipe(), device=CPU, lanes=1)
    assert list(found.rates) == [8, 16, 32, 64]
    assert found.rate > 3 * 64 / 0.1
    assert found.rates[64] == pytest.approx(8 * found.rates[8], rel=0.2)


def test_no_place_is_timed_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES_SECONDS", 0.0)
    begins: list[int] = []
    real = module._Passes.load

    def load(self: Any, size: int, begin: int = 0) -> Any:
        begins.append(begin)
        return real(self, size, begin)

    monkeypatch.setattr(module._Passes, "load", load)
    estimate(Lines(4000), recipe(), device=CPU, lanes=1)
    assert len([begin for begin in begins if begin]) == 1


def test_lanes_are_timed_where_training_may_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    found = estimate(Lines(), recipe(), device=CPU)
    assert found.laned and all(candidate.startswith("2 x ") for candidate in found.laned)
    assert not estimate(Lines(), recipe(), device=CPU, lanes=1).laned
    assert not estimate(Lines(), recipe(), device=CPU, one_lane=True).laned
    assert not estimate(Lines(), recipe(), device=CPU, processes=2).laned
    line = error_line(estimate, Normalised(), recipe(), device=CPU, lanes=2, kind=RunError)
    assert line.endswith("lanes=2: needs a task that is concurrent (no draws from torch's "
                         "generator, no batch-norm), one process on a CPU, a model that is not "
                         "compiled, and another rule than adascale; leave `lanes` out")  # fmt: skip


class Cropped(Lines):
    """Its examples are of use only once `augment` has had them."""

    def batch(self, ids: torch.Tensor, device: torch.device) -> Any:
        return {"raw": super().batch(ids, device)}

    def augment(self, batch: Any, draws_B: torch.Tensor) -> Any:
        return batch["raw"]


def test_lanes_are_timed_with_what_augment_makes() -> None:
    assert estimate(Cropped(), recipe(), device=CPU, lanes=2).laned


def test_what_would_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda device: 0.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    found = estimate(Lines(), recipe(), device=CPU)
    assert (list(found.rates), found.laned) == ([8], {})
    assert found.rate == found.rates[8]
    (line,) = train.cautions(found)
    assert line.startswith("a micro-batch of 8 would not fit: 0.0 MiB are free here; take")


def example(**changes: Any) -> Estimate:
    values: dict[str, Any] = {
        "device": "cpu", "processes": 2, "share": 100, "group": 10, "micro_batch_size": 30,
        "rates": {8: 20.0, 16: 50.0}, "laned": {}, "data_rate": 25.0, "data_ahead": False,
        "step_seconds": 0.5, "parameters": 7, "fixed_bytes": 2**30, "pass_bytes": 2**29,
        "available_bytes": 2**31, "num_examples": 1000, "updates": 40, "warmup_updates": 3,
    }  # fmt: skip
    return Estimate(**(values | changes))


def test_the_time_of_an_update() -> None:
    """Compute 2 s, data 4 s, step 0.5 s: one after the other, or data ahead."""
    assert example().update_seconds == 2 + 4 + 0.5
    assert example(data_ahead=True).update_seconds == 4 + 0.5
    assert example(data_ahead=True, data_rate=1e9).run_seconds == 40 * 2.5
    assert example(laned={"2 x 8": 100.0}).update_seconds == 1 + 4 + 0.5


def test_the_lines() -> None:
    assert train.plan_lines(example()) == [
        "updates: 40, of which 3 warm up (1000 examples an epoch)",
        "split: 2 processes of at most 100 examples an update, in 4 micro-batches of at most "
        "30, batch-norm in groups of 10",
        "memory: 1.50 GiB a process: 1.00 GiB for 7 parameters, their gradients and the "
        "optimizer, 0.50 GiB for a micro-batch",
        "measured: cpu: examples/s forward and backward by micro-batch: 8: 20, 16: 50",
        "data: 25 examples/s loaded between passes",
        "time: 6.5 s an update, 4.3 min in all; evaluations and the network come on top",
    ]


def test_muons_groups_come_first() -> None:
    many = "AdamW: " + ", ".join(f"w{number}" for number in range(30))
    lines = train.plan_lines(example(optimizer_groups=["Muon: a, b", many]))
    assert lines[0] == "optimizer: Muon: a, b"
    assert lines[1].startswith("optimizer: AdamW: w0, w1, ") and lines[1].endswith("and 18 more")
    assert lines[2:] == train.plan_lines(example())


def test_slow_loading_gets_a_note() -> None:
    assert train.cautions(example(data_ahead=True)) == [
        "loading (25 examples/s) is slower than compute (50): more --workers or cores would help"
    ]
    assert train.cautions(example(data_ahead=True, data_rate=60.0)) == []


# The command -------------------------------------------------------------------------------


def test_any_application(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "digits-lstm -b 512")
    assert text.startswith("digits-lstm: batch 16 → 512 (k=32, legw): lr 0.1 → 0.56569")
    assert "updates: 85, of which 23 warm up (1438 examples an epoch)\n" in text
    assert "split: 1 process of at most 512 examples an update" in text
    assert re.search(r"\nmemory: .* for 9066 parameters, their gradients and the optimizer", text)
    assert re.search(r"\ntime: .* s an update, .* in all; evaluations come on top\n", text)
    assert not list(here.iterdir()), "nothing is written"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(out(capsys, "digits-lstm -b 512 --processes 4 --json"))
    assert found["scaled"]["batch_size"] == 512
    assert (found["estimate"]["processes"], found["estimate"]["share"]) == (4, 128)
    assert found["estimate"]["updates"] == 85
    assert found["estimate"]["run_seconds"] == pytest.approx(
        85 * found["estimate"]["update_seconds"]
    )


GROUPS = [
    "Muon: project.weight",
    "Muon (each as 4 matrices): lstm.weight_ih_l0, lstm.weight_hh_l0",
    "AdamW: classify.weight",
    "AdamW: project.bias, lstm.bias_ih_l0, lstm.bias_hh_l0, classify.bias",
]


def test_which_optimizer_has_which_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "digits-lstm --recipe digits-lstm-muon -b 512")
    shown = [line for line in text.splitlines() if line.startswith("optimizer: ")]
    assert shown == [f"optimizer: {group}" for group in GROUPS]
    found = json.loads(out(capsys, "digits-lstm --recipe digits-lstm-muon -b 512 --json"))
    assert found["estimate"]["optimizer_groups"] == GROUPS
    assert "\noptimizer: " not in out(capsys, "digits-lstm -b 512")


def test_lanes_as_the_run_would_have_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert re.search(r"measured: .*, 2 x 32: ", out(capsys, "digits-lstm -b 64"))
    assert " 2 x " not in out(capsys, "digits-lstm -b 64 --lanes 1")
    assert " 2 x " not in out(capsys, "digits-lstm -b 64 --rule adascale")


def small(num_classes: int) -> nn.Module:
    return tiny_net(num_classes)


@pytest.mark.ci
def test_imagenet_without_images(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe at 32K is the published one; the net is small here, to be quick."""
    monkeypatch.setattr(imagenet, "resnet50", small)
    monkeypatch.setattr(module, "LONG_SECONDS", 0.1)
    text = out(capsys, "resnet50-imagenet -b 32768 --processes 64")
    assert "lr 4 → 32, warmup 0.15625 → 10 epochs (391 updates)" in text
    assert "updates: 3519, of which 391 warm up (1281167 examples an epoch)\n" in text
    assert "split: 64 processes of at most 512 examples an update" in text
    assert "batch-norm in groups of 128" in text
    assert "\ndata: " not in text
    assert (
        "note: measured on noise in place of images, without decoding: resnet50-imagenet: no "
        "data are given; give --data DIR"
    ) in text.replace("\n", " ")


@pytest.mark.ci
def test_imagenet_with_images(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet, "resnet50", small)
    monkeypatch.setattr(module, "LONG_SECONDS", 0.1)
    root = write_photographs(here / "data")
    text = out(capsys, f"resnet50-imagenet -b 1024 --data {root} --workers 0")
    assert "(12 examples an epoch)" in text
    assert re.search(r"\ndata: .* examples/s loaded while others train\n", text)
    assert "note: resnet50-imagenet: the batch (1024) is larger than the data given (12)" in text


def test_a_folder_that_is_given_must_be_there(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"resnet50-imagenet --data {here}/no --dry-run"
    assert main(["train", *words.split()]) == 2
    assert "/no: is missing; give --data DIR with train/" in capsys.readouterr().err


def test_an_average_of_the_weights_is_told_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(
        'name = "mine"\nbatch_size = 64\nlr = 0.1\nepochs = 1\nema_decay = 0.9\n'
    )
    words = ["train", "digits-lstm", "--recipe", "mine.toml", "--dry-run", "--device", "cpu"]
    assert main(words) == 0
    line = "evaluations measure the average of the weights over about 10 updates (ema_decay 0.9)"
    assert f"note: mine: {line}" in capsys.readouterr().out
    plain, kept = (
        estimate(Lines(), recipe(ema_decay=decay), device=CPU).fixed_bytes for decay in (None, 0.9)
    )
    assert kept - plain == 8 * (6 * 8 + 8 + 8 + 1)
