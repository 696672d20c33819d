"""The noise scale against a linear model whose noise is known, and what a sample costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expect import error_line
from legw.analysis.noise import noise_scale
from legw.errors import RunError
from legw.probes import NoiseProbe
from legw.probes.noise import _pieces, piece_size
from legw.runs import measurements
from legw.runs.measurements import Noise
from legw.train import Metric, Settings, fit
from train.runs import recipe
from train.tasks import TASKS, Lines


class Known:
    """A linear model whose per-example gradients are ``mean + deviation * normal`` exactly.

    Each example's loss is ``w . (mean + deviation * z)``: the gradient does not depend on
    the weights, so the noise scale is ``deviation**2 * size / |mean|**2`` all along.
    """

    name = "known"
    metric = Metric("nothing", higher_is_better=False)

    def __init__(self, seed: int, size: int = 20, deviation: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mean = torch.full((size,), 0.5, dtype=torch.float64)
        draws = torch.randn(6400, size, generator=generator, dtype=torch.float64)
        self.gradients = self.mean + deviation * draws
        self.answer = deviation**2 * size / float(self.mean @ self.mean)

    def num_examples(self, batch_size: int) -> int:
        return len(self.gradients)

    def model(self) -> nn.Module:
        return nn.Linear(len(self.mean), 1, bias=False, dtype=torch.float64)

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return torch.arange(len(self.gradients))

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        return self.gradients[ids]

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any, Any]:
        return model(batch).sum() + 100.0 * len(batch), len(batch), None  # losses are above 0

    def evaluate(self, model: nn.Module) -> float:
        return 0.0


def sample(
    task: Any,
    out: Path,
    *,
    every: int = 1,
    epochs: float = 1.0,
    micro_batch_size: int = 64,
    **more: Any,
) -> list[Noise]:
    probe = NoiseProbe(every=every)
    more = {"clip_norm": 0.01, "lr": 1e-6} | more
    fit(
        task, recipe(epochs=epochs, warmup_epochs=0, **more), out=out,
        settings=Settings(micro_batch_size=micro_batch_size, device="cpu"), observers=[probe],
    )  # fmt: skip
    return probe.rows


@pytest.mark.ci
def test_a_known_noise_scale_lies_in_the_interval_in_nine_seeds_of_ten(tmp_path: Path) -> None:
    """Gradients are clipped in these runs, which must not matter."""
    hits, values, seeds = 0, [], 40
    for seed in range(seeds):
        task = Known(seed)
        found = noise_scale(sample(task, tmp_path / str(seed)))
        assert found.n == 100 and found.low is not None and found.high is not None
        hits += found.low <= task.answer <= found.high
        values.append(found.value)
    assert hits >= 0.9 * seeds
    assert sum(values) / seeds == pytest.approx(task.answer, rel=0.03)  # type: ignore[arg-type]


def test_numerator_and_denominator_are_each_right(tmp_path: Path) -> None:
    task = Known(0)
    rows = sample(task, tmp_path / "run")
    trace = sum(row.trace or 0.0 for row in rows) / len(rows)
    squared = sum(row.squared_norm or 0.0 for row in rows) / len(rows)
    assert trace == pytest.approx(4.0 * 20, rel=0.05)
    assert squared == pytest.approx(5.0, rel=0.1)


def test_any_batch_measures_the_same(tmp_path: Path) -> None:
    for batch_size in (16, 256):
        rows = sample(Known(1), tmp_path / str(batch_size), batch_size=batch_size)
        assert noise_scale(rows).value == pytest.approx(16.0, rel=0.25)


def test_any_micro_batch_measures_the_same(tmp_path: Path) -> None:
    """Pieces of 32, in micro-batches of 5 and in one."""
    parts, whole = (
        sample(Known(1), tmp_path / str(size), batch_size=256, micro_batch_size=size)
        for size in (5, 64)
    )
    for one, other in zip(parts, whole, strict=True):
        assert (one.trace, one.squared_norm) == pytest.approx((other.trace, other.squared_norm))


class Sorted(Known):
    """Whose batches lie sorted, as those of translation do: neighbours are alike."""

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        batches = torch.arange(len(self.gradients)).split(batch_size)
        return torch.cat([ids[self.gradients[ids, 0].argsort(descending=True)] for ids in batches])


def test_a_batch_that_lies_sorted_is_as_noisy_as_any(tmp_path: Path) -> None:
    task = Sorted(0, size=1)
    rows = sample(task, tmp_path / "run")
    trace = sum(row.trace or 0.0 for row in rows) / len(rows)
    squared = sum(row.squared_norm or 0.0 for row in rows) / len(rows)
    assert trace == pytest.approx(float(task.gradients.var()), rel=0.15)
    assert squared == pytest.approx(float(task.gradients.mean() ** 2), rel=0.15)


def test_of_several_processes_one_draws_from_the_whole_batch() -> None:
    """As many as an eighth of its share has, in whole groups; of streams from its share alone."""
    share, whole = slice(0, 64), slice(0, 256)
    for readable, group in ((whole, 1), (whole, 4), (share, 1)):
        moments = [
            SimpleNamespace(seed=0, update=i, group=group, share=share, readable=readable)
            for i in range(50)
        ]
        drawn = [_pieces(moment) for moment in moments]  # type: ignore[arg-type]
        for one, other in drawn:
            both = torch.cat([one, other]).tolist()
            assert len(one) == len(other) == 8 and len(set(both)) == 16
            assert all(slot // group * group in both for slot in both)
        seen = {int(slot) for pair in drawn for piece in pair for slot in piece}
        assert max(seen) < readable.stop and len(seen) > 0.8 * readable.stop


def test_a_sample_is_a_quarter_of_a_gradient_and_three_percent_of_a_run(tmp_path: Path) -> None:
    task, passed = Known(0), []
    loss = task.loss

    def counted(model: nn.Module, batch: Any, state: Any) -> Any:
        passed.append(len(batch))
        return loss(model, batch, state)

    task.loss = counted  # type: ignore[method-assign]
    rows = sample(task, tmp_path / "run", every=100, epochs=4.0)
    run = 400 * 64
    assert len(rows) == 4 and all(row.examples == 16 for row in rows)
    assert sum(passed) - run == 4 * 16 <= 0.03 * run


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_can_be_sampled(name: str, tmp_path: Path) -> None:
    """Unequal weights, batch-norm groups, streams with the state their windows begin with."""
    rows = sample(TASKS[name](), tmp_path / "run", epochs=2.0, lr=0.05, clip_norm=1.0)
    assert len(rows) >= 6 and all(row.trace is not None and row.trace >= 0 for row in rows)


def test_pieces_of_streams_begin_with_the_state_of_their_update(tmp_path: Path) -> None:
    """Two halves of a batch, weighted, make up the batch's own gradient."""
    task = TASKS["streams"]()
    seen: list[tuple[Any, Any]] = []

    class Look(NoiseProbe):
        def measure(self, moment: Any) -> None:
            from legw.probes.noise import _gradient

            half = moment.recipe.batch_size // 2
            turned = torch.arange(2 * half).flip(0)  # any order will do
            parts = [_gradient(moment, slots) for slots in turned.split(half)]
            whole = [(a + b) / 2 for a, b in zip(*parts, strict=True)]
            seen.append((whole, [gradient.clone() for gradient in moment.gradients]))

    fit(
        task, recipe(epochs=1.0, clip_norm=None), out=tmp_path / "run",
        settings=Settings(micro_batch_size=24, device="cpu"), observers=[Look(every=1)],
    )  # fmt: skip
    assert len(seen) > 5
    for whole, gradients in seen:
        for mine, theirs in zip(whole, gradients, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_rows_are_written_to_the_run_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(
        Lines(), recipe(epochs=2.0), out=out, settings=Settings(micro_batch_size=64, device="cpu"),
        observers=[NoiseProbe(out, every=3)],
    )  # fmt: skip
    rows = measurements.read(out, Noise)
    assert [row.update for row in rows] == [0, 3, 6]
    assert rows[1].epoch == pytest.approx(4 * 64 / 200)


def test_too_small_a_share_is_said() -> None:
    error_line(piece_size, 128, 128, kind=RunError)
    error_line(NoiseProbe, every=0, kind=RunError)


def test_without_enough_samples_there_is_no_interval() -> None:
    rows = [Noise(update=i, epoch=i / 4, trace=1.0, squared_norm=1.0, examples=4) for i in range(4)]
    assert noise_scale(rows).value == 1.0 and noise_scale(rows).low is None
    lost = [Noise(update=0, epoch=0.0, trace=1.0, squared_norm=-1.0, examples=4)]
    assert noise_scale(lost).value is None
