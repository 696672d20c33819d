"""Curvature along the gradient against brute force, and what a measurement costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from expect import error_line
from legw.apps import find
from legw.errors import RunError
from legw.probes import CurvatureProbe
from legw.probes.curvature import Batch, by_difference, by_product, spaced
from legw.runs import measurements
from legw.runs.measurements import Curvature
from legw.train import Metric, Moment, Probe, Settings, fit
from train.runs import recipe
from train.tasks import TASKS, Lines, Streams


class Quadratic:
    """``f(x) = x'Ax / 2`` for every example, with a known spectrum: H is A."""

    name = "quadratic"
    metric = Metric("loss", higher_is_better=False)
    spectrum = (100.0, 10.0, 3.0, 1.0, 0.1, -2.0)

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        size = len(self.spectrum)
        self.axes, _ = torch.linalg.qr(
            torch.randn(size, size, generator=generator, dtype=torch.float64)
        )
        self.matrix = (
            self.axes @ torch.diag(torch.tensor(self.spectrum).double()) @ self.axes.T
        ).to(dtype)

    def num_examples(self, batch_size: int) -> int:
        return 640

    def model(self) -> nn.Module:
        return nn.Linear(len(self.spectrum), 1, bias=False, dtype=self.matrix.dtype)

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return torch.arange(640)

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        return len(ids)

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any, Any]:
        point = model.weight[0]
        return batch * (point @ self.matrix @ point) / 2, batch, None

    def evaluate(self, model: nn.Module) -> float:
        return 0.0


class Catch(Probe):
    """Calls a function at one update, for tests that need a moment."""

    def __init__(self, look: Any, at: int = 3) -> None:
        self.look, self.at = look, at
        self.seen: list[Any] = []

    def wants(self, update: int) -> bool:
        return update == self.at

    def measure(self, moment: Moment) -> None:
        self.seen.append(self.look(moment))


def look_at(task: Any, look: Any, out: Path, at: int = 3, **changes: Any) -> Any:
    """Train a few updates, and return what `look` returns for the moment of one of them."""
    caught = Catch(look, at)
    epochs = (at + 1) * 64 / task.num_examples(64)
    fit(
        task,
        recipe(epochs=epochs, warmup_epochs=epochs / 10, **changes),
        out=out,
        settings=Settings(micro_batch_size=16, device="cpu"),
        observers=[caught],
    )
    return caught.seen[0]


def brute_force(batch: Batch, direction: list[Tensor]) -> float:
    """Return u'Hu from the whole Hessian, which is made column by column."""
    moment = batch.moment
    loss, weight = torch.zeros((), dtype=torch.float64), 0
    for piece in batch.pieces:
        part, share, _ = moment.task.loss(moment.model, piece, None)
        loss, weight = loss + part, weight + share
    gradients = torch.autograd.grad(loss / weight, moment.parameters, create_graph=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    rows = [
        torch.cat(
            [
                row.flatten()
                for row in torch.autograd.grad(
                    each, moment.parameters, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for each in flat
    ]
    hessian, vector = torch.stack(rows), parameters_to_vector(direction)
    return float(vector @ hessian @ vector / (vector @ vector))


@pytest.mark.parametrize("make", [Lines, pytest.param(Streams, marks=pytest.mark.ci)])
def test_both_methods_agree_with_the_full_hessian(make: Any, tmp_path: Path) -> None:
    task = make()

    def look(moment: Moment) -> list[float]:
        batch = Batch(moment, task.order(1, 0, 64)[:40])
        direction = [gradient.detach() for gradient in moment.gradients]
        both = [float(method(batch, direction)) for method in (by_difference, by_product)]
        return [*both, brute_force(batch, direction)]

    *found, expected = look_at(task, look, tmp_path / "run")
    assert found == pytest.approx([expected, expected], rel=1e-6)


@pytest.mark.parametrize("method", [by_difference, by_product])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_quadratic_gives_its_spectrum(dtype: torch.dtype, method: Any, tmp_path: Path) -> None:
    """Along an eigenvector the curvature is the eigenvalue, with its sign.

    In single precision an error of rounding is in proportion to the largest of them: up to
    about 1e-4 of it, depending on the CPU's kernels.
    """
    task = Quadratic(dtype)

    def look(moment: Moment) -> list[float]:
        batch = Batch(moment, torch.arange(8))
        return [float(method(batch, [axis.to(dtype)[None]])) for axis in task.axes.T]

    found = look_at(task, look, tmp_path / "run", at=0, lr=1e-4)
    tolerance = 1e-6 if dtype == torch.float64 else 2e-2
    assert found == pytest.approx(list(task.spectrum), rel=1e-5, abs=tolerance)


def test_the_probe_measures_gradients_curvature_on_a_quadratic(tmp_path: Path) -> None:
    task, probe = Quadratic(), CurvatureProbe(examples=8)
    gradients = Catch(lambda moment: [gradient.clone() for gradient in moment.gradients], at=0)
    fit(
        task, recipe(epochs=0.1, warmup_epochs=0, lr=1e-4), out=tmp_path / "run",
        settings=Settings(micro_batch_size=64, device="cpu"), observers=[probe, gradients],
    )  # fmt: skip
    (g,) = gradients.seen[0]
    expected = float(g[0] @ task.matrix @ g[0] / (g[0] @ g[0]))
    assert probe.rows[0].curvature == pytest.approx(abs(expected), rel=1e-6)
    assert probe.rows[0].negative == (expected < 0)


def test_difference_and_product_agree_on_a_transformer(tmp_path: Path) -> None:
    """Its attention is fused, and has no second derivative but without that kernel."""

    def look(moment: Moment) -> tuple[float, float]:
        batch = Batch(moment, torch.arange(64))
        direction = [gradient.detach() for gradient in moment.gradients]
        return float(by_difference(batch, direction)), float(by_product(batch, direction))

    found, exact = look_at(TASKS["windows"](), look, tmp_path / "run", at=0, lr=1e-4)
    assert abs(exact) > 1e-6
    assert found == pytest.approx(exact, rel=1e-6)


def test_difference_and_product_agree_on_a_fused_lstm_in_single_precision(tmp_path: Path) -> None:
    """Within 1e-4 of the value, at each of the updates at which it matters."""
    task = find("digits-lstm")

    def look(moment: Moment) -> tuple[float, float]:
        batch = Batch(moment, torch.arange(64))
        direction = [gradient.detach() for gradient in moment.gradients]
        return float(by_difference(batch, direction)), float(by_product(batch, direction))

    probes = [Catch(look, at) for at in (0, 10, 25, 30, 40, 60)]
    updates = 61 * 64 / task.num_examples(64)
    fit(
        task, recipe(epochs=updates, lr=0.2, warmup_epochs=1.0), out=tmp_path / "run",
        settings=Settings(micro_batch_size=64, device="cpu"), observers=probes,
    )  # fmt: skip
    assert next(task.model().parameters()).dtype == torch.float32
    for probe in probes:
        found, exact = probe.seen[0]
        assert found == pytest.approx(exact, rel=1e-4), probe.at


def test_weights_come_back_bitwise_even_after_a_failure(tmp_path: Path) -> None:
    task = Lines()

    def look(moment: Moment) -> bool:
        batch = Batch(moment, torch.arange(8))
        before = [p.detach().clone() for p in moment.parameters]
        batch.pieces = ["no batch"]
        with pytest.raises(ValueError):
            by_difference(batch, [p.detach() for p in moment.parameters])
        return all(torch.equal(a, b) for a, b in zip(before, moment.parameters, strict=True))

    assert look_at(task, look, tmp_path / "run")


@pytest.mark.parametrize(("method", "most"), [("difference", 2.0), ("exact", 1.0)])
def test_a_measurement_costs_two_gradients(method: Any, most: float, tmp_path: Path) -> None:
    """Counted in examples that pass forward: the issue's limit is 2.2 gradients of the batch."""
    task, passed = Lines(), []
    loss = task.loss

    def counted(model: nn.Module, batch: Any, state: Any) -> Any:
        passed.append(len(batch[0]))
        return loss(model, batch, state)

    task.loss = counted  # type: ignore[method-assign]
    probe = CurvatureProbe(examples=48, method=method)
    fit(
        task, recipe(epochs=0.32, warmup_epochs=0), out=tmp_path / "run",
        settings=Settings(micro_batch_size=16, device="cpu"), observers=[probe],
    )  # fmt: skip
    assert len(probe.rows) == 1
    assert sum(passed) - 64 == most * 48


def test_rows_are_written_and_a_resumed_run_has_each_update_once(tmp_path: Path) -> None:
    task, out = Lines(), tmp_path / "run"
    settings = Settings(micro_batch_size=64, device="cpu", resume=True)

    def go() -> None:
        fit(task, recipe(epochs=1.0), out=out, settings=settings,
            observers=[CurvatureProbe(out, examples=16)])  # fmt: skip

    go()
    rows = measurements.read(out, Curvature)
    assert [row.update for row in rows] == list(range(4))
    assert rows[-1].epoch == pytest.approx(4 * 64 / 200) and rows[-1].lr == 0.05
    (out / "summary.json").unlink()
    path = measurements.path_of(out, Curvature)
    path.write_bytes(path.read_bytes() + b'{"update": 99, "epo')  # a killed process's last line
    go()
    assert measurements.read(out, Curvature) == rows


def test_lost_values_are_null(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(
        Quadratic(), recipe(epochs=2.0, warmup_epochs=0, lr=1e14, clip_norm=None), out=out,
        settings=Settings(micro_batch_size=64, device="cpu"),
        observers=[CurvatureProbe(out, examples=8)],
    )  # fmt: skip
    rows = measurements.read(out, Curvature)
    assert rows[0].curvature is not None and rows[-1].curvature is None
    assert "NaN" not in measurements.path_of(out, Curvature).read_text()


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_can_be_probed(name: str, tmp_path: Path) -> None:
    """Unequal weights, batch-norm groups, streams with their state."""
    probe = CurvatureProbe(examples=40)
    fit(
        TASKS[name](), recipe(epochs=0.5), out=tmp_path / "run",
        settings=Settings(micro_batch_size=16, device="cpu"), observers=[probe],
    )  # fmt: skip
    assert probe.rows and all(row.curvature is not None for row in probe.rows)


def test_the_schedule_is_dense_at_first_and_thins_out() -> None:
    at = [update for update in range(6400) if spaced(update)]
    assert at[:200] == list(range(200))
    for begin in (200, 400, 800, 1600, 3200):
        assert sum(begin <= update < 2 * begin for update in at) == 100


@pytest.mark.parametrize(
    "values",
    [
        {"examples": 0},
        {"dense": 0},
    ],
)
def test_what_cannot_be_is_said(values: dict[str, int]) -> None:
    error_line(CurvatureProbe, kind=RunError, **values)
