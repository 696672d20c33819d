"""Verdicts on LEGW's assumptions: each threshold from both sides, and "cannot tell"."""

from __future__ import annotations

import pytest

from legw.analysis import check
from legw.analysis.check import Verdict
from legw.analysis.curvature import Power
from legw.analysis.noise import NoiseScale


def power(exponent: float, n: int = 3, half: float = 0.1) -> Power:
    return Power(exponent=exponent, low=exponent - half, high=exponent + half, factor=1.0, n=n)


def noise(low: float | None, high: float | None, value: float | None = 100.0) -> NoiseScale:
    return NoiseScale(value=value, low=low, high=high, from_epoch=0.0, to_epoch=1.0, n=9)


@pytest.mark.parametrize(
    ("exponent", "answer"),
    [
        (1.0, "holds"), (0.75, "holds"), (1.25, "holds"), (0.74, "cannot tell"),
        (1.26, "cannot tell"), (0.5, "cannot tell"), (1.5, "cannot tell"),
        (0.49, "does not hold"), (1.51, "does not hold"), (0.0, "does not hold"),
    ],
)  # fmt: skip
def test_the_peaks_exponent(exponent: float, answer: str) -> None:
    verdict = check.of_curvature(power(exponent))
    assert verdict.answer == answer
    assert f"batch^{exponent:.2f}" in verdict.why


@pytest.mark.parametrize(
    ("exponent", "half", "answer"),
    [
        (1.0, 0.5, "holds"), (1.0, 0.51, "cannot tell"), (1.25, 0.26, "cannot tell"),
        (0.4, 0.59, "does not hold"), (0.4, 0.6, "cannot tell"), (1.8, 0.8, "cannot tell"),
    ],
)  # fmt: skip
def test_an_exponent_with_a_wide_interval_cannot_tell(
    exponent: float, half: float, answer: str
) -> None:
    verdict = check.of_curvature(power(exponent, half=half))
    assert verdict.answer == answer
    assert f"(95 % interval {exponent - half:.2f} to {exponent + half:.2f})" in verdict.why
    assert verdict.why.endswith("give more `seeds`") == (answer == "cannot tell")


def test_curvature_that_only_falls_has_no_peak() -> None:
    """It is highest in the first update of every batch: an exponent of exactly 1."""
    verdict = check.of_curvature(power(1.0, half=0.0), early=[16, 64])
    assert verdict.answer == "cannot tell"
    assert verdict.why == (
        "the curvature is highest in the first updates for batch 16, 64: there is no peak to follow"
    )


def test_peaks_that_say_nothing() -> None:
    assert check.of_curvature(None).why.startswith("fewer than three peaks")
    assert check.of_curvature(power(1.0, n=2)).answer == "cannot tell"
    verdict = check.of_curvature(power(1.0), late=[64, 256])
    assert verdict.answer == "cannot tell"
    assert (
        verdict.why == "the peak lies at the end of the run for batch 64, 256; give more `updates`"
    )


def test_rates() -> None:
    falls, rises = {1.0: False, 2.0: False, 4.0: True}, {1.0: True}
    assert check.of_rates({16: falls, 64: falls}).answer == "holds"
    assert check.of_rates({16: falls, 64: {1.0: False, 2.0: True}}).answer == "cannot tell"
    verdict = check.of_rates({16: falls, 64: rises})
    assert verdict.answer == "does not hold"
    assert verdict.why == "at the rule's own rate the loss rises for batch 64"


def test_noise() -> None:
    assert check.of_noise(320, noise(80, 120)).answer == "holds"
    assert check.of_noise(321, noise(80, 120)).answer == "cannot tell"
    assert check.of_noise(480, noise(80, 120)).answer == "cannot tell"
    assert check.of_noise(481, noise(80, 120)).answer == "does not hold"
    assert check.of_noise(481, noise(80, 120), whole=False).answer == "cannot tell"
    assert check.of_noise(320, noise(80, 120), whole=False).answer == "holds"
    for unknown in (None, noise(None, None), noise(80, 120, value=None)):
        assert check.of_noise(16, unknown).answer == "cannot tell"


def test_clipping() -> None:
    assert check.of_clipping({16: 0.5, 64: 0.25}).answer == "holds"
    assert check.of_clipping({16: 0.49, 64: 0.0}).answer == "holds"
    verdict = check.of_clipping({16: 0.5, 64: 0.3, 256: 0.24})
    assert verdict.answer == "does not hold"
    assert verdict.why == (
        "updates that are clipped: 50% at 16, 30% at 64, 24% at 256; steps grow by less than the "
        "rate, so tune a base with another clip_norm"
    )
    assert check.of_clipping({16: 0.9}).answer == "holds"
    verdict = check.of_clipping({16: None, 64: None})
    assert (verdict.answer, verdict.why) == ("holds", "no step depends on it")


def test_loss_that_rises() -> None:
    assert not check.rises([2.0] * 10)
    assert not check.rises([2.0] * 8 + [2.19] * 2)
    assert check.rises([2.0] * 8 + [2.21] * 2)
    assert check.rises([2.0, 1.0, None])


def test_the_whole_verdict() -> None:
    def of(*answers: check.Answer) -> str:
        return check.together([Verdict("rates", answer, "") for answer in answers])

    assert of("holds", "holds", "holds") == "holds"
    assert of("holds", "cannot tell", "holds") == "cannot tell"
    assert of("holds", "cannot tell", "does not hold") == "does not hold"


def test_what_is_missing_for_a_verdict() -> None:
    """A noise scale's interval narrows with the root of the samples, an exponent's with seeds."""
    unclear = check.of_noise(320, noise(60, 140), whole=False, every=2, left=1000)
    assert unclear.missing == check.Missing(updates=54)  # 9 samples ((40 / 20)**2 - 1), 2 apart
    assert unclear.missing.said() == "about 54 updates more"
    assert check.of_noise(500, noise(60, 140), whole=False, left=1000).missing.updates == 1000
    assert check.of_noise(320, noise(60, 140), whole=False, every=2, left=7).missing.updates == 7
    wide = check.of_curvature(power(1.0, half=3.0), sizes=3)
    assert wide.missing == check.Missing(seeds=1)  # Student's quantile is 12.7, then 2.8
    assert wide.missing.said() == "about 1 seed more"
    assert check.of_curvature(power(1.0, half=8.5), sizes=3).missing.seeds == 7
    assert check.of_curvature(power(1.0), late=[16], sizes=3, updates=200).missing.updates == 200
    assert check.of_curvature(power(1.0), early=[16], sizes=3).missing.said() == ""
    assert check.of_curvature(power(1.0), sizes=3).missing.said() == ""


def test_the_warmups_share_is_told() -> None:
    assert check.warmup_line({"warmup_shares": {16: 0.0083, 256: 0.1328}}) == (
        "warmup: 0.83% at batch 16, 13.28% at batch 256 of the run"
    )
    assert check.warmup_line({"warmup_shares": {16: 0.0}}) == "warmup: the base has none"
