"""Probes under several processes: the first alone measures, and none waits for it for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legw.runs import measurements
from legw.runs.measurements import Curvature, Noise
from train.launch import complete
from train.probed import probed
from train.runs import weights

UPDATES = 8


@pytest.mark.ci
@pytest.mark.parametrize("name", ["lines", "normalised", "streams"])
def test_two_processes_measure_what_one_does(name: str, tmp_path: Path) -> None:
    for world_size in (1, 2):
        out, logs = tmp_path / str(world_size), tmp_path / f"logs-{world_size}"
        complete(world_size, probed, name, out, updates=UPDATES, logs=logs)
    one, two = (measurements.read(tmp_path / n, Curvature) for n in ("1", "2"))
    assert [row.update for row in two] == list(range(UPDATES))
    for mine, theirs in zip(two, one, strict=True):
        assert mine.curvature == pytest.approx(theirs.curvature, rel=1e-5, abs=1e-7)
    samples = measurements.read(tmp_path / "2", Noise)
    assert [row.update for row in samples] == [0, 2, 4, 6]
    assert all(row.examples == (16 if name == "normalised" else 8) for row in samples)


@pytest.mark.ci
def test_two_processes_train_bitwise_as_without_probes(tmp_path: Path) -> None:
    for probes in (True, False):
        complete(
            2, probed, "normalised", tmp_path / str(probes), updates=UPDATES, probes=probes,
            logs=tmp_path / f"logs-{probes}",
        )  # fmt: skip
    with_probes, without = weights(tmp_path / "True"), weights(tmp_path / "False")
    assert all(torch.equal(without[name], with_probes[name]) for name in without)
