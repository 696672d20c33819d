"""ImageNet with ResNet-50: worker processes decode images while the net trains.

Shapes: B examples, H and W pixels, C colours, K classes, F first guesses (five).
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from legw.apps import Options
from legw.apps.images.colours import normalised, sent
from legw.apps.images.decode import BrokenImageError
from legw.apps.images.models import resnet50
from legw.apps.images.tree import Tree, scan
from legw.apps.images.workers import Decoded, Workers, usual_count
from legw.errors import DataError, LegwWarning, RunError, check_count, setting
from legw.runs.cache import data_folder
from legw.train.batches import shuffled
from legw.train.task import Metric, State

SIZE = 224
"""Height and width of the net's input, in pixels."""

RESIZED = 256
"""The shorter side of a held-out image before its middle is cut out, in pixels."""

SMOOTHING = 0.1
"""Label smoothing in training: share of the target that is spread over all classes."""

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of the training images' colours, as shares of full brightness;
torchvision's."""

PIECE = 128
"""Images per forward pass of an evaluation."""

PIECES_AHEAD = 4
"""Number of such pieces that are decoded during the evaluation of one."""

NUM_EXAMPLES, NUM_CLASSES = 1281167, 1000
"""Numbers of ImageNet's training images and classes (ILSVRC 2012)."""


@dataclass(frozen=True)
class CropAndFlip:
    """The standard augmentation; without a seed, the middle of the image.

    A crop of 8 to 100 % of the area and of 3/4 to 4/3 aspect is scaled to SIZE, and half
    are mirrored (Szegedy et al. 2014, arXiv 1409.4842, section 6).
    """

    size: int = SIZE
    resized: int = RESIZED

    def __call__(self, image: Image.Image, seed: int | None) -> Tensor:
        """Return uint8 of shape (H, W, C)."""
        at_random, middle = _steps(self.size, self.resized)
        if seed is None:
            return torch.from_numpy(numpy.array(middle(image)))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.from_numpy(numpy.array(at_random(image)))


@functools.cache
def _steps(size: int, resized: int) -> tuple[v2.Transform, v2.Transform]:
    """Return the transforms of training and of evaluation, made once, as making them takes time."""
    return (
        v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(resized), v2.CenterCrop(size)]),
    )


class Images(Protocol):
    """Source of a task's images."""

    def start(self, ids: Sequence[int], seeds: Sequence[int] | None) -> None:
        """Prepare images that will be taken soon."""

    def take(self, ids: Sequence[int], seeds: Sequence[int] | None) -> Decoded:
        """Return images; without seeds they are not augmented."""
        ...


@dataclass(frozen=True)
class Files:
    """Images from files, by number."""

    names: Sequence[str]
    workers: Workers

    def start(self, ids: Sequence[int], seeds: Sequence[int] | None) -> None:
        self.workers.start([self.names[i] for i in ids], seeds)

    def take(self, ids: Sequence[int], seeds: Sequence[int] | None) -> Decoded:
        return self.workers.take([self.names[i] for i in ids], seeds)


@dataclass(frozen=True)
class MadeUp:
    """Noise in the shape of images, to measure the cost of training."""

    size: int = SIZE

    def start(self, ids: Sequence[int], seeds: Sequence[int] | None) -> None:
        return

    def take(self, ids: Sequence[int], seeds: Sequence[int] | None) -> Decoded:
        few = torch.randint(0, 256, (1, self.size, self.size, 3), dtype=torch.uint8)
        return Decoded(few.repeat(len(ids), 1, 1, 1), {})


@dataclass(frozen=True)
class Wanted:
    """Images that are not decoded yet, as their seeds are drawn before."""

    ids: Sequence[int]
    device: torch.device


@dataclass(frozen=True)
class Loaded:
    """Images on their device."""

    pixels_BHWC: Tensor
    labels_B: Tensor
    counts_B: Tensor | None
    """0 where an image is broken, else 1; None where all are whole."""
    count: int
    """Number of whole images."""


class ImageNetTask:
    """Classify photographs.

    Args:
        name: the application's name.
        train, held_out: the images, and the label of each as int64 of shape (images,).
        num_classes: number of classes, at least 2.
        skip_broken: leave broken images out, and count them, in place of an error.
    """

    metric = Metric("accuracy")

    def __init__(
        self,
        name: str,
        train: tuple[Images, Tensor],
        held_out: tuple[Images, Tensor],
        *,
        num_classes: int,
        skip_broken: bool = False,
    ) -> None:
        self.name = name
        self.train, self.held_out = train, held_out
        self.num_classes = num_classes
        self.broken: set[str] = set()
        self._skip_broken = skip_broken

    def num_examples(self, batch_size: int) -> int:
        return len(self.train[1])

    def model(self) -> nn.Module:
        return resnet50(self.num_classes)

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return shuffled(len(self.train[1]), seed, epoch)

    def batch(self, ids: Tensor, device: torch.device) -> Wanted:
        return Wanted(ids.tolist(), device)

    def prefetch(self, ids: Tensor, draws_B: Tensor) -> None:
        """Decode images that `augment` will need soon."""
        self.train[0].start(ids.tolist(), draws_B.tolist())

    def augment(self, batch: Wanted, draws_B: Tensor) -> Loaded:
        """Decode images and cut a random piece out of each, by its own seed."""
        return self._loaded(self.train, batch.ids, draws_B.tolist(), batch.device)

    def loss(
        self, model: nn.Module, batch: Wanted | Loaded, state: State
    ) -> tuple[Tensor, int, State]:
        if isinstance(batch, Wanted):
            batch = self._loaded(self.train, batch.ids, None, batch.device)
        losses_B = functional.cross_entropy(
            model(normalised(batch.pixels_BHWC, MEAN, DEVIATION)),
            batch.labels_B,
            reduction="none",
            label_smoothing=SMOOTHING,
        )
        if batch.counts_B is not None:
            losses_B = losses_B * batch.counts_B
        return losses_B.sum(), batch.count, None

    def evaluate(self, model: nn.Module) -> float:
        """Return the share of the held-out images whose class is the model's first guess."""
        return self._shares(model)[0]

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the top-5 accuracy, in [0, 1], and the number of broken images."""
        found = {"top5_accuracy": self._shares(model)[1]}
        return found | ({"broken_images": len(self.broken)} if self.broken else {})

    def fingerprint(self) -> str:
        """Return a hash of the files' names and labels; their content is not read."""
        digest = hashlib.sha256()
        for images, labels in (self.train, self.held_out):
            digest.update(repr(getattr(images, "names", type(images).__name__)).encode())
            digest.update(labels.numpy().data)
        return f"names:{digest.hexdigest()[:16]}"

    def _shares(self, model: nn.Module) -> tuple[float, float]:
        """Return the shares of held-out images right at the first, and at five guesses."""
        device = next(model.parameters()).device
        right = torch.zeros(2, dtype=torch.int64, device=device)
        total = 0
        for batch in self._pieces(device):
            logits_BK = model(normalised(batch.pixels_BHWC, MEAN, DEVIATION))
            guesses_BF = logits_BK.topk(min(5, self.num_classes), dim=1).indices
            hits_BF = guesses_BF == batch.labels_B[:, None]
            if batch.counts_B is not None:
                hits_BF = hits_BF & batch.counts_B.bool()[:, None]
            right += torch.stack([hits_BF[:, 0].sum(), hits_BF.sum()])
            total += batch.count
        first, among_five = (right.double() / max(total, 1)).tolist()
        return first, among_five

    def _pieces(self, device: torch.device) -> Iterator[Loaded]:
        """Yield the held-out images, decoded some pieces ahead."""
        images, labels = self.held_out
        pieces = [ids.tolist() for ids in torch.arange(len(labels)).split(PIECE)]  # type: ignore[no-untyped-call]
        for index, ids in enumerate(pieces):
            for ahead in (
                pieces[: PIECES_AHEAD + 1] if index == 0 else pieces[index + PIECES_AHEAD :][:1]
            ):
                images.start(ahead, None)
            yield self._loaded(self.held_out, ids, None, device)

    def _loaded(
        self,
        part: tuple[Images, Tensor],
        ids: Sequence[int],
        seeds: Sequence[int] | None,
        device: torch.device,
    ) -> Loaded:
        """Return images on the device, without waiting for the device's work."""
        images, labels = part
        found = images.take(ids, seeds)
        counts = self._counts(found) if found.broken else None
        return Loaded(
            sent(found.pixels_BHWC, device),
            sent(labels[list(ids)], device),
            None if counts is None else sent(counts, device),
            len(ids) - len(found.broken),
        )

    def _counts(self, found: Decoded) -> Tensor:
        """Return 0 for broken images and 1 for others; warn of each broken one once."""
        counts = torch.ones(len(found.pixels_BHWC))
        for index, line in found.broken.items():
            if not self._skip_broken:
                raise BrokenImageError(line)
            counts[index] = 0.0
            if line not in self.broken:
                self.broken.add(line)
                warnings.warn(f"{line}; left out, number {len(self.broken)}", LegwWarning, 2)
        return counts


def task(name: str, options: Options) -> ImageNetTask:
    """Return ImageNet, or any other images in a tree train/CLASS/ and val/CLASS/.

    Raises:
        DataError: they are not given, or have another layout.
        RunError: the number of workers is below 0.
    """
    if options.workers is not None:
        check_count(name, "workers", options.workers, 0, error=RunError)
    if options.made_up:
        labels = torch.arange(NUM_EXAMPLES) % NUM_CLASSES
        return ImageNetTask(
            name, (MadeUp(), labels), (MadeUp(), labels[:PIECE]), num_classes=NUM_CLASSES
        )
    tree = scan(name, find_folder(name, options.data), ("train", "val"))
    count = usual_count() if options.workers is None else options.workers
    workers = Workers(tree, CropAndFlip(), count)
    train, held_out = (_numbered(tree, split, workers) for split in ("train", "val"))
    return ImageNetTask(
        name,
        train,
        held_out,
        num_classes=len(tree.classes),
        skip_broken=options.skip_broken,
    )


def find_folder(name: str, data: Path | None) -> Path:
    """Return the folder or zip file given, or $LEGW_DATA/imagenet.

    Raises:
        DataError: it is neither given nor there.
    """
    data = data_folder("imagenet", data)
    if data is None or not data.exists():
        where = "no data are given" if data is None else f"{data}: is missing"
        raise DataError(
            f"{name}: {where}; give {setting('data', 'DIR')} with train/<class>/ and val/<class>/ "
            "(ImageNet has to be asked for at image-net.org)"
        )
    return data


def _numbered(tree: Tree, split: str, workers: Workers) -> tuple[Images, Tensor]:
    part = tree.splits[split]
    return Files(part.names, workers), torch.tensor(part.labels)
