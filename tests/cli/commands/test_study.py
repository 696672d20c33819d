"""`legw study` from the command line: plan, train, go on, table, page, and what is refused."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import faults
from corpora import write_texts
from expect import error_line
from folders import BASE
from legw.apps import row_lstm
from legw.cli.commands import study as study_command
from legw.cli.options import Dataset, Machine
from legw.cli.progress import _Line
from legw.errors import DataError, RunError, on_command_line
from legw.report import page
from legw.runs import locks, records
from legw.study import pool, runner
from legw.study.plan import Planned, Study, plan
from legw.train import Settings, Task
from threads import threads
from train.launch import CONTEXT

Legw = Callable[[str], Any]

RECIPE = """
name = "small"
batch_size = 128
lr = 0.4
epochs = 1
warmup_epochs = 0.1
num_examples = 1438
[optimizer]
kind = "sgd"
momentum = 0.9
"""
"""Twelve updates a run."""

PAGE = page.text

STUDY = "study digits-lstm --recipe small.toml --micro-batch-size 64 --device cpu"
COMPARED = f"{STUDY} --batch-sizes 128,256 --rules legw,linear --seeds 2 --out out"


@pytest.fixture(autouse=True)
def in_a_folder_with_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("small.toml").write_text(RECIPE, encoding="utf-8")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results of 1 and of 2 threads differ in their last digit."""
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def without_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests do without the page, which takes longer than the runs."""
    monkeypatch.setattr(page, "text", lambda everything: "no page")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are trained, in turn."""
    names: list[str] = []
    real = pool.fit

    def fit(*args: Any, out: Path, **kwargs: Any) -> Any:
        names.append(out.name)
        return real(*args, out=out, **kwargs)

    monkeypatch.setattr(pool, "fit", fit)
    return names


def interrupt_run(number: int, event: str, patched: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C at an event of a study's run; `number` counts from 1."""
    real = getattr(_Line, event)
    seen = iter((False, False, True))  # at the third update, or at the start

    def act(self: _Line, *values: object) -> None:
        real(self, *values)
        if self._where.startswith(f"run {number} ") and (event == "on_start" or next(seen, False)):
            signal.raise_signal(signal.SIGINT)

    patched.setattr(_Line, event, act)


def write_images(root: Path) -> None:
    """Write eight images of each of two classes to train on, and one to test on."""
    for split, count in (("train", 8), ("test", 1)):
        for grey, name in ((50, "cat"), (200, "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), (grey, index, 0)).save(
                    root / split / name / f"{index}.png"
                )


def table(folder: str = "out") -> list[dict[str, Any]]:
    found = json.loads((Path(folder) / "table.json").read_text(encoding="utf-8"))
    assert isinstance(found, list)
    return found


def results(folder: str = "out") -> dict[tuple[str, int, int], tuple[str, float | None]]:
    """What a study came to, without its times."""
    return {
        (row["rule"], row["batch_size"], row["seed"]): (row["status"], row["metric"])
        for row in table(folder)
    }


# From start to end ------------------------------------------------------------------


def test_a_study_trains_its_runs_and_says_what_came_of_them(legw: Legw, trained: list[str]) -> None:
    answer = legw(COMPARED)
    assert (answer.code, answer.err) == (0, "")
    assert trained == [
        "base-b128-s0", "base-b128-s1",
        "legw-b256-s0", "legw-b256-s1", "linear-b256-s0", "linear-b256-s1",
    ]  # fmt: skip
    lines = answer.out.splitlines()
    assert lines[0] == "out: 6 runs, 48 updates; 0 finished before"
    assert [line for line in lines if line.startswith("run 3 of 6, legw-b256-s0: accuracy 0.")]
    assert [line.split() for line in lines if line.startswith("rule ")] == [
        ["rule", "base", "\N{MULTIPLICATION SIGN}2"]
    ]
    assert [len(line.split("±")) - 1 for line in lines if line.startswith("legw ")] == [1]
    assert "n = 2 seeds" in answer.out
    assert "at batch 256 (2 times the base's 128), legw reaches accuracy 0." in answer.out
    assert lines[-2].startswith("again: legw study digits-lstm --batch-sizes 128,256")
    assert lines[-1] == "wrote out/report.html"
    assert max(map(len, lines[7:-4])) <= 130


def test_table_json_has_one_row_a_run(legw: Legw) -> None:
    legw(COMPARED)
    assert len(table()) == 6
    first, third = table()[0], table()[2]
    expected = {
        "recipe": "small", "rule": "base", "batch_size": 128, "seed": 0, "status": "finished",
        "updates": 12, "lr": 0.4, "warmup_epochs": 0.1, "epochs": 1.0, "variant": "",
    }  # fmt: skip
    assert expected.items() <= first.items()
    assert 0 <= first["metric"] <= 1
    assert first["seconds"] > 0
    assert (third["rule"], third["lr"], third["updates"]) == ("legw", 0.4 * 2**0.5, 6)


def test_the_folder_says_what_it_holds(legw: Legw) -> None:
    legw(COMPARED)
    data = json.loads(Path("out/study.json").read_text(encoding="utf-8"))
    assert (data["task"], data["batch_sizes"], data["seeds"]) == ("digits-lstm", [128, 256], [0, 1])
    assert data["base"]["name"] == "small"
    assert shlex.split(data["command"])[1:] == [
        *shlex.split("study digits-lstm --batch-sizes 128,256 --rules legw,linear --seeds 2"),
        *shlex.split("--recipe small.toml --out out --micro-batch-size 64 --device cpu"),
    ]


def test_the_command_to_run_it_again_runs_it_again(legw: Legw, trained: list[str]) -> None:
    legw(f"{STUDY} --batch-sizes 128 --grid lr=0.1,0.2 --grid clip_norm=none,1 --seeds 4,")
    assert len(trained) == 4
    command = json.loads(Path("runs/digits-lstm-study/study.json").read_text())["command"]
    answer = legw(command.removeprefix("legw "))
    assert answer.out.startswith("runs/digits-lstm-study: 4 runs, 48 updates; 4 finished before")
    assert len(trained) == 4


def test_json_is_the_rows_alone(legw: Legw) -> None:
    answer = legw(f"{COMPARED} --json")
    assert json.loads(answer.out) == table()
    assert "run 6 of 6" in answer.err
    assert answer.err.splitlines()[-1] == "wrote out/report.html"


def test_quiet_is_the_result_alone(legw: Legw, trained: list[str]) -> None:
    answer = legw(f"{STUDY} --batch-sizes 128 --seeds 1 --quiet")
    assert (answer.code, answer.err, len(trained)) == (0, "", 1)
    assert "run 1 of 1" not in answer.out and "note: " not in answer.out
    assert "again: legw study digits-lstm " in answer.out and "--quiet" not in answer.out
    answer = legw(f"{STUDY} --batch-sizes 128 --seeds 2 --quiet --json")
    assert (answer.code, answer.err, len(json.loads(answer.out))) == (0, "", 2)


@pytest.mark.ci
def test_a_diverged_run_is_a_result(legw: Legw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "text", PAGE)
    grid = "--grid lr=0.4,1e10 --grid optimizer.weight_decay=1"
    answer = legw(f"{STUDY} --batch-sizes 128 --seeds 2 {grid} --out out")
    assert answer.code == 0
    assert {row["status"] for row in table() if row["lr"] == 1e10} == {"diverged"}
    assert "diverged 2/2" in answer.out
    assert "base-b128-s0: diverged at update " in answer.out
    assert "diverged 2/2" in Path("out/report.html").read_text(encoding="utf-8")
    assert "Best of 2 at batch 128: lr=0.4 optimizer.weight_decay=1 reaches" in answer.out


def test_a_grid_marks_its_best_variant(legw: Legw) -> None:
    answer = legw(f"{STUDY} --batch-sizes 128 --seeds 2 --grid lr=0.001,0.4 --out out")
    marked = [line for line in answer.out.splitlines() if line.endswith(" *")]
    assert len(marked) == 1
    assert marked[0].startswith("lr=0.4")
    assert "* best of its column; choose a variant at the base batch, nowhere else" in answer.out


def test_undefined_cells_are_listed_with_their_reason(legw: Legw) -> None:
    answer = legw(f"{STUDY} --batch-sizes 128,1280 --rules legw,fixed --seeds 1 --out out")
    assert "undefined [1]" in answer.out
    assert (
        "[1] small: batch_size=1280 (k=10): legw would warm up for 1 of 1 epochs; "
        "the largest batch that fits is 1279"
    ) in answer.out
    assert "n = 1: a single run each shows no spread and is not a claim" in answer.out
    assert "note: batch 1280, fixed: only 1.1 updates per epoch, fewer than 5" in answer.out


# Going on ---------------------------------------------------------------------------


def test_what_is_finished_is_not_run_again(legw: Legw, trained: list[str]) -> None:
    legw(COMPARED)
    trained.clear()
    before = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("*")}
    answer = legw(COMPARED)
    assert answer.out.startswith("out: 6 runs, 48 updates; 6 finished before\n")
    assert {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("*")} == before
    assert trained == []


def test_killed_and_missing_runs_go_on(legw: Legw, trained: list[str]) -> None:
    legw(COMPARED)
    whole = results()
    trained.clear()
    Path("out/runs/legw-b256-s1/summary.json").unlink()
    for path in Path("out/runs/linear-b256-s0").iterdir():
        path.unlink()
    legw(COMPARED)
    assert trained == ["legw-b256-s1", "linear-b256-s0"]
    assert results() == whole


def test_a_study_that_is_stopped_goes_on_to_the_same_end(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    with monkeypatch.context() as patched:
        interrupt_run(3, "on_update", patched)
        answer = legw(COMPARED)
    assert answer.code == 130
    line = answer.err.splitlines()[-1]
    assert line.startswith("legw: out: stopped; the same command goes on: legw study digits-lstm ")
    assert "run 3 of 6, legw-b256-s0: stopped after update 3" in answer.out
    assert [row["status"] for row in table()] == [
        "finished", "finished", "interrupted", "missing", "missing", "missing",
    ]  # fmt: skip
    answer = legw(line.partition("goes on: legw ")[2])
    assert answer.code == 0
    assert "out: 6 runs, 48 updates; 2 finished before" in answer.out
    legw(COMPARED.replace("--out out", "--out whole"))
    assert results() == results("whole")


@pytest.mark.ci
def test_more_rules_and_seeds_join_what_is_there(legw: Legw, trained: list[str]) -> None:
    legw(COMPARED)
    trained.clear()
    legw(COMPARED.replace("legw,linear", "sqrt").replace("--seeds 2", "--seeds 0,2"))
    assert trained == ["base-b128-s2", "sqrt-b256-s0", "sqrt-b256-s2"]
    assert len(table()) == 9
    assert {row["rule"] for row in table()} == {"base", "legw", "linear", "sqrt"}


# Several at a time ------------------------------------------------------------------


@pytest.mark.ci
def test_several_at_a_time_stop_and_go_on_to_the_same_end(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_run(3, "on_start", patched)
        answer = legw(f"{COMPARED} --jobs 2")
    assert answer.code == 130, answer.err
    assert "the same command goes on: legw study digits-lstm" in answer.err.splitlines()[-1]
    assert "missing" in {row["status"] for row in table()}
    assert legw(COMPARED).code == 0
    legw(COMPARED.replace("--out out", "--out whole"))
    assert results() == results("whole")


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork workers from a server that has imported torch: what is tested begins after that."""
    monkeypatch.setattr(pool, "CONTEXT", CONTEXT)


def a_run() -> Planned:
    return plan(Study(task="mine", base=BASE, batch_sizes=(16,))).runs[0]


def at_a_time(make_task: Callable[[], Task], folder: Path) -> list[Any]:
    settings = Settings(device="cpu", resume=True)
    ended = pool.at_a_time(
        [a_run()], make_task, folder, jobs=2, settings=settings, watch=lambda run: ()
    )
    return list(ended)


@pytest.mark.ci
@pytest.mark.usefixtures("quick_start")
def test_ctrl_c_while_workers_start_is_a_stop(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They have no handler yet, and end by the signal: no crash, and no want of memory."""
    real = pool._Pool.start

    def start(self: Any, count: int) -> None:
        real(self, count)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(pool._Pool, "start", start)
    answer = legw(f"{COMPARED} --jobs 2")
    assert answer.code == 130, answer.err
    line = answer.err.splitlines()[-1]
    assert line.startswith("legw: out: stopped; the same command goes on: legw study digits-lstm ")
    assert "process was lost" not in answer.out + answer.err


@pytest.mark.ci
@pytest.mark.usefixtures("quick_start")
def test_a_process_that_is_lost_is_named(tmp_path: Path) -> None:
    assert error_line(at_a_time, faults.lost, tmp_path, kind=RunError) == (
        "base-b16-s0: its process was lost (exit code 7; -9 is out of memory); "
        "the same command goes on, perhaps with fewer `jobs`"
    )


@pytest.mark.ci
@pytest.mark.usefixtures("quick_start")
def test_an_error_in_a_process_is_the_commands(tmp_path: Path) -> None:
    assert (
        error_line(at_a_time, faults.without_data, tmp_path, kind=DataError) == "digits: are gone"
    )


@pytest.mark.ci
@pytest.mark.usefixtures("quick_start")
def test_an_error_in_every_process_is_the_commands(tmp_path: Path) -> None:
    asked = Study(task="digits", base=SMALL, batch_sizes=(16, 64, 32), rules=("sqrt",))
    settings = Settings(device="cpu")
    line = error_line(
        runner.run_study, asked, faults.without_data, tmp_path, settings=settings, jobs=2,
        kind=DataError,
    )  # fmt: skip
    assert line == "digits: are gone"


SMALL = replace(BASE, num_examples=128, epochs=2)


def study_of_small_runs(
    how: str, folder: Path, jobs: int, sizes: tuple[int, ...] = (16, 64, 32)
) -> runner.Outcome:
    asked = Study(task="digits", base=SMALL, batch_sizes=sizes, rules=("sqrt",))
    return runner.run_study(
        asked, functools.partial(faults.failing, how), folder,
        settings=Settings(device="cpu", micro_batch_size=16), jobs=jobs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "jobs", "line"),
    [
        ("mistake", 1, "digits: one image is damaged"),
        (
            "memory",
            2,
            "sqrt-b64-s0: memory ran out; give fewer `jobs` or a smaller `micro_batch_size`",
        ),
        ("exit", 2, "sqrt-b64-s0: its process was lost (exit code 1; -9 is out of memory)"),
        ("killed", 2, "sqrt-b64-s0: its process was lost (exit code -9; -9 is out of memory)"),
    ],
)
@pytest.mark.usefixtures("quick_start")
def test_a_run_that_fails_leaves_the_others_alone(
    tmp_path: Path, how: str, jobs: int, line: str
) -> None:
    outcome = study_of_small_runs(how, tmp_path, jobs)
    assert outcome.left == ("sqrt-b64-s0",)
    assert outcome.failed["sqrt-b64-s0"].startswith(line)
    found = {row["batch_size"]: row["status"] for row in table(str(tmp_path))}
    assert (found[16], found[32]) == ("finished", "finished")
    assert found[64] in ("missing", "running")
    assert study_of_small_runs("", tmp_path, jobs=1) == runner.Outcome()


@pytest.mark.usefixtures("quick_start")
def test_a_worker_speaks_as_its_first_process_does(tmp_path: Path) -> None:
    """The reason is said in the worker, and read on the command line."""
    with on_command_line():
        outcome = study_of_small_runs("memory", tmp_path, 2)
    line = "sqrt-b64-s0: memory ran out; give fewer --jobs or a smaller --micro-batch-size"
    assert outcome.failed["sqrt-b64-s0"].startswith(line)


@pytest.mark.usefixtures("quick_start")
def test_a_worker_that_cannot_begin_leaves_its_run_to_the_others(tmp_path: Path) -> None:
    asked = Study(task="digits", base=SMALL, batch_sizes=(16, 64, 32), rules=("sqrt",))
    make = functools.partial(faults.without_data_once, tmp_path / "mark")
    outcome = runner.run_study(
        asked, make, tmp_path / "out", settings=Settings(device="cpu", micro_batch_size=16), jobs=2
    )
    assert outcome == runner.Outcome()
    assert {row["status"] for row in table(str(tmp_path / "out"))} == {"finished"}


@pytest.mark.usefixtures("quick_start")
def test_a_run_without_memory_is_tried_again_with_fewer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_of_small_runs("memory once", tmp_path / "out", jobs=2) == runner.Outcome()
    assert {row["status"] for row in table("out")} == {"finished"}


def test_failed_runs_are_told_last_and_exit_with_2(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pool.fit

    def fit(*args: Any, out: Path, **kwargs: Any) -> Any:
        if out.name == "legw-b256-s0":
            raise RunError("the disk is full")
        return real(*args, out=out, **kwargs)

    monkeypatch.setattr(pool, "fit", fit)
    answer = legw(COMPARED)
    assert answer.code == 2
    assert "run 3 of 6, legw-b256-s0: failed: the disk is full" in answer.out
    assert "wrote out/report.html" in answer.out
    monkeypatch.setattr(pool, "fit", real)
    assert legw(COMPARED).code == 0


def test_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "available_memory", lambda device: 1000.0)
    shared = pool.share(Settings(device="cpu"), number=1, jobs=4)
    assert shared.memory_limit == 200
    assert pool.share(Settings(device="cpu", memory_limit=7), number=0, jobs=4).memory_limit == 7


def test_of_several_gpus_each_worker_takes_one_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "available_memory", lambda device: 1000.0)
    monkeypatch.setattr(pool, "choose_device", lambda name: name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [pool.share(Settings(), number, jobs=3) for number in range(3)]
    assert [each.device for each in found] == ["cuda:0", "cuda:1", "cuda:0"]
    assert found[0].memory_limit == 400


# One process at a time --------------------------------------------------------------


@pytest.mark.ci
def test_a_study_that_another_process_makes_is_refused(legw: Legw) -> None:
    legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out")
    with another_process_in(Path("out")):
        answer = legw(COMPARED)
    assert answer.code == 2
    assert legw(COMPARED).code == 0  # it was killed, and its lock is gone


@pytest.mark.ci
def test_a_run_that_another_process_makes_fails_alone(legw: Legw) -> None:
    place = Path("out/runs/legw-b256-s0")
    place.mkdir(parents=True)
    with another_process_in(place):
        answer = legw(COMPARED)
    assert answer.code == 2
    assert "legw-b256-s0 failed" in answer.err
    assert f"{place}: another process works on it" in answer.err
    assert [row["status"] for row in table()].count("finished") == 5


@contextlib.contextmanager
def another_process_in(folder: Path) -> Iterator[None]:
    """Hold a folder's lock in a process that is killed at the end."""
    script = (
        "import pathlib, sys, time; from legw.runs import locks\n"
        "with locks.held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.kill()


# Several machines -------------------------------------------------------------------


@pytest.mark.ci
def test_shards_make_the_whole_study(legw: Legw, trained: list[str]) -> None:
    assert legw(f"{COMPARED} --shard 2/3").code == 0
    assert trained == ["base-b128-s1", "linear-b256-s0"]
    assert legw(f"{COMPARED} --shard 1/3").code == 0
    assert legw(f"{COMPARED} --shard 3/3").code == 0
    assert len(trained) == 6
    assert {row["status"] for row in table()} == {"finished"}
    legw(COMPARED.replace("--out out", "--out whole"))
    assert results() == results("whole")
    assert "--shard" not in json.loads(Path("out/study.json").read_text())["command"]


@pytest.mark.ci
def test_shards_share_the_folder_and_one_shard_does_not(legw: Legw) -> None:
    folder = Path("out")
    folder.mkdir()
    with locks.held(folder, shared=True), locks.held(folder, name=".lock-1-of-2"):
        assert legw(f"{COMPARED} --shard 2/2").code == 0
        assert "out: another process works on it" in legw(f"{COMPARED} --shard 1/2").err
        assert "out: another process works on it" in legw(COMPARED).err


# Other data -------------------------------------------------------------------------


def test_other_data_are_refused(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out")
    monkeypatch.setattr(row_lstm.RowTask, "fingerprint", lambda self: "sha256:other")
    answer = legw(COMPARED)
    assert answer.code == 2
    assert answer.err.endswith(
        ", not sha256:other); give the --data of its first run, or choose another --out\n"
    )
    assert trained == ["base-b128-s0"]


def test_words_of_a_text_are_counted_in_its_data(legw: Legw, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    write_texts(tmp_path / "text", lines=400)
    words = "study ptb-small --batch-sizes 20,40 --epochs 1 --data text --vocabulary 9 --dry-run"
    answer = legw(words)
    assert answer.code == 0
    tokens = sum(start % 5 + 4 for start in range(400))  # with the end of each line
    updates = [(tokens // size - 1) // 20 for size in (20, 40)]
    assert f"6 runs, {3 * sum(updates)} updates" in answer.out.splitlines()[-1]


def test_broken_images_are_refused_or_left_out(legw: Legw, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "images/train/dog/0.png").write_bytes(b"no image")
    words = "study cifar10-small --recipe small.toml --epochs 2 --seeds 1 --data images"
    refused = legw(f"{words} --batch-sizes 4 --dry-run")
    assert refused.code == 2
    assert "dog/0.png: is no image that Pillow knows; replace it, or give --skip-b" in refused.err
    answer = legw(f"{words} --batch-sizes 4 --dry-run --skip-broken")
    assert "1 broken image is left out; the first" in answer.err
    assert answer.out.splitlines()[-1] == "1 runs, 8 updates; 0 finished before"  # of 15, not 16


def test_workers_are_handed_to_the_task(legw: Legw) -> None:
    words = "study resnet50-imagenet --batch-sizes 512 --data images --dry-run --workers -1"
    assert legw(words).code == 2
    refused = legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out --workers 2")
    assert refused.code == 2


# The dry run ------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_writes_nothing(legw: Legw, trained: list[str]) -> None:
    answer = legw(f"{COMPARED} --dry-run")
    assert (answer.code, answer.err, trained) == (0, "", [])
    assert not Path("out").exists()
    row_lstm = [line.split() for line in answer.out.splitlines()]
    assert ["base", "128", "0.4", "2", "10", "%", "1", "12", "2", "missing"] in row_lstm
    assert ["legw", "256", "0.566", "2", "20", "%", "1", "6", "2", "missing"] in row_lstm
    assert ["linear", "256", "0.8", "1", "10", "%", "1", "6", "2", "missing"] in row_lstm
    assert answer.out.splitlines()[-1] == "6 runs, 48 updates; 0 finished before"


def test_a_dry_run_breaks_no_number_and_no_rules_name(legw: Legw) -> None:
    text = RECIPE.replace('kind = "sgd"\nmomentum = 0.9', 'kind = "adamw"\nweight_decay = 0.01')
    Path("adam.toml").write_text(text.replace("epochs = 1\n", "epochs = 3000\n", 1))
    answer = legw(
        "study digits-lstm --recipe adam.toml --batch-sizes 128,512 --seeds 3 --dry-run "
        "--rules legw-timescales,beta2-half-life"
    )
    assert answer.code == 0, answer.err
    table = answer.out.split("────\n")[1].split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert {tuple(line.split()[:2]) for line in table} == {
        ("beta2-half-life", "512"),
        ("legw-timescales", "512"),
        ("base", "128"),
    }
    assert all("3 missing" in line for line in table) and len(table) == 3


def test_a_dry_run_says_what_is_done_and_what_is_undefined(legw: Legw) -> None:
    legw(f"{STUDY} --batch-sizes 128 --seeds 2 --out out")
    answer = legw(f"{STUDY} --batch-sizes 128,2048 --rules legw --seeds 3 --out out --dry-run")
    assert "2 finished, 1 missing" in answer.out
    assert "undefined: small: batch_size=2048 (k=16): legw would warm up for 1.6 of 1" in answer.out


def test_a_study_without_its_base_says_so(legw: Legw) -> None:
    answer = legw(f"{STUDY} --batch-sizes 256 --dry-run")
    note = "note: the base's own batch, 128, is not among the batch sizes to compare with"
    assert note in answer.out.splitlines()


def test_the_bases_warmup_may_be_given_in_either_unit(legw: Legw) -> None:
    for words in ("--warmup-epochs 0.2", "--warmup-steps 3"):
        answer = legw(f"{STUDY} --batch-sizes 128,256 --dry-run {words}").out
        base = [line.split() for line in answer.splitlines() if line.startswith("base")]
        assert base[0][3] == "3", answer


def test_a_dry_run_draws_the_rates_and_estimates_the_time(legw: Legw) -> None:
    new = legw(f"{COMPARED} --dry-run").out
    assert "learning rate at batch 256:\n··· base   ⠒⠒⠒ legw   ⠒⠒⠒ linear" in new
    assert "estimated time: not known before a run has ended here, or a micro-batch is" in new
    cache = Path("cache/legw/micro-batches.json")
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({"digits-lstm | 9 parameters | cpu (x)": {"16": 10, "64": 143.8}}))
    answer = legw(f"{COMPARED} --dry-run --jobs 2").out
    assert (
        "estimated time: 64 s one run after the other, at best 32 s with 2 at a time; "
        "by the micro-batch measured before (cpu (x))"
    ) in " ".join(answer.split())
    row_lstm = [line.split() for line in answer.splitlines()]
    assert ["legw", "256", "0.566", "2", "20", "%", "1", "6", "2", "missing", "11", "s"] in row_lstm
    varied = legw(f"{STUDY} --batch-sizes 128 --seeds 2 --grid lr=0.00125,0.0025 --dry-run").out
    (row,) = (line for line in varied.splitlines() if line.startswith("lr=0.00125 base "))
    assert row.endswith(" s") and len(row) <= 80  # with its time, no name is broken
    legw(f"{STUDY} --batch-sizes 128 --seeds 2 --out out")
    assert "by the runs that have ended" in legw(f"{COMPARED} --dry-run").out
    legw(COMPARED)
    assert "estimated time: nothing is left" in legw(f"{COMPARED} --dry-run").out


def test_a_dry_run_as_json(legw: Legw) -> None:
    found = json.loads(legw(f"{COMPARED} --dry-run --json").out)
    assert [row["name"] for row in found][:3] == ["base-b128-s0", "base-b128-s1", "legw-b256-s0"]
    assert (found[0]["planned_updates"], found[0]["warmup_updates"]) == (12, 2)


def test_a_dry_run_counts_what_the_recipe_does_not_know(legw: Legw) -> None:
    answer = legw(f"{COMPARED} --dry-run --holdout validation")
    assert answer.out.splitlines()[-1] == "6 runs, 38 updates; 0 finished before"


# What is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "--batch-sizes 0",
        "--batch-sizes 128,-1",
        "--batch-sizes 1.5",
        "--batch-sizes ,",
        "--batch-sizes 128,128",
        "--seeds 0",
        "--seeds x",
        "--seeds 1,1",
        "--seeds 99999",
        "--rules lgew",
        "--rules legw,,sqrt",
        "--rules legw,legw",
        "--grid lrr=1",
        "--grid lr",
        "--grid lr=0",
        "--grid lr=nan",
        "--epochs -1",
        "--epochs 0.05",
        "--jobs 0",
        "--recipe smal.toml",
        "--micro-batch-size 0",
    ],
)
def test_the_users_mistakes(legw: Legw, words: str) -> None:
    answer = legw(f"{STUDY} --batch-sizes 128 --out out {words}")
    assert answer.code == 2
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "app",
    [
        "digit-lstm",
        "bert-lamb",
        "my_module:task",
    ],
)
def test_unknown_applications(legw: Legw, app: str) -> None:
    answer = legw(f"study {app} --batch-sizes 4096 --out out")
    assert answer.code == 2
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words",
    [
        "--recipe mine.toml",
        "--epochs 2",
        "--holdout validation",
    ],
)
def test_a_folder_with_another_study_is_refused(legw: Legw, words: str) -> None:
    text = RECIPE.replace("small", "mine").replace("0.4", "0.1")
    Path("mine.toml").write_text(text, encoding="utf-8")
    legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out")
    answer = legw(f"{STUDY} --batch-sizes 128 --out out {words}")
    assert answer.code == 2


def test_a_folder_that_cannot_be_made_is_refused(legw: Legw) -> None:
    Path("file").touch()
    answer = legw(f"{STUDY} --batch-sizes 128 --out file/out")
    assert answer.code == 2


def test_mistakes_are_told_before_torch_is_imported() -> None:
    script = (
        "import sys; from legw.cli import main;"
        "code = main(['study', 'digits-lstm', '--batch-sizes', '16', '--rules', 'lgew']);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 2


def test_a_missing_page_library_is_told_and_the_table_stays(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(everything: object) -> str:
        raise ModuleNotFoundError("No module named 'altair'", name="altair")

    monkeypatch.setattr(page, "text", missing)
    answer = legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == (
        "note: no page: altair is not installed; pip install 'legw[report]', then legw report out"
    )


def test_a_study_reads_back_as_runs(legw: Legw) -> None:
    legw(COMPARED)
    for place in records.find_runs("out"):
        run = records.load(place)
        assert run.status == "finished"
        assert run.problems == ()


def test_settings_are_handed_on(legw: Legw) -> None:
    legw(f"{STUDY} --batch-sizes 128 --seeds 1 --out out")
    assert records.read_manifest("out/runs/base-b128-s0").micro_batch_size == 64


def test_the_command_to_run_again_has_the_groups_of_options_too() -> None:
    options = study_command.Options(
        app="ptb-small", batch_sizes="20,640", rules="legw", quiet=True,
        dataset=Dataset(data=Path("my texts"), vocabulary=50), machine=Machine(precision="bf16"),
    )  # fmt: skip
    assert study_command.command(options) == (
        "legw study ptb-small --batch-sizes 20,640 --rules legw --seeds 3 --data 'my texts' "
        "--vocabulary 50 --precision bf16"
    )
