"""`legw probe critical` from the command line: cost, table, JSON, chart, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

QUICK = "--micro-batch-size 64 --device cpu --recipe short.toml"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.toml").write_text(
        "batch_size = 16\nlr = 0.1\nepochs = 3\nwarmup_epochs = 0.1\nclip_norm = 1.0\n"
        "[optimizer]\nkind = 'sgd'\nmomentum = 0.9\n"
    )


@pytest.mark.ci
def test_the_critical_batch_of_the_digits(legw: Callable) -> None:
    words = f"probe critical digits-lstm --points 0.5 --window 0.3 --tolerance 0.5 {QUICK}"
    answer = legw(f"{words} --plot figure.svg")
    assert answer.code == 0
    assert "base to epoch 2.6" in answer.err and "epochs in all" in answer.err
    assert "critical batch size" in answer.out and "tolerance 0.5 of the base's loss" in answer.out
    assert "S/|G|^2" in answer.out and "95 % interval" in answer.out
    assert Path("figure.svg").read_bytes().startswith(b"<svg")
    folders = {path.name for path in Path("runs/digits-lstm-critical").iterdir()}
    assert folders == {"base-s0", "at136-b16-s0", "at136-b32-s0", "critical.json"}
    assert "oise batch" in answer.out and "--keep-quality 1%" in answer.out
    before = Path("runs/digits-lstm-critical/at136-b32-s0/metrics.jsonl").stat().st_mtime_ns
    again = legw(f"{words} --json")
    found = again.json
    assert "are made already), about" in again.err and "made already" not in answer.err
    after = Path("runs/digits-lstm-critical/at136-b32-s0/metrics.jsonl").stat().st_mtime_ns
    assert before == after
    (point,) = found["points"]
    assert [one["batch_size"] for one in point["branches"]] == [32]
    assert point["noise_scale"] is not None and found["largest_batch"] in (16, 32)
    assert found["plan"]["most_epochs"] <= 7.5
    assert found == json.loads(Path("runs/digits-lstm-critical/critical.json").read_text())


def test_a_dry_run_prints_the_cost_and_trains_nothing(legw: Callable) -> None:
    answer = legw(f"probe critical digits-lstm --window 0.3 --budget 8 --dry-run {QUICK}")
    assert answer.code == 0 and "at most" in answer.err and not Path("runs").exists()
    found = legw(
        f"probe critical digits-lstm --window 0.3 --budget 8 --dry-run --json {QUICK}"
    ).json
    assert found["most_epochs"] <= 8 and found["most_seconds"] > 0


@pytest.mark.parametrize(
    "words",
    [
        "--points one", "--points 0.5,2", "--tolerance 0", "--budget 0.1 --window 0.3",
        "--window 0.01", "--branch-warmup -1", "--cooldown 1", "--rule adascale --window 0.3",
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(words: str, legw: Callable) -> None:
    assert legw(f"probe critical digits-lstm {words} {QUICK}").code == 2
    assert not Path("runs").exists()
