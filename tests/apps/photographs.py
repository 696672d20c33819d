"""A tree of made-up photographs, as ImageNet's is: many sizes, some grey, some CMYK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from PIL import Image
from torch import Tensor, nn

from legw import Recipe
from legw.apps import Options, find
from legw.runs.records import Summary
from legw.train import Settings, fit

CLASSES = ("n01440764", "n02102040", "n03000684")


def photograph(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return coloured noise whose main colour says its class (the seed modulo 3)."""
    numbers = numpy.random.RandomState(seed)
    small = numbers.randint(0, 120, (8, 8, 3))
    small[:, :, seed % 3] += 120
    return Image.fromarray(small.astype(numpy.uint8)).resize(size, Image.Resampling.BICUBIC)


def write_photographs(root: Path, train: int = 4, val: int = 2, scale: int = 1) -> Path:
    """Write so many images of each class, wide and tall ones."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                size = (scale * (80 + index % 5 * 20), scale * (130 - index % 4 * 15))
                seed = 3 * (index + (split == "val") * 1000) + label
                photograph(seed, size).save(folder / f"{name}_{index}.JPEG", quality=80)
    return root


def imagenet(root: Path | None, **options: Any) -> Any:
    """Return the task; decoding in this process unless `workers` says otherwise."""
    return find("resnet50-imagenet", Options(data=root, **({"workers": 0} | options)))


class Double(nn.Module):
    """Lets the layers behind it compute in double precision."""

    def forward(self, images: Tensor) -> Tensor:
        return images.double()


def tiny_net(num_classes: int) -> nn.Module:
    """Return a net that a test can train, with batch-norm, in double precision."""
    return nn.Sequential(
        Double(), nn.Conv2d(3, 6, 7, stride=8), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, num_classes),
    ).double()  # fmt: skip


def train_tiny(
    root: Path,
    out: Path,
    recipe: Recipe,
    *,
    tiny: bool = True,
    observers: Any = (),
    workers: int = 0,
    **settings: Any,
) -> Summary:
    """Train on the photographs, with the tiny net or with ResNet-50 itself."""
    task = imagenet(root, workers=workers)
    if tiny:
        task.model = lambda: tiny_net(task.num_classes)
    try:
        settings = {"device": "cpu", "micro_batch_size": 4} | settings
        return fit(task, recipe, out=out, settings=Settings(**settings), observers=observers)
    finally:
        if task.train[0].workers:
            task.train[0].workers.close()
