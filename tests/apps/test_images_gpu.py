"""Images on a GPU: left out where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apps.photographs import train_tiny, write_photographs
from apps.test_cifar10 import cifar, recipe, write_tree
from legw.apps.images.models import small_resnet
from legw.train import Settings, batch_norm, fit
from legw.train.loop import _Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_no_update_of_cifar10_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synchronisation within an update is an error while it is made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    update = _Run._update

    def watched(run: _Run, number: int) -> bool:
        torch.cuda.set_sync_debug_mode("error" if number > 0 else "default")
        try:
            return update(run, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_Run, "_update", watched)
    task = cifar(write_tree(tmp_path / "data", train=40))
    task._make_model = small_resnet
    settings = Settings(device="cuda", micro_batch_size=8, precision="bf16")
    summary = fit(task, recipe(), out=tmp_path / "run", settings=settings)
    assert summary.status == "finished" and summary.metric["value"] > 0.8


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_those_of_a_cpu(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = torch.randn(20, 8, 6, 6).to(memory_format=layout)
    gradients = torch.randn(20, 8, 6, 6).to(memory_format=layout)
    found = []
    for device in ("cpu", "cuda"):
        model = torch.nn.Sequential(torch.nn.BatchNorm2d(8)).to(device)
        batch_norm.fix_groups(model, 8)
        inputs = images.to(device).requires_grad_()
        outputs = model(inputs)
        assert outputs.is_contiguous(memory_format=layout)
        outputs.backward(gradients.to(device))
        assert inputs.grad is not None
        batch_norm.fold(model, batch_norm.World(torch.device(device)))
        found.append([outputs, inputs.grad, *(p.grad for p in model.parameters()),
                      *model.buffers()])  # fmt: skip
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-4)


def test_resnet50_trains_on_a_gpu(tmp_path: Path) -> None:
    root = write_photographs(tmp_path / "data", train=8)
    one = recipe(batch_size=8, epochs=2.0, lr=4.0)
    summary = train_tiny(
        root, tmp_path / "run", one, tiny=False, device="cuda", micro_batch_size=8,
        precision="bf16", workers=2,
    )  # fmt: skip
    assert summary.status == "finished"
