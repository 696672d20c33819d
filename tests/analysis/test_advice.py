"""The recipe that a study speaks for: the largest batch that keeps, or may, or the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from folders import BASE, write_study
from legw import rules
from legw.analysis import evidence
from legw.analysis.advice import Advice, advice
from legw.study.plan import Study

ASKED = Study(
    task="mine", base=BASE, batch_sizes=(16, 64, 128), rules=("legw", "sqrt", "adascale"),
    seeds=(0, 1), tolerance="0.01",
)  # fmt: skip


def of(folder: Path, asked: Study = ASKED, **metrics: tuple[float, float]) -> Advice | None:
    """Return the advice of a study with these metrics of cells, and 0.9 elsewhere."""
    runs: dict[str, dict[str, Any]] = {}
    for size in (16, 64, 128):
        for rule in ("base", "legw", "sqrt", "adascale"):
            pair = metrics.get(f"{rule}_b{size}", (0.9, 0.9001))
            for seed, metric in enumerate(pair):
                runs[f"{rule}_b{size}_s{seed}"] = {"metric": metric}
    write_study(folder / "s", asked, **runs)
    (found,) = evidence.read(folder / "s")
    return advice(found)


def test_the_largest_batch_that_keeps_is_taken_and_there_legw(tmp_path: Path) -> None:
    found = of(tmp_path, sqrt_b128=(0.95, 0.95))
    assert found == Advice(
        recipe=rules.apply(BASE, 128, rules.LEGW),
        rule="legw",
        reason="The largest batch that is shown to keep the base's accuracy within 1 point: "
        "batch 128 under legw.",
    )


def test_without_legw_the_best_mean_is_taken(tmp_path: Path) -> None:
    asked = replace(ASKED, rules=("fixed", "sqrt"))
    found = of(tmp_path, asked, sqrt_b128=(0.95, 0.95))
    assert found is not None
    assert (found.rule, found.recipe.batch_size) == ("sqrt", 128)


def test_a_batch_that_may_comes_after_one_that_keeps(tmp_path: Path) -> None:
    unsure, lost = (0.8, 1.0), (0.5, 0.5)
    found = of(tmp_path / "a", legw_b128=unsure, sqrt_b128=unsure)
    assert found is not None
    assert (found.recipe.batch_size, found.rule) == (64, "legw")
    found = of(tmp_path / "b", legw_b64=unsure, sqrt_b64=lost, legw_b128=lost, sqrt_b128=unsure)
    assert found is not None
    assert found.reason == (
        "No larger batch is shown to keep the base's accuracy within 1 point. The largest that "
        "may is batch 128 under sqrt: more seeds decide."
    )
    assert found.recipe == rules.apply(BASE, 128, rules.find("sqrt"))


def test_where_all_lose_the_base_is_left(tmp_path: Path) -> None:
    lost = dict.fromkeys(("legw_b64", "sqrt_b64", "legw_b128", "sqrt_b128"), (0.5, 0.5))
    found = of(tmp_path, **lost)
    assert found == Advice(
        recipe=BASE,
        rule="base",
        reason="Every larger batch loses more than 1 point: this is the base's own.",
    )


def test_a_rule_that_steers_is_never_advised(tmp_path: Path) -> None:
    lost = dict.fromkeys(("legw_b64", "sqrt_b64", "legw_b128", "sqrt_b128"), (0.5, 0.5))
    found = of(tmp_path, adascale_b128=(0.95, 0.95), **lost)
    assert found is not None
    assert found.rule == "base"


@pytest.mark.parametrize("sizes", [(16,), (64,)])
def test_nothing_is_advised_without_a_comparison(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    assert of(tmp_path, replace(ASKED, batch_sizes=sizes)) is None
