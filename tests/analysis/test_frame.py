"""A study's table as rows and as a data frame: the report's numbers, under documented names."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from expect import error_line
from folders import BASE, write_run, write_study
from legw.analysis.evidence import read
from legw.analysis.frame import to_frame, to_rows
from legw.errors import RunError
from legw.study.plan import Row, Study

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw",), seeds=(0, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path / "s", ASKED, legw_b64_s1={"status": "diverged", "losses": [2.0, None]})
    return tmp_path / "s"


def test_a_row_a_cell_has_numbers_for_numbers(folder: Path) -> None:
    base, legw = to_rows(folder)
    [one] = read(folder)
    assert (base["study"], base["rule"], base["batch_size"]) == ("mine", "base", 16)
    assert (base["lr"], base["warmup_epochs"], base["updates"]) == (0.1, 0.25, 100.0)
    assert (base["metric"], base["mean"]) == ("accuracy", pytest.approx(0.905))
    estimate = one.table.cells[0].estimate
    assert estimate is not None and base["half_width"] == estimate.half_width
    assert (base["n"], base["diverged"], base["difference"]) == (2, 0, None)
    assert (legw["n"], legw["diverged"], legw["lr"]) == (1, 1, 0.2)
    assert (legw["mean"], legw["half_width"], legw["difference"]) == (0.9, None, None)


def test_a_difference_has_its_interval(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    _, legw = to_rows(tmp_path / "s")
    [one] = read(tmp_path / "s")
    found = one.table.from_base(one.table.cells[1])
    assert found is not None
    assert (legw["difference"], legw["low"], legw["high"]) == (found.mean, found.low, found.high)


def test_a_row_a_run_has_the_fields_of_a_row(folder: Path) -> None:
    rows = to_rows(folder, by="run")
    assert [list(row) for row in rows] == [["study", *(f.name for f in fields(Row))]] * 4
    assert [row["status"] for row in rows] == ["finished", "finished", "finished", "diverged"]
    assert rows[1]["metric"] == pytest.approx(0.91)


def test_several_studies_stand_in_one(folder: Path) -> None:
    write_run(folder.parent / "alone", task="other")
    assert [row["study"] for row in to_rows(folder.parent)] == ["mine", "mine", "other"]
    assert to_rows(read(folder.parent)) == to_rows(folder.parent)
    assert to_rows(read(folder)[0]) == to_rows(folder)


def test_it_is_a_data_frame(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = to_frame(folder)
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 2
    assert frame["mean"].dtype == float and frame["batch_size"].tolist() == [16, 64]
    assert frame.set_index("rule").loc["base", "mean"] == pytest.approx(0.905)
    assert to_frame(folder, by="run").groupby("rule")["seed"].count().to_dict() == {
        "base": 2,
        "legw": 2,
    }


def test_without_pandas_there_is_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    error_line(to_frame, folder, kind=RunError)


def test_rows_are_by_cell_or_by_run(folder: Path) -> None:
    error_line(to_rows, folder, by="seed", kind=RunError)


def test_every_column_is_on_the_page(folder: Path) -> None:
    section = PAGE.split("## As a data frame\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    told = [name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert told == list(to_rows(folder)[0])
