"""Charts of measurements: what is drawn of intervals that a logarithmic axis cannot show."""

from __future__ import annotations

from typing import Any

import pytest

from legw.analysis.noise import NoiseScale
from legw.report.charts.probes import critical_chart, noise_by_epoch


def stretch(value: float | None, low: float | None = None, high: float | None = None) -> NoiseScale:
    return NoiseScale(value=value, low=low, high=high, from_epoch=1.0, to_epoch=3.0, n=9)


def drawn(*stretches: NoiseScale) -> list[dict[str, Any]]:
    """Return the rows behind the lines, bars and dots of one run."""
    chart = noise_by_epoch({"seed 0": stretches}, batch_size=64).to_dict()
    values: list[dict[str, Any]] = chart["layer"][0]["data"]["values"]
    return values


@pytest.mark.parametrize(
    ("found", "noise", "low", "high", "cut"),
    [
        (stretch(100.0, 60.0, 140.0), 100.0, 60.0, 140.0, False),
        (stretch(100.0, 0.0, 250.0), 100.0, 10.0, 250.0, True),
        (stretch(100.0, 90.0, 9000.0), 100.0, 90.0, 1000.0, True),
        (stretch(100.0), 100.0, None, None, True),
        (stretch(None), None, None, None, True),
    ],
)
def test_intervals_that_are_cut_and_stretches_that_are_lost(
    found: NoiseScale, noise: float | None, low: float | None, high: float | None, cut: bool
) -> None:
    expected = {"run": "seed 0", "epoch": 2.0, "noise": noise, "low": low, "high": high, "cut": cut}
    assert drawn(found) == [expected]


def test_each_kind_of_stretch_has_a_mark_of_its_own() -> None:
    chart = noise_by_epoch({"seed 0": [stretch(100.0, 60.0, 140.0)]}, batch_size=64).to_dict()
    kinds = [
        (layer["mark"].get("filled"), layer["transform"][0]["filter"])
        for layer in chart["layer"]
        if layer["mark"]["type"] == "point"
    ]
    assert kinds == [
        (True, "isValid(datum.noise) && !datum.cut"),
        (False, "isValid(datum.noise) && datum.cut"),
        (None, "!isValid(datum.noise)"),
    ]


def branches(**of_each: Any) -> dict[str, Any]:
    """Return a result of one point, whose branch of batch 64 diverged."""
    one = {"k": 2, "batch_size": 32, "excess": 0.01, "half_width": 0.002, "updates": 40, "seeds": 1}
    lost = one | {"k": 4, "batch_size": 64, "excess": None, "half_width": None}
    critical = {"value": 30.0, "low": 20.0, "high": 40.0, "largest": 16}
    point = {"epoch": 1.0, "critical_batch": critical, "branches": [one | of_each, lost]}
    return {
        "app": "digits-lstm", "rule": "legw", "tolerance": 0.02, "absolute": True,
        "base": {"batch_size": 16}, "points": [point], "critical_batch": critical, "epoch": 1.0,
        "largest_batch": 16,
    }  # fmt: skip


def test_branches_are_drawn_as_measured_and_as_predicted_with_the_critical_batch_marked() -> None:
    chart = critical_chart(branches(predicted=0.012)).to_dict()
    data = [layer["data"]["values"] for layer in chart["layer"]]
    assert data[0] == [{"run": "epoch 1", "batch": 32, "excess": 0.01, "low": 0.008, "high": 0.012}]
    assert [{"run": "epoch 1", "batch": 32, "excess": 0.012}] in data
    assert [{"batch": 30.0, "word": "critical batch"}] in data and [{"excess": 0.02}] in data
    assert chart["layer"][0]["encoding"]["x"]["axis"]["values"] == [32]


def test_a_result_without_a_prediction_or_a_critical_batch_is_drawn_too() -> None:
    found = branches()
    found["critical_batch"] = found["critical_batch"] | {"value": None, "high": None}
    chart = critical_chart(found).to_dict()
    assert not any("word" in str(layer["data"]) for layer in chart["layer"])
