"""The dry run of every shipped recipe under every rule along its ladder: nothing can rot."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from legw import rules, schedule
from legw.cli import tables
from legw.presets import RECIPES
from legw.report.charts import terminal
from legw.study import baselines, preview
from legw.study.plan import BASE, Study, missing_row, plan

RUNGS = 7
"""Batch sizes of a ladder: each twice the one before, up to 64 times the base."""


def studied(name: str) -> Study:
    """Return the study of a recipe under every rule, with a tuned optimizer."""
    base = RECIPES[name]
    sizes = tuple(base.batch_size * 2**rung for rung in range(RUNGS))
    return Study(
        task=name, base=base, batch_sizes=sizes, rules=tuple(rules.RULES),
        tuned=baselines.read([f"adam lr=0.0001,0.001 warmup_{base.unit}=0"]),
    )  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_cell_is_a_run_or_says_why_it_is_none(name: str) -> None:
    asked = studied(name)
    found = plan(asked)
    defined = {(run.rule, run.recipe.batch_size) for run in found.runs}
    undefined = {(cell.rule, cell.batch_size) for cell in found.undefined}
    cells = set(itertools.product(asked.rules, asked.batch_sizes[1:]))
    trials = {cell for cell in defined if baselines.tuned_optimizer(cell[0])}
    assert defined - trials - {(BASE, asked.base.batch_size)} | undefined == cells
    assert not defined & undefined
    assert len(trials) == 2 * (RUNGS - 1)
    assert all(cell.reason.startswith(f"{name}: batch_size=") for cell in found.undefined)


@pytest.mark.parametrize("name", RECIPES)
def test_every_run_has_a_schedule(name: str) -> None:
    for run in plan(studied(name)).runs:
        if run.recipe.epoch_examples is None:  # a text whose tokens are not known beforehand
            continue
        count, lr = schedule.updates(run.recipe), schedule.in_steps(run.recipe)
        warmup = schedule.warmup_updates(run.recipe)
        assert 0 <= warmup < max(count, 1) + 1, run.name
        for update in {0, max(warmup - 1, 0), warmup, count // 2, count - 1}:
            assert 0 <= lr(update) <= run.recipe.lr * (1 + 1e-12), (run.name, update)
        assert lr(0) > 0, run.name


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_dry_run_shows_can_be_shown(name: str) -> None:
    found = plan(studied(name))
    rows = [missing_row(run) for run in found.runs]
    screen = Console(file=io.StringIO(), width=200)
    screen.print(tables.planned(found, rows))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for rule in {run.rule for run in found.runs}:
        assert rule.split()[0] in text
    assert preview.total(found, rows).startswith(f"{len(rows)} runs")
    assert all("\n" not in line for line in preview.cautions(found) + preview.undefined(found))
    terminal.plan_curves(found)
