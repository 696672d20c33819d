"""Headroom of a rate: which runs are made, when they end, and what is found again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from legw import Recipe
from legw.analysis import check
from legw.analysis.noise import NoiseScale
from legw.apps import find
from legw.errors import LegwError
from legw.probes.headroom import Headroom, faster, measure_headroom
from legw.runs import records
from legw.train import Settings, Task
from messages import said

SETTINGS = Settings(micro_batch_size=64, device="cpu")
SMALL = Recipe(name="digits-lstm", batch_size=64, lr=0.1, epochs=2, warmup_epochs=0.2)


@pytest.fixture(scope="module")
def task() -> Task:
    return find("digits-lstm")


def measure(task: Task, recipe: Recipe, out: Path, **more: object) -> Headroom:
    return measure_headroom(task, recipe, out=out, updates=20, settings=SETTINGS, **more)


def test_the_loss_falls_at_a_small_rate_and_rises_at_a_large_one(
    task: Task, tmp_path: Path
) -> None:
    found = measure(task, SMALL, tmp_path / "a")
    assert (found.times, found.updates) == (8.0, 20)
    assert list(found.rises.values()) == [False] * 4
    scale = found.noise_scale
    assert isinstance(scale, NoiseScale) and scale.n == 20
    hot = measure(task, replace(SMALL, lr=400.0), tmp_path / "b")
    assert hot.times == 0 and hot.rises == {1.0: True}  # nothing beyond it is tried
    assert hot.fast_loss_ratio is None
    rates = {
        path.name: records.read_manifest(path).recipe.lr for path in (tmp_path / "a").iterdir()
    }
    assert rates == {"b64-s0": 0.1, "b64-s0-x2": 0.2, "b64-s0-x4": 0.4, "b64-s0-x8": 0.8}


@pytest.mark.parametrize(
    ("own", "fast", "ratio"),
    [(0.5, 1.0, 2.0), (0.5, None, math.inf), (None, 1.0, None), (0, 1, None)],
)
def test_the_loss_at_four_times_the_rate(
    own: float | None, fast: float | None, ratio: float | None
) -> None:
    """None stands for a run that diverged."""
    ends = {1.0: own, 2.0: 0.7, 4.0: fast}
    found = Headroom(
        rises=dict.fromkeys(ends, False), end_losses=ends, updates=20, noise_scale=None
    )
    assert found.fast_loss_ratio == ratio
    del ends[4.0]
    assert replace(found, end_losses=ends).fast_loss_ratio is None


def test_the_loss_at_four_times_the_rate_is_known_also_past_a_rise(
    task: Task, tmp_path: Path
) -> None:
    found = measure(task, replace(SMALL, lr=2.0), tmp_path, multiples=(1.0, 100.0, 4.0, 200.0))
    assert list(found.rises) == [1.0, 100.0, 4.0] and found.rises[100.0]
    assert found.times == 1.0  # up to the first rise, whatever comes after it
    ends = [
        check.end_loss([row.loss for row in records.load(tmp_path / name).updates])
        for name in ("b64-s0", "b64-s0-x4")
    ]
    assert None not in ends and found.fast_loss_ratio == ends[1] / ends[0]  # type: ignore[operator]


def test_finished_runs_are_found_again(task: Task, tmp_path: Path) -> None:
    first = measure(task, SMALL, tmp_path, multiples=(1.0, 2.0), seeds=(0, 1))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    assert len(times) == 4
    assert measure(task, SMALL, tmp_path, multiples=(1.0, 2.0), seeds=(0, 1)) == first
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_batch_of_one_has_no_noise(task: Task, tmp_path: Path) -> None:
    alone = replace(SMALL, batch_size=1, lr=0.01, warmup_epochs=0)
    found = measure(task, alone, tmp_path, multiples=(1.0,))
    assert found.noise_scale is None and found.times == 1.0


def test_no_run_is_longer_than_the_recipe(task: Task, tmp_path: Path) -> None:
    short = replace(SMALL, batch_size=256, epochs=2, warmup_epochs=0)
    found = measure(task, short, tmp_path, multiples=(1.0,))
    assert found.updates == 12  # two epochs of 1,438 images


def test_a_faster_recipe_warms_up_from_a_faster_rate() -> None:
    base = replace(SMALL, warmup_from_lr=0.01)
    assert (faster(base, 4).lr, faster(base, 4).warmup_from_lr) == (0.4, 0.04)


def test_what_cannot_be(task: Task, tmp_path: Path) -> None:
    with pytest.raises(LegwError) as error:
        measure_headroom(task, SMALL, out=tmp_path, updates=9)
    said(str(error.value))
