"""Training with a batch that grows: its examples, its exactness in any split, and its restarts."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expect import error_line
from legw import SGD, BatchSchedule, Polynomial, Recipe, RecipeError, RunError, batches, in_steps
from legw.runs import records
from legw.runs.records import Summary
from legw.schedule import Progress
from legw.train import Settings, State, checkpoint, fit
from legw.train.batches import Batches
from train.launch import CONTEXT, complete
from train.runs import assert_same_run, weights
from train.tasks import Lines, Normalised, Streams

GROWN = Recipe(
    name="grown", batch_size=64, lr=0.05, epochs=8, warmup_epochs=0.5,
    optimizer=SGD(momentum=0.9), clip_norm=1.0, norm_batch_size=8, decay=Polynomial(),
    batch_schedule=BatchSchedule(sizes=(12, 24, 40), until=(1.3, 3.0, 4.7)),
)  # fmt: skip
"""Sizes that divide neither an epoch's 200 examples nor each other."""
STREAMS = replace(
    GROWN, name="streams", batch_schedule=BatchSchedule(sizes=(16, 32), until=(2, 5))
)  # fmt: skip


class Texts(Streams):
    """Streams whose ids are the places where windows begin, at every batch size."""

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        windows = self.num_examples(batch_size) // batch_size
        streams_B = torch.arange(batch_size) * (len(self.tokens) // batch_size)
        return (torch.arange(windows)[:, None] * self.window + streams_B).flatten()

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        at_BT = ids[:, None] + torch.arange(self.window)
        return self.tokens[at_BT], self.tokens[at_BT + 1]


TASKS = {"lines": Lines, "normalised": Normalised, "streams": Texts}
RECIPES = {"lines": GROWN, "normalised": GROWN, "streams": STREAMS}


def train(name: str, out: Path, recipe: Recipe | None = None, **settings: Any) -> Summary:
    settings = {"micro_batch_size": 64, "device": "cpu"} | settings
    return fit(TASKS[name](), recipe or RECIPES[name], out=out, settings=Settings(**settings))


def train_all(plans: list[dict[str, Any]]) -> None:
    for plan in plans:
        train(**plan)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in one piece, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    for name in TASKS:
        train(name, folder / name)
    return folder


# Examples -------------------------------------------------------------------------


def test_every_example_is_used_once_an_epoch() -> None:
    """Batches straddle epochs; only the last runs over the end, by less than a batch."""
    task, progress = Lines(), Progress(GROWN, 200)
    orders = Batches(lambda epoch: task.order(0, epoch, 64), 200, 64, progress=progress)
    ids, epochs = [], []
    for update in range(progress.updates):
        ids += orders.ids(update).tolist()
        epochs += orders.epochs(update).tolist()
    assert len(ids) == progress.seen(progress.updates)
    assert 0 <= len(ids) - 8 * 200 < 64
    expected = torch.cat([task.order(0, epoch, 64) for epoch in range(9)])
    assert ids == expected[: len(ids)].tolist()
    assert epochs == [place // 200 for place in range(len(ids))]


def test_every_window_of_streams_is_used_once_an_epoch() -> None:
    task = Texts()
    progress = Progress(STREAMS, task.num_examples)
    orders = Batches(
        lambda epoch: task.order(0, epoch, progress.order_size(epoch)), 0, 64, progress=progress
    )
    seen: dict[int, Counter[int]] = {}
    for update in range(progress.updates):
        (epoch,) = set(orders.epochs(update).tolist())
        seen.setdefault(epoch, Counter()).update(orders.ids(update).tolist())
    for epoch, size in enumerate([16, 16, 32, 32, 32, 64, 64, 64]):
        assert sorted(seen[epoch].elements()) == sorted(task.order(0, epoch, size).tolist())


def test_the_records_of_a_run(whole: Path) -> None:
    for name, task in TASKS.items():
        run = records.load(whole / name)
        assert run.summary is not None
        progress = Progress(RECIPES[name], task().num_examples)
        lr = in_steps(RECIPES[name], task().num_examples)
        assert run.summary.status == "finished"
        assert run.summary.updates == run.manifest.updates == progress.updates
        assert run.summary.examples == progress.seen(progress.updates)
        assert run.summary.epochs == progress.epochs(progress.updates)
        assert [row.lr for row in run.updates] == [lr(s) for s in range(progress.updates)]
        places = [progress.epochs(update + 1) for update in range(progress.updates)]
        assert [row.epoch for row in run.updates] == places
        assert [int(row.epoch) for row in run.evaluations][:8] == list(range(1, 9))
    assert list(batches(GROWN, 200))[:18:17] == [12, 12]


# However it is cut ------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch_size", [8, pytest.param(24, marks=pytest.mark.ci)])
@pytest.mark.parametrize("name", TASKS)
def test_micro_batches_change_nothing(
    whole: Path, tmp_path: Path, name: str, micro_batch_size: int
) -> None:
    train(name, tmp_path, micro_batch_size=micro_batch_size)
    assert_same_run(tmp_path, whole / name)


def test_micro_batches_of_each_phase(whole: Path, tmp_path: Path) -> None:
    """They are measured, kept in the manifest, and taken from there after a restart."""
    train("lines", tmp_path, micro_batch_size="auto", stop_after=40)
    sizes = records.read_manifest(tmp_path).extra["micro_batch_sizes"]
    assert sizes.keys() == {"12", "24", "40"}
    assert all(1 <= sizes[size] <= int(size) for size in sizes)
    manifest = records.read_manifest(tmp_path)
    odd = {"12": 5, "24": 7, "40": 11}
    records.write_manifest(tmp_path, replace(manifest, extra=manifest.extra | {
        "micro_batch_sizes": odd}))  # fmt: skip
    train("lines", tmp_path, micro_batch_size="auto", resume=True)
    assert records.read_manifest(tmp_path).extra["micro_batch_sizes"] == odd
    assert_same_run(tmp_path, whole / "lines")


def test_a_damaged_table_of_micro_batches_is_made_anew(whole: Path, tmp_path: Path) -> None:
    train("lines", tmp_path, micro_batch_size="auto", stop_after=5)
    manifest = records.read_manifest(tmp_path)
    records.write_manifest(tmp_path, replace(manifest, extra={"micro_batch_sizes": {"12": "x"}}))
    train("lines", tmp_path, micro_batch_size="auto", resume=True)
    assert_same_run(tmp_path, whole / "lines")


@pytest.mark.parametrize("name", ["lines", "streams"])
def test_lanes_change_nothing(whole: Path, tmp_path: Path, name: str) -> None:
    train(name, tmp_path, micro_batch_size=8, lanes=2)
    assert_same_run(tmp_path, whole / name)


@pytest.mark.ci
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.ci)])
def test_processes_change_nothing(whole: Path, tmp_path: Path, world_size: int) -> None:
    """With groups of 8 a batch of 12 has two groups: of four processes two have none at first."""
    plans = [{"name": name, "out": tmp_path / name, "micro_batch_size": 16} for name in TASKS]
    complete(world_size, train_all, plans, logs=tmp_path)
    for name in TASKS:
        assert_same_run(tmp_path / name, whole / name)


# Restarts ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_restart_at_every_boundary_is_bit_for_bit(whole: Path, tmp_path: Path, name: str) -> None:
    progress = Progress(RECIPES[name], TASKS[name]().num_examples)
    for phase in progress.phases[1:]:
        for stop in (phase.first - 1, phase.first, phase.first + 1):
            train(name, tmp_path, resume=True, stop_after=stop)
    train(name, tmp_path, resume=True)
    for key, tensor in weights(whole / name).items():
        assert torch.equal(weights(tmp_path)[key], tensor), key
    found, expected = records.load(tmp_path), records.load(whole / name)
    assert [row.loss for row in found.updates] == [row.loss for row in expected.updates]


@pytest.mark.ci
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_other_processes(
    whole: Path, tmp_path: Path, before: int, after: int
) -> None:
    for name in TASKS:
        plan: dict[str, Any] = {"name": name, "out": tmp_path / name, "resume": True}
        complete(before, train_all, [plan | {"stop_after": 30}], logs=tmp_path / "before")
        complete(after, train_all, [plan], logs=tmp_path / "after")
        assert_same_run(tmp_path / name, whole / name)


def newest(folder: Path) -> int:
    """Return the updates of the newest checkpoint; 0 for none."""
    found = checkpoint.paths(folder)
    return int(found[-1].stem.split("-")[1]) if found else 0


@pytest.mark.parametrize(
    "kills", [pytest.param(3, marks=pytest.mark.ci), pytest.param(50, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["lines", "streams"])
def test_a_killed_run_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path, name: str, kills: int
) -> None:
    """Kills at random moments of a run that checkpoints after each update, in all its phases."""
    moments, phases = random.Random(kills), set()
    plan = {"name": name, "out": tmp_path, "resume": True, "checkpoint_seconds": 0.0}
    progress = Progress(RECIPES[name], TASKS[name]().num_examples)
    steps = 2 * progress.updates // kills
    for _ in range(kills):
        wanted = newest(tmp_path) + moments.randint(1, steps)
        running = CONTEXT.Process(target=train, kwargs=plan)
        running.start()
        deadline = time.monotonic() + 60
        while running.is_alive() and newest(tmp_path) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.004))
        running.kill()
        running.join()
        phases.add(progress.phase(newest(tmp_path)).batch_size)
    assert len(phases) > 1, "kills in several phases"
    train(**plan)  # type: ignore[arg-type]
    for key, tensor in weights(whole / name).items():
        assert torch.equal(weights(tmp_path)[key], tensor), key
    found_losses = [row.loss for row in records.load(tmp_path).updates]
    assert found_losses == [row.loss for row in records.load(whole / name).updates]


def test_another_batch_schedule_is_another_run(tmp_path: Path) -> None:
    train("lines", tmp_path, stop_after=5)
    other = replace(GROWN, batch_schedule=BatchSchedule(sizes=(12,), until=(1.3,)))
    error_line(train, "lines", tmp_path, other, resume=True, kind=RunError)


# Refusals ---------------------------------------------------------------------------


class Remembering(Lines):
    """A state is carried though every batch size has the same examples."""

    name = "remembering"

    def loss(self, model: Any, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        total, weight, _ = super().loss(model, batch, state)
        return total, weight, (torch.zeros(len(batch[0])),)


def test_a_state_is_not_carried_into_another_batch(tmp_path: Path) -> None:
    settings = Settings(micro_batch_size=64, device="cpu")
    error_line(fit, Remembering(), GROWN, out=tmp_path, settings=settings, kind=RunError)


def test_streams_grow_between_epochs_only(tmp_path: Path) -> None:
    within = replace(STREAMS, batch_schedule=BatchSchedule(sizes=(16,), until=(1.5,)))
    error_line(train, "streams", tmp_path, within, kind=RecipeError)
    counted = replace(within, epochs=None, warmup_epochs=None, examples=5000)
    error_line(train, "streams", tmp_path, counted, kind=RecipeError)


@pytest.mark.parametrize("grows", ["base", "recipe"])
def test_adascale_needs_a_constant_batch(tmp_path: Path, grows: str) -> None:
    settings = Settings(micro_batch_size=8, device="cpu")
    base, recipe = replace(GROWN, batch_schedule=None), replace(GROWN, batch_size=128)
    if grows == "base":
        base, recipe = GROWN, replace(recipe, batch_schedule=None)
    error_line(
        fit, Lines(), recipe, base=base, rule="adascale", out=tmp_path, settings=settings,
        kind=RunError,
    )  # fmt: skip


def test_more_processes_than_examples_of_the_first_batch(tmp_path: Path) -> None:
    tiny = replace(GROWN, batch_schedule=BatchSchedule(sizes=(1,), until=(0.1,)), norm_batch_size=1)
    complete(2, refused, tiny, tmp_path / "run", logs=tmp_path)


def refused(recipe: Recipe, out: Path) -> None:
    with pytest.raises(RunError, match="world_size=2: is larger than batch_size=1"):
        train("lines", out, recipe)
