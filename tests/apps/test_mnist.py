"""MNIST's files: read where they are, refused where they are not what they should be."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from legw import DataError, Recipe
from legw.apps import Options, find, mnist
from legw.apps.augment import shifted
from legw.apps.row_lstm import RowTask, ShiftedRowTask
from legw.train import Settings, fit


def write_mnist(folder: Path, *, compressed: bool = True) -> None:
    """Write four files in the published format, with made-up pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = numpy.random.RandomState(0)
    for name, shape in mnist.FILES.items():
        header = numpy.array([0x0800 + len(shape), *shape], dtype=">i4").tobytes()
        body = numbers.randint(0, 10, size=shape, dtype=numpy.uint8).tobytes()
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + body, 1))
        else:
            (folder / name).write_bytes(header + body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "mnist"
    write_mnist(folder)
    return folder


def test_the_four_files_are_read(folder: Path) -> None:
    task: Any = find("mnist-lstm", Options(data=folder))
    assert task.num_examples(128) == 60000
    images, labels = task.batch(torch.tensor([3, 5]), torch.device("cpu"))
    assert images.shape == (2, 28, 28) and labels.dtype is torch.int64
    assert images.min() >= 0 and images.max() <= 1
    assert sum(p.numel() for p in task.model().parameters()) == (
        (28 * 128 + 128) + 4 * 128 * (128 + 128 + 2) + (128 * 10 + 10)
    )


def test_plain_files_do_as_well(tmp_path: Path) -> None:
    write_mnist(tmp_path, compressed=False)
    assert mnist.read_idx(tmp_path, "t10k-labels-idx1-ubyte").shape == (10000,)


def test_legw_data_is_the_folder_above(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGW_DATA", str(folder.parent))
    assert mnist.find_folder(None) == folder


def test_validation_leaves_out_the_last_ten_thousand(folder: Path) -> None:
    task: Any = find("mnist-lstm", Options(data=folder, holdout="validation"))
    assert task.num_examples(128) == 50000
    assert len(task.test[1]) == 10000


def test_a_missing_file_says_which_files_go_where(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        find("mnist-lstm", Options(data=tmp_path))
    text = str(error.value)
    assert text.startswith(f"mnist-lstm: {tmp_path}/train-images-idx3-ubyte[.gz]: is missing; put")
    assert all(name in text for name in mnist.FILES)
    assert "LEGW_DATA" in text and "\n" not in text


@pytest.mark.parametrize("content", [b"", b"not an idx file", b"\0" * 60008])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=r"is not the published IDX file of shape \(60000,\)"):
        mnist.read_idx(tmp_path, "train-labels-idx1-ubyte")


def test_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b\x08 broken")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: cannot be read: "):
        mnist.read_idx(tmp_path, "train-labels-idx1-ubyte")


def test_a_failed_download_says_where_the_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.delenv("LEGW_DATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST", refuse)
    with pytest.raises(DataError, match=r"the download failed \(Network is unreachable\); put the"):
        find("mnist-lstm", Options())


@pytest.mark.skipif("LEGW_DATA" not in os.environ, reason="LEGW_DATA is not set")
def test_the_real_files() -> None:
    task: Any = find("mnist-lstm", Options())
    assert torch.bincount(task.train[1]).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip


# Shifts ---------------------------------------------------------------------------------------


def test_one_application_shifts_its_images(folder: Path) -> None:
    plain: Any = find("mnist-lstm", Options(data=folder))
    task: Any = find("mnist-lstm-muon", Options(data=folder))
    assert task.most == 2 and not hasattr(plain, "augment")
    assert torch.equal(task.train[0], plain.train[0]) and torch.equal(task.test[0], plain.test[0])
    batch = task.batch(torch.arange(50), torch.device("cpu"))
    moved, labels = task.augment(batch, torch.arange(50) * 7919)
    assert moved.shape == batch[0].shape and torch.equal(labels, batch[1])
    assert torch.equal(moved, shifted(batch[0], torch.arange(50) * 7919, 2))


class Watched(ShiftedRowTask):
    """Notes what its models are shown, in training and in evaluation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def model(self) -> nn.Module:
        model = super().model()
        model.register_forward_pre_hook(
            lambda model, inputs: self.shown[model.training].append(inputs[0])
        )
        return model


def test_images_are_shifted_in_training_and_not_in_evaluation(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, 6, 6), generator=generator, dtype=torch.uint8)
    part = images, torch.arange(40) % 10
    task = Watched("watched", part, part, scale=255.0, hidden_size=4, most=2)
    recipe = Recipe(batch_size=40, lr=0.01, epochs=3)
    settings = Settings(device="cpu", micro_batch_size=40, lanes=1)
    fit(task, recipe, out=tmp_path, settings=settings)
    pixels = images.float() / 255
    assert len(task.shown[True]) == 3
    assert len(task.shown[False]) == 4  # three evaluations, and the held-out loss at the end
    for seen in task.shown[False]:
        assert torch.equal(seen, pixels)
    for epoch, seen in enumerate(task.shown[True]):
        order = task.order(0, epoch, 40)
        assert all(
            any(torch.equal(row, each) for each in all_shifts(image))
            for row, image in zip(seen, pixels[order], strict=True)
        )
        unmoved = sum(map(torch.equal, seen, pixels[order]))
        assert unmoved < 10, "one in 25 stays where it is, in the mean"


def all_shifts(image: torch.Tensor) -> list[torch.Tensor]:
    """Return the image moved by -2 to 2 pixels both ways."""
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return [padded[down : down + 6, right : right + 6] for down in range(5) for right in range(5)]


def test_digits_are_split_once_and_for_all() -> None:
    task: Any = find("digits-lstm", Options())
    assert (task.num_examples(16), len(task.test[1])) == (1438, 359)
    assert task.fingerprint() == find("digits-lstm", Options()).fingerprint()  # type: ignore[attr-defined]


def test_the_held_out_loss_is_the_mean_over_the_held_out_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (1203, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(1203) % 10
    task = RowTask("rows", (images[:3], labels[:3]), (images, labels), scale=255.0, hidden_size=3)
    model = task.model().eval()
    with torch.no_grad():
        found = task.final_metrics(model)
        expected = functional.cross_entropy(model(images / 255), labels)
    assert found == {"held_out_loss": pytest.approx(float(expected), rel=1e-5)}
