"""CIFAR-10's small net: what making a batch out of the bytes in memory costs of a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.ratios import WARM_UP, Ratio, seconds
from legw.apps.images.cifar10 import Batch, CifarTask
from legw.apps.images.models import small_resnet
from legw.apps.images.resident import Resident
from legw.train import batch_norm

BATCH_SIZE, ROUNDS = 128, 12
MAX_OF_A_STEP = 0.03
CPU = torch.device("cpu")


def synthetic(images: int = 20_000) -> CifarTask:
    """Return the task on random pixels, far more of them than a CPU's cache holds."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images,), generator=generator)
    few = pixels[:10], labels[:10]
    data = Resident((pixels, labels), few, tuple("abcdefghij"))
    return CifarTask("cifar10-small", data, small_resnet)


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare a step on a batch that is there with one that makes its batch first."""
    floor = 1 / (1 + MAX_OF_A_STEP)
    for precision in ("fp32", "bf16"):
        shares = list(shares_of_a_step(synthetic(), bf16=precision == "bf16"))
        yield Ratio(f"cifar10-small 128, {precision}, ready batch / made", shares, floor)


def shares_of_a_step(task: CifarTask, *, bf16: bool, rounds: int = ROUNDS) -> Iterator[float]:
    """Yield, round by round, the time of a pass over that of the pass and its batch together."""
    model = task.model()
    batch_norm.fix_groups(model, BATCH_SIZE)
    ids = task.order(0, 0, BATCH_SIZE).split(BATCH_SIZE)
    batch = made_batch(task, ids[-2])  # the last one may be short
    for number in range(WARM_UP + rounds):
        made = seconds(partial(made_batch, task, ids[number]))
        passed = seconds(partial(forward_and_backward, task, model, batch, bf16))
        if number >= WARM_UP:
            yield passed / (passed + made)


def made_batch(task: CifarTask, ids: Tensor) -> Batch:
    """Return a batch as training makes it: taken out of the whole, shifted and mirrored."""
    return task.augment(task.batch(ids, CPU), ids)


def forward_and_backward(task: CifarTask, model: nn.Module, batch: Batch, bf16: bool) -> None:
    """Make a pass as training does; the optimizer's step, left out, would only make it longer."""
    batch_norm.forget(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total, _, _ = task.loss(model, batch, None)
    total.backward()  # type: ignore[no-untyped-call]
