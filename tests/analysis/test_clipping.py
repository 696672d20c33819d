"""How often gradients are clipped, and the note where it acts on the base alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from folders import BASE
from legw import LARS, Adam, Recipe
from legw.analysis.clipping import clipped_share
from legw.analysis.evidence import Evidence
from legw.report.clipped import notes
from legw.report.sections import note_lines
from legw.runs.records import Manifest, Run, Update
from legw.study.plan import Row

CLIPPED = replace(BASE, clip_norm=5.0)


def updates(norms: list[float | None]) -> list[Update]:
    return [
        Update(update=s, epoch=s / 10, loss=1.0, lr=0.1, grad_norm=norm)
        for s, norm in enumerate(norms)
    ]


def run(
    rule: str, batch_size: int, norms: list[float | None], *, variant: str = "", seed: int = 0
) -> tuple[Row, Run]:
    recipe = replace(CLIPPED, batch_size=batch_size)
    row = Row(
        recipe="mine", rule=rule, batch_size=batch_size, seed=seed, metric=0.9, status="finished",
        updates=len(norms), seconds=1.0, variant=variant,
    )  # fmt: skip
    manifest = Manifest(
        rule=rule, seed=seed, base=CLIPPED, recipe=recipe, updates=len(norms), micro_batch_size=16,
        task="mine", num_examples=400,
    )  # fmt: skip
    return row, Run(
        folder=Path(f"{rule}-b{batch_size}"), manifest=manifest, updates=updates(norms),
        evaluations=[], summary=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "norms", "share"),
    [
        (CLIPPED, [4.0, 5.0, 5.1, 6.0], 0.5),
        (CLIPPED, [None, 6.0], 1.0),
        (CLIPPED, [None], None),
        (BASE, [6.0], None),
        (replace(CLIPPED, optimizer=Adam()), [6.0], None),
        (replace(CLIPPED, optimizer=LARS()), [6.0], None),
    ],
)
def test_the_share(recipe: Recipe, norms: list[float | None], share: float | None) -> None:
    assert clipped_share(recipe, updates(norms)) == share


def test_a_larger_batch_that_is_seldom_clipped_is_noted() -> None:
    found = notes([
        run("base", 16, [6.0, 7.0, 8.0, 4.0]),
        run("base", 16, [6.0, 7.0, 8.0, 9.0], seed=1),
        run("legw", 32, [6.0, 7.0, 2.0, 2.0]),
        run("legw", 512, [6.0, 2.0, 2.0, 2.0]),
        run("sqrt", 512, [6.0, 6.0, 6.0, 2.0]),
    ])  # fmt: skip
    assert found == [
        "Batch 512, legw: 25% of the updates are clipped, of the base's 88%: steps grow by less "
        "than the rate"
    ]


def test_the_report_has_the_note() -> None:
    runs = (run("base", 16, [9.0]), run("legw", 64, [1.0]))
    assert note_lines(Evidence(title="mine", folder=Path(), runs=runs)) == notes(runs) != []


def test_each_variant_has_its_own_base() -> None:
    found = notes([
        run("base", 16, [9.0], variant="lr=1"),
        run("base", 16, [1.0], variant="lr=2"),
        run("legw", 64, [1.0], variant="lr=1"),
        run("legw", 64, [1.0], variant="lr=2"),
        run("legw", 64, [1.0], variant="lr=3"),
    ])  # fmt: skip
    assert found == [
        "Batch 64, legw lr=1: 0% of the updates are clipped, of the base's 100%: steps grow by "
        "less than the rate"
    ]


def test_a_base_that_is_seldom_clipped_is_no_cause() -> None:
    assert not notes([run("base", 16, [6.0, 1.0, 1.0]), run("legw", 64, [1.0])])
