"""Studies as values: what is planned, how far it is, and the folder that says what it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from folders import BASE, write_run, write_study
from legw import rules
from legw.errors import RunError
from legw.study import grid
from legw.study import plan as study
from legw.study.plan import Study

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw", "linear"), seeds=(0, 1))


def names(asked: Study) -> list[str]:
    return [run.name for run in study.plan(asked).runs]


# What is planned ------------------------------------------------------------------


def test_all_rules_share_the_run_at_the_base_batch() -> None:
    assert names(ASKED) == [
        "base-b16-s0", "base-b16-s1",
        "legw-b64-s0", "legw-b64-s1", "linear-b64-s0", "linear-b64-s1",
    ]  # fmt: skip
    assert study.plan(ASKED).runs[0].recipe == BASE


def test_the_base_batch_comes_first_and_the_rest_as_given() -> None:
    asked = replace(ASKED, batch_sizes=(128, 16, 64), rules=("legw",), seeds=(3,))
    assert names(asked) == ["base-b16-s3", "legw-b128-s3", "legw-b64-s3"]


def test_a_recipe_is_what_its_rule_makes_of_the_base() -> None:
    for run in study.plan(ASKED).runs[2:]:
        assert run.recipe == rules.apply(BASE, run.recipe.batch_size, rules.find(run.rule))


def test_a_variant_is_a_base_of_its_own() -> None:
    asked = replace(ASKED, grid={"lr": (0.1, 0.2)}, rules=("sqrt",), seeds=(0,))
    found = {run.name: run for run in study.plan(asked).runs}
    assert list(found) == [
        "lr=0.1_base-b16-s0", "lr=0.1_sqrt-b64-s0", "lr=0.2_base-b16-s0", "lr=0.2_sqrt-b64-s0",
    ]  # fmt: skip
    assert found["lr=0.2_sqrt-b64-s0"].recipe.lr == 0.4
    assert found["lr=0.2_sqrt-b64-s0"].base.lr == 0.2


def test_cells_that_a_rule_does_not_define_are_listed_once_with_the_reason() -> None:
    asked = replace(ASKED, batch_sizes=(16, 512), rules=("legw", "adam-sde", "fixed"))
    found = study.plan(asked)
    assert [(cell.rule, cell.batch_size) for cell in found.undefined] == [
        ("legw", 512),
        ("adam-sde", 512),
    ]
    assert found.undefined[0].reason == (
        "mine: batch_size=512 (k=32): legw would warm up for 8 of 4 epochs; "
        "the largest batch that fits is 255; at this one a base warmup of 0.124 epochs "
        "(`warmup_epochs`) fits; rules that fit: linear, sqrt, fixed, hoffer, adascale"
    )
    assert [run.name for run in found.runs][-1] == "fixed-b512-s1"


SETTINGS = st.lists(
    st.floats(1e-6, 1e6) | st.text(max_size=120) | st.integers(1, 100), min_size=1, unique_by=repr
)


@given(
    st.lists(st.integers(1, 255), min_size=1, max_size=4, unique=True),
    st.lists(st.sampled_from(["legw", "linear", "sqrt", "fixed"]), min_size=1, unique=True),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    SETTINGS,
)
def test_names_are_unique_stable_and_safe(
    sizes: list[int], given_rules: list[str], seeds: list[int], sources: list[object]
) -> None:
    """Whatever a grid varies; here a field that takes any text."""
    values = tuple(dict.fromkeys(str(source) for source in sources))
    asked = Study(
        task="mine", base=BASE, batch_sizes=tuple(sizes), rules=tuple(given_rules),
        seeds=tuple(seeds), grid={"source": values},
    )  # fmt: skip
    found = study.plan(asked).runs
    assert len({run.name for run in found}) == len(found)
    assert len({(r.variant, r.rule, r.recipe.batch_size, r.seed) for r in found}) == len(found)
    assert study.plan(asked).runs == found
    for run in found:
        assert Path(run.name).name == run.name
        assert run.name.isascii()
        assert len(run.name) < 150
    alone = study.plan(replace(asked, seeds=asked.seeds[:1], batch_sizes=asked.batch_sizes[:1]))
    assert {run.name for run in alone.runs} <= {run.name for run in found}


@pytest.mark.parametrize(
    "change",
    [
        {"rules": ("lgew",)},
        {"batch_sizes": (0,)},
        {"grid": {"lrr": (1,)}},
        {"grid": {"lr": (0.0,)}},
    ],
)
def test_what_cannot_be_planned(change: dict[str, object]) -> None:
    asked = replace(ASKED, **change)  # type: ignore[arg-type]
    error_line(study.plan, asked)


# How far it is --------------------------------------------------------------------


def test_rows_say_how_far_each_run_is(tmp_path: Path) -> None:
    runs = write_study(
        tmp_path / "s",
        ASKED,
        base_b16_s1={"status": None},
        legw_b64_s0={"status": "interrupted"},
        legw_b64_s1={"status": "diverged"},
        linear_b64_s0={},
    )
    found = study.rows(runs, tmp_path / "s")
    assert [row.status for row in found] == [
        "finished", "running", "interrupted", "diverged", "missing", "finished",
    ]  # fmt: skip
    assert [row.metric for row in found] == [0.9, None, None, None, None, 0.91]
    assert found[0].rule == "base"
    assert (found[2].lr, found[2].warmup_epochs, found[2].epochs) == (0.2, 1.0, 4)
    assert found[3].reason == "the loss is not finite"
    left = [run.name for run in study.pending(runs, tmp_path / "s")]
    assert left == ["base-b16-s1", "legw-b64-s0", "linear-b64-s0"]


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    (run, *_) = study.plan(ASKED).runs
    write_run(tmp_path / "runs" / run.name, recipe=replace(BASE, lr=0.3))
    error_line(study.rows, [run], tmp_path, kind=RunError)


def test_a_study_asked_for_again_with_less_keeps_its_other_rows(tmp_path: Path) -> None:
    write_study(tmp_path / "s", replace(ASKED, grid={"lr": (0.1, 0.2)}))
    asked = replace(ASKED, rules=("legw",), seeds=(0,), grid={"lr": (0.1,)})
    runs = study.plan(asked).runs
    others = study.other_rows(asked, runs, tmp_path / "s")
    assert len(runs) == 2
    assert len(others) == 10
    assert {row.variant for row in others} == {"", "lr=0.2"}


# The study's own file ---------------------------------------------------------------


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    asked = replace(
        ASKED,
        grid=grid.parse(["lr=0.1,0.2", "clip_norm=none,1"]),
        holdout="validation",
        command="legw study mine",
    )
    study.write(asked, tmp_path)
    found = study.read(tmp_path)
    assert found == asked
    assert found is not None
    assert found.command == "legw study mine"
    assert study.read(tmp_path / "elsewhere") is None


def test_a_noise_scale_that_is_known_by_now_makes_no_other_study(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    knowing = replace(ASKED, base=replace(BASE, noise_scale=40.0))
    study.write(knowing, tmp_path)
    rows = study.rows(study.plan(knowing).runs, tmp_path / "s")
    assert {row.status for row in rows} == {"finished"}
    assert len(study.other_rows(knowing, study.plan(knowing).runs, tmp_path / "s")) == 0


def test_a_study_may_grow(tmp_path: Path) -> None:
    study.write(ASKED, tmp_path)
    study.write(replace(ASKED, rules=("sqrt",), seeds=(5,), batch_sizes=(16, 128)), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "yours"},
        {"holdout": "validation"},
        {"base": replace(BASE, lr=0.2, clip_norm=1.0)},
    ],
)
def test_another_study_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    study.write(ASKED, tmp_path)
    asked = replace(ASKED, **change)  # type: ignore[arg-type]
    error_line(study.write, asked, tmp_path, kind=RunError)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"format": 99}',
        '{"format": 1, "base": {"lr": -1}}',
        '{"format": "1"}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text, encoding="utf-8")
    error_line(study.read, tmp_path, kind=RunError)


def test_a_file_with_an_unknown_field_is_named(tmp_path: Path) -> None:
    study.write(ASKED, tmp_path)
    path = tmp_path / "study.json"
    data = json.loads(path.read_text(encoding="utf-8")) | {"colour": "blue"}
    path.write_text(json.dumps(data), encoding="utf-8")
    error_line(study.read, tmp_path, kind=RunError)
