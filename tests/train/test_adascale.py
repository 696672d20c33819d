"""AdaScale against the formulas of its paper, and in the loop: exact, resumable, labelled."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from legw import RunError, rules, schedule
from legw.rules import ADASCALE
from legw.runs import records
from legw.runs.records import Update
from legw.train import Observer, Settings, Task, fit
from legw.train.accumulation import GlobalBatch
from legw.train.adascale import AdaScale, variances
from legw.train.batches import Batches
from legw.train.dist import World
from legw.train.run_schedule import RunSchedule
from train.launch import complete
from train.runs import approx, recipe, train_adascale, weights
from train.tasks import TASKS, Lines

BASE = recipe(batch_size=16, epochs=4.0, clip_norm=None)


def big(batch_size: int = 64, **changes: Any) -> Any:
    return rules.apply(replace(BASE, **changes), batch_size, ADASCALE)


def train(
    out: Path, batch_size: int = 64, task: Task | None = None, observers: Any = (), **settings: Any
) -> records.Summary:
    settings = {"device": "cpu", "micro_batch_size": 16} | settings
    return fit(
        task or Lines(), big(batch_size), out=out, base=BASE, rule="adascale",
        settings=Settings(**settings), observers=observers,
    )  # fmt: skip


# The formulas, transcribed from the paper literally ---------------------------------


def literal(gradients: list[torch.Tensor], scale: float) -> tuple[float, float]:
    """sigma^2 and mu^2 of one update, as appendix B writes them, n micro-gradients."""
    n = len(gradients)
    mean = sum(gradients) / n
    squares = sum(float(g @ g) for g in gradients)
    sigma2 = (scale / n) / (n - 1) * squares - scale / (n - 1) * float(mean @ mean)  # type: ignore[union-attr]
    mu2 = float(mean @ mean) - sigma2 / scale  # type: ignore[union-attr]
    return max(sigma2, 1e-6), max(mu2, 0.0)


def literal_gains(updates: list[list[torch.Tensor]], scale: float) -> list[float]:
    """The gains of updates, each given as its micro-gradients."""
    theta = max(1 - scale / 1000, 0)
    found: list[float] = []
    sigma2 = mu2 = None
    for gradients in updates:
        new_sigma2, new_mu2 = literal(gradients, scale)
        sigma2 = new_sigma2 if sigma2 is None else theta * sigma2 + (1 - theta) * new_sigma2
        mu2 = new_mu2 if mu2 is None else theta * mu2 + (1 - theta) * new_mu2
        found.append((sigma2 + mu2) / (sigma2 / scale + mu2))
    return found


@pytest.mark.parametrize(("n", "scale"), [(4, 4.0), (2, 2.0), (8, 16.0), (3, 2.5)])
def test_gains_are_those_of_the_formulas(n: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    signal_ = torch.randn(50, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, n, 50, generator=generator, dtype=torch.float64)
    updates = [[signal_ + 2 * each for each in update] for update in noise]
    ours = AdaScale(scale=scale, count=n, base_updates=100)
    found = []
    for gradients in updates:
        mean = torch.stack(gradients).mean(0)
        mean_square = sum(float(g @ g) for g in gradients) / n
        found.append(ours.gain(mean_square, float(mean @ mean)))
    assert found == pytest.approx(literal_gains(updates, scale), rel=1e-12)


numbers = st.floats(0, 1e12)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9), st.integers(2, 64),
       st.floats(1.001, 2000))  # fmt: skip
def test_a_gain_lies_within_1_and_the_scale(
    seen: list[tuple[float, float]], count: int, scale: float
) -> None:
    ours = AdaScale(scale=scale, count=count, base_updates=9)
    for mean_square, square in seen:  # also such as cannot be
        assert 1 - 1e-9 <= ours.gain(mean_square, square) <= scale * (1 + 1e-9)


def test_noise_alone_gains_the_scale_and_no_noise_gains_1() -> None:
    assert AdaScale(scale=8.0, count=8, base_updates=1).gain(8.0, 1.0) == pytest.approx(8)
    assert AdaScale(scale=8.0, count=8, base_updates=1).gain(1.0, 1.0) == pytest.approx(1, abs=1e-5)


def test_the_variance_is_that_of_a_gradient_of_the_base_batch() -> None:
    """Over many draws the estimates are unbiased, also with micro-gradients of unequal size."""
    generator = torch.Generator().manual_seed(0)
    sizes, base_size, dimensions = [16, 16, 16, 8], 16, 4
    per_example, mu2 = 3.0, 0.25 * dimensions  # variance of one example's gradient, in each
    sums = torch.zeros(2, dtype=torch.float64)
    for _ in range(2000):
        parts = [
            0.5 + torch.randn(size, dimensions, generator=generator, dtype=torch.float64).mul(
                per_example**0.5).mean(0)
            for size in sizes
        ]  # fmt: skip
        shares = [size / sum(sizes) for size in sizes]
        whole = sum(share * part for share, part in zip(shares, parts, strict=True))
        spread = sum(s * float(part @ part) for s, part in zip(shares, parts, strict=True))
        square = float(whole @ whole)  # type: ignore[union-attr]
        sigma2 = sum(sizes) / base_size / 3 * (spread - square)
        sums += torch.tensor([sigma2, square - sigma2 * base_size / sum(sizes)])
        ours = variances(spread, square, count=4, scale=sum(sizes) / base_size)
        assert ours[0] == pytest.approx(max(sigma2, 1e-6))
    expected = [per_example * dimensions / base_size, mu2]
    assert (sums / 2000).tolist() == pytest.approx(expected, rel=0.05)


# In the loop ------------------------------------------------------------------------


def first_gradient(name: str, micro_batch_size: int) -> Any:
    task = TASKS[name]()
    torch.manual_seed(0)
    model = task.model()
    run_schedule = RunSchedule(task, big(), BASE, "adascale")
    assert run_schedule.prepare(group=1) == 16
    batch = GlobalBatch(
        task, model, big(), world=World(torch.device("cpu")), micro_batch_size=micro_batch_size,
        group=1, batches=Batches(lambda e: task.order(0, e, 64), task.num_examples(64), 64),
        num_examples=task.num_examples(64), seed=0, precision="fp32",
        accumulation=run_schedule.accumulation(),
    )  # fmt: skip
    return batch.gradient(0), [p.grad for p in model.parameters()], task


@pytest.mark.parametrize("micro_batch_size", [5, 16, 64])
def test_the_spread_is_that_of_the_base_batches_gradients(micro_batch_size: int) -> None:
    """Each micro-gradient formed on its own; weights are unequal, as those of tokens are."""
    gradient, grads, task = first_gradient("lines", micro_batch_size)
    torch.manual_seed(0)
    model = task.model()
    ids = task.order(0, 0, 64)[:64]
    squares, whole, total = 0.0, [torch.zeros_like(p) for p in model.parameters()], 0.0
    for at in range(0, 64, 16):
        model.zero_grad()
        loss, weight, _ = task.loss(model, task.batch(ids[at : at + 16], torch.device("cpu")), None)
        loss.backward()
        parts = [p.grad for p in model.parameters()]
        squares += float(sum((g**2).sum() for g in parts)) / float(weight)
        whole = [a + g for a, g in zip(whole, parts, strict=True)]
        total += float(weight)
    assert gradient.extra.tolist() == pytest.approx([squares / total], rel=1e-12)
    for found, expected in zip(grads, whole, strict=True):
        torch.testing.assert_close(found, expected / total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_a_run_does_not_depend_on_the_micro_batch(tmp_path: Path, name: str) -> None:
    for size in (8, 64):
        train_adascale(tmp_path / str(size), name, micro_batch_size=size)
    one, other = (records.load(tmp_path / size) for size in ("8", "64"))
    assert [row.lr for row in one.updates] == pytest.approx([row.lr for row in other.updates])
    mine = weights(tmp_path / "8")
    for key, tensor in weights(tmp_path / "64").items():
        torch.testing.assert_close(mine[key], tensor, rtol=0, atol=1e-9, msg=key)


@pytest.mark.ci
def test_a_run_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    train_adascale(tmp_path / "one", "normalised")
    complete(3, train_adascale, tmp_path / "three", "normalised", logs=tmp_path)
    one, three = (records.load(tmp_path / name) for name in ("one", "three"))
    assert [row.lr for row in three.updates] == approx([row.lr for row in one.updates])
    assert [row.loss for row in three.updates] == approx([row.loss for row in one.updates])
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "three")[name], tensor, rtol=0, atol=1e-10)


def test_the_run_ends_when_the_base_is_gained(tmp_path: Path) -> None:
    summary = train(tmp_path)
    run = records.load(tmp_path)
    base_updates = schedule.updates(BASE, 200)
    lr = schedule.in_steps(BASE, 200)
    gained = 0.0
    for row in run.updates:
        assert gained < base_updates, "an update after the end"
        gain = row.lr / lr(int(gained))
        assert 1 - 1e-9 <= gain <= 4 + 1e-9
        gained += gain
    assert gained >= base_updates
    assert summary.status == "finished"
    assert summary.updates == len(run.updates) <= run.manifest.updates
    assert base_updates / 4 <= summary.updates <= base_updates
    assert summary.epochs == pytest.approx(summary.updates * 64 / 200)
    assert summary.reason == (
        f"adascale gained all 50 updates of the base in {summary.epochs:.4g} epochs, "
        "the base's run has 4"
    )
    assert run.evaluations[-1].update == summary.updates
    assert summary.metric["value"] == run.evaluations[-1].metric


def test_the_run_ends_at_four_times_the_epochs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaScale, "gain", lambda self, mean_square, square: 0.5)
    summary = train(tmp_path)
    assert (summary.updates, summary.epochs) == (50, 16.0)
    assert summary.reason.startswith("adascale gained 25 of 50 updates of the base in 16 epochs")


def test_at_the_base_batch_it_is_the_base(tmp_path: Path) -> None:
    """The gain is 1: the run is the plain one, bit for bit."""
    train(tmp_path / "adascale", batch_size=16)
    fit(Lines(), BASE, out=tmp_path / "plain", settings=Settings(device="cpu", micro_batch_size=16))
    found, expected = records.load(tmp_path / "adascale"), records.load(tmp_path / "plain")
    assert [row.lr for row in found.updates] == [row.lr for row in expected.updates]
    for name, tensor in weights(tmp_path / "plain").items():
        assert torch.equal(weights(tmp_path / "adascale")[name], tensor), name


class Stopper(Observer):
    """Asks the run to stop after some updates."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_update(self, row: Update) -> None:
        if row.update == self.update:
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    for update in (3, 9):
        part = train(tmp_path / "parts", observers=[Stopper(update)], resume=True)
        assert (part.status, part.updates) == ("interrupted", update + 1)
    assert train(tmp_path / "parts", resume=True).updates == whole.updates
    found, expected = records.load(tmp_path / "parts"), records.load(tmp_path / "whole")
    assert [row.lr for row in found.updates] == [row.lr for row in expected.updates]
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "parts")[name], tensor), name


def as_fixed(out: Path, **settings: Any) -> records.Summary:
    """Train what has the same recipe, and nothing that steers it."""
    return fit(
        Lines(), big(), out=out, base=BASE, rule="fixed",
        settings=Settings(device="cpu", micro_batch_size=16, **settings),
    )  # fmt: skip


def test_a_steered_run_is_no_other_rules(tmp_path: Path) -> None:
    """`fixed` has the same recipe: neither goes on with the other, ended or not."""
    refused = r"holds a run of rule='{}', not '{}'; choose another `out`"
    train(tmp_path / "ended")
    train(tmp_path / "stopped", observers=[Stopper(3)])
    as_fixed(tmp_path / "fixed", stop_after=3)
    for folder in ("ended", "stopped"):
        with pytest.raises(RunError, match=refused.format("adascale", "fixed")):
            as_fixed(tmp_path / folder, resume=True)
    with pytest.raises(RunError, match=refused.format("fixed", "adascale")):
        train(tmp_path / "fixed", resume=True)


def test_a_steered_run_goes_on_from_its_own_base_alone(tmp_path: Path) -> None:
    train(tmp_path, observers=[Stopper(3)])
    other = replace(BASE, epochs=5.0)
    with pytest.raises(RunError, match=r"holds a run of base epochs=4\.0, not 5\.0; choose"):
        fit(
            Lines(), big(), out=tmp_path, base=other, rule="adascale",
            settings=Settings(device="cpu", micro_batch_size=16, resume=True),
        )  # fmt: skip


def test_a_run_that_was_killed_at_its_end_is_not_trained_further(tmp_path: Path) -> None:
    summary = train(tmp_path)
    (tmp_path / "summary.json").unlink()
    again = train(tmp_path, resume=True)
    assert (again.status, again.updates, again.reason) == (
        "finished", summary.updates, summary.reason,
    )  # fmt: skip


def test_batch_norm_groups_that_leave_one_gradient_are_refused(tmp_path: Path) -> None:
    base = replace(BASE, norm_batch_size=64)
    error_line(
        fit, TASKS["normalised"](), rules.apply(base, 64, ADASCALE), out=tmp_path, base=base,
        rule="adascale", settings=Settings(device="cpu", micro_batch_size=64), kind=RunError,
    )  # fmt: skip


def test_below_the_base_and_for_other_optimizers_it_is_undefined() -> None:
    error_line(rules.apply, BASE, 8, ADASCALE)
