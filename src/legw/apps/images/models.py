"""Residual nets: for images of 32x32 pixels, and ImageNet's ResNet-50."""

from __future__ import annotations

import torch
import torchvision
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock


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


def resnet50(num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-50, channels-last, each residual branch starting at 0.

    Reference: He et al. 2015, arXiv 1512.03385; zero start: Goyal et al. 2017, arXiv
    1706.02677, section 5.1.
    """
    model: nn.Module = torchvision.models.resnet50(num_classes=num_classes, zero_init_residual=True)
    return model.to(memory_format=torch.channels_last)


def small_resnet(num_classes: int, width: int = 32) -> nn.Module:
    """Return a residual net of 7 layers that two CPU cores train in minutes.

    Three blocks of `width`, twice and four times as many channels, at 16x16, 8x8 and 4x4
    pixels: 309,000 weights and 12 million products for an image, against 11 million and
    556 million of ResNet-18.
    """
    first = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
    blocks = [BasicBlock(width, width)]
    for channels in (width, 2 * width):
        shortcut = nn.Conv2d(channels, 2 * channels, kernel_size=1, stride=2, bias=False)
        narrowed = nn.Sequential(shortcut, nn.BatchNorm2d(2 * channels))
        blocks.append(BasicBlock(channels, 2 * channels, stride=2, downsample=narrowed))
    model = nn.Sequential(
        first,
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for block in blocks:
        nn.init.zeros_(block.bn2.weight)
    return model.to(memory_format=torch.channels_last)
