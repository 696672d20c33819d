"""The public names, as a list: one added or removed shows up here, and in the review."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
API = ROOT / "tests" / "golden" / "api.txt"
PACKAGES = ("legw", "legw.train", "legw.probes")
"""Whose `__all__` is public."""
ADAPTERS = ("accelerate", "lightning", "optax", "timm", "transformers")
"""Whose own functions and classes are public; read from the source, as their libraries may
not be installed."""


def public_names() -> list[str]:
    names = [f"{p}.{name}" for p in PACKAGES for name in importlib.import_module(p).__all__]
    for adapter in ADAPTERS:
        source = (ROOT / "src/legw/adapters" / f"{adapter}.py").read_text(encoding="utf-8")
        found = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", source, re.MULTILINE)
        names += [f"legw.adapters.{adapter}.{name}" for name in found]
    from legw.cli import COMMANDS

    return sorted(names) + [f"legw {command}" for command in sorted(COMMANDS)]


def test_no_public_name_comes_or_goes_unnoticed() -> None:
    """Right? Then `python tests/test_api.py` writes the list anew; say so in CHANGELOG.md."""
    assert public_names() == API.read_text(encoding="utf-8").splitlines()


def test_that_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    import legw

    monkeypatch.setattr(legw, "__all__", [*legw.__all__, "unnoticed"])
    with pytest.raises(AssertionError):
        test_no_public_name_comes_or_goes_unnoticed()


PAGES = {
    page.name: re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for page in (ROOT / "docs" / "api").glob("*.md")
}
"""The names that each page of the API renders."""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented_and_on_one_api_page(package: str) -> None:
    rendered = [name for names in PAGES.values() for name in names]
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
            assert rendered.count(f"{package}.{name}") == 1, f"{package}.{name} in docs/api"


@pytest.mark.parametrize("name", [name for name in public_names() if ".adapters." in name])
def test_every_adapter_is_on_the_api_page(name: str) -> None:
    assert name in PAGES["adapters.md"]
    adapter, thing = name.split(".")[2:]
    source = (ROOT / "src/legw/adapters" / f"{adapter}.py").read_text(encoding="utf-8")
    nodes = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
    assert ast.get_docstring(nodes[thing]), name


def test_every_api_page_is_in_the_overview_and_the_menu() -> None:
    overview = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {name for name in PAGES if f"(api/{name})" in overview} == set(PAGES)
    assert {name for name in PAGES if f": api/{name}\n" in menu} == set(PAGES)


def test_the_citation_has_the_version() -> None:
    import legw

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {legw.__version__}\n" in text


if __name__ == "__main__":
    API.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
