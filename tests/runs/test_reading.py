"""Folders from elsewhere: what is no plain file of a usual size is named, and not followed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from folders import BASE, write_run, write_study
from legw import RunError
from legw.analysis import evidence
from legw.report import markdown
from legw.runs import files, locks, measurements, reading, records
from legw.runs.measurements import Noise
from legw.study import plan as study
from legw.study import watch
from legw.study.plan import Study
from test_hostile_text import LIE

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw",), seeds=(0,))

PLACED: list[tuple[str, str]] = [
    ("folder", "is a folder, not a file; move it away"),
    ("pipe", "is a pipe, not a file; move it away"),
    ("link", "is a link that leads out of its folder; put the file itself there"),
    ("up", "is a link that leads out of its folder; put the file itself there"),
    ("device", "is a link that leads out of its folder; put the file itself there"),
    ("loop", "cannot be read: Too many levels of symbolic links; check the path"),
    ("huge", "is 1,048,576 MiB large, where at most "),
]


def put(path: Path, what: str) -> None:
    """Put something that is no plain file of a usual size in a file's place."""
    outside = path.parents[2] / "outside"
    outside.write_text('{"precious": 1}', encoding="utf-8")
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        to = {"link": outside, "up": "../../outside", "device": "/dev/zero", "loop": path.name}
        path.symlink_to(to[what])


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
@pytest.mark.parametrize(("what", "said"), PLACED)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, what: str, said: str) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    put(folder / name, what)
    error_line(records.load, folder, kind=RunError)


@pytest.mark.parametrize(("what", "said"), PLACED)
def test_metrics_that_are_no_file_are_a_problem(tmp_path: Path, what: str, said: str) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    put(folder / "metrics.jsonl", what)
    run = records.load(folder)
    assert run.updates == [] and len(run.problems) == 1
    assert run.problems[0].startswith(f"metrics.jsonl: {said}")
    put(folder / "noise.jsonl", what)
    error_line(measurements.read, folder, Noise, kind=RunError)


@pytest.mark.parametrize(("what", "said"), PLACED)
def test_a_report_and_the_watch_name_it_and_show_the_rest(
    tmp_path: Path, what: str, said: str
) -> None:
    runs = write_study(tmp_path / "s", ASKED)
    put(tmp_path / "s" / "runs" / runs[0].name / "manifest.json", what)
    found = evidence.read(tmp_path)
    text = markdown.text(found)
    assert "legw-b64-s0" not in [each.folder.name for each in found] and "| 64 |" in text
    assert any(said in problem for each in found for problem in each.problems)
    view = watch.look(tmp_path)
    assert [run.status for run in view.runs] == ["stopped", "finished"]
    assert said in view.runs[0].problem


def test_a_link_that_stays_in_its_folder_is_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "summary.json").rename(folder / "summary-1.json")
    (folder / "summary.json").symlink_to("summary-1.json")
    assert records.load(folder).status == "finished"


def test_a_run_that_lies_outside_of_its_study_is_not_followed(tmp_path: Path) -> None:
    (planned, other) = write_study(tmp_path / "s", ASKED)
    place = tmp_path / "s" / "runs" / planned.name
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    error_line(study.rows, [planned], tmp_path / "s", kind=RunError)
    assert "is a link that leads out of" in watch.look(tmp_path / "s").runs[0].problem
    (found,) = evidence.read(tmp_path / "s")
    assert [row.status for row in found.rows] == ["missing", "finished"]
    assert [run.folder.name for _, run in found.runs] == [other.name]


def test_folders_that_hold_themselves_and_deep_ones_are_searched_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    deep = tmp_path / "deep"
    here = os.getcwd()  # noqa: PTH109 # to come back from a path that is too long to name
    try:
        deep.mkdir()
        os.chdir(deep)
        for _ in range(1500):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(here)
    try:
        assert records.find_runs(tmp_path) == [tmp_path / "a"]
    finally:  # pytest's own way of clearing up recurses, and would fail
        subprocess.run(["rm", "-rf", str(deep)], check=True)


@pytest.mark.parametrize("name", ["..", "../../outside", "/etc", "a/../../b", "\x00", "x" * 300])
def test_a_study_whose_names_lead_out_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    asked = Study(task=name, base=BASE, batch_sizes=(16,), seeds=(0,), grid={"name": ("a", "b")})
    data = {"format": 1, **vars(asked), "base": {"batch_size": 8, "lr": 1, "epochs": 1},
            "grid": {"source": [name, 1]}, "tuned": {"adam": {"source": [name]}}}  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(data), encoding="utf-8")
    try:
        found = study.read(tmp_path)
        assert found is not None
        runs = study.plan(found).runs
    except Exception as error:
        assert isinstance(error, RunError | ValueError)
        return
    for run in runs:
        assert not reading.leads_out(tmp_path / "runs" / run.name, tmp_path / "runs")


# Types ------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("study.json", {"rules": [["legw"]]}),
    ("study.json", {"task": ["x"]}),
    ("study.json", {"command": 5}),
    ("study.json", {"batch_sizes": "16"}),
    ("study.json", {"seeds": [-1]}),
    ("study.json", {"grid": {"lr": 5}}),
    ("study.json", {"tuned": {"adam": []}}),
    ("study.json", {"holdout": None}),
    ("study.json", {"base": "mine"}),
    ("study.json", {"batch_sizes": list(range(1, 100_000))}),
    ("summary.json", {"metric": {"name": "accuracy", "value": [1]}}),
    ("summary.json", {"metric": 5}),
    ("summary.json", {"metric": {"name": 5}}),
    ("summary.json", {"updates": -1}),
    ("summary.json", {"reason": ["x"]}),
    ("summary.json", {"updates": 10**30}),
    ("summary.json", {"reason": "\ud800"}),
    ("manifest.json", {"num_examples": 0}),
    ("manifest.json", {"world_size": 0}),
    ("manifest.json", {"extra": {"a": json.loads("[" * 100 + "]" * 100)}}),
    ("manifest.json", {"seed": 10**400}),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_a_value_of_another_type_is_named_in_report_and_watch(
    tmp_path: Path, name: str, values: dict[str, Any]
) -> None:
    runs = write_study(tmp_path / "s", ASKED)
    folder = tmp_path / "s" if name == "study.json" else tmp_path / "s" / "runs" / runs[0].name
    data = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(data | values), encoding="utf-8")
    found = evidence.read(tmp_path)
    markdown.text(found)
    problems = [problem for each in found for problem in each.problems]
    view = watch.look(tmp_path)
    problems_of_watch = [*view.problems, *(run.problem for run in view.runs if run.problem)]
    for lines in (problems, problems_of_watch):
        assert len(lines) == 1, lines
        assert name in lines[0] or "at most 10000 can be planned" in lines[0]
        assert LIE not in lines[0]


@pytest.mark.parametrize(
    "row",
    [
        {"metric": [1]}, {"update": -1}, {"update": 10**30}, {"epoch": 1e999}, {"seconds": "x"},
        {"epoch": {}}, {"kind": ["update"]}, {"kind": json.loads("[" * 100 + "]" * 100)},
    ],
)  # fmt: skip
def test_an_evaluation_of_another_type_is_passed_over_by_name(tmp_path: Path, row: Any) -> None:
    folder = write_run(tmp_path / "a")
    usual = {"kind": "evaluation", "update": 1, "epoch": 1, "metric": 1, "loss": 1}
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps(usual | row).replace("Infinity", "1e999").encode() + b"\n")
    (problem,) = records.load(folder).problems
    assert problem.startswith("metrics.jsonl line 102: ")
    assert watch.progress(folder).metric == 0.9


def test_a_line_without_end_is_not_held_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"x" * 10 * reading.MAX_LINE_BYTES + b"\n{")
    run = records.load(folder)
    assert len(run.updates) == 100
    assert run.problems == tuple(
        f"metrics.jsonl line {n}: cannot be read, passed over" for n in (102, 103)
    )


def test_of_many_damaged_lines_some_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_bytes(b"x\n" * 5000)
    problems = records.load(folder).problems
    assert len(problems) == records.MAX_PROBLEMS + 1
    assert problems[-1] == "and 4980 lines more"


# What is written --------------------------------------------------------------------------


def test_nothing_is_written_through_a_link_that_lies_in_the_way(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious", encoding="utf-8")
    (tmp_path / f".x.json.{os.getpid()}").symlink_to(outside)
    files.write_json(tmp_path / "x.json", {"a": 1})
    assert outside.read_text(encoding="utf-8") == "precious"
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": 1}
    (tmp_path / "x.json").unlink()
    (tmp_path / "x.json").symlink_to(outside)
    files.write_json(tmp_path / "x.json", {"a": 2})
    assert outside.read_text(encoding="utf-8") == "precious"


def test_a_lock_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert not locks.is_held(tmp_path)

    def hold() -> None:
        with locks.held(tmp_path):
            pass

    error_line(hold, kind=RunError)
