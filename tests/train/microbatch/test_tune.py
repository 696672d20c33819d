"""The fastest micro-batch is found on the real task, within memory, and remembered."""

from __future__ import annotations

import contextlib
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from legw import RunError
from legw.runs import records
from legw.study import durations
from legw.train import State, hardware
from legw.train.batches import split
from legw.train.dist import World
from legw.train.microbatch import cache, tune
from train.launch import complete
from train.runs import recipe, train
from train.tasks import Lines, Normalised

CPU = World(torch.device("cpu"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "legw"


class Hungry(Lines):
    """Runs out of memory above 40 examples, by one of the errors of torch."""

    name = "hungry"
    most = 40
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        if len(batch[0]) > self.most:
            raise self.error
        return super().loss(model, batch, state)


def choose(task: Lines, batch_size: int = 100, **options: Any) -> tune.Choice:
    settings: dict[str, Any] = {"world": CPU, "group": 1, "precision": "fp32"} | options
    return tune.choose(task, task.model(), recipe(batch_size=batch_size), **settings)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("unable to mmap 9 bytes from file </torch_1_2>: Cannot allocate memory (12)"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_survived(error: Exception) -> None:
    task = Hungry()
    task.error = error
    choice = choose(task)
    assert choice.table[tune.Candidate(64)] == 0
    assert choice.micro_batch_size in (16, 32)
    assert tune.Candidate(100) not in choice.table


@pytest.mark.parametrize(
    "line",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "more than one element of the written-to tensor refers to a single memory location",
        "CUDA error: an illegal memory access was encountered",
        "Caffe2 uses a lazy allocation, so you will need to call mutable_data() or "
        "raw_mutable_data() to actually allocate memory.",
        "required rank 4 tensor to use channels_last memory format",
    ],
)
def test_another_error_is_not_hidden(line: str) -> None:
    task = Hungry()
    task.error = RuntimeError(line)
    with pytest.raises(RuntimeError, match=re.escape(line)):
        choose(task)


def test_nothing_fits_is_one_line() -> None:
    line = "not even 16 examples fit into the memory limit; raise `memory_limit` or give `micro"
    task = Hungry()
    task.most = 0
    with pytest.raises(RunError, match=line):
        choose(task)


class Heavy(Lines):
    """Takes 1 MB an example."""

    name = "heavy"
    used = 0.0

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        Heavy.used = max(Heavy.used, 1e6 * len(batch[0]))
        return super().loss(model, batch, state)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What `Heavy` takes is all that is counted, and so many bytes are free."""
    free = {"bytes": 1e9}
    monkeypatch.setattr(tune, "peak_memory", lambda device: Heavy.used)
    monkeypatch.setattr(tune, "memory_in_use", lambda device: 0.0)
    monkeypatch.setattr(tune, "reset_peak_memory", lambda device: setattr(Heavy, "used", 0.0))
    monkeypatch.setattr(tune, "available_memory", lambda device: free["bytes"])
    return free


def fitting(choice: tune.Choice) -> list[int]:
    """Return the sizes that fit, of those that were looked at."""
    return sorted(candidate.size for candidate, rate in choice.table.items() if rate)


@pytest.mark.usefixtures("free")
def test_what_exceeds_the_limit_is_not_taken() -> None:
    choice = choose(Heavy(), memory_limit=50_000_000)
    assert fitting(choice) == [16, 32]
    assert choice.table[tune.Candidate(64)] == 0
    assert Heavy.used <= 50_000_000, "what would not fit was not even tried"


def test_a_limit_counts_for_what_was_measured_before(free: dict[str, float]) -> None:
    assert fitting(choose(Heavy())) == [16, 32, 64, 100]
    limited = choose(Heavy(), memory_limit=50_000_000)
    assert not limited.measured
    assert fitting(limited) == [16, 32]
    assert limited.micro_batch_size <= 32
    free["bytes"] = 50e6
    crowded = choose(Heavy())
    assert not crowded.measured
    assert fitting(crowded) == [16, 32], "80 % of what is free now"
    assert fitting(choose(Heavy(), memory_limit=10**9)) == [16, 32], "more than is free"
    free["bytes"] = 1e9
    assert fitting(choose(Heavy())) == [16, 32, 64, 100]


@pytest.mark.usefixtures("free")
def test_a_limit_that_is_too_small_spoils_no_later_run(own_cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(RunError, match="not even 16 examples fit into the memory limit"):
            choose(Heavy(), memory_limit=1000)
    assert ": 0.0" not in (own_cache / "micro-batches.json").read_text(), "no fact"
    assert fitting(choose(Heavy())) == [16, 32, 64, 100]


def test_a_shortage_is_not_remembered() -> None:
    task = Hungry()
    assert fitting(choose(task)) == [16, 32]
    again = choose(task)
    assert fitting(again) == [16, 32]
    assert not again.measured, "what is known is not timed again for a size that fails again"
    task.most = 1000
    later = choose(task)
    assert later.measured
    assert fitting(later) == [16, 32, 64, 100]


def test_the_processes_agree(free: dict[str, float]) -> None:
    """Another one takes 1 MB an example more, is half as fast, and has less memory free."""

    class Both(World):
        def gather(self, value: Any) -> list[Any]:
            if isinstance(value, float):
                return [value, value / 2]
            gathered.append(value)
            return [value, type(value)(value.rate / 2, 2 * value.bytes)]

    gathered: list[Any] = []
    free["bytes"] = 250e6
    choice = choose(Heavy(), world=Both(torch.device("cpu")))
    assert fitting(choice) == [16, 32], "half of 200 MB are free there, and 64 examples take 128"
    assert choice.table[tune.Candidate(16)] <= max(look.rate for look in gathered) / 2


def test_the_choice_is_remembered(own_cache: Path) -> None:
    first = choose(Lines())
    assert first.measured
    assert (own_cache / "micro-batches.json").exists()
    again = choose(Lines())
    assert not again.measured
    assert again.micro_batch_size == first.micro_batch_size
    assert choose(Lines(), precision="bf16").measured


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_damaged_cache_is_measured_again(own_cache: Path, content: str) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "micro-batches.json").write_text(content)
    assert choose(Lines()).measured


@pytest.mark.parametrize("kept", [None, {}, {"memory": []}, {"memory": {"KEY": [16, 32]}}])
def test_what_an_earlier_version_kept_is_measured_again(
    own_cache: Path, kept: dict[str, Any] | None
) -> None:
    """It kept rates alone, and 0 for what had not fitted once."""
    first = choose(Lines())
    path = own_cache / "micro-batches.json"
    (key,) = (name for name in json.loads(path.read_text()) if name.startswith("lines | "))
    old = {key: {"16": 0.0, "32": 5.0}}
    damage = json.loads(json.dumps(kept or {}).replace("KEY", key))
    path.write_text(json.dumps(old | damage if kept is not None else {key: "nonsense"}))
    again = choose(Lines())
    assert again.measured
    assert fitting(again) == fitting(first)
    assert not choose(Lines()).measured


def test_what_another_version_has_chosen_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other micro-batches round differently: the seeds of a study are to have one choice."""
    choose(Lines())
    assert not choose(Lines()).measured
    monkeypatch.setattr(cache, "VERSION", 10**6)
    assert choose(Lines()).measured


def test_a_way_that_did_not_fit_once_is_tried_again(own_cache: Path) -> None:
    """A rate of 0 is no rate, whatever else is known of it."""
    choose(Lines())
    path = own_cache / "micro-batches.json"
    content = json.loads(path.read_text())
    (key,) = (name for name in content if name.startswith("lines | "))
    content[key]["16"] = 0.0
    path.write_text(json.dumps(content))
    assert 16 in fitting(choose(Lines()))


def test_rates_are_where_others_look_for_them(own_cache: Path) -> None:
    """Such as the study that says how long it will take (`legw.study.durations`)."""
    choice = choose(Lines())
    found = durations.measured("lines", [])
    assert found is not None
    assert found.of[0] == pytest.approx(max(choice.table.values()), rel=1e-4)


def test_the_measurement_leaves_the_model_alone() -> None:
    task = Normalised()
    model = task.model()
    tune.batch_norm.fix_groups(model, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tune.choose(task, model, recipe(), world=CPU, group=8, precision="fp32")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_small_batch_needs_no_measurement() -> None:
    assert choose(Lines(), batch_size=16) == tune.Choice(16, {}, measured=False)


def test_whole_groups_only() -> None:
    assert tune.ladder(1000, group=96) == [96, 192, 384, 768, 1000]
    assert tune.ladder(90, group=15) == [30, 60, 90], "16 would be a group and a rest of 1"


@given(batch_size=st.integers(1, 300), processes=st.integers(1, 9), group=st.integers(1, 300))
def test_the_largest_share_is_the_splits_in_whole_groups(
    batch_size: int, processes: int, group: int
) -> None:
    assume(processes <= batch_size)
    share = tune.largest_share(batch_size, processes, group)
    plan: dict[str, int] = {"world_size": processes, "group": group}
    parts = [split(batch_size, share, rank=rank, **plan) for rank in range(processes)]
    assert share % group or all(len(own) <= 1 for own in parts), "in one piece"
    most = max(part.stop - part.start for own in parts for part in own)
    assert most <= share < most + group


@pytest.mark.parametrize("processes", [2, 3])
def test_a_share_smaller_than_a_group_is_a_group(processes: int) -> None:
    world = World(torch.device("cpu"), size=processes)
    choice = choose(Normalised(), batch_size=128, world=world, group=128)
    assert choice.micro_batch_size == 128


@pytest.mark.ci
def test_auto_in_two_processes_and_one_group(tmp_path: Path) -> None:
    complete(
        2, train, "normalised", tmp_path / "run", updates=2, changes={"norm_batch_size": 64},
        micro_batch_size="auto", logs=tmp_path / "logs",
    )  # fmt: skip
    assert records.read_manifest(tmp_path / "run").micro_batch_size == 64


def test_auto_is_written_to_the_manifest(tmp_path: Path) -> None:
    train("lines", tmp_path / "run", micro_batch_size="auto")
    manifest = records.read_manifest(tmp_path / "run")
    assert str(manifest.micro_batch_size) in manifest.extra["micro_batch_table"]


def rates_of(table: dict[int, float]) -> dict[tune.Candidate, float]:
    """Return the same table with sizes in one lane each."""
    return {tune.Candidate(size): rate for size, rate in table.items()}


def test_every_candidate_is_timed_once_however_slow_the_smaller_ones_are() -> None:
    asked: list[tune.Candidate] = []

    def measure(candidate: tune.Candidate) -> float:
        asked.append(candidate)
        return 1e6 / candidate.size if candidate.size < 256 else 1e9

    candidates = [tune.Candidate(size) for size in (16, 32, 64, 128, 256)]
    assert list(tune.climb(candidates, measure, {})) == asked == candidates


def test_a_long_pass_that_does_not_pay_ends_the_ladder() -> None:
    rates = rates_of({16: 20.0, 32: 30.0, 64: 31.0, 128: 30.0, 256: 40.0})
    table = tune.climb([*rates], rates.__getitem__, {})
    assert [candidate.size for candidate in table] == [16, 32, 64, 128], (
        "64 takes 2 s, and is the fastest"
    )
    quick = {candidate: 10 * rate for candidate, rate in rates.items()}
    assert list(tune.climb([*quick], quick.__getitem__, {})) == [*quick]


def test_what_was_measured_beyond_the_ladders_end_still_counts() -> None:
    """Slow moments in the first look must not hide what a later one found."""
    known = rates_of({16: 100.0, 32: 0.0, 64: 10.0, 128: 400.0})
    assert tune.climb([*known], lambda candidate: 0.0, known) == known


def test_the_best_three_are_timed_again_in_three_rounds() -> None:
    asked: list[int] = []

    def measure(candidate: tune.Candidate) -> float:
        asked.append(candidate.size)
        return 40.0

    table = rates_of({16: 95.0, 32: 98.0, 64: 100.0, 128: 99.0, 256: 0.0})
    settled = tune.settle(table, measure, share=256)
    assert asked == [64, 128, 32, 32, 128, 64, 64, 128, 32], "to and fro"
    assert settled == table | rates_of(dict.fromkeys((32, 64, 128), 100.0)), "all alike"


def test_what_is_timed_again_is_the_best_over_a_whole_share() -> None:
    """Of 100 examples a fourth piece of 32 has four, and a seventh of 16 as many."""
    asked: set[int] = set()

    def measure(candidate: tune.Candidate) -> float:
        asked.add(candidate.size)
        return 1.0

    tune.settle(rates_of({16: 90.0, 32: 95.0, 64: 100.0, 100: 85.0}), measure, share=100)
    assert asked == {16, 64, 100}


@pytest.mark.parametrize(
    ("table", "share", "expected"),
    [
        ({"128": 100.0, "64": 103.0}, 128, "64"),
        ({"128": 100.0, "64": 99.0}, 128, "64"),  # half of the memory
        ({"128": 100.0, "64": 97.0}, 128, "128"),
        ({"128": 100.0, "2 x 64": 101.0}, 128, "2 x 64"),  # as many at once, and faster
        ({"128": 100.0, "2 x 64": 97.0}, 640, "128"),
        ({"32": 99.0, "2 x 64": 100.0}, 640, "32"),
    ],
)
def test_of_like_ways_the_one_that_needs_least_memory_is_taken(
    table: dict[str, float], share: int, expected: str
) -> None:
    rates = {tune.Candidate.read(candidate): rate for candidate, rate in table.items()}
    assert tune.best(rates, share) == tune.Candidate.read(expected)


def fastest(settled: dict[tune.Candidate, float]) -> int:
    return max(settled, key=settled.__getitem__).size


def test_one_slow_look_loses_nothing() -> None:
    """The candidate that is best may be slow once, at the first look at it or at any other."""
    for slow in range(4):
        looks = {16: count(), 32: count(), 64: count()}

        def measure(
            candidate: tune.Candidate, slow: int = slow, looks: dict[int, count[int]] = looks
        ) -> float:
            waits = next(looks[candidate.size]) + 1 == slow and candidate.size == 64
            return {16: 80.0, 32: 90.0, 64: 100.0}[candidate.size] * (0.7 if waits else 1.0)

        first = rates_of({16: 80.0, 32: 90.0, 64: 70.0 if slow == 0 else 100.0})
        assert fastest(tune.settle(first, measure, share=640)) == 64


class Clock:
    """A clock that passes move on."""

    def __init__(self, spans: list[float]) -> None:
        self.now, self._spans = 0.0, iter(spans)

    def one(self) -> None:
        self.now += next(self._spans)


@pytest.mark.parametrize(
    ("first", "later", "rate"), [(1.01, 0.5, 16 / 1.01), (0.99, 0.5, 16 / 0.5)]
)
def test_a_long_first_pass_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, first: float, later: float, rate: float
) -> None:
    clock = Clock([3.0, 1.5, first, later, later])
    monkeypatch.setattr(tune, "passing", lambda *args, **options: clock.one)
    monkeypatch.setattr(hardware, "now", lambda device: clock.now)
    task = Lines()
    probe = tune._Probe(
        task,
        task.model(),
        recipe(batch_size=100),
        world=CPU,
        precision="fp32",
        limit=2**40,
        looks={},
    )
    assert probe.throughput(tune.Candidate(8)) == pytest.approx(8 / 1.5), "the first pass of all"
    assert probe.throughput(tune.Candidate(16)) == pytest.approx(rate)
    assert probe.throughput(tune.Candidate(16)) == pytest.approx(16 / later), "seen before"


def test_a_machine_that_slows_down_changes_no_order() -> None:
    """The first look was at a fast moment; and each one later is slower, whatever its size."""
    own = {16: 40.0, 32: 48.0, 64: 54.0, 128: 52.0}
    speeds = count()

    def measure(candidate: tune.Candidate) -> float:
        return own[candidate.size] * 0.97 ** next(speeds)

    first = rates_of({16: 70.0, 32: 100.0, 64: 75.0, 128: 71.0, 256: 65.0})
    settled = tune.settle(first, measure, share=2560)
    assert fastest(settled) == 64
    assert settled[tune.Candidate(64)] > settled[tune.Candidate(128)] > settled[tune.Candidate(32)]


def test_the_best_stays_above_what_was_not_timed_again() -> None:
    """Even where each size has one good moment and the others are bad."""
    looks = {size: count() for size in (32, 64, 128)}

    def measure(candidate: tune.Candidate) -> float:
        return 100.0 if 32 * 2 ** next(looks[candidate.size]) == candidate.size else 10.0

    first = rates_of({32: 100.0, 64: 75.0, 128: 75.0, 256: 74.0, 512: 69.0})
    settled = tune.settle(first, measure, share=5120)
    assert fastest(settled) in (32, 64, 128)


def test_a_size_that_no_longer_fits_counts_as_none() -> None:
    again, first = rates_of({16: 50.0, 32: 0.0}), rates_of({16: 90.0, 32: 100.0})
    assert tune.settle(first, again.__getitem__, share=64)[tune.Candidate(32)] == 0
    assert tune.settle(first, lambda candidate: 0.0, share=64) == rates_of({16: 0.0, 32: 0.0})


def test_each_pass_takes_the_examples_that_come_next() -> None:
    """The first of a batch of sentences are its longest: they do not stand for the others."""

    class Noted(Lines):
        def batch(self, ids: Tensor, device: torch.device) -> Any:
            taken.append(ids.tolist())
            return super().batch(ids, device)

    taken: list[list[int]] = []
    task = Noted()
    with contextlib.ExitStack() as held:
        one = tune.passing(
            task, task.model(), torch.arange(10), tune.Candidate(4),
            world=CPU, precision="fp32", held=held,
        )  # fmt: skip
        for _ in range(3):
            one()
        assert taken == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
        taken.clear()
        several = tune.passing(
            task, task.model(), torch.arange(10), tune.Candidate(4, 2),
            world=CPU, precision="fp32", held=held,
        )  # fmt: skip
        several()
        assert sorted(taken) == [[0, 1, 2, 3], [4, 5, 6, 7]]


class Cropped(Lines):
    """Its examples are of use only once `augment` has had them."""

    name = "cropped"

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        taken.append(ids.tolist())
        return {"raw": super().batch(ids, device)}

    def augment(self, batch: Any, draws_B: Tensor) -> Any:
        inputs, targets, weights = batch["raw"]
        assert draws_B.dtype == torch.int64 and draws_B.shape == (len(inputs),)
        return inputs[:, :6], targets, weights


class Ahead(Cropped):
    """The same, made ready ahead."""

    name = "ahead"

    def prefetch(self, ids: Tensor, draws_B: Tensor) -> None:
        """Nothing is as slow as that here."""


taken: list[list[int]] = []
"""The ids that were loaded, in order."""


@pytest.mark.parametrize("task", [Cropped(), Ahead()])
def test_examples_are_augmented_as_in_training(task: Lines) -> None:
    found = choose(task, batch_size=64, lanes=(1, 2))
    assert {candidate.lanes for candidate, rate in found.table.items() if rate} == {1, 2}


def test_what_is_loaded_ahead_is_loaded_before_the_clock_starts() -> None:
    task, ids = Ahead(), torch.arange(100)
    options: dict[str, Any] = {"world": CPU, "precision": "fp32"}
    with contextlib.ExitStack() as held:
        for size, expected in [(40, [0]), (32, [0, 32]), (70, [0])]:
            taken.clear()
            one = tune.passing(task, task.model(), ids, tune.Candidate(size), held=held, **options)
            assert [part[0] for part in taken] == expected
            for _ in range(3):
                one()
            assert len(taken) == len(expected), "no pass loads"
        taken.clear()
        several = tune.passing(task, task.model(), ids, tune.Candidate(8, 2), held=held, **options)
        assert not taken, "in lanes, data are loaded as they are in training: in the pass"
        several()
        assert sorted(part[0] for part in taken) == [0, 8]
