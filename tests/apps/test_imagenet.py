"""ImageNet's task on photographs that the test makes: reading, drawing, training."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.nn import functional

from apps.photographs import (
    CLASSES,
    imagenet,
    photograph,
    tiny_net,
    train_tiny,
    write_photographs,
)  # fmt: skip
from expect import error_line
from legw import DataError, LegwWarning, Polynomial, Recipe, RunError
from legw.apps.images import imagenet as imagenet_module
from legw.apps.images.imagenet import CropAndFlip
from legw.apps.images.workers import usual_count
from legw.cli import main
from legw.optimizers import LARS
from legw.runs import records
from legw.train import Observer, Task
from train.launch import complete
from train.runs import assert_same_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "batch_size": 8, "lr": 0.5, "epochs": 4.0, "warmup_epochs": 0.5, "norm_batch_size": 4,
        "optimizer": LARS(momentum=0.9, trust_coefficient=0.02), "decay": Polynomial(power=2.0),
    }  # fmt: skip
    return Recipe(**(values | changes))


# Reading ----------------------------------------------------------------------------------


def test_the_tree_is_read(root: Path) -> None:
    task = imagenet(root)
    assert isinstance(task, Task)
    assert (task.num_examples(512), task.num_classes, len(task.held_out[1])) == (12, 3, 6)
    assert task.fingerprint().startswith("names:")
    loaded = task.augment(task.batch(torch.tensor([5, 0, 11]), CPU), torch.tensor([1, 2, 3]))
    assert (loaded.pixels_BHWC.shape, loaded.pixels_BHWC.dtype) == ((3, 224, 224, 3), torch.uint8)
    assert loaded.labels_B.tolist() == [1, 0, 2]
    assert (loaded.counts_B, loaded.count) == (None, 3)


def test_held_out_images_are_scaled_and_cut_in_the_middle() -> None:
    """Against torch's own scaling and slicing, to two steps of brightness."""
    image = photograph(0, (300, 400))
    found = CropAndFlip()(image, None)
    pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None].float()
    scaled = functional.interpolate(pixels, size=(341, 256), mode="bilinear", antialias=True)
    middle = scaled[0, :, 58:282, 16:240].permute(1, 2, 0)
    assert (found.float() - middle).abs().max() <= 2


def test_a_draw_is_its_seeds_alone(root: Path) -> None:
    image, transform = photograph(1, (120, 90)), CropAndFlip()
    state = torch.get_rng_state()
    first = transform(image, 7)
    assert torch.equal(first, transform(image, 7))
    assert not torch.equal(first, transform(image, 8))
    assert torch.equal(state, torch.get_rng_state()), "the process's own generator is left alone"


@pytest.mark.ci
def test_worker_processes_give_the_same_whatever_their_number(root: Path) -> None:
    ids, draws = torch.arange(12), torch.arange(12) * 77
    alone = imagenet(root)
    expected = alone.augment(alone.batch(ids, CPU), draws)
    task = imagenet(root, workers=2)
    try:
        task.prefetch(ids, draws)
        task.prefetch(ids[:3], draws[:3])  # never asked for
        found = task.augment(task.batch(ids, CPU), draws)
        assert torch.equal(found.pixels_BHWC, expected.pixels_BHWC)
        assert torch.equal(found.labels_B, expected.labels_B)
        again = task.augment(task.batch(ids[4:9], CPU), draws[4:9])  # never announced
        assert torch.equal(again.pixels_BHWC, expected.pixels_BHWC[4:9])
    finally:
        task.train[0].workers.close()


@pytest.mark.ci
def test_a_lost_worker_is_an_error_and_not_a_wait(root: Path) -> None:
    task = imagenet(root, workers=1)
    task.augment(task.batch(torch.arange(2), CPU), torch.arange(2))
    (process,) = task.train[0].workers._pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lost = "a process that decodes images was lost, perhaps for want"
    with pytest.raises(RunError, match=lost):
        task.augment(task.batch(torch.arange(12), CPU), torch.arange(12))
    with pytest.raises(RunError, match=lost):  # by now the pool itself knows
        task.prefetch(torch.arange(12), torch.arange(12))


# What can be wrong ------------------------------------------------------------------------


def test_no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEGW_DATA", raising=False)
    error_line(imagenet, None, kind=DataError)
    monkeypatch.setenv("LEGW_DATA", str(tmp_path))
    error_line(imagenet, None, kind=DataError)


def test_a_folder_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    error_line(imagenet, tmp_path, kind=DataError)


def test_a_class_that_val_lacks(tmp_path: Path) -> None:
    write_photographs(tmp_path)
    shutil.rmtree(tmp_path / "val" / CLASSES[1])
    error_line(imagenet, tmp_path, kind=DataError)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "png")])
def test_grey_and_cmyk_images_are_images(tmp_path: Path, mode: str, suffix: str) -> None:
    write_photographs(tmp_path, train=1)
    photograph(2, (100, 80)).convert(mode).save(tmp_path / f"train/{CLASSES[0]}/0odd.{suffix}")
    task = imagenet(tmp_path)
    loaded = task.augment(task.batch(torch.tensor([0]), CPU), torch.tensor([3]))
    assert loaded.pixels_BHWC.shape == (1, 224, 224, 3) and loaded.count == 1


def break_one(root: Path, split: str) -> Path:
    path = root / split / CLASSES[2] / f"{CLASSES[2]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:700])
    return path


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_is_named_and_ends_the_run(tmp_path: Path, split: str) -> None:
    break_one(write_photographs(tmp_path / "data"), split)
    error_line(train_tiny, tmp_path / "data", tmp_path / "run", recipe(), kind=DataError)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.ci)])
def test_a_broken_image_can_be_left_out(tmp_path: Path, workers: int) -> None:
    """Its loss does not count; the others' sum is what it would be without it."""
    broken = break_one(write_photographs(tmp_path), "train")
    task = imagenet(tmp_path, skip_broken=True, workers=workers)
    try:
        with pytest.warns(
            LegwWarning, match=rf"{broken.name}: is broken: [^;]*; left out, number 1$"
        ):
            loaded = task.augment(task.batch(torch.arange(8, 12), CPU), torch.arange(4))
    finally:
        task.train[0].workers.close()
    assert loaded.count == 3 and loaded.counts_B is not None
    assert loaded.counts_B.tolist() == [1, 0, 1, 1]
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    total, weight, _ = task.loss(lambda images: logits, loaded, None)
    each = functional.cross_entropy(
        logits, torch.full((4,), 2), reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(total, each[[0, 2, 3]].sum())
    assert weight == 3
    loaded = task.augment(task.batch(torch.tensor([9]), CPU), torch.arange(1))  # told of once
    assert loaded.count == 0


def test_broken_images_are_counted_at_the_end(tmp_path: Path) -> None:
    break_one(write_photographs(tmp_path), "val")
    task = imagenet(tmp_path, skip_broken=True)
    guess = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    guess(torch.zeros(1, 3, 224, 224))
    torch.nn.init.zeros_(guess[1].weight)
    with torch.no_grad():
        guess[1].bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
        with pytest.warns(LegwWarning, match="left out, number 1"):
            assert task.evaluate(guess) == 2 / 5  # all are taken for the second class
        assert task.final_metrics(guess) == {"top5_accuracy": 1.0, "broken_images": 1}


def test_top_five(root: Path) -> None:
    task = imagenet(root)
    task.num_classes = 8
    order = torch.tensor([5.0, 1.0, 6.0, 9.0, 8.0, 7.0, 4.0, 2.0])  # label 0 is fifth, 1 eighth

    class Guess(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return order.expand(len(images), 8)

    model = Guess(1, 1)
    assert task.evaluate(model) == 0.0
    assert task.final_metrics(model) == {"top5_accuracy": pytest.approx(4 / 6)}


# Training -------------------------------------------------------------------------------------


class StopAt(Observer):
    """Stops a run in its middle."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_update(self, row: records.Update) -> None:
        if row.update == self.update:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to: one process, no workers, micro-batches of 4."""
    out = tmp_path_factory.mktemp("whole")
    train_tiny(root, out, recipe())
    return out


def test_it_learns(whole: Path) -> None:
    found = records.load(whole)
    assert found.summary is not None and found.summary.status == "finished"
    assert found.summary.metrics["top5_accuracy"] == 1.0
    losses = [row.loss for row in found.updates]
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


@pytest.mark.ci
def test_two_processes_with_workers_train_the_same(root: Path, whole: Path, tmp_path: Path) -> None:
    complete(2, train_tiny, root, tmp_path / "run", recipe(), workers=1, logs=tmp_path / "logs")
    assert records.read_manifest(tmp_path / "run").world_size == 2
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.ci
def test_a_run_stopped_in_its_middle_goes_on(root: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train_tiny(root, out, recipe(), observers=[StopAt(2)], workers=1)
    assert first.status == "interrupted"
    assert train_tiny(root, out, recipe(), resume=True).status == "finished"
    assert_same_run(out, whole)


def test_a_batch_larger_than_the_data_takes_images_of_several_epochs(
    root: Path, tmp_path: Path
) -> None:
    summary = train_tiny(root, tmp_path, recipe(batch_size=20, epochs=5.0))
    assert (summary.status, summary.updates, summary.examples) == ("finished", 3, 60)


@pytest.mark.ci
def test_fewer_images_than_the_batch_get_a_note(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet_module, "resnet50", tiny_net)
    words = f"resnet50-imagenet -b 512 --data {root} --out {tmp_path}/run --epochs 1 --workers 0"
    assert main(["train", *words.split(), "--device", "cpu", "--micro-batch-size", "512"]) == 0
    assert (
        "note: resnet50-imagenet: the batch (512) is larger than the data given (12), so an "
        "update takes examples of several epochs; choose a smaller batch"
    ) in capsys.readouterr().out


def test_the_cores_are_shared_among_the_processes_of_a_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert usual_count() == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usual_count() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert usual_count() == 1


def test_workers_cannot_be_fewer_than_none(root: Path) -> None:
    error_line(imagenet, root, workers=-1, kind=RunError)


@pytest.mark.ci
def test_a_step_of_resnet50(root: Path, tmp_path: Path) -> None:
    """The real net at the real size; more of it, and LAMB, is in test_resnet50.py."""
    rule = LARS(weight_decay=1e-4)
    one = recipe(batch_size=4, epochs=1 / 3, warmup_epochs=0.0, lr=4.0, optimizer=rule)
    summary = train_tiny(root, tmp_path, one, tiny=False)
    losses = [row.loss for row in records.load(tmp_path).updates]
    assert summary.status == "finished"
    assert len(losses) == 1 and losses[0] == pytest.approx(numpy.log(3), abs=0.3)
