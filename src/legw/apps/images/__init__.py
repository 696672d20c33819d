"""Image classification: CIFAR-10 with small residual nets, ImageNet with ResNet-50.

The convolutional half of You et al. 2019 (arXiv 1901.08256): LARS, and a batch of up to
32K. Images come from a folder tree ``SPLIT/CLASS/*.jpg`` or from a zip of one.
"""

from __future__ import annotations

from legw.apps import Options
from legw.apps.images import cifar10, imagenet
from legw.apps.images.cifar10 import CifarTask
from legw.apps.images.imagenet import ImageNetTask

__all__ = ["CifarTask", "ImageNetTask", "task"]


def task(name: str, options: Options) -> CifarTask | ImageNetTask:
    """Return the application of this name.

    Raises:
        DataError: its images are not found, or not those expected.
    """
    return cifar10.task(name, options) if name in cifar10.MODELS else imagenet.task(name, options)


TAKES = ("skip_broken", "workers")
"""Options of these applications alone."""
