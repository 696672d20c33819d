"""CIFAR-10's images and task: reading them, keeping them decoded, and training on them."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from expect import error_line
from legw import DataError, LegwWarning, Recipe
from legw.apps import Options, find
from legw.apps.images import cifar10, resident
from legw.apps.images.decode import decoded
from legw.apps.images.tree import scan
from legw.optimizers import LARS
from legw.runs import records
from legw.train import Settings, Task, fit

CLASSES = ("cat", "dog", "frog")


def picture(seed: int, size: int = 32) -> Image.Image:
    """Return a made-up image whose brightness says its class (the seed modulo 3)."""
    numbers = numpy.random.RandomState(seed)
    pixels = numpy.clip(numbers.normal(60 + 70 * (seed % 3), 20, (size, size, 3)), 0, 255)
    return Image.fromarray(pixels.astype(numpy.uint8))


def write_tree(root: Path, train: int = 8, test: int = 3, suffix: str = ".jpg") -> Path:
    """Write so many images of each class."""
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                path = folder / f"{index:03d}{suffix}"
                picture(3 * (index + (split == "test") * 1000) + label).save(path)
    return root


def zipped(root: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "legw" / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data")


def cifar(folder: Path, **options: Any) -> Any:
    return find("cifar10", Options(data=folder, **options))


# Reading --------------------------------------------------------------------------------


def test_a_folder_tree_is_read(root: Path) -> None:
    task = cifar(root)
    assert isinstance(task, Task)
    assert task.classes == CLASSES
    assert task.num_examples(512) == 24
    assert torch.bincount(task.train[1]).tolist() == [8, 8, 8]
    pixels, labels = task.batch(torch.tensor([9, 0]), torch.device("cpu"))
    assert (pixels.shape, pixels.dtype, labels.tolist()) == ((2, 32, 32, 3), torch.uint8, [1, 0])
    assert torch.equal(
        pixels[0], torch.from_numpy(numpy.array(Image.open(root / "train/dog/001.jpg")))
    )


def test_a_zip_file_gives_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    archive = zipped(root, tmp_path / "packed" / "images.zip")
    assert cifar(archive).fingerprint() == cifar(root).fingerprint()
    assert cifar(archive.parent).fingerprint() == cifar(root).fingerprint()


def test_images_are_decoded_once(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cifar(root)
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".npz"]
    monkeypatch.setattr(resident, "stacked", None)
    again = cifar(root)
    assert again.fingerprint() == first.fingerprint()
    assert torch.equal(again.train[0], first.train[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_cache_is_made_again(root: Path, cache: Path, content: bytes) -> None:
    expected = cifar(root).fingerprint()
    (file,) = cache.glob("*.npz")
    file.write_bytes(content)
    assert cifar(root).fingerprint() == expected
    assert file.stat().st_size > 24 * 3072


def test_a_changed_tree_is_decoded_again(root: Path) -> None:
    before = cifar(root)
    picture(7).save(root / "train/cat/900.jpg")
    assert cifar(root).num_examples(1) == before.num_examples(1) + 1


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(root: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert cifar(root).num_examples(1) == 24


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    root = write_tree(tmp_path / "data")
    suffix = ".jpg" if mode in ("L", "CMYK") else ".png"
    image = picture(1).convert(mode)
    image.save(root / "train/cat" / f"odd{suffix}")
    tree = scan("cifar10", root, ("train", "test"))
    found = decoded(tree, f"train/cat/odd{suffix}")
    assert (found.mode, found.size) == ("RGB", (32, 32))
    near = numpy.abs(numpy.asarray(found, int) - numpy.asarray(image.convert("RGB"), int))
    assert near.mean() < 25


# What can be wrong ------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    error_line(cifar, tmp_path / "no", kind=DataError)


def test_two_zip_files(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(b"")
    error_line(cifar, tmp_path, kind=DataError)


def test_no_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"not one")
    error_line(cifar, path, kind=DataError)


def test_a_split_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    picture(1).save(tmp_path / "train" / "1.jpg")
    error_line(cifar, tmp_path, kind=DataError)


@pytest.mark.parametrize("gone", ["test", "train"])
def test_a_class_that_one_split_lacks(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone / "dog")
    error_line(cifar, root, kind=DataError)


def test_a_class_without_images(root: Path) -> None:
    for file in (root / "test/frog").iterdir():
        file.rename(file.with_suffix(".txt"))
    error_line(cifar, root, kind=DataError)


def test_an_image_of_another_size(root: Path) -> None:
    picture(1, size=28).save(root / "train/cat/003.jpg")
    error_line(cifar, root, kind=DataError)


def broken(root: Path) -> None:
    """Break two files: one cut off, one that is no image."""
    whole = (root / "train/dog/004.jpg").read_bytes()
    (root / "train/dog/004.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/frog/001.jpg").write_bytes(b"<html>not found</html>")


def test_a_broken_image_is_named(root: Path) -> None:
    broken(root)
    error_line(cifar, root, kind=DataError)
    (root / "train/dog/004.jpg").unlink()
    error_line(cifar, root, kind=DataError)


def test_broken_images_can_be_left_out(root: Path) -> None:
    broken(root)
    for _ in range(2):  # decoded, and from the cache
        with pytest.warns(LegwWarning, match=r"^cifar10: 2 broken images are left out; the first"):
            task = cifar(root, skip_broken=True)
        assert torch.bincount(task.train[1]).tolist() == [8, 7, 7]
    error_line(cifar, root, kind=DataError)


def test_nothing_but_broken_images(root: Path) -> None:
    for file in (root / "test").rglob("*.jpg"):
        file.write_bytes(b"")
    error_line(cifar, root, kind=DataError, skip_broken=True)


def test_only_images_can_be_skipped() -> None:
    with pytest.raises(DataError.__mro__[1], match="skip_broken=True: is for cifar10"):
        find("digits-lstm", Options(skip_broken=True))


# The published archive ----------------------------------------------------------------------


def write_original(folder: Path) -> None:
    """Write the published archive's files, with made-up pixels."""
    from torchvision.datasets import CIFAR10

    numbers = numpy.random.RandomState(0)
    (folder / cifar10.ORIGINAL).mkdir(parents=True)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        data = numbers.randint(0, 256, (20, 3072), dtype=numpy.uint8)
        content = pickle.dumps({"data": data, "labels": [i % 10 for i in range(20)]})
        (folder / cifar10.ORIGINAL / name).write_bytes(content)
    names = [f"class {n}" for n in range(10)]
    meta = folder / cifar10.ORIGINAL / CIFAR10.meta["filename"]
    meta.write_bytes(pickle.dumps({"label_names": names}))


def test_the_published_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_original(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).exists()
    )
    task = cifar(tmp_path)
    assert (task.num_examples(1), len(task.held_out[1]), len(task.classes)) == (100, 20, 10)


def test_a_damaged_archive_is_told_of(tmp_path: Path) -> None:
    write_original(tmp_path)  # with other checksums than the published
    error_line(cifar, tmp_path, kind=DataError)


def test_a_failed_download_says_where_images_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.delenv("LEGW_DATA", raising=False)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(DataError, match=r"the download failed \(Network is unreachable\); put"):
        find("cifar10", Options())


# Training -----------------------------------------------------------------------------------


def test_validation_holds_out_the_last_of_each_class(tmp_path: Path) -> None:
    task = cifar(write_tree(tmp_path / "data", train=20), holdout="validation")
    assert torch.bincount(task.train[1]).tolist() == [18, 18, 18]
    assert torch.bincount(task.held_out[1]).tolist() == [2, 2, 2]
    whole = cifar(tmp_path / "data")
    assert torch.equal(task.held_out[0][:2], whole.train[0][18:20])


def test_the_model_is_resnet18_for_small_images(root: Path) -> None:
    model = cifar(root).model()
    images = torch.zeros(2, 3, 32, 32).to(memory_format=torch.channels_last)
    sizes: list[torch.Size] = []
    model.layer1.register_forward_hook(lambda _m, _i, out: sizes.append(out.shape))
    assert model(images).shape == (2, 3)
    assert sizes == [(2, 64, 32, 32)]
    assert sum(p.numel() for p in model.parameters()) == 11_173_962 - 7 * 513
    assert model.layer4[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.layer3[1].bn2.weight.any(), "residual branches start at 0"


def test_the_small_model(root: Path) -> None:
    model = find("cifar10-small", Options(data=root)).model()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert sum(p.numel() for p in model.parameters()) == 308_650 - 7 * 129
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 7
    products = 0

    def count(module: Any, _: Any, out: torch.Tensor) -> None:
        nonlocal products
        products += module.weight.numel() * out.shape[2] * out.shape[3]

    for module in convolutions:
        module.register_forward_hook(count)
    model(torch.zeros(1, 3, 32, 32))
    assert 11e6 < products < 13e6, "what an image costs"


def test_the_loss_is_the_smoothed_cross_entropy(root: Path) -> None:
    task = cifar(root)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    batch = task.batch(torch.arange(4), torch.device("cpu"))
    loss, weight, state = task.loss(lambda images: logits, batch, None)
    targets = torch.full((4, 3), 0.1 / 3)
    targets[:, 0] += 0.9
    torch.testing.assert_close(loss, -(targets * logits.log_softmax(1)).sum())
    assert (weight, state) == (4, None)


def test_the_held_out_loss_is_that_of_training_on_other_images(root: Path) -> None:
    task = cifar(root)
    model = task.model().eval()
    pixels, labels = task.held_out
    with torch.no_grad():
        total, weight, _ = task.loss(model, (pixels, labels), None)
        found = task.final_metrics(model)
    assert found == {"held_out_loss": pytest.approx(float(total) / weight, rel=1e-5)}


def test_colours_are_normalised() -> None:
    pixels = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    pixels[0, 0, 0] = 0
    found = cifar10.normalised(pixels, cifar10.MEAN, cifar10.DEVIATION)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for channel, (mean, deviation) in enumerate(zip(cifar10.MEAN, cifar10.DEVIATION, strict=True)):
        assert found[0, channel, 0, 0].item() == pytest.approx(-mean / deviation, rel=1e-5)
        assert found[0, channel, 1, 1].item() == pytest.approx((1 - mean) / deviation, rel=1e-5)


def small(root: Path) -> Any:
    """Return the task with a net that learns in seconds."""
    task = cifar(root)
    task._make_model = lambda classes: torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, classes),
    )  # fmt: skip
    return task


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"batch_size": 12, "lr": 0.3, "epochs": 10.0, "norm_batch_size": 4}
    optimizer = LARS(momentum=0.9, trust_coefficient=0.05)
    return Recipe(**(values | {"optimizer": optimizer} | changes))


def test_it_learns_and_counts_what_is_right(root: Path, tmp_path: Path) -> None:
    summary = fit(small(root), recipe(), out=tmp_path / "run", settings=Settings(device="cpu"))
    assert summary.status == "finished"
    assert summary.metric["name"] == "accuracy" and summary.metric["value"] > 0.8
    manifest = records.read_manifest(tmp_path / "run")
    assert manifest.data == small(root).fingerprint()


def test_augmentation_does_not_depend_on_the_split(root: Path, tmp_path: Path) -> None:
    losses = []
    for micro in (4, 12):
        settings = Settings(device="cpu", micro_batch_size=micro)
        fit(small(root), recipe(epochs=2.0), out=tmp_path / str(micro), settings=settings)
        losses.append([row.loss for row in records.load(tmp_path / str(micro)).updates])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_each_epoch_draws_anew(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []
    task = small(root)
    augment = task.augment

    def watched(batch: Any, draws_B: torch.Tensor) -> Any:
        seen.append(tuple(sorted(draws_B.tolist())))
        return augment(batch, draws_B)

    task.augment = watched
    settings = Settings(device="cpu", micro_batch_size=24)
    fit(task, recipe(batch_size=24, epochs=3.0), out=tmp_path / "run", settings=settings)
    assert len({draw for draws in seen for draw in draws}) == 3 * 24


@pytest.mark.ci
@pytest.mark.skipif("LEGW_DATA" not in os.environ, reason="LEGW_DATA is not set")
def test_the_real_files_are_listed() -> None:
    archive = Path(os.environ["LEGW_DATA"]) / "cifar10" / "cifar10-jpg.zip"
    if not archive.exists():
        pytest.skip("no cifar10 there")
    tree = scan("cifar10", archive, ("train", "test"))
    assert (len(tree.classes), tree.classes[0], tree.classes[9]) == (10, "airplane", "truck")
    assert [len(split.names) for split in tree.splits.values()] == [50_000, 10_000]
    image = decoded(tree, "test/frog/0007.jpg")
    assert image.size == (32, 32)
    assert Image.open(io.BytesIO(tree.read("train/cat/0000.jpg"))).format == "JPEG"
