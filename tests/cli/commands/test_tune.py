"""`legw tune` from the command line: cost, runs, choice, going on, and what is refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import legw as package
from legw.analysis import bases
from legw.apps import Options, find
from legw.probes import tune_base
from legw.recipe import to_dict
from legw.runs import records
from legw.study import pool
from legw.train import Settings
from small import TASK, narrow, write_digits
from threads import threads

Legw = Callable[[str], Any]

RECIPE = """
name = "small"
batch_size = 128
lr = 0.4
epochs = 2
warmup_epochs = 0.1
num_examples = 1438
[optimizer]
kind = "sgd"
momentum = 0.9
"""

MACHINE = "--micro-batch-size 64 --device cpu"
TUNE = f"tune digits-lstm --recipe small.toml --epochs 1 --updates 10 {MACHINE}"
GRID = "--grid lr=0.2,0.4 --seeds 2"


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


def test_a_base_is_tuned_chosen_and_carried(legw: Legw) -> None:
    answer = legw(f"{TUNE} {GRID} --toml base.toml")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].startswith("probes of the contenders: at most 8 runs, ")  # the cost comes first
    assert lines[1] == "runs/digits-lstm-tune: 4 runs, 36 updates; 0 finished before"
    assert any(line.split()[:1] == ["lr=0.2"] and "*" in line for line in lines)
    assert "* contender: Welch's 95 % interval" in answer.out
    assert "contender     over 1x  first tenth" in answer.out
    (said,) = [line for line in lines if line.startswith("recommended base: ")]
    assert lines[-1] == "next: legw scale base.toml -b 2048"

    chosen = package.read_recipe("base.toml")
    assert said.startswith(f"recommended base: lr={chosen.lr:g}; ")
    assert (chosen.batch_size, chosen.epochs, chosen.name) == (128, 2, "small")
    carried = legw("scale base.toml -b 512")
    assert carried.code == 0 and f"lr {chosen.lr:g} → {2 * chosen.lr:g}" in carried.out
    assert legw("report runs/digits-lstm-tune --out -").code == 0  # as any study's folder


def test_a_choice_that_one_seed_leaves_open_is_told(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "NEAR", 100.0)  # so that all contenders are near each other
    answer = legw(f"{TUNE} {GRID}")
    assert answer.code == 0 and "recommended base: " in answer.out
    assert "and the choice between them is open" in " ".join(answer.out.split())
    monkeypatch.setattr(bases, "NEAR", 0.0)
    assert "is open" not in " ".join(legw(f"{TUNE} {GRID}").out.split())


def test_the_dry_run_prints_the_cost_and_nothing_else(legw: Legw) -> None:
    answer = legw(f"{TUNE} {GRID} --dry-run")
    lines = answer.out.splitlines()
    assert (answer.code, not Path("runs").exists()) == (0, True)
    assert lines[-3].startswith("estimated time: not known")
    assert lines[-2] == "4 runs, 36 updates; 0 finished before"
    assert lines[-1].startswith("probes of the contenders: at most 8 runs, 72 updates")
    without = legw(f"{TUNE} {GRID} --dry-run --no-probes")
    assert without.out.splitlines()[-1] == "probes: none; what takes runs of its own stays unknown"
    found = legw(f"{TUNE} {GRID} --dry-run --json").json
    assert len(found["runs"]) == 4 and found["most_probe_updates"] == 72
    assert {row["planned_updates"] for row in found["runs"]} == {9}


@pytest.mark.ci
def test_the_same_command_goes_on_and_trains_nothing_twice(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    real = pool.fit

    def fit(*args: Any, out: Path, **kwargs: Any) -> Any:
        trained.append(out.name)
        return real(*args, out=out, **kwargs)

    monkeypatch.setattr(pool, "fit", fit)
    first = legw(f"{TUNE} {GRID} --json").json
    times = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("metrics.jsonl")}
    assert len(trained) == 4 and len(times) > 4
    again = legw(f"{TUNE} {GRID} --json")
    assert again.json == first and "4 finished before" in again.err
    assert len(trained) == 4
    assert {path: path.stat().st_mtime_ns for path in times} == times

    more = legw(f"{TUNE} --grid lr=0.1,0.2,0.4 --seeds 2 --json").json  # the grid may grow
    assert sorted(trained[4:]) == ["lr=0.1_base-b128-s0", "lr=0.1_base-b128-s1"]
    assert [point["point"] for point in more["points"]] == ["lr=0.1", "lr=0.2", "lr=0.4"]


@pytest.mark.ci
def test_json_has_all_that_was_measured(legw: Legw) -> None:
    found = legw(f"{TUNE} {GRID} --json --quiet").json
    assert (found["app"], found["metric"]) == ("digits-lstm", "accuracy")
    assert found["recommended"] == found["contenders"][0]
    assert found["recommended"] == f"lr={found['recipe']['lr']:g}"
    assert found["recipe"]["epochs"] == 2
    for point in found["points"]:
        known = point["predictors"]
        assert known["gap"] == pytest.approx(known["held_out_loss"] - known["train_loss"])
        assert (known["headroom"] is not None) == point["contender"]
        assert point["metric"]["n"] == 2
    same = tune_base(  # the same, as a call, which finds the same runs
        find("digits-lstm", Options(holdout="validation")),
        package.read_recipe("small.toml"),
        {"lr": (0.2, 0.4)},
        out="runs/digits-lstm-tune", seeds=(0, 1), epochs=1, updates=10,
        settings=Settings(micro_batch_size=64, device="cpu"),
    )  # fmt: skip
    plain = json.loads(json.dumps({"app": "digits-lstm"} | same.to_dict()))
    assert plain.pop("notes") and found.pop("notes")  # which name an option, and an argument
    assert plain == found


def test_toml_alone_on_stdout(legw: Legw) -> None:
    answer = legw(f"{TUNE} {GRID} --no-probes --toml -")
    Path("chosen.toml").write_text(answer.out, encoding="utf-8")
    chosen = package.read_recipe("chosen.toml")
    assert f"recommended base: lr={chosen.lr:g}; " in answer.err
    assert legw(f"{TUNE} {GRID} --no-probes --toml - --quiet").err == ""


def test_without_a_file_the_next_command_writes_it(legw: Legw) -> None:
    last = legw(f"{TUNE} {GRID} --no-probes").out.splitlines()[-1]
    first, _, second = last.removeprefix("next: ").partition(" && ")
    words = shlex.split(first)
    assert words[:2] == ["legw", "tune"] and words[-2:] == ["--toml", "base.toml"]
    assert legw(shlex.join(words[1:])).code == 0
    assert legw(second.removeprefix("legw ")).code == 0


@pytest.mark.ci
def test_mnist_end_to_end(legw: Legw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    write_digits(tmp_path / "mnist")
    words = (
        "tune mnist-lstm-muon --data mnist --grid lr=0.0025,0.01 --grid clip_norm=none,1 --seeds 2 "
        "--epochs 2 --updates 10 --device cpu --micro-batch-size 64 --toml base.toml"
    )
    found = legw(f"{words} --json").json
    points = {point["point"]: point for point in found["points"]}
    assert len(points) == 4
    ratios = {name: points[name]["predictors"]["fast_loss_ratio"] for name in found["contenders"]}
    assert len(ratios) >= 2 and None not in ratios.values()
    assert ratios[found["recommended"]] == max(ratios.values())
    base = package.preset("mnist-lstm-muon")
    chosen = package.read_recipe("base.toml")
    clip_norm = "none" if chosen.clip_norm is None else f"{chosen.clip_norm:g}"
    assert found["recommended"] == f"lr={chosen.lr:g} clip_norm={clip_norm}"
    assert found["recipe"] == to_dict(chosen)
    assert (chosen.epochs, chosen.optimizer, chosen.decay) == (
        base.epochs, base.optimizer, base.decay,
    )  # fmt: skip
    examples = records.read_manifest(records.find_runs("runs/mnist-lstm-muon-tune")[0]).num_examples
    assert examples < 640, "a part of the training images is held out"


def test_a_task_of_ones_own_is_told_about_its_data(legw: Legw) -> None:
    Path("my_tuned.py").write_text(TASK, encoding="utf-8")
    own = TUNE.replace("digits-lstm", "my_tuned:task")
    answer = legw(f"{own} --grid lr=0.01,0.1 --seeds 1 --no-probes")
    assert answer.code == 0
    assert "note: largest: does not say on which data its metric is measured" in answer.err
    assert "* contender: seed noise is not known of a single seed" in answer.out
    assert Path("runs/my_tuned-task-tune").exists()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--grid lr=0.1",
        "--grid lr=0.1,0.2 --grid batch_size=16,32",
        "--grid rate=0.1,0.2",
        "--grid lr=0.1,0.2 --updates 9",
        "--grid lr=0.1,0.2 --jobs 0",
        "--grid lr=0.1,0.2 --tolerance none",
        "--grid lr=0.1,0.2 --seeds 0",
        "--grid lr=0.1,0.2 --json --toml -",
        "--grid lr=0.1,0.2 --epochs -1",
    ],
)
def test_what_cannot_be(legw: Legw, words: str) -> None:
    answer = legw(f"tune digits-lstm --recipe small.toml {words}")
    assert answer.code == 2 and answer.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize("app", ["nothing", "mine:task"])
def test_an_application_that_is_not_there(legw: Legw, app: str) -> None:
    assert legw(f"tune {app} --grid lr=0.1,0.2").code == 2


def test_a_folder_of_a_study_by_test_data_is_refused(legw: Legw) -> None:
    study = "study digits-lstm --recipe small.toml --batch-sizes 128 --grid lr=0.2,0.4 --out out"
    assert legw(f"{study} --seeds 1 --device cpu --micro-batch-size 64").code == 0
    assert legw(f"{TUNE} {GRID} --out out".replace("--epochs 1", "")).code == 2


def test_a_study_by_validation_data_is_gone_on_with(legw: Legw) -> None:
    study = "study digits-lstm --recipe small.toml --batch-sizes 128 --grid lr=0.2,0.4 --out out"
    words = "--seeds 2 --epochs 1 --device cpu --micro-batch-size 64 --holdout validation"
    assert legw(f"{study} {words}").code == 0
    answer = legw(f"{TUNE} {GRID} --out out --no-probes")
    assert answer.code == 0 and "out: 4 runs, 36 updates; 4 finished before" in answer.out


def test_a_file_in_place_of_a_folder_is_refused(legw: Legw) -> None:
    assert legw(f"{TUNE} {GRID} --out small.toml").code == 2


def test_all_points_diverge(legw: Legw) -> None:
    squared = 'mse_loss(model(x)[:, 0], y.float(), reduction="sum")'
    text = TASK.replace('cross_entropy(model(x), y, reduction="sum")', squared)
    Path("my_steep.py").write_text(text, encoding="utf-8")
    own = TUNE.replace("digits-lstm", "my_steep:task")
    assert squared in text and legw(f"{own} --grid lr=1e10,1e11 --seeds 1").code == 3


def test_several_processes_are_refused(legw: Legw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert legw(f"{TUNE} {GRID}").code == 2
    assert not Path("runs").exists()
