"""Micro-batches that are worked on at once give the gradient of the one big batch, every time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from legw import Muon, RunError, rules
from legw.runs import records
from legw.train import Settings, State, fit
from legw.train.dist import World
from legw.train.lanes import Lanes, Sums
from legw.train.microbatch import tune
from legw.train.muon import Muon as TorchMuon
from threads import threads
from train.runs import ADASCALE_BASE, recipe, train, weights
from train.tasks import TASKS, Lines

CPU = World(torch.device("cpu"))
NEEDS = "needs a task that is concurrent .*; leave `lanes` out"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def four_threads() -> Iterator[None]:
    with threads(4):
        yield


# The gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lines", "streams", "windows"])
@pytest.mark.parametrize(("lanes", "micro_batch_size"), [(2, 16), (2, 24), (3, 16), (4, 32)])
def test_lanes_change_nothing(tmp_path: Path, name: str, lanes: int, micro_batch_size: int) -> None:
    train(name, tmp_path / "whole")
    train(name, tmp_path / "lanes", lanes=lanes, micro_batch_size=micro_batch_size)
    for key, tensor in weights(tmp_path / "whole").items():
        assert_close(weights(tmp_path / "lanes")[key], tensor, rtol=0, atol=1e-10, msg=key)
    assert records.read_manifest(tmp_path / "lanes").lanes == lanes


def test_every_run_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    for out in ("one", "other"):
        train("streams", tmp_path / out, lanes=3, micro_batch_size=8)
    for key, tensor in weights(tmp_path / "one").items():
        assert torch.equal(weights(tmp_path / "other")[key], tensor), key


def test_bf16_in_lanes_is_bf16_alone(tmp_path: Path) -> None:
    """The same casts, and so the same numbers but for the order in which they are added."""
    train("lines", tmp_path / "one", precision="bf16", micro_batch_size=16)
    train("lines", tmp_path / "two", precision="bf16", micro_batch_size=16, lanes=2)
    for key, tensor in weights(tmp_path / "one").items():
        assert_close(weights(tmp_path / "two")[key], tensor, rtol=0, atol=1e-6, msg=key)


def test_gradients_that_share_their_memory_are_added_once_each() -> None:
    """Of a sum of two weights torch returns one gradient twice."""
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    sums = Sums(weights)
    for factor in (1.0, 10.0, 100.0):
        grads = torch.autograd.grad((factor * (weights[0] + weights[1])).sum(), weights)
        assert grads[0].data_ptr() == grads[1].data_ptr(), "else nothing is tested here"
        sums.add(list(grads))
    sums.add([None, None])
    for found in sums.result():
        assert found is not None
        assert found.tolist() == [111, 111, 111]


def test_a_sum_of_one_has_memory_of_its_own() -> None:
    weight = nn.Parameter(torch.ones(3))
    (grad,) = torch.autograd.grad((2 * weight).sum(), [weight])
    sums = Sums([weight])
    sums.add([grad])
    (found,) = sums.result()
    assert found is not None
    found.zero_()
    assert grad.tolist() == [2, 2, 2]


# The threads --------------------------------------------------------------------------------


@pytest.mark.usefixtures("four_threads")
def test_each_lane_has_its_share_of_the_threads() -> None:
    lanes = Lanes(2)
    for _ in range(3):
        found = lanes.run(lambda lane: (lane, torch.get_num_threads(), threading.get_ident()))
        assert [(lane, threads) for lane, threads, _ in found] == [(0, 2), (1, 2)]
        assert found[0][2] == threading.get_ident() != found[1][2], "the first lane is the caller"
        assert torch.get_num_threads() == 2, "nobody else has threads of its own meanwhile"
        with lanes.all_cores():
            assert torch.get_num_threads() == 4
    lanes.close()
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4], "a thread that begins later has all of them"


@pytest.mark.usefixtures("four_threads")
def test_evaluations_have_every_core_and_so_has_who_called(tmp_path: Path) -> None:
    seen = []

    class Judged(Lines):
        def evaluate(self, model: nn.Module) -> float:
            seen.append(torch.get_num_threads())
            return super().evaluate(model)

        def final_metrics(self, model: nn.Module) -> dict[str, float]:
            seen.append(torch.get_num_threads())
            return {}

    settings = Settings(device="cpu", micro_batch_size=16, lanes=2)
    fit(Judged(), recipe(), out=tmp_path, settings=settings)
    assert seen == [4, 4]
    assert torch.get_num_threads() == 4


def test_muons_step_has_the_runs_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrices are shared out over the threads that work on the gradient."""
    found: list[Lanes | None] = []
    step = TorchMuon.step

    def seen(self: TorchMuon, *args: Any) -> Any:
        found.append(self.lanes)
        return step(self, *args)

    monkeypatch.setattr(TorchMuon, "step", seen)
    for lanes in (2, 1):
        changes = {"optimizer": Muon()}
        train("lines", tmp_path / str(lanes), updates=1, changes=changes, lanes=lanes)
    assert [each and each.count for each in found] == [2, None]


def test_an_error_in_a_lane_is_an_error() -> None:
    ended = []

    def work(lane: int) -> None:
        if lane == 0:
            raise ValueError("lane 0")
        time.sleep(0.05)
        ended.append(lane)

    lanes = Lanes(2)
    with pytest.raises(ValueError, match="lane 0"):
        lanes.run(work)
    assert ended == [1], "the other was waited for"
    lanes.close()


# The choice ---------------------------------------------------------------------------------


class Slow(Lines):
    """Takes time without taking a core."""

    name = "slow"

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        time.sleep(0.001 * len(batch[0]))
        return super().loss(model, batch, state)


class Drawing(Lines):
    """Says that it is concurrent, and drops units at random."""

    name = "drawing"

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        inputs, *rest = batch
        return super().loss(model, (functional.dropout(inputs, 0.1), *rest), state)


class Alone(Lines):
    name = "alone"
    concurrent = False


@pytest.mark.ci
def test_lanes_are_taken_where_they_are_faster() -> None:
    task = Slow()
    found = tune.choose(
        task, task.model(), recipe(), world=CPU, group=1, precision="fp32", lanes=(1, 2)
    )
    assert found.lanes == 2
    assert set(found.table) >= {tune.Candidate(16), tune.Candidate(16, 2), tune.Candidate(64)}
    assert tune.Candidate(64, 2) not in found.table, "two of them are more than the batch"
    again = tune.choose(
        task, task.model(), recipe(), world=CPU, group=1, precision="fp32", lanes=(1, 2)
    )
    assert (again.micro_batch_size, again.lanes) == (found.micro_batch_size, 2)
    assert not again.measured


def test_a_batch_too_small_for_lanes_has_them_only_if_they_are_asked_for() -> None:
    def chosen(lanes: tuple[int, ...]) -> tune.Choice:
        return tune.choose(
            Slow(), Slow().model(), recipe(batch_size=20), world=CPU, group=1, precision="fp32",
            lanes=lanes,
        )  # fmt: skip

    assert {candidate.lanes for candidate in chosen((1, 2)).table} == {1}
    assert (chosen((2,)).micro_batch_size, chosen((2,)).lanes) == (16, 2)


@pytest.mark.ci
def test_what_was_measured_on_the_way_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that are asked for are tried near the best size alone, which is measured once."""
    asked = {"world": CPU, "group": 1, "precision": "fp32", "lanes": (2,)}
    first = tune.choose(Slow(), Slow().model(), recipe(), **asked)
    assert first.measured and {candidate.lanes for candidate in first.table} == {2}
    monkeypatch.setattr(tune._Probe, "throughput", lambda *_: pytest.fail("measured again"))
    again = tune.choose(Slow(), Slow().model(), recipe(), **asked)
    assert (again.micro_batch_size, again.lanes) == (first.micro_batch_size, 2)


@pytest.mark.ci
@pytest.mark.usefixtures("four_threads")
def test_auto_tries_as_many_lanes_as_threads(tmp_path: Path) -> None:
    settings = Settings(device="cpu")
    fit(Slow(), recipe(epochs=0.4), out=tmp_path / "run", settings=settings)
    manifest = records.read_manifest(tmp_path / "run")
    assert manifest.lanes == 4
    assert "4 x 16" in manifest.extra["micro_batch_table"]


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("name", ["alone", "normalised"])
def test_auto_is_one_lane_where_there_can_be_no_more(tmp_path: Path, name: str) -> None:
    task = {"alone": Alone, **TASKS}[name]()
    fit(task, recipe(epochs=0.4), out=tmp_path, settings=Settings(device="cpu"))
    assert records.read_manifest(tmp_path).lanes == 1


def test_what_is_given_is_taken_or_refused(tmp_path: Path) -> None:
    train("lines", tmp_path / "two", lanes=2, micro_batch_size="auto")
    assert records.read_manifest(tmp_path / "two").lanes == 2
    with pytest.raises(RunError, match=r"normalised: lanes=2: " + NEEDS):
        train("normalised", tmp_path / "no", lanes=2)
    with pytest.raises(RunError, match=r"lines: lanes=2: " + NEEDS):
        train("lines", tmp_path / "no", lanes=2, compile=True)
    with pytest.raises(RunError, match=r"alone: lanes=2: " + NEEDS):
        fit(Alone(), recipe(), out=tmp_path / "no", settings=Settings(device="cpu", lanes=2))
    big = rules.apply(ADASCALE_BASE, 64, rules.ADASCALE)
    with pytest.raises(RunError, match=NEEDS):
        fit(
            Lines(), big, out=tmp_path / "no", base=ADASCALE_BASE, rule="adascale",
            settings=Settings(device="cpu", lanes=2),
        )  # fmt: skip
    with pytest.raises(RunError, match=r"lanes=0: must be 'auto' or a number, at least 1"):
        Settings(lanes=0)


def test_random_draws_are_found_out(tmp_path: Path) -> None:
    settings = Settings(device="cpu", micro_batch_size=16, lanes=2)
    line = (
        r"drawing: its loss draws from torch's generator, so it cannot be concurrent; .*`lanes=1`"
    )
    with pytest.raises(RunError, match=line):
        fit(Drawing(), recipe(), out=tmp_path, settings=settings)


@pytest.mark.ci
def test_a_resumed_run_keeps_its_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends with the weights of the one that was never interrupted."""

    class Stopped(Slow):
        def evaluate(self, model: nn.Module) -> float:
            raise KeyError

    half, whole = recipe(epochs=1.0), recipe(epochs=1.0)
    settings = Settings(device="cpu", lanes=2, checkpoint_seconds=0)
    with pytest.raises(KeyError):
        fit(Stopped(), half, out=tmp_path / "run", settings=settings)
    size = records.read_manifest(tmp_path / "run").micro_batch_size
    with monkeypatch.context() as patch:
        patch.setattr(tune, "choose", lambda *_, **__: pytest.fail("measured again"))
        again = Settings(device="cpu", lanes=2, resume=True)
        fit(Slow(), half, out=tmp_path / "run", settings=again)
    assert records.read_manifest(tmp_path / "run").micro_batch_size == size
    straight = replace(settings, micro_batch_size=size)
    fit(Slow(), whole, out=tmp_path / "straight", settings=straight)
    for key, tensor in weights(tmp_path / "straight").items():
        assert torch.equal(weights(tmp_path / "run")[key], tensor), key
