"""Grids over recipe fields: texts in, recipes out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expect import error_line
from legw.optimizers import SGD, Adam
from legw.recipe import Recipe
from legw.study import grid
from strategies import recipes

BASE = Recipe(name="mine", batch_size=16, lr=0.1, epochs=10, optimizer=SGD(momentum=0.9))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=0.1,1e-2,3", (0.1, 0.01, 3)),
        ("clip_norm=none,1", (None, 1)),
        ("clip-norm=None", (None,)),
        ("optimizer.nesterov=true,false", (True, False)),
        ("optimizer = adam , sgd", ("adam", "sgd")),
    ],
)
def test_values_are_read_as_what_they_stand_for(text: str, values: tuple[Any, ...]) -> None:
    (found,) = grid.parse([text]).values()
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    "texts",
    [
        ["lr"],
        ["lr="],
        ["=1"],
        ["lr=1,,2"],
        ["lr=1,2,1"],
        ["lr=1,1.0"],
        ["lr=1", "lr=2"],
    ],
)
def test_texts_that_cannot_be_read(texts: list[str]) -> None:
    error_line(grid.parse, texts)


def test_every_combination_is_a_variant() -> None:
    found = grid.variants(BASE, {"lr": (0.1, 0.2), "optimizer.momentum": (0.0, 0.9)})
    assert [name for name, _ in found] == [
        "lr=0.1 optimizer.momentum=0",
        "lr=0.1 optimizer.momentum=0.9",
        "lr=0.2 optimizer.momentum=0",
        "lr=0.2 optimizer.momentum=0.9",
    ]
    assert found[2][1].lr == 0.2
    assert found[2][1].optimizer == SGD(momentum=0.0)
    assert grid.variants(BASE, {}) == [("", BASE)]


def test_a_part_can_be_changed_whole_or_in_a_setting() -> None:
    assert grid.with_field(BASE, "optimizer", "adam").optimizer == Adam()
    assert grid.with_field(BASE, "optimizer.momentum", 0.5).optimizer == SGD(momentum=0.5)
    assert grid.with_field(BASE, "clip_norm", 2.0).clip_norm == 2.0
    assert grid.with_field(grid.with_field(BASE, "clip_norm", 2.0), "clip_norm", None) == BASE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lrr", 1),
        ("lr", -1),
        ("lr", "fast"),
        ("lr.x", 1),
        ("clip_norm.x", 1),
        ("optimizer.momentm", 1),
        ("optimizer", "adm"),
    ],
)
def test_fields_and_values_that_cannot_be(name: str, value: Any) -> None:
    error_line(grid.with_field, BASE, name, value)


@given(recipes())
def test_a_recipe_does_not_differ_from_itself(recipe: Recipe) -> None:
    assert grid.differences(recipe, recipe) == {}


def test_differences_name_fields_of_parts_and_what_is_gone() -> None:
    other = grid.with_field(grid.with_field(BASE, "optimizer", "adam"), "clip_norm", 1)
    assert grid.differences(BASE, other) == {"optimizer": "adam", "clip_norm": 1}
    assert grid.differences(other, BASE) == {
        "optimizer": "sgd",
        "optimizer.momentum": 0.9,
        "clip_norm": None,
    }
    assert grid.differences(BASE, grid.with_field(BASE, "source", "a table")) == {}


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_labels_tell_values_apart(first: float, second: float) -> None:
    same = grid.label({"lr": first}) == grid.label({"lr": second})
    assert same == (first == second)
