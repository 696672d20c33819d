"""Folders of runs, whole and damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from expect import error_line
from folders import BASE, write_run, write_study
from legw import compare, scale
from legw.analysis import evidence, summary
from legw.errors import LegwWarning, RunError
from legw.study.plan import Study

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64, 512), rules=("legw",), seeds=(0, 1))


def test_a_study_is_read_with_what_is_missing_and_undefined(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED, legw_b64_s1={})
    (found,) = evidence.read(tmp_path)
    assert (found.title, found.study) == ("mine", ASKED)
    assert [row.status for row in found.rows] == ["finished", "finished", "finished", "missing"]
    assert [cell.batch_size for cell in found.undefined] == [512]
    assert len(found.runs) == 3
    assert (found.table.metric, found.table.higher_is_better) == ("accuracy", True)
    assert found.problems == ()


def test_a_study_keeps_runs_that_were_asked_for_earlier(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    earlier = replace(BASE, batch_size=32, lr=0.2)
    write_run(tmp_path / "s" / "runs" / "linear-b32-s0", rule="linear", recipe=earlier)
    (found,) = evidence.read(tmp_path / "s")
    assert [row.rule for row in found.rows] == ["base", "base", "legw", "legw", "linear"]


def test_the_comparison_of_a_study_is_one_call(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    table = compare(tmp_path / "s")
    assert table == evidence.read(tmp_path)[0].table
    cell = table.find("", "legw", 64)
    assert cell is not None and cell.metrics == (0.9, 0.91)
    write_study(tmp_path / "t", ASKED)
    error_line(compare, tmp_path, kind=RunError)


def test_a_comparison_warns_of_what_cannot_be_read(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    (tmp_path / "s" / "runs" / "legw-b64-s0" / "metrics.jsonl").write_text("{")
    with pytest.warns(LegwWarning, match="metrics.jsonl"):
        assert compare(tmp_path / "s").find("", "legw", 64) is not None


def test_runs_outside_of_studies_are_grouped_by_task(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", base=replace(BASE, lr=0.3), recipe=replace(BASE, lr=0.3))
    write_run(tmp_path / "deep" / "er" / "d", task="other")
    mine, other = evidence.read(tmp_path)
    assert (mine.title, other.title) == ("mine", "other")
    assert [row.variant for row in mine.rows] == ["", "lr=0.3"]
    assert mine.study is None


def test_studies_and_runs_below_one_folder_are_all_read(tmp_path: Path) -> None:
    write_study(tmp_path / "one", ASKED)
    write_study(tmp_path / "two", replace(ASKED, seeds=(0,)))
    write_run(tmp_path / "alone")
    found = evidence.read(tmp_path)
    assert [(one.folder.name, len(one.runs)) for one in found] == [
        ("one", 4), ("two", 2), (tmp_path.name, 1),
    ]  # fmt: skip


def test_a_truncated_line_is_a_problem_and_not_the_end(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    (found,) = evidence.read(tmp_path)
    assert found.problems == ("a: metrics.jsonl line 101: cannot be read, passed over",)
    assert len(found.runs[0][1].updates) == 100


def test_a_killed_run_is_shown_as_running(tmp_path: Path) -> None:
    write_run(tmp_path / "a", status=None)
    (found,) = evidence.read(tmp_path)
    assert found.rows[0].status == "running"


def test_a_run_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad")
    (bad / "manifest.json").write_text("{", encoding="utf-8")
    good, rest = evidence.read(tmp_path)
    assert len(good.rows) == 1
    assert rest.rows == ()
    assert rest.problems[0].startswith(f"{bad / 'manifest.json'}: cannot be read: ")


def test_a_run_from_a_newer_version_is_a_problem(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    path = run / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8")) | {"format": 99}
    path.write_text(json.dumps(data), encoding="utf-8")
    (found,) = evidence.read(tmp_path)
    assert found.problems[0].endswith("is from a newer legw; upgrade to read it")


def test_a_damaged_study_leaves_its_runs(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    (tmp_path / "s" / "study.json").write_text("{}", encoding="utf-8")
    runs, rest = evidence.read(tmp_path / "s")
    assert len(runs.rows) == 4
    assert "study.json: cannot be read" in rest.problems[0]


def test_folders_without_runs(tmp_path: Path) -> None:
    line = error_line(evidence.read, tmp_path, kind=RunError)
    assert line == f"{tmp_path}: holds no runs; legw train and legw study make them"
    line = error_line(evidence.read, tmp_path / "x", kind=RunError)
    assert line == f"{tmp_path / 'x'}: is not a folder; give the folder of a study or of runs"


def test_a_rate_from_the_command_line_is_a_rule_of_its_own(tmp_path: Path) -> None:
    """Runs at two rates are not two seeds of one cell; both are compared with the base."""
    write_run(tmp_path / "base")
    big = scale(BASE, batch_size=64)
    write_run(tmp_path / "a", recipe=big)
    write_run(tmp_path / "b", recipe=replace(big, lr=3.0))
    (found,) = evidence.read(tmp_path)
    assert {row.rule for row in found.rows} == {"base", "legw", "legw lr=3"}
    assert [len(cell.metrics) for cell in found.table.cells] == [1, 1, 1]
    assert "at batch 64 (4 times the base's 16), legw " in summary.sentence(found.table)


def test_runs_of_another_precision_or_other_data_are_variants(tmp_path: Path) -> None:
    write_run(tmp_path / "a", data="some")
    write_run(tmp_path / "b", data="some", precision="bf16")
    write_run(tmp_path / "c", data="others")
    write_run(tmp_path / "d", data="", seed=1)  # of a task without a fingerprint
    (found,) = evidence.read(tmp_path)
    assert [row.variant for row in found.rows] == ["", "precision=bf16", "data=others", ""]
    assert found.problems == ()


def test_a_divergence_is_not_hidden_by_a_run_that_was_stopped(tmp_path: Path) -> None:
    write_run(tmp_path / "a", status="interrupted")
    write_run(tmp_path / "b", status="diverged")
    (found,) = evidence.read(tmp_path)
    assert [row.status for row in found.rows] == ["diverged"]


def test_a_run_made_twice_counts_once(tmp_path: Path) -> None:
    """The finished one, whichever came first; another seed is another run."""
    write_run(tmp_path / "a", status=None)
    write_run(tmp_path / "b")
    write_run(tmp_path / "c", seed=1)
    (found,) = evidence.read(tmp_path)
    assert sorted((run.folder.name, row.seed) for row, run in found.runs) == [("b", 0), ("c", 1)]
    assert found.problems == ("a: the same run as b, seed too; left out",)
