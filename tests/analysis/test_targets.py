"""Costs to a target: the first evaluation that is good enough, in the unit that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from folders import BASE, write_study
from legw.analysis import evidence
from legw.analysis.targets import first, reached, usual
from legw.runs import records
from legw.runs.records import Evaluation, MetricsWriter
from legw.study.plan import Study

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw", "linear"), seeds=(0, 1))


def evaluate(place: Path, metrics: list[float | None]) -> None:
    """Give a run one evaluation an epoch, of 10 updates and 2 seconds each."""
    writer = MetricsWriter(place)
    writer.write(
        Evaluation(update=10 * epoch, epoch=epoch, metric=metric, loss=1.0, seconds=2.0 * epoch)
        for epoch, metric in enumerate(metrics, start=1)
    )
    writer.close()


@pytest.fixture
def found(tmp_path: Path) -> evidence.Evidence:
    write_study(tmp_path / "s", ASKED, linear_b64_s1={"status": "diverged"})
    curves = {
        "base-b16-s0": [0.5, 0.8, 0.9], "base-b16-s1": [0.8, 0.7, 0.91],
        "legw-b64-s0": [0.2, None, 0.8], "legw-b64-s1": [0.2, 0.79, 0.85],
        "linear-b64-s0": [0.9, 0.9], "linear-b64-s1": [0.9],
    }  # fmt: skip
    for name, metrics in curves.items():
        evaluate(tmp_path / "s" / "runs" / name, metrics)
    return evidence.read(tmp_path / "s")[0]


def test_costs_are_means_over_runs_to_the_first_good_evaluation(found: evidence.Evidence) -> None:
    base, legw, linear = reached(found, 0.8)
    assert (base.name, base.updates, base.examples, base.seconds) == ("base", 15, 15 * 16, 3.0)
    assert (legw.updates, legw.examples, legw.seconds) == (30, 30 * 64, 6.0)
    assert (legw.reached, legw.total) == (2, 2)
    assert (linear.reached, linear.total, linear.updates) == (1, 2, None)


def test_a_cell_counts_only_if_all_its_runs_came_so_far(found: evidence.Evidence) -> None:
    base, legw, _ = reached(found, 0.85)
    assert base.updates == 30
    assert (legw.reached, legw.updates, legw.examples, legw.seconds) == (1, None, None, None)


def test_where_lower_is_better_the_target_is_from_above(found: evidence.Evidence) -> None:
    run = records.load(found.folder / "runs" / "base-b16-s1")
    row = first(run, 0.75, higher_is_better=False)
    assert row is not None and row.update == 20
    assert first(run, 0.1, higher_is_better=False) is None


def test_the_usual_target_is_what_the_worst_run_of_base_and_legw_ended_with(
    found: evidence.Evidence,
) -> None:
    table = found.table
    assert usual(table) == min(m for c in table.cells if c.rule != "linear" for m in c.metrics)
    assert usual(replace(table, higher_is_better=False)) == max(
        m for c in table.cells if c.rule != "linear" for m in c.metrics
    )
    assert usual(replace(table, cells=table.cells[1:])) is None
