"""Branches: what a run takes over from another run's checkpoint, and what it sees of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expect import error_line
from legw import SGD, AdamW, Muon, Polynomial, Recipe, rules
from legw.errors import RunError
from legw.optimizers import Optimizer
from legw.recipe.batch_schedule import BatchSchedule
from legw.runs import records
from legw.train import Branch, Settings, branch, fit
from train.tasks import Lines, Streams

BASE = Recipe(
    name="base", batch_size=8, lr=0.02, epochs=4, warmup_epochs=0.1, clip_norm=1.0,
    optimizer=SGD(momentum=0.9), decay=Polynomial(power=1),
)  # fmt: skip
"""100 updates of the 200 lines."""
OPTIMIZERS = (SGD(momentum=0.9), SGD(momentum=0.0), AdamW(), Muon())


class Seen(Lines):
    """Lines that write down the ids of the examples they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[int] = []

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        self.ids += ids.tolist()
        return super().batch(ids, device)


def train(task: Any, recipe: Recipe, out: Path, stop_after: int, **more: Any) -> Any:
    settings = Settings(
        micro_batch_size=64, device="cpu", resume=True, stop_after=stop_after,
        checkpoint_seconds=1e9,
    )  # fmt: skip
    return fit(task, recipe, out=out, settings=settings, **more)


def begin(base: Recipe, out: Path, *, updates: int = 40, k: int = 1, warmup: int = 0) -> Branch:
    """Train a base for some updates and keep its checkpoint for a branch."""
    train(Lines(), base, out, updates)
    return Branch(
        checkpoint=branch.keep(out, updates), base=base, base_updates=updates, first=updates // k,
        warmup_updates=warmup, updates=40, order_batch_size=base.batch_size,
    )  # fmt: skip


def losses(folder: Path) -> dict[int, float | None]:
    return {row.update: row.loss for row in records.load(folder).updates}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.kind}-{o == SGD()}")
def test_a_branch_of_the_same_batch_is_the_run_itself(optimizer: Optimizer, tmp_path: Path) -> None:
    """Bitwise: nothing of weights, optimizer, rate, order or position is lost on the way."""
    base = replace(BASE, optimizer=optimizer)
    start = begin(base, tmp_path / "base")
    train(Lines(), base, tmp_path / "base", 60)
    train(Lines(), base, tmp_path / "branch", 60, start=start)
    whole = losses(tmp_path / "base")
    assert losses(tmp_path / "branch") == {update: whole[update] for update in range(40, 60)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.kind}-{o == SGD()}")
def test_a_branch_resumes_bitwise(optimizer: Optimizer, tmp_path: Path) -> None:
    """Also with Adam, whose step count is that of both runs together."""
    base = replace(BASE, optimizer=optimizer)
    start = begin(base, tmp_path / "base", k=4, warmup=3)
    big = rules.apply(base.with_lengths(base.length, 0.0), 32, rules.find("legw"))
    for stop in (13, 20):
        train(Lines(), big, tmp_path / "halves", stop, start=start)
    train(Lines(), big, tmp_path / "whole", 20, start=start)
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert list(losses(tmp_path / "whole")) == list(range(10, 20))


def test_a_branch_sees_the_examples_that_the_base_sees_next(tmp_path: Path) -> None:
    start = begin(BASE, tmp_path / "base", k=4)
    seen, others = Seen(), Seen()
    train(seen, BASE, tmp_path / "base", 72)
    train(others, replace(BASE, batch_size=32), tmp_path / "branch", 18, start=start)
    assert others.ids == seen.ids and len(seen.ids) == 256


def test_a_branch_warms_up_again_to_the_rate_of_its_position(tmp_path: Path) -> None:
    start = begin(BASE, tmp_path / "base", k=4, warmup=4)
    big = replace(BASE, batch_size=32, lr=0.04)
    train(Lines(), big, tmp_path / "branch", 18, start=start)
    rates = [row.lr for row in records.load(tmp_path / "branch").updates]
    decayed = [0.04 * (1 - (32 * update - 20) / 780) for update in range(10, 18)]
    ramp = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates == pytest.approx([a * b for a, b in zip(decayed, ramp, strict=True)])
    manifest = records.read_manifest(tmp_path / "branch")
    assert manifest.extra["branch"]["first"] == 10
    assert records.read_summary(tmp_path / "branch").examples == 18 * 32  # type: ignore[union-attr]


def test_the_optimizers_state_is_kept_and_its_settings_are_the_branchs(tmp_path: Path) -> None:
    base = replace(BASE, optimizer=AdamW(beta2=0.999, weight_decay=0.1))
    start = begin(base, tmp_path / "base")
    task, other = Lines(), replace(base, optimizer=AdamW(beta2=0.9, weight_decay=0.2))
    model = task.model()
    optimizer = branch.optim.for_task(task, other, model)
    content = branch.read(start, task, model)
    branch.load(content, model, optimizer)
    found = optimizer.state_dict()
    assert {group["betas"][1] for group in found["param_groups"]} == {0.9}
    for number, state in content["optimizer"]["state"].items():
        assert state["step"] == 40
        for name, value in state.items():
            assert torch.equal(found["state"][number][name], value)


def test_a_branch_of_streams_begins_with_an_epoch_and_no_state(tmp_path: Path) -> None:
    task = Streams()
    base = replace(BASE, batch_size=4, optimizer=SGD(momentum=0.0))
    each, wide = (task.num_examples(size) // size for size in (4, 8))
    train(Streams(), base, tmp_path / "base", each)
    start = Branch(
        checkpoint=branch.keep(tmp_path / "base", each), base=base, base_updates=each, first=wide,
        warmup_updates=0, updates=9, order_batch_size=8,
    )  # fmt: skip
    train(Streams(), replace(base, batch_size=8), tmp_path / "branch", wide + 9, start=start)
    found = losses(tmp_path / "branch")
    assert list(found) == list(range(wide, wide + 9))
    assert all(loss is not None and loss < 4 * 2.5 for loss in found.values())


def test_a_run_that_has_gone_on_keeps_no_older_checkpoint(tmp_path: Path) -> None:
    begin(BASE, tmp_path / "base")
    train(Lines(), BASE, tmp_path / "base", 60)
    train(Lines(), BASE, tmp_path / "base", 80)
    assert branch.keep(tmp_path / "base", 40).exists()
    error_line(branch.keep, Path("base"), 20, kind=RunError)


def test_what_is_no_branch_of_the_folder_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = begin(BASE, Path("base"))
    train(Lines(), BASE, Path("branch"), 45, start=start)
    for other in (None, replace(start, warmup_updates=5), replace(start, cooldown=0.5)):
        error_line(train, Lines(), BASE, Path("branch"), 50, start=other, kind=RunError)


def test_a_checkpoint_that_is_damaged_or_of_another_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = begin(BASE, Path("base"))
    other = replace(start, base=replace(BASE, optimizer=AdamW()))
    error_line(train, Lines(), other.base, Path("other"), 45, start=other, kind=RunError)
    start.checkpoint.write_bytes(start.checkpoint.read_bytes()[:2000])
    error_line(train, Lines(), BASE, Path("branch"), 45, start=start, kind=RunError)
    start.checkpoint.unlink()
    error_line(train, Lines(), BASE, Path("branch"), 45, start=start, kind=RunError)


def test_a_rule_that_sets_rates_during_the_run_has_no_branch(tmp_path: Path) -> None:
    start = begin(BASE, tmp_path / "base")
    big = rules.apply(BASE, 32, rules.find("adascale"))
    error_line(train, Lines(), big, tmp_path / "b", 45, start=start, base=BASE, rule="adascale",
               kind=RunError)  # fmt: skip


def test_a_batch_that_grows_has_no_branch(tmp_path: Path) -> None:
    start = begin(BASE, tmp_path / "base")
    grown = replace(BASE, batch_schedule=BatchSchedule(sizes=(4,), until=(1.0,)))
    error_line(train, Lines(), grown, tmp_path / "b", 45, start=start, kind=RunError)
    other = replace(start, base=grown)
    error_line(train, Lines(), BASE, tmp_path / "b", 45, start=other, kind=RunError)
