"""A batch that grows, from the command line: dry run, training, study, report, plan, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legw import batches, in_unit, preset, recipe, rules, updates
from legw.apps import Options, find
from legw.probes import plan_batch_size
from legw.report.plots import _updates_an_epoch
from legw.runs import records
from legw.runs.measurements import Speed
from legw.study import watch

Legw = Callable[[str], Any]

RECIPE = """
name = "small"
batch_size = 64
lr = 0.2
epochs = 2
warmup_epochs = 0.1
num_examples = 1438
optimizer = {kind = "sgd", momentum = 0.9}
decay = {kind = "polynomial"}
"""
GIVEN = "--recipe small.toml --micro-batch-size 64 --device cpu"


@pytest.fixture(autouse=True)
def in_a_folder_with_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("small.toml").write_text(RECIPE, encoding="utf-8")


def test_a_dry_run_counts_the_updates_of_each_batch(legw: Legw) -> None:
    words = f"train digits-lstm {GIVEN} -b 256 --rule legw-ramp --dry-run"
    answer = legw(words)
    assert answer.code == 0
    assert "batch from 64 on, whole at epoch 0.4" in answer.out.splitlines()[0]
    assert "until_epochs" in answer.out and "[0.2, 0.4]" in answer.out
    assert "batch: grows: 5 of 64, 2 of 128, 9 of the last" in answer.out
    found = legw(f"{words} --json").json["estimate"]
    assert found["smaller"] == {"64": 5, "128": 2} and found["updates"] == 16
    constant = legw(f"train digits-lstm {GIVEN} -b 256 --dry-run --json").json["estimate"]
    assert constant["smaller"] == {} and constant["updates"] == 12
    assert found["run_seconds"] > 9 * found["update_seconds"]


def test_a_run_and_its_restart(legw: Legw) -> None:
    words = f"train digits-lstm {GIVEN} -b 256 --rule seesaw --out run"
    assert legw(words).code == 0
    run = records.load("run")
    big = rules.apply(recipe.read("small.toml"), 256, rules.SEESAW)
    assert run.manifest.recipe == big and run.manifest.rule == "seesaw"
    assert len(run.updates) == updates(big)
    assert run.summary is not None and run.summary.examples == sum(batches(big))
    assert "status" in json.loads(legw(f"{words} --resume --json").out)


@pytest.mark.ci
def test_a_study_its_table_and_its_page(legw: Legw) -> None:
    study = f"study digits-lstm {GIVEN} --batch-sizes 64,256 --rules legw,legw-ramp,smith --seeds 1"
    assert "4 runs, 106 updates" in legw(f"{study} --out out --dry-run").out
    assert legw(f"{study} --out out").code == 0
    rows = {row["rule"]: row for row in json.loads(Path("out/table.json").read_text())}
    assert {rule: row["updates"] for rule, row in rows.items()} == {
        "base": 45, "legw": 12, "legw-ramp": 16, "smith": 33,
    }  # fmt: skip
    assert all(row["status"] == "finished" for row in rows.values())
    assert legw("report out --out page.html").code == 0
    text = Path("page.html").read_text(encoding="utf-8")
    assert "legw-ramp" in text and "smith" in text
    for name, mean in (("smith-b256-s0", 33 / smith_epochs()), ("legw-b256-s0", 1438 / 256)):
        assert _updates_an_epoch(records.load(f"out/runs/{name}")) == pytest.approx(mean)
    seen = {run.name: run for run in watch.look(Path("out")).runs}
    smith = records.load("out/runs/smith-b256-s0")
    assert seen["smith-b256-s0"].epoch == smith.updates[-1].epoch
    assert (seen["smith-b256-s0"].epochs, seen["smith-b256-s0"].updates) == (2.0, 33)


def smith_epochs() -> float:
    """Return the epochs of the study's run under smith, which end after the last batch."""
    summary = records.read_summary("out/runs/smith-b256-s0")
    assert summary is not None and summary.epochs is not None
    assert summary.epochs == summary.examples / 1438 >= 2
    return summary.epochs


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every measurement come to the same."""
    speed = Speed(
        passes={16: 0.004, 64: 0.008}, step_seconds=0.001, gradient_bytes=4000, spread=0.1,
        device="cpu",
    )  # fmt: skip
    monkeypatch.setattr("legw.probes.speed.measure", lambda *args, **more: speed)


def test_a_plan_adds_up_the_time_of_each_batch(measured: None) -> None:
    """A pass of 16 takes 4 ms and one of 64 8 ms, and each step 1 ms."""
    task, base = find("digits-lstm", Options()), preset("digits-lstm")
    found = plan_batch_size(task, base, batch_sizes=[64], rule="legw-ramp", noise=100.0)
    assert found is not None
    (option,) = found.options
    assert option.recipe is not None and option.updates == 720
    counts = {size: list(batches(option.recipe)).count(size) for size in (16, 32, 64)}
    assert counts == {16: 45, 32: 23, 64: 652}
    passes = {16: 0.004, 32: 0.004 + 0.004 / 3, 64: 0.008}  # on the line between the two
    seconds = sum(count * (passes[size] + 0.001) for size, count in counts.items())
    assert option.seconds == pytest.approx(seconds)
    length = base.length
    shares = {16: 0.5 / length, 32: 0.5 / length, 64: 1 - 1 / length}
    expected = sum(share * (1 + size / 100) / 1.16 for size, share in shares.items())
    assert option.factor == pytest.approx(expected)


def test_a_plan_of_a_recipe_in_steps(measured: None) -> None:
    """Its examples are written out; the time to the base's loss is that of equal examples."""
    task, base = find("digits-lstm", Options()), recipe.read("small.toml")
    steps = in_unit(base, "steps")
    found = [
        plan_batch_size(task, each, batch_sizes=[256], rule="legw-ramp", noise=100.0)
        for each in (base, steps)
    ]
    one, other = (each.options[0] for each in found if each is not None)
    assert one.quality_seconds is not None
    assert other.quality_seconds == pytest.approx(one.quality_seconds)


def test_a_configuration_of_another_library_is_not_written(legw: Legw) -> None:
    values = {"per_device_train_batch_size": 32, "learning_rate": 1e-4, "max_steps": 1000,
              "warmup_steps": 10}  # fmt: skip
    Path("training_args.json").write_text(json.dumps(values), encoding="utf-8")
    words = "scale training_args.json -b 128 --rule legw-ramp"
    assert legw(words).code == 0
    assert legw(f"{words} --write big.json").code == 2
    assert not Path("big.json").exists()


def test_a_recipe_with_a_schedule_is_not_scaled_again(legw: Legw) -> None:
    assert legw("scale small.toml -b 256 --rule legw-ramp --toml grown.toml").code == 0
    assert legw("scale grown.toml -b 512").code == 2
    assert "256 (the base recipe itself)" in legw("scale grown.toml -b 256").out
    assert legw("train digits-lstm --recipe grown.toml -b 512 --rule adascale").code == 2


def test_noise_of_a_folder_makes_a_ramp(legw: Legw) -> None:
    assert legw(f"train digits-lstm {GIVEN} --measure-noise --out noisy").code == 0
    rows = [{"update": s, "epoch": s / 10, "trace": 100.0 + 20 * s, "squared_norm": 1.0,
             "examples": 8} for s in range(20)]  # fmt: skip
    Path("noisy/noise.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    answer = legw("scale small.toml -b 256 --rule noise-ramp --noise noisy --json")
    assert answer.code == 0
    scaled = answer.json["scaled"]
    assert scaled["noise_scales"][0] == [0.05, 110.0]
    plan = scaled["batch_schedule"]
    assert plan["sizes"] == [64, 128]
    assert plan["until_epochs"] == pytest.approx([0.14, 0.78])
    assert legw("scale small.toml -b 256 --rule noise-ramp").code == 2
    assert legw("scale small.toml -b 256 --rule noise-ramp --noise 100").code == 2
