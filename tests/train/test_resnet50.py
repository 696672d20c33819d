"""ResNet-50: the steps of LARS and LAMB on its 161 tensors, and training it for real."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apps.photographs import train_tiny, write_photographs
from legw import LAMB, LARS, Polynomial, Recipe
from legw.apps.images.models import resnet50
from legw.optimizers import Optimizer
from legw.runs import records
from legw.train import Observer, batch_norm, optim
from train.launch import complete
from train.runs import weights

STEPS = 3


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return resnet50(1000)


def gradient(weight: Tensor, index: int, step: int) -> Tensor:
    """Return a made-up gradient in the weight's memory order, of another length each."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    values = torch.randn(weight.shape, generator=generator) * 10.0 ** (index % 5 - 3)
    return torch.empty_like(weight).copy_(values)


def lars(weight: Tensor, gradients: list[Tensor], adapt: bool) -> Tensor:
    """You et al. 2017, algorithm 1, with a rate that falls by half each step."""
    lr, momentum, decay, share, epsilon = 4.0, 0.9, 1e-4, 1e-3, 1e-5
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        beta = decay if adapt else 0.0
        norms = weight.norm(), gradient.norm()
        ratio = share * norms[0] / (norms[1] + beta * norms[0] + epsilon)
        factor = ratio if adapt and norms[0] > 0 and norms[1] > 0 else 1.0
        buffer = momentum * buffer + lr * factor * (gradient + beta * weight)
        weight = weight - buffer
        lr /= 2
    return weight


def lamb(weight: Tensor, gradients: list[Tensor], adapt: bool) -> Tensor:
    """You et al. 2019, algorithm 2, with the bias corrections of Adam."""
    lr, beta1, beta2, epsilon = 4.0, 0.9, 0.999, 1e-6
    decay = 0.01 if adapt else 0.0
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        root = (second / (1 - beta2**step)).sqrt() + epsilon
        direction = first / (1 - beta1**step) / root + decay * weight
        norms = weight.norm(), direction.norm()
        factor = norms[0] / norms[1] if adapt and norms[0] > 0 and norms[1] > 0 else 1.0
        weight = weight - lr * factor * direction
        lr /= 2
    return weight


def test_biases_and_norms_are_left_out(net: nn.Module) -> None:
    """53 convolutions and the last layer's matrix adapt; 106 of batch-norm and a bias do not."""
    adapted, excluded = optim.parameter_groups(net)
    assert (len(adapted["params"]), len(excluded["params"])) == (54, 107)
    assert len(list(net.parameters())) == 161
    assert (excluded["adapt"], excluded["weight_decay"]) == (False, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    left_out = [names[id(parameter)] for parameter in excluded["params"]]
    assert all(".bn" in n or n.startswith("bn") or "downsample.1" in n or n == "fc.bias"
               for n in left_out)  # fmt: skip


def test_groups_of_batch_norm_change_no_parameter(net: nn.Module) -> None:
    before = list(net.parameters())
    grouped = resnet50(1000)
    batch_norm.fix_groups(grouped, 32)
    assert [p.shape for p in grouped.parameters()] == [p.shape for p in before]
    assert len(optim.parameter_groups(grouped)[1]["params"]) == 107


@pytest.mark.ci
@pytest.mark.parametrize(
    ("data", "formula", "error"),
    [
        (LARS(momentum=0.9, weight_decay=1e-4, trust_coefficient=1e-3, epsilon=1e-5), lars, 1e-5),
        # On a CPU the norm of a million numbers of one size, as LAMB's directions are at
        # first, is summed in single precision: to 2e-4 of itself.
        (LAMB(weight_decay=0.01, epsilon=1e-6), lamb, 1e-3),
    ],
    ids=["lars", "lamb"],
)
def test_every_tensor_moves_by_the_formula(
    net: nn.Module,
    data: Optimizer,
    formula: Callable[[Tensor, list[Tensor], bool], Tensor],
    error: float,
) -> None:
    """All at once in single precision, against one by one in double."""
    tensors = list(net.parameters())
    starts = [tensor.detach().clone() for tensor in tensors]
    optimizer = optim.build(data, net, lr=4.0)
    for step in range(STEPS):
        for index, tensor in enumerate(tensors):
            tensor.grad = gradient(tensor, index, step)
        for group in optimizer.param_groups:
            group["lr"] = 4.0 / 2**step
        optimizer.step()
    for index, (tensor, start) in enumerate(zip(tensors, starts, strict=True)):
        gradients = [gradient(tensor, index, step).double() for step in range(STEPS)]
        expected = formula(start.double(), gradients, tensor.ndim >= 2)
        moved = (expected - start.double()).norm()
        assert (tensor.detach().double() - expected).norm() < error * moved, index
    with torch.no_grad():
        for tensor, start in zip(tensors, starts, strict=True):
            tensor.copy_(start)
            tensor.grad = None


# For real: minutes ------------------------------------------------------------------------------


class StopAt(Observer):
    """Stops a run in its middle."""

    def on_update(self, row: records.Update) -> None:
        if row.update == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lars", "lamb"])
def test_resnet50_on_two_processes(tmp_path: Path, kind: str) -> None:
    """240 photographs, 6 updates of 16: the loss falls, and a stopped run ends the same."""
    root = write_photographs(tmp_path / "data", train=80, val=4, scale=3)
    recipe = Recipe(
        batch_size=16,
        lr=2.0 if kind == "lars" else 0.01,
        epochs=0.4,
        warmup_epochs=0.1,
        norm_batch_size=8,
        optimizer=LARS(momentum=0.9, weight_decay=1e-4) if kind == "lars" else LAMB(),
        decay=Polynomial(power=2.0 if kind == "lars" else 1.0),
    )
    plan: dict[str, Any] = {"root": root, "recipe": recipe, "tiny": False, "micro_batch_size": 8}

    def run(name: str, **more: Any) -> None:
        out, logs = tmp_path / name, tmp_path / "logs"
        complete(2, train_tiny, **plan, **more, out=out, logs=logs, limit=1200.0)

    run("whole", workers=1)
    run("twice", observers=[StopAt()])
    half = records.load(tmp_path / "twice")
    assert half.summary is not None and half.summary.status == "interrupted"
    assert len(half.updates) < 6
    run("twice", resume=True)
    losses = [row.loss for row in records.load(tmp_path / "whole").updates]
    assert len(losses) == 6
    assert [row.loss for row in records.load(tmp_path / "twice").updates] == losses
    found = weights(tmp_path / "twice")
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(found[name], tensor), name
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])
    assert found["conv1.weight"].shape == (64, 3, 7, 7)
    assert found["fc.weight"].shape == (3, 2048)
