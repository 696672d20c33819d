"""A result of `legw probe critical` beside a recipe: reading, units, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from legw import Recipe
from legw.analysis.measured_critical import (
    RESULT,
    MeasuredCritical,
    check_task,
    from_values,
    read_critical,
    with_critical,
)
from legw.analysis.verdict import read_tolerance
from legw.errors import LegwError, RunError
from legw.recipe import to_dict

BASE = Recipe(name="mine", batch_size=16, lr=0.1, epochs=30, warmup_epochs=0.25)


def ladder(*excesses: float | None) -> list[dict[str, Any]]:
    return [
        {"k": 2**i, "batch_size": 16 * 2**i, "excess": each, "half_width": 0.001, "updates": 40,
         "seeds": 1, "predicted": 0.0}
        for i, each in enumerate(excesses, 1)
    ]  # fmt: skip


def result(**changes: Any) -> dict[str, Any]:
    """Return what a measurement writes: 32 is within 0.01, and at the first point 64, too."""
    point = {
        "update": 100, "share": 0.1, "noise_scale": None,
        "noise_batch": {"value": 100.0, "low": 50.0, "high": 400.0},
    }  # fmt: skip
    ladders = ladder(0.0, 0.004, 0.02), ladder(0.002, 0.012, 0.03)
    return {
        "format": 1, "probe": "critical", "app": "digits-lstm", "task": "digits-lstm",
        "rule": "legw", "tolerance": 0.01, "absolute": True, "base": to_dict(BASE),
        "points": [
            point | {"epoch": 3.0, "until_epoch": 6.0, "base_loss": 0.5, "branches": ladders[0]},
            point | {"epoch": 9.0, "until_epoch": 30.0, "base_loss": 0.1, "branches": ladders[1]},
        ],
        "noise_batch": {"value": 100.0, "low": 50.0, "high": 400.0},
    } | changes  # fmt: skip


def first(*missing: str, **changes: Any) -> dict[str, Any]:
    """Return the first point alone, changed, or without some of its fields."""
    (point, _) = result()["points"]
    return {"points": [{n: v for n, v in (point | changes).items() if n not in missing}]}


def write(folder: Path, values: object) -> str:
    (folder / RESULT).write_text(json.dumps(values))
    return str(folder)


def test_a_folder_and_its_file_are_read_alike(tmp_path: Path) -> None:
    here = write(tmp_path, result())
    found = read_critical(here)
    assert replace(found, source="") == replace(read_critical(f"{here}/{RESULT}"), source="")
    assert (found.task, found.rule, found.largest_tried) == ("digits-lstm", "legw", 128)
    assert found.base == BASE and str(found.tolerance) == "0.01"


@pytest.mark.parametrize(
    ("tolerance", "largest"),
    [("0.001", 16), ("0.002", 32), ("0.012", 64), ("1", 128), ("2%", 32), ("1%", 16), ("30%", 128)],
)
def test_any_tolerance_has_its_largest_batch(tolerance: str, largest: int) -> None:
    """Of the second point, whose loss is 0.1, 0.002 is 2 %; of the first, 0.004 is 0.8 %."""
    assert from_values(result()).largest_batch(read_tolerance(tolerance)) == largest


def test_a_measurement_in_shares_is_compared_in_the_unit_of_the_loss() -> None:
    shares = from_values(result(absolute=False))
    assert shares.largest_batch(read_tolerance("1%")) == 32
    assert shares.largest_batch(read_tolerance("0.001")) == 32  # 0.4 % of 0.5, 1.2 % of 0.1
    assert shares.largest_batch(read_tolerance("0.0001")) == 16


def test_a_loss_below_0_has_no_shares() -> None:
    values = result()
    values["points"][0]["base_loss"] = -0.5
    found = from_values(values)
    assert found.largest_batch(read_tolerance("0.01")) == 32
    error_line(found.largest_batch, read_tolerance("1%"), kind=LegwError)


def test_the_last_point_that_tells_gives_the_excess_of_a_batch() -> None:
    values = result()
    values["points"][1]["branches"] = ladder(0.002, 0.012)
    found = from_values(values)
    assert found.excess(64) == pytest.approx(0.012) and found.excess(45) is not None
    assert found.excess(128) == pytest.approx(0.02)
    assert found.excess(256) is None
    values["points"][0]["branches"] = ladder(0.0, 0.004, None)
    assert from_values(values).excess(128) is None


def test_each_point_counts_for_its_part_of_the_run() -> None:
    """Batch 16 to 64, noise batch 16 up to epoch 6 and 160 from there on, to epoch 12 of 30."""
    values = result()
    for point, noise in zip(values["points"], (16.0, 160.0), strict=True):
        point["noise_batch"] = {"value": noise, "low": noise / 2, "high": None}
    found = from_values(values).epochs_to(12.0, 64)
    assert found is not None
    rate = (1 / 16 + 1 / 160) / 2  # the mean of 1/Bn
    stretch = (1 + 64 * rate) / (1 + 16 * rate)
    half = 0.25 / 2  # of the warmup, which has 4 times the epochs
    assert found[0] == pytest.approx(12 * stretch + half * (4 - stretch))
    spread = ((1 / 32) ** 2 + (1 / 320) ** 2) ** 0.5
    most = (1 + 64 * (rate + spread)) / (1 + 16 * (rate + spread))
    assert found[2] == pytest.approx(12 * most + half * (4 - most))
    past = from_values(values).epochs_to(36.0, 64)  # the last point stands for all that follows
    rate = (1 / 16 + 5 / 160) / 6
    stretch = (1 + 64 * rate) / (1 + 16 * rate)
    assert past is not None and past[0] == pytest.approx(36 * stretch + half * (4 - stretch))
    early = from_values(values).epochs_to(6.0, 64)
    assert early is not None and early[0] == pytest.approx(6 * 2.5 + half * 1.5)
    for point in values["points"]:
        point["noise_batch"] = {"value": None, "low": 0.0, "high": None}
    assert from_values(values).epochs_to(12.0, 64) is None


@pytest.mark.parametrize(
    "change",
    [
        {"probe": "noise"},
        {"format": 2},
        {"points": []},
        first(branches=[]),
        first(branches=ladder(0.1, 0.2)[::-1]),
        first("base_loss"),
        first("until_epoch"),
        first(until_epoch=0.0),
        first(noise_batch={"value": -1.0, "low": 0.0, "high": None}),
        {"noise_batch": None},
        {"noise_batch": {"value": -1.0, "low": 0.0, "high": None}},
        {"base": {"batch_size": 0}},
        {"base": to_dict(replace(BASE, batch_size=8))},
        {"tolerance": 0},
        {"rule": 3},
    ],
)
def test_a_damaged_result_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    error_line(read_critical, write(tmp_path, result(**change)), kind=LegwError)


@pytest.mark.parametrize("text", ["[]", "{", "", "{}"])
def test_what_is_no_result_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULT).write_text(text)
    error_line(read_critical, str(tmp_path), kind=LegwError)


def test_a_folder_without_one_and_no_word_at_all(tmp_path: Path) -> None:
    for word in (str(tmp_path), str(tmp_path / "nothing"), ""):
        error_line(read_critical, word, kind=LegwError)


# Beside a recipe ------------------------------------------------------------------------


def test_the_noise_batch_goes_into_the_recipe(tmp_path: Path) -> None:
    here = write(tmp_path, result())
    assert with_critical(BASE, here) == replace(BASE, noise_batch=100.0)
    assert with_critical(BASE, None) is BASE
    named = replace(BASE, name="another", num_examples=1438, noise_scale=30.0, source="me")
    assert with_critical(named, read_critical(here)).noise_batch == 100.0


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ({"value": None, "low": 70.0, "high": None}, 70.0),
        ({"value": None, "low": 0.0, "high": None}, None),
    ],
)
def test_without_a_value_the_lower_end_is_taken(
    noise: dict[str, Any], expected: float | None
) -> None:
    assert with_critical(BASE, from_values(result(noise_batch=noise))).noise_batch == expected


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"batch_size": 32}, {"clip_norm": 1.0}])
def test_another_base_is_refused(change: dict[str, Any]) -> None:
    found = replace(from_values(result()), source="runs/critical")
    error_line(with_critical, replace(BASE, **change), found, kind=LegwError)


def test_another_task_is_refused() -> None:
    found: MeasuredCritical = replace(from_values(result()), source="runs/critical")
    check_task(found, "digits-lstm")
    error_line(check_task, found, "mnist-lstm", kind=LegwError)


def test_python_takes_what_a_measurement_returned() -> None:
    assert from_values(result()).noise_batch.value == 100.0
    with pytest.raises(RunError):
        from_values({"probe": "noise"})
