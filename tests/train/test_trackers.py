"""Trackers: what W&B and MLflow hold, after restarts too, and that none of them ends a run."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from legw.cli import main
from legw.errors import LegwWarning, RunError
from legw.runs import records
from legw.train import Settings, trackers
from legw.train.trackers import tracking
from train.launch import complete
from train.runs import train, weights
from train.tasks import Lines
from train.tracked import calls

BOTH = ("wandb", "mlflow")
OWN = ("train.tracked:OnDisk",)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing leaves this machine: W&B writes files, MLflow a folder."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setattr(tracking, "EVERY_SECONDS", 0.02)
    yield
    forget_wandb()


def forget_wandb() -> None:
    """Let W&B read its variables anew: once set up, a process keeps them."""
    if sys.modules.get("wandb"):
        import wandb

        wandb.teardown()


# What their own readers find ------------------------------------------------------------


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of W&B's file in a folder, by W&B's own classes.

    The file is a log as LevelDB has it: blocks of 32 KiB, pieces with a head of 7 bytes.
    """
    from wandb.proto import wandb_internal_pb2 as wandb

    (path,) = folder.glob("run-*.wandb")
    data, at, piece = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        piece += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield wandb.Record.FromString(piece)
            piece = b""


def of_wandb() -> list[dict[str, Any]]:
    """Return what each of W&B's folders holds, in the order in which they were made."""
    found = []
    for folder in sorted(Path("wandb").glob("offline-run-*")):
        one: dict[str, Any] = {"rows": [], "config": {}, "summary": {}}
        for record in wandb_records(folder):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                one |= {"id": record.run.run_id, "project": record.run.project}
                one["name"] = record.run.display_name
                one["config"] |= values(record.run.config.update)
            elif kind == "history":
                one["rows"].append(values(record.history.item))
            elif kind == "summary":
                one["summary"] |= values(record.summary.update)
            elif kind == "exit":
                one["exit"] = record.exit.exit_code
        found.append(one)
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def of_mlflow() -> list[tuple[Any, dict[str, list[tuple[int, float]]]]]:
    """Return MLflow's runs with the history of each metric."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    return [
        (run, {name: [(each.step, each.value)
                      for each in client.get_metric_history(run.info.run_id, name)]
               for name in run.data.metrics})
        for run in runs
    ]  # fmt: skip


def expected(out: str) -> list[tuple[int, float | None]]:
    return [(row.update + 1, row.loss) for row in records.load(out).updates]


@pytest.mark.ci
def test_both_have_every_update_every_evaluation_the_recipe_and_the_end() -> None:
    train("lines", Path("out"), updates=30, log_to=BOTH)
    run = records.load("out")
    assert run.summary is not None

    [(theirs, history)] = of_mlflow()
    assert theirs.info.status == "FINISHED" and theirs.info.run_name == "out"
    assert history["train/loss"] == expected("out")
    assert history["train/lr"] == [(row.update + 1, row.lr) for row in run.updates]
    assert len(history["train/examples_per_second"]) == 30
    assert history["evaluation/error"] == [(row.update, row.metric) for row in run.evaluations]
    assert history["final/error"] == [(30, run.summary.metric["value"])]
    assert theirs.data.params["lr"] == "0.05" and theirs.data.params["rule"] == "legw"
    assert theirs.data.params["optimizer.momentum"] == "0.9"
    assert theirs.data.params["base.batch_size"] == "64"
    assert theirs.data.tags["legw.status"] == "finished"

    [one] = of_wandb()
    assert (one["project"], one["name"], one["exit"]) == ("lines", "out", 0)
    assert [(row["_step"], row["train/loss"]) for row in one["rows"]] == expected("out")
    told = [(row["_step"], row["evaluation/error"])
            for row in one["rows"] if "evaluation/error" in row]  # fmt: skip
    assert told == [(row.update, row.metric) for row in run.evaluations]
    assert one["config"]["lr"] == 0.05 and one["config"]["seed"] == 0
    assert one["summary"]["status"] == "finished"
    assert one["summary"]["final/error"] == run.summary.metric["value"]
    for name in BOTH:
        kept = json.loads(Path(f"out/tracker-{name}.json").read_text())
        assert kept["id"] == (one["id"] if name == "wandb" else theirs.info.run_id)


@pytest.mark.ci
def test_a_resumed_run_goes_on_with_the_same_one_and_repeats_nothing() -> None:
    first = train("lines", Path("out"), updates=30, log_to=BOTH, stop_after=17)
    assert first.status == "interrupted"
    assert [run.info.status for run, _ in of_mlflow()] == ["KILLED"]
    train("lines", Path("out"), updates=30, log_to=BOTH, resume=True)

    [(theirs, history)] = of_mlflow()
    assert theirs.info.status == "FINISHED"
    assert history["train/loss"] == expected("out")

    one, other = of_wandb()  # offline, W&B begins a folder; `wandb sync` joins them by the id
    assert one["id"] == other["id"] and (one["exit"], other["exit"]) == (130, 0)
    rows = [row for part in (one, other) for row in part["rows"] if "train/loss" in row]
    assert [(row["_step"], row["train/loss"]) for row in rows] == expected("out")
    assert len(one["rows"]) == 17


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_is_no_number_is_written_as_that(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Lines.loss, []

    def loss(self: Any, model: Any, batch: Any, state: Any) -> Any:
        seen.append(batch)
        total, weight, state = real(self, model, batch, state)
        return total * (math.nan if len(seen) > 8 else 1.0), weight, state

    monkeypatch.setattr(Lines, "loss", loss)
    train("lines", Path("out"), log_to=BOTH, precision=precision)
    run = records.load("out")
    assert run.summary is not None and run.summary.status == "diverged"
    [(theirs, history)] = of_mlflow()
    assert theirs.info.status == "FAILED" and theirs.data.tags["legw.status"] == "diverged"
    assert theirs.data.tags["legw.reason"] == run.summary.reason
    [one] = of_wandb()
    assert one["exit"] == 3 and one["summary"]["reason"] == run.summary.reason
    for losses in (
        [loss for _, loss in history["train/loss"]],
        [row["train/loss"] for row in one["rows"] if "train/loss" in row],
    ):
        assert len(losses) == len(run.updates) == 9
        assert math.isnan(float(losses[-1])) and all(map(math.isfinite, losses[:-1]))


# A tracker that fails ------------------------------------------------------------------------


@pytest.fixture
def untracked(tmp_path: Path) -> Path:
    train("lines", tmp_path / "untracked")
    return tmp_path / "untracked"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Down", "no route to host at all"),
        ("Breaks", "TimeoutError"),
        ("Hangs", "it is not done 0.2 s after the run"),
    ],
)
def test_a_tracker_that_fails_ends_no_run(
    name: str, said: str, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_SECONDS_AT_END", 0.2)
    with pytest.warns(LegwWarning) as told:
        train("lines", Path("out"), log_to=(f"train.tracked:{name}",))
    [line] = [str(each.message) for each in told]
    assert line == (
        f"log_to=train.tracked:{name}: {said}; the run goes on without it, its numbers are in out"
    )
    assert all((weights(Path("out"))[k] == v).all() for k, v in weights(untracked).items())
    ours, theirs = (records.load(folder) for folder in ("out", untracked))
    assert [row.loss for row in ours.updates] == [row.loss for row in theirs.updates]


def test_what_a_failed_tracker_lacks_is_handed_over_when_the_run_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first part is served by nobody, the second in part: the third brings all of it."""
    train("lines", Path("out"), updates=30, stop_after=10)
    with pytest.warns(LegwWarning, match="TimeoutError"):
        train("lines", Path("out"), updates=30, stop_after=20, resume=True,
              log_to=("train.tracked:Breaks",))  # fmt: skip
    Path("out/own.jsonl").unlink()
    Path("out/tracker-train.tracked-Breaks.json").unlink()
    train("lines", Path("out"), updates=30, resume=True, log_to=OWN)
    logged = [call for call in calls(Path("out")) if call["call"] == "log"]
    run = records.load("out")
    updates = [(call["update"], call["train/loss"]) for call in logged if "train/loss" in call]
    assert updates == expected("out")
    measured = [call["update"] for call in logged if "evaluation/error" in call]
    assert measured == [row.update for row in run.evaluations]
    assert [call["update"] for call in logged] == sorted(call["update"] for call in logged)


def test_an_error_of_the_run_is_told_as_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr("train.tasks.Lines.evaluate", broken)
    with pytest.raises(ZeroDivisionError):
        train("lines", Path("out"), log_to=OWN)
    assert [call["status"] for call in calls(Path("out")) if call["call"] == "finish"] == ["failed"]


@pytest.mark.ci
def test_a_server_that_is_not_there_is_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = "train digits-lstm -b 64 --epochs 2 --micro-batch-size 64 --device cpu --out out"
    assert main([*words.split(), "--log-to", "mlflow"]) == 0
    out, err = capsys.readouterr()
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and notes[0].startswith("note: --log-to=mlflow: ")
    assert notes[0].endswith("; the run goes on without it, its numbers are in out")
    assert "accuracy 0." in out


@pytest.mark.parametrize("content", ["{", '{"id": "a\\u001b[2J"}', '{"updates": -1}', '{"id": 3}'])
def test_a_damaged_file_of_ids_is_named_and_a_new_run_begins(content: str) -> None:
    Path("out").mkdir()
    Path("out/tracker-train.tracked-OnDisk.json").write_text(content)
    with pytest.warns(LegwWarning, match=r"OnDisk\.json: .*; a new run begins at train\.tracked"):
        train("lines", Path("out"), log_to=OWN)
    assert calls(Path("out"))[0]["id"] == ""
    kept = json.loads(Path("out/tracker-train.tracked-OnDisk.json").read_text())
    assert kept == {"id": "the-first", "updates": 20, "evaluations": 20}


def test_rows_that_nobody_takes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 10)
    monkeypatch.setattr(tracking, "MAX_SECONDS_AT_END", 0.1)
    with pytest.warns(LegwWarning, match="10 rows wait for it"):
        train("lines", Path("out"), log_to=("train.tracked:Hangs",))


# Who writes ------------------------------------------------------------------------------------


@pytest.mark.ci
def test_the_first_of_several_processes_alone_writes(tmp_path: Path) -> None:
    complete(2, train, "lines", tmp_path / "out", log_to=OWN, logs=tmp_path / "logs")
    found = calls(tmp_path / "out")
    assert [call["rank"] for call in found if call["call"] == "start"] == ["0"]
    updates = [call["update"] for call in found if "train/loss" in call]
    assert updates == list(range(1, 21))


@pytest.mark.ci
def test_a_study_hands_over_each_of_its_runs() -> None:
    words = (
        "study digits-lstm --batch-sizes 16,32 --rules legw --seeds 1 --epochs 1 --out s "
        "--micro-batch-size 16 --device cpu --log-to train.tracked:OnDisk"
    )
    assert main(words.split()) == 0
    for name in ("base-b16-s0", "legw-b32-s0"):
        place = Path("s/runs", name)
        assert calls(place)[-1]["status"] == "finished"
        assert len([c for c in calls(place) if "train/loss" in c]) == len(expected(str(place)))
    again = json.loads(Path("s/study.json").read_text())["command"]
    assert "--log-to train.tracked:OnDisk" in again


# Mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("wandbb",), "wandb", (1,), ("wandb", "wandb"), ("",), ("MLFlow",)]
)
def test_names_that_are_no_trackers(names: Any) -> None:
    error_line(Settings, log_to=names, kind=RunError)


@pytest.mark.parametrize("module", ["wandb", "mlflow"])
def test_a_missing_package_is_a_line_with_the_install_command(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install" in error_line(trackers.check, [module], kind=RunError)


def test_no_account_is_a_line_and_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    forget_wandb()
    line = error_line(trackers.check, ["wandb"], kind=RunError)
    assert "WANDB_MODE=offline" in line


def test_a_place_that_mlflow_cannot_open_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    assert "MLFLOW_TRACKING_URI" in error_line(trackers.check, ["mlflow"], kind=RunError)


@pytest.mark.parametrize(
    "name", ["no_such_module:Own", "train.tracked:Own", "train.tracked:Path", "json:JSONDecoder"]
)
def test_an_own_tracker_that_is_none(name: str) -> None:
    error_line(trackers.find, [name], Path("out"), kind=RunError)


def test_a_mistake_is_told_before_the_data_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist-lstm", "--data", "nowhere", "--log-to", "wandbb"]) == 2
    assert "did you mean 'wandb'" in capsys.readouterr().err


def test_tensorboard_is_one_of_them() -> None:
    train("lines", Path("out"), log_to=("tensorboard",))
    assert list(Path("out/tensorboard").glob("events.*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trackers.check_names(("tensorboard", "wandb", "mlflow"))
