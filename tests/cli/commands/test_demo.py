"""`legw demo`: which study it is, and that it can be run again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from legw.analysis import evidence
from legw.cli.commands import demo, study
from legw.study.plan import plan

ROOT = Path(__file__).parents[3]

Legw = Callable[[str], Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[study.Options]:
    """The studies that are run, without running them."""
    found: list[study.Options] = []
    monkeypatch.setattr(study, "run", lambda options: found.append(options) or 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    return found


def test_the_demo_is_a_study_of_the_rules_on_the_base_that_carries(
    legw: Legw, asked: list[study.Options]
) -> None:
    answer = legw("demo --out here --jobs 2")
    assert (answer.code, answer.err) == (0, "")
    (options,) = asked
    assert (options.app, options.out, options.jobs) == (
        "digits-lstm-muon", Path("here"), 2,
    )  # fmt: skip
    read = study.read(options)
    planned = plan(read)
    assert planned.undefined == ()
    assert f"{len(planned.runs)} short runs" in answer.out
    assert str(read.base.batch_size) in demo.BATCH_SIZES.split(",")
    assert len(read.seeds) == 5
    assert read.tolerance == "0.015" and "within 1.5 points" in answer.out
    assert "sqrt ends about where legw does" in " ".join(answer.out.split())
    assert read.rules[0] == "legw"
    assert "Open here/report.html for the curves" in answer.out


def test_the_demo_uses_one_thread_a_run_unless_told_otherwise(
    legw: Legw, asked: list[study.Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    legw("demo")
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    legw("demo")
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_what_is_said_of_twenty_seeds_is_what_they_gave() -> None:
    rows = json.loads((ROOT / "results" / "digits-lstm-muon" / "table.json").read_text())
    means = {
        rule: fmean(row["metric"] for row in rows if (row["rule"], row["batch_size"]) == (rule, b))
        for rule, b in (("base", 16), ("legw", 512))
    }
    said = f"accuracy ({means['legw']:.4f} beside the base's {means['base']:.4f})"
    assert said in " ".join(demo.EXPLANATION.split())
    found = evidence.read(ROOT / "results" / "digits-lstm-muon")
    (cell,) = [c for one in found if one.title == "digits-lstm-muon" and one.study
               and one.study.holdout == "test" for c in one.table.cells
               if (c.rule, c.batch_size) == ("legw", 512)]  # fmt: skip
    table = next(one.table for one in found if cell in one.table.cells)
    assert len(cell.metrics) == 20
    assert str(table.verdict(cell)) == "keeps"


def test_the_introduction_fits_a_terminal() -> None:
    lines = demo.INTRODUCTION.splitlines() + demo.EXPLANATION.splitlines()
    assert max(map(len, lines)) <= 92
