"""Nothing is lost when a run dies, and nothing is different afterwards."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expect import error_line
from legw import LegwWarning, RunError
from legw.decays import Polynomial
from legw.runs import locks, records
from legw.train import Settings, checkpoint, fit
from train.launch import CONTEXT
from train.runs import recipe, train, weights
from train.tasks import Lines

SLOWLY: dict[str, Any] = {
    "name": "streams", "updates": 60, "checkpoint_seconds": 0.05, "resume": True,
}  # fmt: skip
"""A run with many checkpoints, so that a kill often hits one in the making."""


def process(plan: dict[str, Any]) -> Any:
    """Start a run in a process of its own."""
    running = CONTEXT.Process(target=train, kwargs=plan)
    running.start()
    return running


def finish(plan: dict[str, Any], seconds: float = 120) -> None:
    """Run to the end in a process of its own."""
    running = process(plan)
    running.join(timeout=seconds)
    assert running.exitcode == 0


def wait_for_progress(folder: Path, running: Any, beyond: int) -> None:
    """Return when the run's metrics are longer than `beyond` bytes, or the run has ended."""
    deadline = time.monotonic() + 60
    path = folder / "metrics.jsonl"
    while running.is_alive() and time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > beyond:
            return
        time.sleep(0.002)


def kill_again_and_again(folder: Path, kills: int) -> None:
    """Kill a run at random moments, resuming each time, then let it end."""
    moments = random.Random(0)
    plan = SLOWLY | {"out": folder}
    for _ in range(kills):
        path = folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        running = process(plan)
        wait_for_progress(folder, running, beyond=size)
        time.sleep(moments.uniform(0, 0.15))
        running.kill()
        running.join()
    finish(plan)


def assert_like_uninterrupted(folder: Path, whole: Path) -> None:
    """Same weights bit for bit, and every row of metrics once."""
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(folder)[name], tensor), name
    found, expected = records.load(folder), records.load(whole)
    assert not found.problems
    assert [row.update for row in found.updates] == list(range(SLOWLY["updates"]))
    assert [row.loss for row in found.updates] == [row.loss for row in expected.updates]
    assert [row.metric for row in found.evaluations] == [r.metric for r in expected.evaluations]
    assert found.summary is not None and expected.summary is not None
    assert found.summary.final_loss == expected.summary.final_loss


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(SLOWLY | {"out": folder})
    return folder


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path, kills: int) -> None:
    kill_again_and_again(tmp_path, kills)
    assert_like_uninterrupted(tmp_path, whole)


@pytest.mark.parametrize(("kills", "updates"), [pytest.param(50, 1500, marks=pytest.mark.slow)])
def test_kills_at_every_checkpoint_leave_nothing_over(
    tmp_path: Path, kills: int, updates: int, record_property: Any
) -> None:
    """A checkpoint after every update, so that kills hit it in all its parts."""
    plan = {"name": "streams", "updates": updates, "resume": True, "checkpoint_seconds": 0.0}
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(plan | {"out": whole, "checkpoint_seconds": 600.0}, seconds=1200)
    moments = random.Random(1)
    in_training = half_written = 0
    for _ in range(kills):
        path = out / "metrics.jsonl"
        running = process(plan | {"out": out})
        wait_for_progress(out, running, beyond=path.stat().st_size if path.exists() else 0)
        time.sleep(moments.uniform(0, 0.1))
        running.kill()
        running.join()
        in_training += checkpoint.paths(out) != [] and not (out / "summary.json").exists()
        half_written += len(list(out.glob(".checkpoint-*")))
    finish(plan | {"out": out}, seconds=1200)
    print(f"\n{kills} kills, {in_training} in mid-training, {half_written} in mid-checkpoint")
    record_property("kills", (kills, in_training, half_written))
    assert in_training >= kills // 2
    left = sorted(each.name for each in out.iterdir())
    checkpoints = [each.name for each in checkpoint.paths(out)]
    assert left == sorted([".lock", "manifest.json", "metrics.jsonl", "summary.json", *checkpoints])
    assert len(checkpoints) == 2
    found, expected = records.load(out), records.load(whole)
    assert not found.problems
    assert [row.update for row in found.updates] == list(range(updates))
    assert [row.loss for row in found.updates] == [row.loss for row in expected.updates]
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(out)[name], tensor), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_update(
    whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    plan = SLOWLY | {"out": tmp_path, "checkpoint_seconds": 1000}
    running = process(plan)
    wait_for_progress(tmp_path, running, beyond=0)
    os.kill(running.pid, number)
    running.join(timeout=60)
    assert running.exitcode == 0
    summary = records.read_summary(tmp_path)
    assert summary is not None and summary.status == "interrupted" and summary.reason == number.name
    assert 0 < summary.updates < SLOWLY["updates"]
    finish(plan)
    assert_like_uninterrupted(tmp_path, whole)


def test_a_run_that_is_to_stop_can_be_gone_on_with(tmp_path: Path) -> None:
    """Its schedule is the whole run's; asked for the same again, it is not touched."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    settings = Settings(device="cpu", micro_batch_size=64, resume=True)
    long = recipe(epochs=4.0, decay=Polynomial(power=1.0))
    fit(Lines(), long, out=whole, settings=settings)
    for count in (3, 3, 7):
        summary = fit(Lines(), long, out=part, settings=replace(settings, stop_after=count))
        assert (summary.status, summary.updates) == ("interrupted", count)
        assert summary.reason == "it was to stop there" and summary.metric["value"] is None
    again = fit(Lines(), long, out=part, settings=replace(settings, stop_after=5))
    assert again.updates == 7  # nothing to do
    assert fit(Lines(), long, out=part, settings=replace(settings, stop_after=99)) == (
        records.read_summary(part)
    )
    found, expected = records.load(part), records.load(whole)
    assert [row.loss for row in found.updates] == [row.loss for row in expected.updates]
    assert [row.lr for row in found.updates] == [row.lr for row in expected.updates]
    assert found.status == "finished"
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(part)[name], tensor), name


def test_what_a_run_costs_is_that_of_all_its_parts(tmp_path: Path) -> None:

    class Slow(Lines):
        def loss(self, *args: Any) -> Any:
            time.sleep(0.01)
            return super().loss(*args)

        def evaluate(self, model: Any) -> float:
            time.sleep(0.05)
            return super().evaluate(model)

    settings = Settings(device="cpu", micro_batch_size=64, resume=True)
    parts = [
        fit(Slow(), recipe(epochs=4.0), out=tmp_path, settings=replace(settings, stop_after=count))
        for count in (5, 10)
    ]
    first, both = (part.costs for part in parts)
    assert both["compute"] >= 10 * 0.01 and both["evaluation"] >= 3 * 0.05
    assert first["compute"] < both["compute"] <= parts[1].seconds + 0.01


def test_costs_that_a_checkpoint_lacks_are_named(tmp_path: Path) -> None:
    """Older versions wrote none, so the run goes on, with a note."""
    train("lines", tmp_path, stop_after=5)
    (path,) = checkpoint.paths(tmp_path)
    content = torch.load(path, weights_only=True)
    del content["costs"]
    torch.save(content, path)
    with pytest.warns(LegwWarning, match="has no seconds of checkpoints, communication, compute, "):
        summary = train("lines", tmp_path, resume=True)
    assert summary.status == "finished"


def test_a_run_stops_after_an_update_at_least() -> None:
    with pytest.raises(RunError, match=r"^stop_after=0: must be a whole number, at least 1$"):
        Settings(stop_after=0)


# Checkpoints -------------------------------------------------------------------


def damage(path: Path) -> None:
    """Change the middle third of a file's bytes."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(255 - byte for byte in content[third : 2 * third])
    path.write_bytes(bytes(content))


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    train("lines", tmp_path, checkpoint_epochs=1.0)
    assert len(checkpoint.paths(tmp_path)) == 2


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    train("lines", tmp_path, checkpoint_epochs=1.0)
    older, newest = checkpoint.paths(tmp_path)
    damage(newest)
    (tmp_path / "summary.json").unlink()
    with pytest.warns(LegwWarning, match=rf"{newest.name}: is damaged \(.*\); taking the one be"):
        summary = train("lines", tmp_path, resume=True)
    assert summary.status == "finished" and summary.updates == 20
    assert [row.update for row in records.load(tmp_path).updates] == list(range(20))
    assert older.name < newest.name


def test_a_position_survives_a_checkpoint() -> None:
    position = checkpoint.Position(updates=7, seconds=1.5, wall_seconds=2.0)
    for mean, value in zip(
        (position.since_evaluation, position.evaluated, position.last_epoch), (1.0, 2.0, 3.0),
        strict=True,
    ):  # fmt: skip
        mean.add(value)
    position.divergence.add(0.5)
    assert checkpoint.Position.from_dict(position.to_dict()) == position


def test_a_damaged_checkpoint_takes_no_place_of_a_good_one(tmp_path: Path) -> None:
    """One that lies after what a run has come to could not be read when it went on."""
    for updates in (10, 20):
        checkpoint.save(tmp_path, updates, {"position": {}})
    damage(checkpoint.paths(tmp_path)[-1])
    checkpoint.save(tmp_path, 12, {"position": {}})
    assert [int(path.stem[-9:]) for path in checkpoint.paths(tmp_path)] == [10, 12]


def test_a_checkpoint_of_another_model_is_one_line(tmp_path: Path) -> None:
    class Wider(Lines):
        def model(self) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh()).double()

    train("lines", tmp_path)
    (tmp_path / "summary.json").unlink()
    plan = records.read_manifest(tmp_path).recipe
    settings = Settings(device="cpu", micro_batch_size=64, resume=True)
    error_line(fit, Wider(), plan, out=tmp_path, settings=settings, kind=RunError)


def test_all_checkpoints_damaged_is_one_line(tmp_path: Path) -> None:
    train("lines", tmp_path, checkpoint_epochs=1.0)
    for path in checkpoint.paths(tmp_path):
        damage(path)
    (tmp_path / "summary.json").unlink()
    with (
        pytest.warns(LegwWarning, match="is damaged"),
        pytest.raises(
            RunError,
            match="no checkpoint can be read; train it again with another `out`, or give another",
        ),
    ):
        train("lines", tmp_path, resume=True)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    train("lines", tmp_path)
    newest = checkpoint.paths(tmp_path)[-1]
    torch.save({"position": Path("/")}, newest)
    with pytest.warns(LegwWarning, match="is damaged"), pytest.raises(RunError):
        checkpoint.load_newest(
            tmp_path, lambda line: __import__("warnings").warn(line, LegwWarning, 2)
        )


def test_a_full_disk_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lines", tmp_path)
    kept = checkpoint.paths(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"checkpoint-000000099\.pt: cannot be written: No space"):
        checkpoint.save(tmp_path, 99, {"position": {}})
    assert checkpoint.paths(tmp_path) == kept
    assert not list(tmp_path.glob(".checkpoint*"))


# Whose folder it is -------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train("lines", tmp_path)
    with pytest.raises(RunError, match="holds a run already; `resume` goes on with it, or choose"):
        train("lines", tmp_path)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = train("lines", tmp_path)
    stamp = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    assert train("lines", tmp_path, resume=True) == first
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.06}, r"holds a run of lr=0\.05, not 0\.06; choose another `out`"),
        ({"clip_norm": None}, r"holds a run of clip_norm=1\.0, not None; choose another `out`"),
        (
            {"batch_size": 32},
            r"holds a run of batch_size=64, not 32; another global batch is another recipe: "
            r"legw scale small -b 32 shows it, a new `out` trains it",
        ),
    ],
)
def test_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    train("lines", tmp_path)
    with pytest.raises(RunError, match=message):
        train("lines", tmp_path, changes=change, resume=True)


def test_another_task_is_refused(tmp_path: Path) -> None:
    train("lines", tmp_path)
    with pytest.raises(RunError, match="holds a run of"):
        train("normalised", tmp_path, resume=True)


def test_another_micro_batch_goes_on(tmp_path: Path) -> None:
    """Position is kept in examples, so the split may change on the way."""
    train("streams", tmp_path / "whole", updates=30)
    train("streams", tmp_path / "cut", updates=30, checkpoint_epochs=0.5)
    older, newest = checkpoint.paths(tmp_path / "cut")
    newest.unlink()
    (tmp_path / "cut" / "summary.json").unlink()
    train("streams", tmp_path / "cut", updates=30, resume=True, micro_batch_size=24)
    assert older.exists()
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "cut")[name], tensor, rtol=0, atol=1e-10)


# Other data --------------------------------------------------------------------


class WithData(Lines):
    """A task that knows its data, and has a file for the folder."""

    fingerprint_is, file = "sha256:one", b"one\n"

    def fingerprint(self) -> str:
        return self.fingerprint_is

    def artifacts(self) -> dict[str, bytes]:
        return {"vocabulary.txt": self.file}


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "fingerprint_is",
            "sha256:two",
            "{}: holds a run of other data (sha256:one, not sha256:",
        ),
        ("file", b"two\n", "{}/vocabulary.txt: is another one than the task's; give the data of"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_data_are_refused_and_nothing_is_overwritten(
    tmp_path: Path, name: str, value: Any, line: str, finished: bool
) -> None:
    task, settings = WithData(), Settings(device="cpu", micro_batch_size=64, resume=True)
    fit(task, recipe(epochs=0.5), out=tmp_path, settings=settings)
    if not finished:
        (tmp_path / "summary.json").unlink()
    elif name == "file":
        return  # a run that has ended is not made again
    setattr(task, name, value)
    with pytest.raises(RunError) as caught:
        fit(task, recipe(epochs=0.5), out=tmp_path, settings=settings)
    assert str(caught.value).startswith(line.format(tmp_path))
    assert str(caught.value).endswith("or choose another `out`")
    assert (tmp_path / "vocabulary.txt").read_bytes() == b"one\n"


def test_two_processes_do_not_make_one_run(tmp_path: Path) -> None:
    with locks.held(tmp_path), pytest.raises(RunError, match="another process works on it"):
        train("lines", tmp_path)
