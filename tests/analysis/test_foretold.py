"""Predicted against measured: runs of a known number of epochs, and the repository's table."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.test_measured_critical import result
from expect import error_line
from folders import BASE, write_study
from legw.analysis import evidence
from legw.analysis.foretold import Foretold, foretold, median_error
from legw.analysis.measured_critical import RESULT, MeasuredCritical, from_values
from legw.errors import LegwError
from legw.recipe import to_dict
from legw.study.plan import Study

RESULTS = Path(__file__).parents[2] / "results"


def measured(**changes: Any) -> MeasuredCritical:
    ends = {"until_epoch": 1.0}, {"until_epoch": 4.0}
    points = [a | b for a, b in zip(result()["points"], ends, strict=True)]
    return from_values(
        result(**{"base": to_dict(BASE), "tolerance": 0.01, "points": points} | changes)
    )


def losses(updates: int, factor: float, floor: float = 0.0) -> list[float]:
    """Return losses that fall in a straight line, in `factor` times the base's epochs."""
    return [floor + 3 - 2 * (s + 0.5) / updates / factor for s in range(updates)]


def studied(folder: Path, factor: float = 1.6, **of_base: Any) -> list[Foretold]:
    asked = Study(task="mine", base=BASE, batch_sizes=(16, 64), seeds=(0, 1))
    runs: dict[str, Any] = {}
    for seed in (0, 1):
        runs[f"base_b16_s{seed}"] = {"losses": losses(100, 1.0)} | of_base
        runs[f"legw_b64_s{seed}"] = {"losses": losses(25, factor)}
    write_study(folder / "study", asked, **runs)
    (found,) = evidence.read(folder)
    return foretold(found, measured())


def test_the_epochs_to_the_same_loss_are_measured(tmp_path: Path) -> None:
    """The larger batch ends, at epoch 3.5 in the mean, where the base was 1.6 times as early."""
    (row,) = studied(tmp_path)
    assert (row.batch_size, row.runs, row.at_least) == (64, (2, 2), False)
    assert row.measured_stretch == pytest.approx(1.6, rel=0.02)
    wanted = (100 + 64) / (100 + 16)
    lost = 0.25 / 2 * (4 - wanted) / (3.5 / 1.6)  # half of the longer warmup
    assert row.stretch == pytest.approx(wanted + lost, abs=0.01)
    low, high = row.stretch_range or (0.0, 0.0)
    assert (400 + 64) / 416 + 0.15 < low < row.stretch < high < (50 + 64) / 66 + 0.15
    assert row.error == pytest.approx((wanted + lost) / 1.6 - 1, abs=0.02)
    assert median_error([row, replace(row, stretch=None)]) == abs(row.error)


def test_the_loss_at_equal_epochs_is_beside_what_the_branches_had(tmp_path: Path) -> None:
    (row,) = studied(tmp_path)
    ends = losses(100, 1.0)[-1], losses(25, 1.6)[-1]
    assert row.measured_excess == pytest.approx(ends[1] - ends[0])
    assert row.excess == pytest.approx(0.012) and not row.within
    share = from_values(result(base=to_dict(BASE), absolute=False))
    (found,) = evidence.read(tmp_path)
    (relative,) = foretold(found, share)
    assert relative.measured_excess == pytest.approx((ends[1] - ends[0]) / ends[0])


def test_a_base_that_is_there_in_its_first_epoch_bounds_the_factor(tmp_path: Path) -> None:
    (row,) = studied(tmp_path, factor=40.0)
    assert row.at_least and row.error is None and median_error([row]) is None


def test_a_batch_as_fast_as_the_base_needs_as_many_epochs(tmp_path: Path) -> None:
    (row,) = studied(tmp_path, factor=1.0)
    assert row.measured_stretch == pytest.approx(1.0, rel=0.02)


def test_without_a_noise_batch_nothing_is_predicted(tmp_path: Path) -> None:
    studied(tmp_path)
    (found,) = evidence.read(tmp_path)
    unknown = {"noise_batch": {"value": None, "low": 0.0, "high": None}}
    none = measured(points=[point | unknown for point in result()["points"]])
    (row,) = foretold(found, none)
    assert row.stretch is None and row.stretch_range is None and row.error is None


def test_another_base_is_refused(tmp_path: Path) -> None:
    studied(tmp_path)
    (found,) = evidence.read(tmp_path)
    other = from_values(result(base=to_dict(replace(BASE, lr=0.3))), source="DIR")
    error_line(foretold, found, other, kind=LegwError)


def test_without_runs_of_the_base_there_is_no_row(tmp_path: Path) -> None:
    write_study(tmp_path / "study", Study(task="mine", base=BASE, batch_sizes=(64,)))
    (found,) = evidence.read(tmp_path)
    assert foretold(found, measured()) == []


def test_a_folder_beside_the_studies_makes_its_rows_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of the pages, of the digits' own study, with branches made up for its base."""
    monkeypatch.syspath_prepend(RESULTS)
    made = runpy.run_path(str(RESULTS / "how_large.py"))
    table, batches = made["foreseen"], made["critical_batches"]
    monkeypatch.setitem(table.__globals__, "HERE", tmp_path)
    monkeypatch.setitem(table.__globals__, "CRITICAL", tmp_path / "theory" / "critical")
    assert "Branches not measured yet: mnist-lstm," in batches() and table() == ""
    shutil.copytree(RESULTS / "digits-lstm", tmp_path / "digits-lstm")
    base = evidence.read(RESULTS / "digits-lstm")[0].runs[0][1].manifest.base
    place = tmp_path / "theory" / "critical" / "digits-lstm"
    place.mkdir(parents=True)
    (place / RESULT).write_text(json.dumps(result(base=to_dict(base))))
    said = table()
    assert "| digits-lstm | 128 past the bound | 0.9703" in said
    assert "| digits-lstm | 512 past the bound |" in said
    assert "Median error of the epochs:" in said and "(n = 2 batches)" in said
    assert "| digits-lstm | 16 | " in batches() and "| 128 to 512 |" in batches()


def test_whole_runs_are_judged_whatever_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """PTB-small's base has runs in both: 295 is far above 112 all the same."""
    monkeypatch.syspath_prepend(RESULTS)
    made = runpy.run_path(str(RESULTS / "how_large.py"))
    rows = made["kept"]().splitlines()
    (lost,) = [row for row in rows if row.startswith("| ptb-small | 640")]
    assert "| loses 183 perplexity (163 %) (3 %) |" in lost and "| past 1 % |" in lost
    (alone,) = [row for row in rows if row.startswith("| ptb-small | 160")]
    assert "| cannot tell, n = 1 (3 %) |" in alone
