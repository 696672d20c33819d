"""`--noise DIR`: what is read, and which folders are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from legw.analysis.noise import read_noise
from legw.runs import measurements
from legw.runs.measurements import Noise

QUICK = "--epochs 0.2 --micro-batch-size 32 --device cpu --out runs"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rewrite(folder: str, squared_norms: list[float]) -> None:
    """Put other samples in the place of those that were measured."""
    measurements.path_of(folder, Noise).unlink()
    rows = [
        Noise(update=i, epoch=i / 10, trace=10.0, squared_norm=value, examples=4)
        for i, value in enumerate(squared_norms)
    ]
    measurements.append(folder, rows)


def test_seeds_of_one_batch_are_pooled_and_only_they(legw: Callable) -> None:
    assert legw(f"probe noise digits-lstm --seeds 2 {QUICK}").code == 0
    for seed in (0, 1):
        rewrite(f"runs/legw-b16-s{seed}", [2.0] * 6 + [0.5 + seed] * 6)
    assert read_noise("runs").value == pytest.approx(10.0)  # the last halves: 10 over 1
    assert legw(f"probe noise digits-lstm -b 32 {QUICK}").code == 0
    answer = legw("scale digits-lstm -b 64 --noise runs")
    assert answer.code == 2  # fmt: skip


def test_a_run_that_is_lost_in_noise_at_its_end(legw: Callable) -> None:
    assert legw(f"probe noise digits-lstm {QUICK}").code == 0
    rewrite("runs/legw-b16-s0", [2.0] * 6 + [-0.5] * 6)
    answer = legw("scale digits-lstm -b 64 --noise runs")
    assert answer.code == 2  # fmt: skip
    shown = legw(f"probe noise digits-lstm --stretches 2 {QUICK} --plot noise.svg")
    assert shown.code == 0 and Path("noise.svg").read_text().startswith("<svg")
    assert "over the run, in its last half the gradient is lost in its noise" in shown.out


@pytest.mark.parametrize("command", ["scale digits-lstm -b 64", "plan digits-lstm"])
def test_an_empty_word_is_refused(legw: Callable, command: str) -> None:
    answer = legw(f"{command} --noise=")
    assert answer.code == 2
