"""Studies of a grid at the base batch: what they are, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from folders import BASE
from legw.errors import LegwError
from legw.study import plan as study
from legw.study.base_grid import base_study
from messages import said


def test_a_study_of_the_base_batch_alone_by_validation_data() -> None:
    asked = base_study("mine", BASE, {"lr": (0.1, 0.2), "clip_norm": (None, 1)}, seeds=(0, 3))
    assert (asked.batch_sizes, asked.holdout, asked.seeds) == ((16,), "validation", (0, 3))
    runs = study.plan(asked).runs
    assert len(runs) == 8 and {run.rule for run in runs} == {study.BASE}


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"lr": (0.1,)},
        {"lr": (0.1,), "clip_norm": (1,)},
        {"lr": (0.1, 0.2), "batch_size": (16, 32)},
        {"batch_schedule.sizes": (1, 2)},
        {"rate": (0.1, 0.2)},
        {"lr": (0.1, -1)},
        {"lr": tuple(range(1, 9000)), "epochs": (1, 2)},
    ],
    ids=["none", "one", "one-of-two", "batch", "batch-schedule", "unknown", "negative", "huge"],
)
def test_what_cannot_be(grid: dict[str, Any]) -> None:
    with pytest.raises(LegwError) as error:
        base_study("mine", BASE, grid, seeds=(0, 1))
    said(str(error.value))
