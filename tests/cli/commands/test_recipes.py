"""`legw recipes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from legw.presets import RECIPES
from legw.recipe import from_dict

Legw = Callable[[str], Any]


def test_every_recipe_and_its_source_is_listed_in_80_columns(legw: Legw) -> None:
    code, out, err = legw("recipes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(out.split())
    for name, recipe in RECIPES.items():
        assert sum(line.startswith(f"{name} ") for line in lines) == 2
        assert " ".join(recipe.source.split()[:3]) in text
    assert "…" not in out, "nothing is cut off"


@pytest.mark.parametrize("columns", ["100", "200"])
def test_a_wider_terminal_is_used(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = legw("recipes").out.splitlines()
    assert 80 < max(map(len, lines)) <= int(columns)


def test_a_row_says_what_the_recipe_says(legw: Legw) -> None:
    row = next(line for line in legw("recipes").out.splitlines() if line.startswith("resnet50-i"))
    assert row.split() == ["resnet50-imagenet", "512", "4", "0.15625", "90", "polynomial", "lars"]


def test_json_has_all_fields(legw: Legw) -> None:
    answer = legw("recipes --json")
    assert (answer.code, answer.err) == (0, "")
    assert [from_dict(item) for item in answer.json["recipes"]] == list(RECIPES.values())
