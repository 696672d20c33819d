"""MLPerf's reference points at several batches, and where they stand among the rules.

The points are those against which submissions are checked (mlcommons/logging, the file of each
round). They come from several submitters, who tuned them: a fitted exponent is no rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from expect import golden
from legw import AdamW, Recipe
from legw.rules import LEGW, LINEAR, apply

POINTS = golden("mlperf.csv")
MODELS = list(dict.fromkeys(row["model"] for row in POINTS))
PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


def points(model: str) -> list[tuple[int, float, float]]:
    """Return batch, rate and warmup of each point, the smallest batch first."""
    rows = [row for row in POINTS if row["model"] == model]
    return [(int(row["batch_size"]), float(row["lr"]), float(row["warmup"])) for row in rows]


def exponent(pairs: list[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through logarithms."""
    xs, ys = ([math.log(pair[i]) for pair in pairs] for i in (0, 1))
    x, y = fmean(xs), fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum(
        (a - x) ** 2 for a in xs
    )


def base(model: str, **more: float) -> Recipe:
    batch, lr, warmup = points(model)[0]
    return Recipe(
        name=model, batch_size=batch, lr=lr, steps=1_200_000, warmup_steps=warmup,
        optimizer=AdamW(), **more,
    )  # fmt: skip


def test_deepseek_v3_is_legw_to_the_printed_digit() -> None:
    for batch, lr, warmup in points("deepseek-v3"):
        recipe = apply(base("deepseek-v3"), batch, LEGW)
        assert round(recipe.lr, 9) == lr
        assert recipe.warmup_steps == warmup == 4


def test_llama_405b_is_the_linear_rule() -> None:
    for batch, lr, warmup in points("llama-3.1-405b"):
        recipe = apply(base("llama-3.1-405b"), batch, LINEAR)
        assert recipe.lr == pytest.approx(lr, rel=1e-12)
        assert recipe.warmup_steps == pytest.approx(warmup, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "lr", "warmup"),
    [
        ("deepseek-v3", 0.5, 1.0),
        ("llama-3.1-405b", 1.0, 0.0),
        ("resnet-50", 0.30, 0.77),
        ("bert", 0.56, None),
        ("rnn-t", 0.75, 0.33),
    ],
)
def test_the_exponents(model: str, lr: float, warmup: float | None) -> None:
    """Of the rate, and of the warmup in epochs (in steps it is one less)."""
    found = points(model)
    assert exponent([(b, rate) for b, rate, _ in found]) == pytest.approx(lr, abs=0.01)
    ramps = [(b, ramp) for b, _, ramp in found]
    if warmup is None:
        assert not all(ramp for _, ramp in ramps), "some have none"
        return
    unit = next(row["unit"] for row in POINTS if row["model"] == model)
    in_epochs = exponent(ramps) + (unit == "steps")
    assert in_epochs == pytest.approx(warmup, abs=0.01)


def table() -> Iterator[str]:
    for model in MODELS:
        found = points(model)
        row = next(row for row in POINTS if row["model"] == model)
        ramps = [(b, ramp) for b, _, ramp in found]
        warmup = "some have none"
        if all(ramp for _, ramp in ramps):
            warmup = f"{abs(exponent(ramps) + (row['unit'] == 'steps')):.2f}"
        lr = exponent([(b, rate) for b, rate, _ in found])
        yield (
            f"| {model} | {row['optimizer']} | {found[0][0]} to {found[-1][0]} | {len(found)} | "
            f"{lr:.2f} | {warmup} | {row['round']} |"
        )


def test_the_rules_page_has_them() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for line in table():
        assert f"\n{line}\n" in page, line
