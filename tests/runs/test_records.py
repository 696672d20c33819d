"""Run folders read back: whole, damaged, and made to do harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from folders import BASE, write_run
from legw.errors import RunError
from legw.runs import records


def change(path: Path, **values: Any) -> None:
    """Change fields of a JSON file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | values), encoding="utf-8")


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = records.load(write_run(tmp_path / "a", seed=3))
    assert (run.status, run.problems) == ("finished", ())
    assert run.manifest.recipe == run.manifest.base == BASE
    assert run.manifest.seed == 3
    assert [row.update for row in run.updates] == list(range(100))
    assert run.evaluations[0].metric == 0.9
    assert run.summary is not None
    assert run.summary.metric == {"name": "accuracy", "value": 0.9}


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    run = records.load(write_run(tmp_path / "a", losses=[float("nan"), float("inf"), 1.0]))
    assert [row.loss for row in run.updates] == [None, None, 1.0]


def test_numbers_that_json_does_not_have_are_read_as_null(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "update", "update": 100, "epoch": 5, "loss": NaN, "lr": 1}\n')
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("0.9", "-Infinity"), encoding="utf-8")
    run = records.load(folder)
    assert run.updates[-1].loss is None
    assert run.summary is not None
    assert run.summary.metric["value"] is None


def test_the_mark_that_an_editor_put_first_is_no_problem(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    before, path = records.load(folder), folder / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert records.load(folder) == before and not before.problems


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "cannot be read, passed over"),
        ("[1]", "cannot be read, passed over"),
        ('"text"', "cannot be read, passed over"),
        ("\xff", "cannot be read, passed over"),
        ("{}", "unknown kind None"),
        ('{"kind": "update"}', "cannot be read: Object missing required field `update`"),
        (
            '{"kind": "update", "update": "x", "epoch": 1, "loss": 1, "lr": 1}',
            "cannot be read: Expected `int`, got `str` - at `$.update`",
        ),
        (
            '{"kind": "evaluation", "update": 1, "epoch": 1, "metric": "best", "loss": 1}',
            "cannot be read: Expected `float | null`, got `str` - at `$.metric`",
        ),
    ],
)
def test_a_line_that_is_no_row_is_passed_over_and_named(
    tmp_path: Path, line: str, problem: str
) -> None:
    folder = write_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    run = records.load(folder)
    assert run.problems == (f"metrics.jsonl line 102: {problem}",)
    assert len(run.updates) == 100


@pytest.mark.parametrize(
    "values",
    [
        {"format": 99},
        {"format": "new"},
        {"seed": "x"},
        {"notes": 5},
        {"recipe": []},
        {"base": {"lr": 1}},
        {"environment": {"a": 1}},
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, values: dict[str, Any]) -> None:
    path = write_run(tmp_path / "a") / "manifest.json"
    change(path, **values)
    error_line(records.load, tmp_path / "a", kind=RunError)


def test_a_manifest_without_a_field_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a") / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["seed"]
    path.write_text(json.dumps(data), encoding="utf-8")
    error_line(records.load, tmp_path / "a", kind=RunError)


def test_a_field_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    change(folder / "manifest.json", colour="blue")
    change(folder / "summary.json", colour="blue")
    assert records.load(folder).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"status": "great"}',
    ],
)
def test_a_damaged_summary_is_named(tmp_path: Path, text: str) -> None:
    path = write_run(tmp_path / "a") / "summary.json"
    path.write_text(text, encoding="utf-8")
    error_line(records.load, tmp_path / "a", kind=RunError)


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    error_line(records.load, tmp_path, kind=RunError)
