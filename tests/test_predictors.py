"""Rank correlation of what is measured at a base with its loss, and the bases behind it."""

from __future__ import annotations

import importlib
import json
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy import stats

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def predictors(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(RESULTS)
    return importlib.import_module("predictors")


@pytest.fixture
def ranking(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(RESULTS)
    return importlib.import_module("rank_correlation")


def pairs(seed: int, count: int, *, ties: int = 1000) -> list[tuple[float, float]]:
    drawn = random.Random(seed)
    return [(drawn.randrange(ties), drawn.random() + 0.0005 * at) for at in range(count)]


@pytest.mark.parametrize("ties", [4, 1000])
@pytest.mark.parametrize("count", [5, 9, 30])
def test_one_group_has_the_usual_coefficient(ranking: ModuleType, count: int, ties: int) -> None:
    group = pairs(count, count, ties=ties)
    found = ranking.correlate([group])
    x, y = zip(*group, strict=True)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.n == count


@pytest.mark.parametrize("count", [4, 6])
def test_p_is_that_of_all_permutations(ranking: ModuleType, count: int) -> None:
    x, y = zip(*pairs(count, count, ties=4), strict=True)
    exact = stats.permutation_test(
        (x,), lambda drawn: abs(stats.spearmanr(drawn, y).statistic) + 1e-12 * len(drawn),
        permutation_type="pairings", alternative="greater", n_resamples=10_000,
    )  # fmt: skip
    assert ranking.correlate([list(zip(x, y, strict=True))]).p == pytest.approx(exact.pvalue)


def test_drawn_permutations_come_near_all(
    ranking: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [pairs(1, 6), pairs(2, 4)]
    exact = ranking.correlate(groups)
    monkeypatch.setattr(ranking, "MAX_ORDERS", 1)
    drawn = ranking.correlate(groups)
    assert drawn.value == exact.value and drawn.p != exact.p
    assert drawn.p == pytest.approx(exact.p, abs=4 * (exact.p / ranking.DRAWS) ** 0.5)


def test_ranks_are_compared_within_groups_alone(ranking: ModuleType) -> None:
    """The predictor is higher where less is lost, and yet orders each group's bases aright."""
    low, high = [(1, 11), (2, 12), (3, 13)], [(10, 1), (20, 2), (30, 3)]
    assert ranking.correlate([low, high]).value == pytest.approx(1)
    assert ranking.correlate([low + high]).value < 0
    # Of the 3! * 3! orders one is as good, and one as bad.
    assert ranking.correlate([low, high]).p == pytest.approx(2 / 36)


def test_groups_that_tell_nothing_are_left_out(ranking: ModuleType) -> None:
    rising = [(1, 1), (2, 2), (3, 3)]
    assert ranking.correlate([rising, [(5, 1), (5, 2)], [(1, 7)]]).n == 3
    assert ranking.correlate([[(5, 1), (5, 2), (5, 3)]]) is None
    assert ranking.correlate([[(1, 1), (2, 2)]]) is None
    assert ranking.correlate([]) is None


def made_up(predictors: ModuleType, monkeypatch: pytest.MonkeyPatch, sign: float) -> list[Any]:
    """Replace the digits' bases' early losses by their loss of quality, or by its opposite."""
    found = [
        replace(each, predictors=each.predictors | {"early_loss": sign * each.loss})
        for each in predictors.bases()
    ]
    monkeypatch.setattr(predictors, "bases", lambda: tuple(found))
    predictors.tables.cache_clear()
    return found


@pytest.mark.ci
@pytest.mark.parametrize(
    ("sign", "shown"), [(1.0, "+1.00"), pytest.param(-1.0, "-1.00", marks=pytest.mark.ci)]
)
def test_the_table_shows_what_the_bases_say(
    predictors: ModuleType, monkeypatch: pytest.MonkeyPatch, sign: float, shown: str
) -> None:
    found = made_up(predictors, monkeypatch, sign)
    line = next(
        line for line in predictors.tables().splitlines()
        if line.startswith(f"| {predictors.PREDICTORS['early_loss'].title} |")
    )  # fmt: skip
    predictors.tables.cache_clear()
    assert line.count(shown) == 6 and f"n\u00a0=\u00a0{len(found)}" in line
    assert ("against what was expected" in line) == (sign < 0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_base_that_is_chosen(
    predictors: ModuleType, monkeypatch: pytest.MonkeyPatch, sign: float
) -> None:
    """A predictor that orders the losses elsewhere, either way, chooses what loses least."""
    found = made_up(predictors, monkeypatch, sign)
    near = list(filter(predictors._of_digits_family("sgd"), found))
    predictors.tables.cache_clear()
    least = min(near, key=lambda each: each.loss)
    assert predictors.chosen("early_loss", near, "sgd") == least.large_metric
    assert predictors.chosen("clipped_share", [replace(least, predictors={})], "sgd") is None


def test_bases_within_the_noise_of_seeds(predictors: ModuleType) -> None:
    first = replace(predictors.bases()[0], base_metric=0.98, base_n=2, deviation=0.01)
    found = [first, *(replace(first, base_metric=each) for each in (0.961, 0.959))]
    assert predictors.near_best(found) == found[:2]  # two errors of 0.01 each are 0.02


def test_the_list_of_bases_is_current(predictors: ModuleType) -> None:
    assert predictors.main([]) == 0


def test_a_list_that_is_not_current_is_told(
    predictors: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predictors, "LISTED", tmp_path / "bases.json")
    assert predictors.main([]) == 1
    assert "is not current" in capsys.readouterr().out
    assert predictors.main(["--write"]) == predictors.main([]) == 0
    listed = json.loads((tmp_path / "bases.json").read_text())
    assert [each["name"] for each in listed] == [each.name for each in predictors.bases()]


@pytest.mark.ci
def test_bases_are_trained_and_collected(
    predictors: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From nothing to figures, on one short base; what has ended is not trained again."""
    runs = importlib.import_module("predictor_runs")
    short = replace(runs.SGD_BASE, epochs=1, warmup_epochs=0.1)
    monkeypatch.setattr(runs, "FAMILIES", {"sgd": (short, {"a": {"lr": 0.05}})})
    monkeypatch.setattr(runs, "LARGE", 128)
    monkeypatch.setattr(runs, "LARGE_SEEDS", 2)
    root, file = tmp_path / "runs", tmp_path / "digits.json"
    assert runs.main(["--train", str(root)]) == 0
    before = {path: path.stat().st_mtime_ns for path in root.rglob("summary.json")}
    assert len(before) == 2 + 2 + 4  # at its own batch, at the large one, short ones
    assert runs.main(["--train", str(root)]) == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("summary.json")} == before
    assert runs.main(["--collect", str(root), str(file)]) == 0
    carried = importlib.import_module("carried")
    monkeypatch.setattr(carried, "DIGITS", file)
    (first,) = carried._digits()
    assert (first.name, first.predictors["lr"]) == ("sgd/a", 0.05)
    assert (first.base_n, first.large_n, first.large_batch_size) == (2, 2, 128)
    assert set(first.predictors) == set(predictors.PREDICTORS)
    assert all(value is not None for value in first.predictors.values())
    assert first.predictors["warmup_share"] == pytest.approx(0.8)
    gap = first.predictors["gap"]
    data = json.loads(file.read_text())["bases"][0]["base"]
    assert gap == pytest.approx(
        sum(run["held_out_loss"] - run["final_loss"] for run in data) / len(data)
    )


def test_a_base_whose_runs_have_not_ended_is_left_out(
    predictors: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = importlib.import_module("predictor_runs")
    assert runs.main(["--collect", str(tmp_path), str(tmp_path / "digits.json")]) == 2
    assert "sgd/as-shipped: has not ended; left out" in capsys.readouterr().out
    assert not (tmp_path / "digits.json").exists()
