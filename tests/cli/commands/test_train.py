"""`legw train` from the command line: the run folder, the exit codes, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from legw.cli import main
from legw.errors import LegwWarning
from legw.runs import records

QUICK = ("--epochs", "2", "--micro-batch-size", "64", "--device", "cpu")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*words: str) -> int:
    return main(["train", "digits-lstm", *words])


def summary(folder: str = "out") -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "summary.json").read_text()))


def test_a_run_writes_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "64", *QUICK, "--seed", "3", "--out", "out") == 0
    found = summary()
    assert found["status"] == "finished"
    assert found["updates"] == 45  # ceil(2 * 1438 / 64)
    assert found["metric"]["name"] == "accuracy" and 0 <= found["metric"]["value"] <= 1
    assert found["final_loss"] > 0 and found["seconds"] > 0
    manifest = records.read_manifest("out")
    assert (manifest.seed, manifest.rule, manifest.recipe.batch_size) == (3, "legw", 64)
    assert manifest.base.batch_size == 16 and manifest.micro_batch_size == 64
    assert manifest.data.startswith("sha256:")
    out = capsys.readouterr().out
    assert "batch 16 → 64 (k=4, legw)" in out
    assert "45 updates" in out.splitlines()[-1]


def test_the_same_run_again_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        assert train("-b", "64", *QUICK, "--out", folder) == 0
    assert summary("a")["final_loss"] == summary("b")["final_loss"]


def test_json_is_the_summary_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "64", *QUICK, "--out", "out", "--json") == 0
    assert json.loads(capsys.readouterr().out) == summary()


def test_quiet_is_the_result_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither progress nor notes, of which a batch of most of the data makes one."""
    words = ("-b", "1024", *QUICK, "--warmup-epochs", "0")
    assert train(*words, "--out", "loud") == 0
    loud = capfd.readouterr()
    assert "note: " in loud.out + loud.err
    assert train(*words, "--out", "out", "--quiet") == 0
    found = capfd.readouterr()
    assert found.err == ""
    (line,) = found.out.splitlines()
    assert line.startswith("accuracy ") and line.endswith(" → out")
    assert train(*words, "--out", "json", "--quiet", "--json") == 0
    found = capfd.readouterr()
    assert found.err == ""
    assert json.loads(found.out) == summary("json")
    assert train(*words, "--out", "out", "--quiet") == 2
    assert "holds a run already" in capfd.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_out_the_notes_of_the_library_too(
    quiet: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(recipe: object) -> list[str]:
        warnings.warn("a setting that works", LegwWarning, stacklevel=2)
        return []

    monkeypatch.setattr("legw.cli.commands.train.averaged", warned)
    words = ["--quiet"] if quiet else []
    assert train("-b", "64", *QUICK, "--out", "out", *words) == 0
    assert capsys.readouterr().err == ("" if quiet else "note: a setting that works\n")


def test_what_was_measured_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("-b", "64", "--epochs", "1.1", "--device", "cpu", "--lanes", "2", "--out", "out")
    assert train(*words) == 0
    size = records.read_manifest("out").micro_batch_size
    out = capsys.readouterr().out
    assert f"micro-batch {size}, 2 at once, is fastest here (examples/s at 2 x " in out


def test_an_explicit_lr_beats_the_rule() -> None:
    assert train("-b", "64", *QUICK, "--lr", "0.01", "--out", "out") == 0
    assert records.read_manifest("out").recipe.lr == 0.01


def test_without_out_the_folder_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("digits-lstm-legw-b64-s0", "digits-lstm-legw-b64-s0-2"):
        assert train("-b", "64", *QUICK) == 0
        assert (Path("runs") / name / "summary.json").exists()


def test_a_diverged_run_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    base = Path("wild.toml")
    base.write_text(
        "batch_size = 16\nlr = 1e10\nepochs = 2\nnum_examples = 1438\n"
        "[optimizer]\nkind = 'sgd'\nweight_decay = 1.0\n"
    )
    assert train("--recipe", "wild.toml", "--micro-batch-size", "16", "--out", "out") == 3
    error = capsys.readouterr().err.strip()
    assert error.startswith("legw: out: diverged at update ")
    assert error.endswith("; the folder stays")
    assert summary()["status"] == "diverged"


@pytest.mark.ci
def test_tensorboard_on_request() -> None:
    assert train("-b", "64", *QUICK, "--out", "out", "--tensorboard") == 0
    assert list(Path("out/tensorboard").glob("events.*"))


# What is refused -------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line that a call is refused with."""
    assert main(list(words)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ("digits-lst",),
        ("digits-lstm", "--rule", "lgew"),
        ("digits-lstm", "--lr", "-1"),
        ("digits-lstm", "--lr", "nan"),
        ("digits-lstm", "-b", "0"),
        ("digits-lstm", "-b", "16000"),
        ("digits-lstm", "--micro-batch-size", "x"),
        ("digits-lstm", "--lanes", "0"),
        ("digits-lstm", "--memory-limit", "lots"),
        ("digits-lstm", "--device", "gpu7"),
        ("digits-lstm", "--recipe", "no.toml"),
        ("nowhere:task", "--recipe", "digits-lstm"),
        ("json:nothing", "--recipe", "digits-lstm"),
        ("json:loads", "--recipe", "digits-lstm"),
        ("json:decoder", "--recipe", "digits-lstm"),
        ("json:decoder",),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    refused(capsys, "train", *words, "--out", "out")


def test_an_unknown_application_is_told_the_applications_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from legw.apps import APPS

    assert refused(capsys, "train", "digits") == (
        "legw: application 'digits' is unknown; did you mean 'digits-lstm'? "
        f"(known: {', '.join(APPS)}); your own task is module:name"
    )


@pytest.mark.parametrize(
    "words", ["study digits --batch-sizes 16 --dry-run --out out", "plan digits"]
)
def test_without_torch_the_recipes_names_stand_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "legw.apps", None)  # as where torch is not installed
    line = refused(capsys, *words.split())
    assert line.startswith("legw: recipe 'digits' is unknown; did you mean 'digits-lstm'? ")


def test_a_rule_that_steers_takes_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.toml").write_text("name = 'plain'\nbatch_size = 16\nlr = 0.1\nepochs = 2\n")
    words = ("train", "digits-lstm", "--recipe", "plain.toml", "--rule", "adascale", "--lr", "1")
    line = (
        "legw: plain: lr=1: adascale takes its rates from the base while the run goes on; give a "
        "base with another lr (--recipe FILE)"
    )
    assert refused(capsys, *words) == refused(capsys, *words, "-b", "64") == line


def test_a_given_length_is_the_bases_and_the_rule_stretches_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hoffer's trains k times as long: warmup and milestones are stretched with the run."""
    words = "train digits-lstm -b 64 --rule hoffer --epochs 1 --warmup-epochs 0.2 --dry-run"
    assert main([*words.split(), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "updates: 90, of which 18 warm up" in out  # 4 epochs


@pytest.mark.ci
def test_updates_are_counted_for_the_data_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe's 29,000 examples are those of another data set; the digits are 1,438.

    ceil(0.4 * 1438 / 64) updates warm up, of ceil(1438 / 64).
    """
    Path("much.toml").write_text(
        "name = 'much'\nbatch_size = 16\nlr = 0.1\nepochs = 1\nwarmup_epochs = 0.1\n"
        "num_examples = 29000\n"
    )
    words = ("--recipe", "much.toml", "-b", "64", "--device", "cpu")
    line = "much: batch 16 → 64 (k=4, legw): lr 0.1 → 0.2, warmup 0.1 → 0.4 epochs (9 updates)"
    assert train(*words, "--micro-batch-size", "64", "--out", "out") == 0
    assert capsys.readouterr().out.splitlines()[0] == line
    assert records.read_manifest("out").recipe.num_examples == 29_000, "as it was given"

    assert train(*words, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == line
    assert re.search(r"^ *warmup_updates +9 +9 *$", out, re.M)
    assert re.search(r"^ *updates +90 +23 ", out, re.M)
    assert "updates: 23, of which 9 warm up (1438 examples an epoch)" in out

    assert train(*words, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    counts = (found["num_examples"], found["updates"], found["warmup_updates"])
    assert counts == (1438, 23, 9)


def test_updates_are_counted_where_the_text_is_too_short_for_the_base(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twenty streams of the base would leave no window each: its counts alone are not known."""
    Path("text").mkdir()
    for part in ("train", "valid", "test"):
        (Path("text") / f"{part}.txt").write_text("a small bank\n" * 30)  # 120 tokens
    words = "train ptb-small -b 2 --data text --dry-run --device cpu --json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_examples"] == 4  # (120 // 2 - 1) // 20 windows of each of 2 streams
    assert found["updates"] == found["estimate"]["updates"]
    assert found["warmup_updates"] == found["estimate"]["warmup_updates"]
    assert found["base"].get("num_examples") is None


def test_resuming_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    out = "/".join(["a-name-that-is-long"] * 6)  # one line all the same
    line = f"note: {out}: holds no run to go on with; a new one begins"
    assert train("-b", "64", *QUICK, "--out", out, "--resume") == 0
    assert line in capsys.readouterr().out.splitlines()
    assert train("-b", "64", *QUICK, "--out", out, "--resume") == 0
    assert line not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    line = refused(capsys, "train", "digits-lstm", "--out", "file/run")
    assert "file/run: cannot be written: " in line and "choose another --out" in line


def test_a_folder_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "64", *QUICK, "--out", "out") == 0
    capsys.readouterr()
    line = refused(capsys, "train", "digits-lstm", "-b", "64", *QUICK, "--out", "out")
    assert line == (
        "legw: out: holds a run already; --resume goes on with it, or choose another --out"
    )


# Ctrl-C ---------------------------------------------------------------------------


@pytest.mark.ci
def test_ctrl_c_keeps_the_folder_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["train", "digits-lstm", "--micro-batch-size", "16", "--device", "cpu", "--out", "out",
             "--epochs", "6"]  # fmt: skip
    command = [sys.executable, "-m", "legw", *words]
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = Path("out/metrics.jsonl")
    deadline = time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=100)
    assert running.returncode == 130
    run = records.load("out")
    assert run.status == "interrupted" and not run.problems
    last = errors.strip().splitlines()[-1]
    assert last == (
        f"legw: out: stopped after update {len(run.updates)}; "
        "the same command with --resume --out out goes on"
    )
    assert main([*words, "--resume"]) == 0
    assert [row.update for row in records.load("out").updates] == list(range(540))


class Full(io.TextIOWrapper):
    """An output whose disk is full when the first epoch is told."""

    def write(self, text: str) -> int:
        if "of 2, loss" in text:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.ci
def test_a_run_that_a_full_output_stopped_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "digits-lstm", "-b", "64", "--epochs", "2", "--device", "cpu", "--out", "out"]
    words += ["--checkpoint-seconds", "0"]
    with monkeypatch.context() as full, (tmp_path / "log").open("wb") as log:
        full.setattr(sys, "stdout", Full(log, encoding="utf-8"))
        assert main(words) == 2
    assert 0 < len(records.load("out").updates) < 45
    assert main([*words, "--resume"]) == 0
    assert "holds no run" not in capsys.readouterr().out
    assert [row.update for row in records.load("out").updates] == list(range(45))
