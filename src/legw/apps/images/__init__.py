"""Image classification: CIFAR-10 with small residual nets, ImageNet with ResNet-50.

The convolutional half of You et al. 2019 (arXiv 1901.08256): LARS, and a batch of up to
32K. Images come from a folder tree ``SPLIT/CLASS/*.jpg`` or from a zip of one.
"""

from legw.apps.images.cifar10 import CifarTask, task

__all__ = ["CifarTask", "task"]
