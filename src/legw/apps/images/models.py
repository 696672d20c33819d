"""Residual nets for small images."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import resnet18


def resnet18_small_images(num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with the first layers that 32x32 images need.

    The first convolution is 3x3 with stride 1 and no pooling follows, as in He et al.
    2015, arXiv 1512.03385, section 4.2. Each residual branch starts at 0 (Goyal et al.
    2017, arXiv 1706.02677, section 5.1). Weights lie channels-last.
    """
    model: nn.Module = resnet18(num_classes=num_classes, zero_init_residual=True)
    first = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = first, nn.Identity()
    return model.to(memory_format=torch.channels_last)
