"""CIFAR-10 with a residual net; the images stay on the device as bytes.

Shapes: B examples, H and W pixels, C colours.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from legw.apps import Options
from legw.apps.augment import crop_and_flip
from legw.apps.images.colours import normalised, sent
from legw.apps.images.models import resnet18_small_images, small_resnet
from legw.apps.images.resident import Resident, resident
from legw.apps.images.tree import scan
from legw.errors import DataError, LegwWarning
from legw.runs.cache import cache_folder, data_folder
from legw.runs.records import HELD_OUT_LOSS
from legw.train.batches import shuffled
from legw.train.task import Metric, State

SIZE = 32
"""Height and width of the images, in pixels."""

PAD = 4
"""Most pixels that a training image is shifted by, each way (He et al. 2015, section 4.2)."""

SMOOTHING = 0.1
"""Label smoothing in training: share of the target that is spread over all classes."""

VALIDATION_SHARE = 0.1
"""Share of each class's training images that is left out for validation: the last ones."""

MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2470, 0.2435, 0.2616)
"""Standard deviation of the training images' colours, as shares of full brightness."""

ORIGINAL = "cifar-10-batches-py"
"""The folder that the published archive unpacks into."""

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "cifar10": resnet18_small_images,
    "cifar10-small": small_resnet,
    "cifar10-small-muon": small_resnet,
}
"""The applications: name -> function of the number of classes that returns a new model."""

Batch = tuple[Tensor, Tensor]


class CifarTask:
    """Classify small images.

    Args:
        name: the application's name.
        data: the images.
        make_model: number of classes -> a new model.
    """

    metric = Metric("accuracy")

    def __init__(self, name: str, data: Resident, make_model: Callable[[int], nn.Module]) -> None:
        self.name = name
        self.train, self.held_out, self.classes = data.train, data.held_out, data.classes
        self._make_model = make_model
        self._resident: dict[torch.device, tuple[Batch, Batch]] = {}
        self._fingerprint = ""

    def num_examples(self, batch_size: int) -> int:
        return len(self.train[1])

    def model(self) -> nn.Module:
        return self._make_model(len(self.classes))

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return shuffled(len(self.train[1]), seed, epoch)

    def batch(self, ids: Tensor, device: torch.device) -> Batch:
        """Return pixels, uint8 of shape (B, H, W, C), and labels, int64 of shape (B,)."""
        pixels, labels = self._on(device)[0]
        ids = sent(ids, device)
        return pixels.index_select(0, ids), labels.index_select(0, ids)

    def augment(self, batch: Batch, draws_B: Tensor) -> Batch:
        """Shift and mirror the images at random, each by its own seed."""
        pixels_BHWC, labels_B = batch
        return crop_and_flip(pixels_BHWC, sent(draws_B, pixels_BHWC.device), PAD), labels_B

    def loss(self, model: nn.Module, batch: Batch, state: State) -> tuple[Tensor, int, State]:
        pixels_BHWC, labels_B = batch
        logits = model(normalised(pixels_BHWC, MEAN, DEVIATION))
        total = functional.cross_entropy(
            logits, labels_B, reduction="sum", label_smoothing=SMOOTHING
        )
        return total, len(labels_B), None

    def evaluate(self, model: nn.Module) -> float:
        """Return the accuracy on the held-out images, in [0, 1]."""
        pixels, labels = self._on(next(model.parameters()).device)[1]
        right = labels.new_zeros(())
        for part, truth in zip(torch.split(pixels, 1000), torch.split(labels, 1000), strict=True):
            right += (model(normalised(part, MEAN, DEVIATION)).argmax(dim=1) == truth).sum()
        return int(right) / len(labels)

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the mean loss on the held-out images, smoothed as in training."""
        pixels, labels = self._on(next(model.parameters()).device)[1]
        total = pixels.new_zeros((), dtype=torch.float64)
        for batch in zip(torch.split(pixels, 1000), torch.split(labels, 1000), strict=True):
            total += self.loss(model, batch, None)[0]
        return {HELD_OUT_LOSS: float(total) / len(labels)}

    def fingerprint(self) -> str:
        """Return a hash of all images and labels; it is taken once."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            for tensor in (*self.train, *self.held_out):
                digest.update(tensor.contiguous().numpy().data)
            self._fingerprint = f"sha256:{digest.hexdigest()[:16]}"
        return self._fingerprint

    def _on(self, device: torch.device) -> tuple[Batch, Batch]:
        """Return the images on a device; they are moved there once."""
        if device not in self._resident:
            train, held_out = (
                (pixels.to(device), labels.to(device))
                for pixels, labels in (self.train, self.held_out)
            )
            self._resident[device] = (train, held_out)
        return self._resident[device]


def task(name: str, options: Options) -> CifarTask:
    """Return CIFAR-10: 50,000 images to train on, 10,000 to test.

    Raises:
        DataError: the images are neither given nor cached and cannot be downloaded, or they are not
            those expected.
    """
    data = read(name, options.data, skip_broken=options.skip_broken)
    if options.holdout == "validation":
        data = for_validation(data)
    return CifarTask(name, data, MODELS[name])


def read(name: str, folder: Path | None, *, skip_broken: bool = False) -> Resident:
    """Return the images of the folder given, of $LEGW_DATA/cifar10, or of a download.

    The folder holds train/ and test/ with a folder for each class, or one zip file of them, or the
    published archive's cifar-10-batches-py. It may also be the path of a zip file.

    Raises:
        DataError: it holds none of these, or the download fails.
    """
    folder = data_folder("cifar10", folder)
    if folder is None:
        return _original(name, cache_folder() / "cifar10", download=True)
    if (folder / ORIGINAL).is_dir():
        return _original(name, folder, download=False)
    tree = scan("cifar10", _root(name, folder), ("train", "test"))
    found = resident(tree, SIZE, skip_broken=skip_broken)
    if found.broken:
        many = "images are" if len(found.broken) > 1 else "image is"
        left = f"{len(found.broken)} broken {many} left out"
        warnings.warn(f"{name}: {left}; the first: {found.broken[0]}", LegwWarning, stacklevel=2)
    return found


def for_validation(data: Resident) -> Resident:
    """Return the training images alone, with the last ones of each class held out."""
    pixels, labels = data.train
    left = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(data.classes)):
        own = (labels == label).nonzero()[:, 0]
        left[own[round(len(own) * (1 - VALIDATION_SHARE)) :]] = True
    return Resident((pixels[~left], labels[~left]), (pixels[left], labels[left]), data.classes)


def _root(name: str, folder: Path) -> Path:
    """Return the folder or zip file with train/ and test/ at a path."""
    if folder.is_file() or (folder / "train").is_dir():
        return folder
    archives = sorted(folder.glob("*.zip")) if folder.is_dir() else []
    if len(archives) != 1:
        what = f"has {len(archives)} zip files" if archives else "is missing, or has no images"
        raise DataError(
            f"{name}: {folder}: {what}; put train/<class>/ and test/<class>/ there, one zip file "
            f"of them, or {ORIGINAL}/, or set LEGW_DATA to the folder above cifar10/"
        )
    return archives[0]


def _original(name: str, folder: Path, *, download: bool) -> Resident:
    """Return the published files' images, by torchvision."""
    from torchvision.datasets import CIFAR10

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, at the age of the files
            parts = [CIFAR10(str(folder), train=t, download=download) for t in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = "the download failed" if download else "cannot be read"
        raise DataError(
            f"{name}: {folder / ORIGINAL}: {what} ({reason[:80]}); put CIFAR-10 there, or into a "
            "folder cifar10/ and set LEGW_DATA to the folder above it"
        ) from None
    train, test = ((torch.from_numpy(p.data), torch.tensor(p.targets)) for p in parts)
    return Resident(train, test, tuple(parts[0].classes))
