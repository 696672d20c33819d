"""`legw plan` from the command line, and `--noise` wherever it is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from legw import preset, recipe
from legw.analysis.cost import Network
from legw.analysis.noise import NoiseScale
from legw.apps import find
from legw.errors import on_command_line
from legw.probes import plan_batch_size
from legw.runs import records
from legw.runs.measurements import Speed

PLAN = "plan digits-lstm --device cpu --epochs 2 --batch-sizes 16,64"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every measurement come to the same: 400 MB of gradients."""
    speed = Speed(
        passes={16: 0.004, 64: 0.008}, step_seconds=0.001, gradient_bytes=400_000_000, spread=0.1,
        device="cpu",
    )  # fmt: skip
    monkeypatch.setattr("legw.probes.speed.measure", lambda *args, **more: speed)


def test_batches_side_by_side_with_a_recommendation(legw: Callable) -> None:
    answer = legw(f"{PLAN} --noise 100 --nodes 2 --link 1Gbit --toml best.toml")
    assert answer.code == 0
    assert "digits-lstm: batch 16" in answer.out
    assert "* take batch" in answer.out and "to the base's loss" in answer.out
    assert "2 devices: synchronisation of 0.0363 MB an update is a model" in answer.out
    assert max(map(len, answer.out.split("digits-lstm:")[0].splitlines())) <= 80
    assert recipe.read("best.toml").batch_size in (16, 64)


def test_json_has_the_measurement_and_the_model(legw: Callable) -> None:
    found = legw(f"{PLAN} --nodes 4 --devices 2 --link 100Gbit --latency 1e-5 --json").json
    assert found["network"]["devices"] == 8
    assert found["network"]["devices_per_node"] == 2
    assert found["network"]["bandwidth"] == 100e9 / 8
    assert [one["batch_size"] for one in found["options"]] == [16, 64]
    for one in found["options"]:
        timing = one["timing"]
        parts = [timing[f"{name}_seconds"] for name in ("compute", "step", "sync")]
        assert timing["seconds"] == pytest.approx(sum(parts))
        assert all(part > 0 for part in parts)
        assert one["seconds"] == pytest.approx(one["updates"] * timing["seconds"])
    assert found["recommended"] in (16, 64) and found["speed"]["gradient_bytes"] == 36264


@pytest.mark.parametrize("words", ["--nodes 3 --link 1Gbit", "--devices 3"])
def test_processes_that_are_there_are_not_modelled(
    legw: Callable, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    answer = legw(f"{PLAN} {words}")
    assert answer.code == 2


def test_devices_of_one_node_take_turns_on_its_link(legw: Callable, measured: None) -> None:
    found = legw(f"{PLAN} --nodes 4 --devices 8 --link 100Gbit --json").json
    ring, numbers = 2 * 31 * (5e-5 + 1e-3), 2 * 5 * 5e-5
    assert found["options"][1]["timing"]["sync_seconds"] == pytest.approx(ring + numbers, rel=1e-3)


def test_devices_of_one_machine_are_joined_for_free(legw: Callable, measured: None) -> None:
    answer = legw(f"{PLAN} --devices 8")
    assert "8 devices of one machine: their synchronisation is taken as free" in answer.out
    assert "is a model" not in answer.out
    network = legw(f"{PLAN} --devices 8 --json").json["network"]
    assert (network["devices"], network["devices_per_node"]) == (8, 8)


def test_a_plan_is_one_call(legw: Callable, measured: None) -> None:
    found = legw("plan digits-lstm --noise 40 --nodes 2 --link 1Gbit --json").json
    network = Network(devices=2, bandwidth=125e6, latency_seconds=5e-5)
    with on_command_line():
        called = plan_batch_size(
            find("digits-lstm"), preset("digits-lstm"), network=network, noise=40.0
        )
    assert called is not None and called.best in called.options
    assert {"app": "digits-lstm"} | json.loads(json.dumps(called.to_dict())) == found


def test_what_the_range_of_times_comes_from(
    legw: Callable, measured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = legw(f"{PLAN} --noise 100").out
    assert "by the spread of the passes (±10%); the noise scale is taken as exact" in plain
    unsure = NoiseScale(value=100.0, low=None, high=None, from_epoch=0.0, to_epoch=1.0, n=50)
    monkeypatch.setattr("legw.cli.commands.plan.read_noise", lambda text: unsure)
    assert "the noise scale has no interval, which is left out" in legw(f"{PLAN} --noise dir").out
    assert "interval" not in plain
    assert "the passes vary by ±10%; equal epochs are taken" in legw(PLAN).out
    scale = NoiseScale(value=50.0, low=20.0, high=90.0, from_epoch=0.0, to_epoch=1.0, n=9)
    monkeypatch.setattr("legw.cli.commands.plan.read_noise", lambda text: scale)
    line = "by the noise scale's interval and the spread of the passes (±10%)"
    assert line in legw(f"{PLAN} --noise probed").out


def test_toml_on_stdout_is_all_there_is(legw: Callable, measured: None) -> None:
    answer = legw(f"{PLAN},999999 --toml -")
    assert answer.code == 0
    Path("best.toml").write_text(answer.out)
    assert recipe.read("best.toml").batch_size in (16, 64)
    assert answer.err.startswith("note: digits-lstm: batch_size=999999")


@pytest.mark.parametrize(("more", "where"), [("", "out"), (" --json", "err")])
def test_a_row_of_dashes_has_its_reason(
    legw: Callable, measured: None, more: str, where: str
) -> None:
    answer = legw(f"{PLAN},999999{more}")
    line = "note: digits-lstm: batch_size=999999 (k=62499.9): legw would warm up for "
    assert getattr(answer, where).count(line) == 1
    few = legw(f"{PLAN} --devices 32{more}")
    line = "note: batch_size=16: is smaller than the number of devices, 32; take fewer devices"
    assert getattr(few, where).count(line) == 1


def test_the_ladder_ends_where_the_rule_does(legw: Callable) -> None:
    found = legw("plan digits-lstm --device cpu --json").json
    assert [one["batch_size"] for one in found["options"]] == [16, 32, 64, 128, 256, 512, 1024]


@pytest.mark.ci
def test_a_folder_of_runs_is_a_noise_scale(legw: Callable) -> None:
    quick = "--micro-batch-size 16 --device cpu"
    words = f"train digits-lstm --epochs 2 --measure-noise {quick} --out run"
    assert legw(words).code == 0
    assert len(Path("run/noise.jsonl").read_text().splitlines()) == 2  # of 180 updates
    assert legw(f"probe noise digits-lstm --epochs 1 {quick} --out probed").code == 0
    answer = legw("scale digits-lstm -b 1024 --noise probed")
    assert answer.code == 0
    again = legw("scale digits-lstm -b 1024 --noise 20 --json")
    assert "times the measured noise scale (20 examples)" in again.err


def test_train_notes_a_batch_far_past_the_noise_scale_and_keeps_the_value(legw: Callable) -> None:
    answer = legw(
        "train digits-lstm -b 128 --noise 20 --epochs 3 --micro-batch-size 64 --device cpu "
        "--out run"
    )
    assert "the batch is 6.4 times the measured noise scale (20 examples)" in answer.out
    assert records.read_manifest("run").recipe.noise_scale == 20.0


@pytest.mark.parametrize(
    "words",
    [
        "plan digits-lstm --nodes 0",
        "plan digits-lstm --devices 0",
        "plan digits-lstm --nodes 4",
        "plan digits-lstm --nodes 4 --link fast",
        "plan digits-lstm --nodes 4 --link 0Gbit",
        f"plan digits-lstm --nodes 4 --link {'9' * 305}Tbit",
        "plan digits-lstm --devices 8 --link 1Gbit",
        "plan digits-lstm --latency 1e-3",
        "plan digits-lstm --overlap 0.5",
        "plan digits-lstm --nodes 2 --link 1Gbit --latency nan",
        "plan digits-lstm --nodes 2 --link 1Gbit --latency inf",
        "plan digits-lstm --nodes 2 --link 1Gbit --overlap nan",
        "plan digits-lstm --json --toml -",
        "plan digits-lstm --noise -3",
        "scale digits-lstm -b 32 --noise nowhere",
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(legw: Callable, words: str) -> None:
    answer = legw(words)
    assert answer.code == 2
