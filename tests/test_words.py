"""Words: modules begin with the field's noun, and the glossary has each term once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import messages

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src" / "legw").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")

TERMS = """
    base batch, checkpoint, chunk, critical batch size, decay, diverged, effective batch, epoch,
    example, global batch, gradient, gradient accumulation, gradient noise scale, k, lane, learning
    rate, micro-batch, num_examples, other rule, rank, seed, throughput, trust ratio, tuned
    optimizer, update, warmup, world size
""".replace("\n", " ")
"""Terms of section 3 of the design."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_begins_with_one_line(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, "a module has a docstring"
    first, _, rest = text.partition("\n")
    assert len(first) <= 100 and first.endswith("."), first
    assert rest == "" or rest.startswith("\n"), "the first line is one sentence"
    assert not re.match(r"(The|A|An|What|Which|How|Whether|Where|From) ", first), (
        "begin with a noun"
    )


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    found = re.findall(r"^\*\*(.+?)\*\*: ", GLOSSARY, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", GLOSSARY)
    assert 2 * len(found) == text.count("**"), "terms alone are bold"

    assert found == sorted(found, key=str.lower)
    assert len({each.lower() for each in found}) == len(found)
    assert {" ".join(term.split()) for term in TERMS.split(",")} <= set(found)


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=name_of)
def test_no_word_of_our_own_where_the_field_has_one(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?i)\b\w*rivals?\b", text)
    if path.name != "curvature.py" or path.parent.name != "analysis":  # the line of a regression
        assert not re.findall(r"(?i)\bslopes?\b|_slopes?\b", text)
    assert not re.findall(
        r"\bloss (?:is|was) lost\b|\blost runs?\b|\bruns? (?:is|was|were) lost\b", text
    )


LIBRARY = [path for path in MODULES if not {"cli", "adapters"} & set(path.parts)]
"""All but the commands, and what writes the options of others."""


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_messages_of_the_library_name_no_option(path: Path) -> None:
    """Settings go through `errors.setting`, which knows who reads; whole commands may stand."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    texts = [each.value for each in ast.walk(tree)
             if isinstance(each, ast.Constant) and isinstance(each.value, str)
             and id(each) not in docstrings]  # fmt: skip
    told = [text for text in texts if re.search(r"(?<![\w-])--[a-z]", text)]
    assert not [text for text in told if "legw " not in text and "var(--" not in text]


QUESTION = re.compile(r"(?i)(what|how|which|where|why|who|if) ")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_noun_in_place_of_a_question(path: Path) -> None:
    """Arguments, fields and options are described by a noun, with unit and range."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [each.value.value for each in ast.walk(tree)
             if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
             and isinstance(each.value.value, str)]  # fmt: skip
    assert not [text for text in texts if QUESTION.match(text)]
    entries = [entry for text in texts for entry in re.findall(r"(?m)^ +\w+: (.*)$", text)]
    assert not [each for each in entries if QUESTION.match(each) or each.startswith("whether ")]


@pytest.mark.parametrize("path", sorted(messages.FOLDER.rglob("*.txt")), ids=name_of)
def test_every_snapshot_belongs_to_a_test(path: Path) -> None:
    source = messages.TESTS / path.relative_to(messages.FOLDER).with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tests = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    sections = messages.read(path)
    assert {re.split(r"\[|::", name)[0] for name in sections} <= tests
    assert all(sections.values()), "a section has messages"
