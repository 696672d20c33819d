"""A probed run is bitwise the unprobed one, whatever its probes do to the model meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from legw.probes import CurvatureProbe, NoiseProbe
from legw.runs import records
from legw.train import Moment, Probe, Settings, fit
from legw.train.probe import undisturbed
from train.runs import recipe, weights
from train.tasks import TASKS, Lines, Normalised


class Dropped(Lines):
    """The regression with dropout, in single precision."""

    name = "dropped"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()


class Vandal(Probe):
    """Does to a model whatever a careless probe could do, but for its weights."""

    def wants(self, update: int) -> bool:
        return True

    def measure(self, moment: Moment) -> None:
        batch, state = moment.load(slice(moment.share.start, moment.share.start + 8))
        loss, _, _ = moment.task.loss(moment.model, batch, state)
        loss.backward()  # type: ignore[no-untyped-call]
        moment.model.eval()
        torch.manual_seed(0)
        random.seed(0)
        for buffer in moment.model.buffers():
            buffer.zero_()


def run(task: Any, out: Path, probes: Sequence[Probe], **settings: Any) -> None:
    updates = 12 * 64 / task.num_examples(64)
    settings = {"micro_batch_size": 16, "device": "cpu"} | settings
    fit(task, recipe(epochs=updates), out=out, settings=Settings(**settings), observers=probes)


PROBES = {
    "curvature": lambda: CurvatureProbe(examples=24),
    "exact": lambda: CurvatureProbe(examples=24, method="exact"),
    "noise": lambda: NoiseProbe(every=1),
    "vandal": Vandal,
}


@pytest.mark.parametrize(
    "probe",
    ["exact", "vandal", *(pytest.param(p, marks=pytest.mark.ci) for p in ("curvature", "noise"))],
)
@pytest.mark.parametrize("make", [*TASKS.values(), Dropped], ids=lambda make: make.name)
def test_a_probed_run_is_bitwise_the_unprobed_one(make: Any, probe: str, tmp_path: Path) -> None:
    run(make(), tmp_path / "plain", [])
    run(make(), tmp_path / "probed", [PROBES[probe]()])
    plain, probed = weights(tmp_path / "plain"), weights(tmp_path / "probed")
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    losses = [[row.loss for row in records.load(tmp_path / name).updates] for name in
              ("plain", "probed")]  # fmt: skip
    assert losses[0] == losses[1]


def test_modes_buffers_gradients_and_draws_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[2].eval()
    model(torch.randn(8, 3)).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    kept = [None if g is None else g.clone() for g in gradients]
    buffers = [buffer.clone() for buffer in model.buffers()]
    torch_state, plain_state = torch.get_rng_state(), random.getstate()
    with undisturbed(model, torch.device("cpu")):
        assert all(p.grad is None for p in model.parameters())
        model.train()
        model(torch.randn(8, 3)).sum().backward()
        random.random()
    assert [module.training for module in model] == [True, True, False, True]
    for parameter, gradient, value in zip(model.parameters(), gradients, kept, strict=True):
        assert parameter.grad is gradient
        assert gradient is not None and value is not None and torch.equal(gradient, value)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == plain_state


def test_statistics_that_wait_for_the_step_stay(tmp_path: Path) -> None:
    """Batch-norm's averages move after the step, by what the update itself has seen."""
    run(Normalised(), tmp_path / "plain", [])
    run(Normalised(), tmp_path / "probed", [Vandal()])
    plain, probed = weights(tmp_path / "plain"), weights(tmp_path / "probed")
    averages = [name for name in plain if "running" in name]
    assert averages
    assert all(torch.equal(plain[name], probed[name]) for name in averages)


def test_the_time_of_probes_is_no_training_time(tmp_path: Path) -> None:
    run(Lines(), tmp_path / "run", [NoiseProbe(every=2)])
    summary = records.read_summary(tmp_path / "run")
    assert summary is not None and summary.costs["probes"] > 0
    assert summary.seconds + summary.costs["probes"] <= summary.wall_seconds + 0.01
