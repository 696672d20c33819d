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


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented_and_on_the_api_page(package: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
            assert re.search(rf"\b{name}\b", page), f"{package}.{name} is not in docs/api.md"


@pytest.mark.parametrize("name", [name for name in public_names() if ".adapters." in name])
def test_every_adapter_is_on_the_api_page(name: str) -> None:
    adapter, thing = name.split(".")[2:]
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = page.split(f"::: legw.adapters.{adapter}\n", 1)[1].split(":::", 1)[0]
    assert re.search(rf"\b{thing}\b", listed), f"{name} is not in docs/api.md"
    source = (ROOT / "src/legw/adapters" / f"{adapter}.py").read_text(encoding="utf-8")
    nodes = {node.name: node for node in ast.parse(source).body if hasattr(node, "name")}
    assert ast.get_docstring(nodes[thing]), name


def test_the_citation_has_the_version() -> None:
    import legw

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {legw.__version__}\n" in text


if __name__ == "__main__":
    API.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
