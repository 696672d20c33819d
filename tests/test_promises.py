"""The page of promises: each test that it names exists, and none without a figure."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in functions(ROOT / path)


def test_each_promise_has_tests_and_each_test_a_figure() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    promises = [section for section in sections if not section.startswith("Not promised")]
    assert len(promises) == 6 and all("::test_" in section for section in promises)
    for line in PAGE.splitlines():
        if "::test_" in line:
            _, test, figure, _ = line.split("|")
            assert test.strip() and len(figure.strip()) >= 4, line


def test_it_can_be_found() -> None:
    assert "promises.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "promises" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
