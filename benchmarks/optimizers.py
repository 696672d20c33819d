"""LARS and LAMB on ResNet-50's own tensors: many at once against one by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torchvision.models import resnet50

from benchmarks.ratios import Ratio, alternate
from legw import optimizers
from legw.train.optim import build

ROUNDS = 30
FLOORS = {"cpu": 0.97, "cuda": 3.0}


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare one update of each optimizer, on the CPU and on a GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for data in (optimizers.LARS(weight_decay=1e-4), optimizers.LAMB()):
            one_by_one, many = Updates(data, device, False), Updates(data, device, None)
            ratios = alternate(one_by_one, many, ROUNDS)
            yield Ratio(f"{data.kind}, resnet-50, {device} / one by one", ratios, FLOORS[device])


class Updates:
    """Updates of ResNet-50's weights, one a call, with gradients that stay the same."""

    def __init__(self, data: optimizers.Optimizer, device: str, foreach: bool | None) -> None:
        torch.manual_seed(0)
        self.model = resnet50().to(device)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self._optimizer = build(data, self.model, lr=1e-3, foreach=foreach)
        self._wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self) -> None:
        self._optimizer.step()
        self._wait()
