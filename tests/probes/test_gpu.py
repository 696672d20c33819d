"""Probes on a GPU's fused LSTM: left out where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legw import schedule
from legw.apps import find
from legw.presets import DIGITS_LSTM
from legw.probes import CurvatureProbe, NoiseProbe
from legw.probes.curvature import full_precision
from legw.rules import LEGW, apply
from legw.runs import measurements
from legw.runs.measurements import Curvature, Noise
from legw.train import Probe, Settings, fit
from train.runs import weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

RECIPE = apply(DIGITS_LSTM, 64, LEGW)


def run(out: Path, *probes: Probe) -> None:
    from dataclasses import replace

    task = find("digits-lstm")
    short = replace(RECIPE, epochs=80 * 64 / task.num_examples(64))
    assert schedule.updates(short, task.num_examples(64)) == 80
    settings = Settings(micro_batch_size=64, device="cuda")
    fit(task, short, out=out, settings=settings, observers=probes)


def test_difference_and_product_agree_on_cudnns_lstm(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for method in ("difference", "exact"):
        run(out / method, CurvatureProbe(out / method, examples=64, method=method))
    one, exact = (measurements.read(out / name, Curvature) for name in ("difference", "exact"))
    pairs = [(a.curvature, b.curvature) for a, b in zip(one, exact, strict=True)]
    assert len(pairs) == 80
    # Near a change of sign rounding is larger than the value: a tenth may miss.
    close = [a == pytest.approx(b, rel=1e-4) for a, b in pairs if b is not None and b > 0.1]
    assert len(close) > 60 and sum(close) >= 0.9 * len(close)


def test_a_probed_run_is_the_unprobed_one(tmp_path: Path) -> None:
    run(tmp_path / "plain")
    out = tmp_path / "probed"
    run(out, CurvatureProbe(out, examples=64), NoiseProbe(out, every=1))
    plain, probed = weights(tmp_path / "plain"), weights(out)
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    assert len(measurements.read(out, Noise)) == 80


def test_full_precision_is_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert before == (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
