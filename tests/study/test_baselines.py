"""Tuned optimizers: how a study asks for them, what it plans, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from expect import error_line
from folders import BASE, write_study
from legw import SGD, Adam
from legw.analysis import evidence, summary
from legw.analysis.table import Cell, Table
from legw.analysis.trials import best_trials, costs
from legw.report import page
from legw.study import baselines
from legw.study import plan as study
from legw.study.plan import Study, plan

ASKED = Study(
    task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw",), seeds=(0, 1),
    tuned=baselines.read(["adam lr=0.001,0.002", "sgd lr=0.3 optimizer.momentum=0.9"]),
)  # fmt: skip


def test_each_trial_is_a_run_at_every_batch_size_but_the_base() -> None:
    names = [run.name for run in plan(ASKED).runs if run.seed == 0]
    assert [name.rpartition("-")[0].partition("-b64")[0] for name in names[:2]] == [
        "base-b16", "legw",
    ]  # fmt: skip
    assert len(set(names)) == 5
    trials = [run for run in plan(ASKED).runs if run.rule.startswith("tuned-")]
    assert [run.rule for run in trials[::2]] == [
        "tuned-adam lr=0.001", "tuned-adam lr=0.002", "tuned-sgd lr=0.3 optimizer.momentum=0.9",
    ]  # fmt: skip
    first, last = trials[0].recipe, trials[-1].recipe
    assert (first.batch_size, first.lr, first.optimizer) == (64, 0.001, Adam())
    assert (first.warmup_epochs, first.epochs) == (BASE.warmup_epochs, BASE.epochs)
    assert last.optimizer == SGD(momentum=0.9)
    assert all(run.base == BASE for run in trials)


def test_an_optimizer_of_the_bases_kind_keeps_its_settings() -> None:
    base = replace(BASE, optimizer=SGD(momentum=0.8, weight_decay=0.1))
    ((_, found),) = baselines.trials(base, {"sgd": {"lr": (0.5,)}}, 32)
    assert (found.optimizer, found.lr) == (base.optimizer, 0.5)


def test_a_study_with_rivals_is_read_back(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    assert study.read(tmp_path / "s") == ASKED
    (found,) = evidence.read(tmp_path)
    assert [row.rule for row in found.rows] == [run.rule for run in plan(ASKED).runs]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "adan lr=1",
        "adam",
        "adam lr",
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    error_line(baselines.read, [text])


def test_a_rival_twice_and_an_unknown_field() -> None:
    error_line(baselines.read, ["adam lr=1", "adam lr=2"])
    asked = replace(ASKED, tuned={"adam": {"lrr": (1,)}})
    error_line(plan, asked)


GRID = replace(ASKED, tuned=baselines.read(["adam lr=0.001,0.002"]), grid={"epochs": (4, 8)})


def test_each_base_of_a_grid_has_its_own_trials() -> None:
    trials = [run for run in plan(GRID).runs if run.rule.startswith("tuned-")]
    assert [(run.variant, run.rule, run.recipe.epochs) for run in trials if run.seed == 0] == [
        ("epochs=4", "tuned-adam lr=0.001", 4), ("epochs=4", "tuned-adam lr=0.002", 4),
        ("epochs=8", "tuned-adam lr=0.001", 8), ("epochs=8", "tuned-adam lr=0.002", 8),
    ]  # fmt: skip
    assert all(run.base == replace(BASE, epochs=run.recipe.epochs) for run in trials)
    assert len({run.name for run in plan(GRID).runs}) == len(plan(GRID).runs)


@pytest.mark.parametrize("field", ["lr", "optimizer.momentum"])
def test_a_rival_that_sets_what_the_grid_varies_is_refused(field: str) -> None:
    error_line(plan, replace(GRID, grid={field: (0.1, 0.2)}))


def test_a_rival_under_a_grid_is_read_back_and_costs_its_own_trials(tmp_path: Path) -> None:
    runs = write_study(tmp_path / "s", GRID)
    (found,) = evidence.read(tmp_path)
    assert {row.variant for row in found.rows} == {"epochs=4", "epochs=8"}
    assert len(found.rows) == len(runs)
    best = [(c.variant, c.rule) for c in best_trials(found.table).cells if c.batch_size == 64]
    assert sorted(best) == [
        (variant, rule) for variant in ("epochs=4", "epochs=8") for rule in ("legw", "tuned-adam")
    ]
    short, long = costs(found.table)
    assert short.startswith("tuned-adam at batch 64 under epochs=4: lr=")
    assert short.endswith("they cost 8 epochs a seed, against 4 of an untuned rule.")
    assert long.endswith("they cost 16 epochs a seed, against 8 of an untuned rule.")
    assert page.text([found])


def cell(rule: str, *metrics: float, batch_size: int = 64, diverged: int = 0) -> Cell:
    return Cell(variant="", rule=rule, batch_size=batch_size, metrics=metrics, diverged=diverged,
                epochs=4.0)  # fmt: skip


CONTEST = Table(
    cells=(
        cell("base", 0.9, batch_size=16), cell("legw", 0.88),
        cell("tuned-adam lr=0.1", 0.7), cell("tuned-adam lr=0.2", 0.8),
        cell("tuned-adam lr=0.4", 0.95, diverged=1), cell("tuned-sgd lr=1"),
    ),
    metric="accuracy",
)  # fmt: skip


def test_a_rival_is_its_best_trial_without_losses() -> None:
    found = {c.rule: c.metrics for c in best_trials(CONTEST).cells}
    assert found == {
        "base": (0.9,), "legw": (0.88,), "tuned-adam": (0.8,), "tuned-sgd": (),
    }  # fmt: skip


def test_the_whole_cost_is_told() -> None:
    adam, sgd = costs(CONTEST)
    assert adam == (
        "tuned-adam at batch 64: lr=0.2 is the best of 3 trials, by the metric shown; "
        "they cost 12 epochs a seed, against 4 of an untuned rule."
    )
    assert sgd.startswith("tuned-sgd at batch 64: none is the best of 1 trials")


@pytest.mark.parametrize("there", [{"base"}, {"legw"}, {"base", "legw"}, set()])
def test_the_cost_is_against_a_run_of_the_bases_epochs(there: set[str]) -> None:
    """Not against rules that train longer."""
    cells = [c for c in CONTEST.cells if c.rule in there or c.rule.startswith("tuned-adam")]
    cells += [replace(cell("hoffer", 0.9), epochs=16.0), replace(cell("adascale", 0.9), epochs=9.5)]
    (adam,) = costs(replace(CONTEST, cells=tuple(cells)))
    assert adam.endswith("they cost 12 epochs a seed, against 4 of an untuned rule.")


def test_the_sentence_speaks_of_rivals_and_not_of_trials() -> None:
    said = summary.sentence(CONTEST)
    assert "tuned-adam 0.8000" in said
    assert "lr=" not in said


def test_rules_that_train_longer_are_followed_to_four_times_the_epochs() -> None:
    found = plan(replace(ASKED, batch_sizes=(64, 128), rules=("hoffer",), tuned={}))
    assert {run.recipe.batch_size for run in found.runs} == {64}
    (undefined,) = found.undefined
    assert undefined.reason == (
        "mine: batch_size=128: hoffer would train 8 times as long; a study goes to 4 times"
    )
