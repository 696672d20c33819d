"""`legw probe` from the command line: tables, JSON, charts, folders, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from legw import preset, schedule
from legw.apps import find
from legw.errors import LegwError
from legw.probes import ladder, measure_curvature, measure_noise
from legw.runs import measurements, records
from legw.runs.measurements import Curvature, Noise
from legw.train import Settings

QUICK = "--micro-batch-size 64 --device cpu"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_curvature_shows_peaks_their_exponent_and_a_warmup(legw: Callable) -> None:
    words = f"curvature digits-lstm --batch-sizes 16,64 --updates 30 --examples 32 {QUICK}"
    answer = legw(f"probe {words} --plot figure.svg")
    assert answer.code == 0
    assert "the peak's epoch grows as batch^" in answer.out
    assert Path("figure.svg").read_bytes().startswith(b"<svg")
    folder = Path("runs/digits-lstm-curvature/legw-b64-s0")
    rows = measurements.read(folder, Curvature)
    assert [row.update for row in rows] == list(range(30))
    manifest = records.read_manifest(folder)
    assert (manifest.rule, manifest.recipe.batch_size, manifest.base.batch_size) == ("legw", 64, 16)
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert legw(f"probe {words}").code == 0  # runs that were made are kept
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.ci
def test_what_was_measured_otherwise_is_not_shown_as_asked_for(legw: Callable) -> None:
    Path("cold.toml").write_text("batch_size = 16\nlr = 0.1\nepochs = 2\n")  # one update will do
    words = f"probe curvature digits-lstm --recipe cold.toml --batch-sizes 16 --updates 1 {QUICK}"
    assert legw(f"{words} --examples 9999 --json").json["probe_batch_size"] == 1438  # all there are
    answer = legw(f"{words} --examples 32")
    assert answer.code == 2
    assert legw(f"probe noise digits-lstm {QUICK} --out runs/digits-lstm-curvature").code == 2
    Path("runs/digits-lstm-curvature/legw-b16-s0/probes.json").write_text("{")
    assert legw(f"{words} --examples 32").code == 2


def test_a_short_run_has_the_rates_of_the_whole_one(legw: Callable) -> None:
    """The decay begins where the whole recipe's does, and the run can be gone on with."""
    Path("falling.toml").write_text(
        "batch_size = 64\nlr = 0.1\nepochs = 2\nnum_examples = 1438\n"
        "[decay]\nkind = 'polynomial'\npower = 1\n"
    )
    folder = Path("runs/digits-lstm-curvature/legw-b64-s0")
    words = f"--recipe falling.toml --batch-sizes 64 --examples 16 {QUICK}"
    for count in (5, 20):
        legw(f"probe curvature digits-lstm {words} --updates {count}")
        assert len(measurements.read(folder, Curvature)) == count
        assert records.read_summary(folder).updates == count  # type: ignore[union-attr]
    short = [row.lr for row in records.load(folder).updates]
    recipe = records.read_manifest(folder).recipe
    rate = schedule.in_steps(recipe, 1438)
    assert recipe.epochs == 2 and short == pytest.approx([rate(i) for i in range(20)])
    legw(f"probe noise digits-lstm --recipe falling.toml --epochs 1 {QUICK}")
    noise = records.load("runs/digits-lstm-noise/legw-b64-s0")
    assert [row.lr for row in noise.updates] == pytest.approx([rate(i) for i in range(23)])


@pytest.mark.ci
def test_curvature_as_json(legw: Callable) -> None:
    found = legw(
        "probe curvature digits-lstm --batch-sizes 16,64 --seeds 2 --updates 30 --examples 32 "
        f"--json {QUICK}"
    ).json
    assert [(row["batch_size"], row["seed"]) for row in found["runs"]] == [
        (16, 0), (16, 1), (64, 0), (64, 1),
    ]  # fmt: skip
    power = found["peak_epoch_against_batch_size"]
    assert power["n"] == 4 and power["low"] <= power["exponent"] <= power["high"]
    called = measure_curvature(
        find("digits-lstm"), preset("digits-lstm"), out="runs/digits-lstm-curvature",
        batch_sizes=(16, 64), seeds=(0, 1), updates=30, examples=32,
        settings=Settings(micro_batch_size=64, device="cpu"),
    )  # fmt: skip
    assert json.loads(json.dumps(called)) == found
    for row in found["runs"]:
        top = row["peak"]
        assert row["measurements"] == 30 and len(row["curve"]) == 30
        assert top["epoch"] == pytest.approx((top["update"] + 1) * row["batch_size"] / 1438)
        highest = max(y for _, y in row["curve"])
        assert top["curvature"] == pytest.approx(highest, rel=1e-4)  # a curve has 5 digits


def test_a_warmup_longer_than_the_run_stays_whole(legw: Callable) -> None:
    """The schedule of the updates that are made is the recipe's own."""
    legw(f"probe curvature digits-lstm --batch-sizes 512 --updates 3 --examples 16 {QUICK}")
    manifest = records.read_manifest("runs/digits-lstm-curvature/legw-b512-s0")
    rows = measurements.read("runs/digits-lstm-curvature/legw-b512-s0", Curvature)
    assert manifest.recipe.warmup_epochs == pytest.approx(8.0) and len(rows) == 24


def test_noise_shows_the_scale_over_the_run_and_what_it_predicts(legw: Callable) -> None:
    words = f"probe noise digits-lstm --epochs 1 --every 1 --stretches 3 {QUICK}"
    answer = legw(f"{words} --plot noise.svg")
    assert answer.code == 0
    assert "95 % interval" in answer.out and "examples to the same loss" in answer.out
    assert Path("noise.svg").read_bytes().startswith(b"<svg")
    rows = measurements.read("runs/digits-lstm-noise/legw-b16-s0", Noise)
    assert [row.update for row in rows] == list(range(90))
    found = legw(f"{words} --json").json
    assert found["batch_size"] == 16 and found["noise_scale"]["n"] == 90
    assert len(found["stretches"]) == 3
    assert found["stretches"][0]["value"] > 0
    called = measure_noise(
        find("digits-lstm"), preset("digits-lstm"), out="runs/digits-lstm-noise",
        epochs=1.0, every=1, stretches=3, settings=Settings(micro_batch_size=64, device="cpu"),
    )  # fmt: skip
    assert json.loads(json.dumps(called)) == found


def test_about_two_thousand_samples_are_taken(legw: Callable) -> None:
    found = legw(f"probe noise digits-lstm --epochs 0.5 {QUICK} --json").json
    assert found["every"] == 1  # 45 updates
    assert [ladder.spacing(updates) for updates in (1999, 4000, 11719)] == [1, 2, 5]


def test_adaptive_optimizers_get_no_warmup_from_it(legw: Callable) -> None:
    Path("adam.toml").write_text(
        "batch_size = 16\nlr = 0.001\nepochs = 2\nnum_examples = 1438\n[optimizer]\nkind = 'adam'\n"
    )
    found = legw(
        "probe curvature digits-lstm --recipe adam.toml --batch-sizes 16 --updates 8 "
        f"--examples 16 --json {QUICK}"
    ).json
    assert found["suggested_warmup"] is None
    assert found["peak_epoch_against_batch_size"] is None


def test_a_steered_run_is_probed_to_its_own_end(legw: Callable) -> None:
    Path("short.toml").write_text("batch_size = 64\nlr = 0.1\nepochs = 1\nnum_examples = 1438\n")
    words = f"--recipe short.toml --rule adascale -b 256 --every 10 {QUICK}"
    assert legw(f"probe noise digits-lstm {words}").code == 0
    summary = records.read_summary("runs/digits-lstm-noise/adascale-b256-s0")
    assert summary is not None and summary.status == "finished" and summary.updates > 6


@pytest.mark.parametrize(
    "words",
    [
        "curvature digits-lstm --updates 0",
        "curvature digits-lstm --batch-sizes 16,x",
        "curvature digits-lstm --batch-sizes 8,8",
        "curvature digits-lstm --examples 0",
        "noise digits-lstm --epochs 0",
        "noise digits-lstm --epochs 31",
        "noise digits-lstm --every 0",
        "noise digits-lstm --stretches 0",
        "noise digits-lstm --seeds 0",
        "noise digits-lstm --seeds 2000",
        "noise digits-lstm --plot x.gif",
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(legw: Callable, words: str) -> None:
    answer = legw(f"probe {words}")
    assert answer.code == 2
    assert not Path("runs").exists()


def test_a_call_says_what_cannot_be() -> None:
    task, base = find("digits-lstm"), preset("digits-lstm")
    with pytest.raises(
        LegwError, match=r"^curvature: updates=0: must be a whole number, at least 1$"
    ):
        measure_curvature(task, base, out="runs", updates=0)
    with pytest.raises(
        LegwError, match=r"^noise: stretches=0: must be a whole number, at least 1$"
    ):
        measure_noise(task, base, out="runs", stretches=0)
    with pytest.raises(LegwError, match=r"^noise: epochs=31: must be above 0, and at most the"):
        measure_noise(task, base, out="runs", epochs=31)
    assert not Path("runs").exists()


def test_torchrun_is_for_legw_train(legw: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = legw("probe noise digits-lstm")
    assert answer.code == 2
