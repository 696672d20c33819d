"""Charts of measurements: what is drawn of intervals that a logarithmic axis cannot show."""

from __future__ import annotations

from typing import Any

import pytest

from legw.analysis.noise import NoiseScale
from legw.report.charts.probes import noise_by_epoch


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
