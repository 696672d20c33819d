"""Optimizer steps: LARS and LAMB on ResNet-50's tensors, and what Muon adds to an update.

LARS and LAMB update many tensors at once, against one by one. Muon is measured by the whole
update of MNIST-LSTM, forward, backward and step, against the same with fused AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torchvision.models import resnet50

from benchmarks import rows
from benchmarks.ratios import Ratio, alternate, run
from legw import optimizers
from legw.optimizers import Optimizer
from legw.recipe import Recipe
from legw.train import Task, batch_norm
from legw.train.accumulation import Accumulation, GlobalBatch, Precision
from legw.train.batches import Batches, derive
from legw.train.dist import World
from legw.train.lanes import LanedAccumulation
from legw.train.microbatch.candidates import Candidate
from legw.train.optim import build, for_task

ROUNDS = 30
FLOORS = {"cpu": 0.97, "cuda": 3.0}
MUON_FLOORS = {"fp32": 1 / 1.35, "bf16": 1 / 1.25}
"""An update with Muon takes at most 1.35 times as long as with AdamW, in bf16 1.25 times."""

MUON = optimizers.Muon(momentum=0.9, adamw_lr_ratio=0.5)


def measure(bf16_floors: bool) -> Iterator[Ratio]:
    """Compare one update of each optimizer, on the CPU and on a GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for data in (optimizers.LARS(weight_decay=1e-4), optimizers.LAMB()):
            one_by_one, many = Updates(data, device, False), Updates(data, device, None)
            ratios = alternate(one_by_one, many, ROUNDS)
            yield Ratio(f"{data.kind}, resnet-50, {device} / one by one", ratios, FLOORS[device])
    yield muon(128, "fp32", rounds=40, block=10, floor=MUON_FLOORS["fp32"])
    if bf16_floors:
        yield muon(128, "bf16", rounds=40, block=10, floor=MUON_FLOORS["bf16"])
    yield muon(rows.LARGE, "fp32", rounds=4, block=1)


class Updates:
    """Updates of ResNet-50's weights, one a call, with gradients that stay the same."""

    def __init__(self, data: Optimizer, device: str, foreach: bool | None) -> None:
        torch.manual_seed(0)
        self.model = resnet50().to(device)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self._optimizer = build(data, self.model, lr=1e-3, foreach=foreach)
        self._wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def __call__(self) -> None:
        self._optimizer.step()
        self._wait()


def muon(
    batch_size: int, precision: Precision, *, rounds: int, block: int, floor: float | None = None
) -> Ratio:
    """Compare MNIST-LSTM's updates with Muon to those with fused AdamW, in turns.

    Args:
        batch_size: examples of an update.
        precision: of forward and backward.
        rounds: that count.
        block: updates of each side in a round.
        floor: what the ratio must reach.
    """
    task = rows.synthetic()
    recipe = replace(rows.recipe(batch_size), lr=1e-4, optimizer=optimizers.AdamW())
    candidate = run(task, recipe, updates=1, precision=precision)
    # Both are made before either runs: in lanes, a run leaves this thread a share of the cores.
    sides = [
        WholeUpdates(task, each, candidate, precision)
        for each in (recipe, replace(recipe, optimizer=MUON))
    ]
    adamw, ours = (side.several(block) for side in sides)
    ratios = alternate(adamw, ours, rounds)
    for side in sides:
        side.close()
    name = f"muon, mnist-lstm {batch_size}{', bf16' if precision == 'bf16' else ''} / adamw"
    return Ratio(name, ratios, floor, f"micro-batch {candidate}")


class WholeUpdates:
    """Updates of MNIST-LSTM as `fit` makes them: gradient of the global batch, then the step.

    Args:
        task: whose model is trained.
        recipe: optimizer, batch size, and the rate of all updates.
        candidate: micro-batch and lanes.
        precision: of forward and backward.
    """

    def __init__(
        self, task: Task, recipe: Recipe, candidate: Candidate, precision: Precision
    ) -> None:
        batch_size = recipe.batch_size
        torch.manual_seed(derive(0, "model"))
        self.model = task.model()
        self._optimizer = for_task(task, recipe, self.model)
        num_examples = task.num_examples(batch_size)
        one = candidate.lanes == 1
        self._accumulation = Accumulation() if one else LanedAccumulation(candidate.lanes)
        self._batch = GlobalBatch(
            task,
            self.model,
            recipe,
            world=World(torch.device("cpu")),
            micro_batch_size=candidate.size,
            group=batch_norm.fix_groups(self.model, recipe.norm_batch_size),
            batches=Batches(
                lambda epoch: task.order(0, epoch, batch_size), num_examples, batch_size
            ),
            num_examples=num_examples,
            seed=0,
            precision=precision,
            accumulation=self._accumulation,
        )
        self._accumulation.share_with(self._optimizer)
        self._made = 0

    def __call__(self) -> float:
        """Make one update; return its loss."""
        gradient = self._batch.gradient(self._made)
        self._optimizer.step()
        self._made += 1
        return gradient.loss.item()

    def several(self, count: int) -> Callable[[], object]:
        """Return a function that makes so many updates."""
        return lambda: [self() for _ in range(count)]

    def close(self) -> None:
        """End the lanes."""
        self._accumulation.close()
