"""The examples that need other libraries, run once: their imports take longer than they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from adapters.test_examples import EXAMPLES, finish, need, start

SCRIPTS = {
    **{f"examples/{name}.py": needs for name, needs in EXAMPLES.items() if "jax" not in needs},
    "tests/adapters/schedulers.py": ("transformers", "accelerate"),
}
"""What is run in forks of one process, and the libraries that it needs."""


@pytest.fixture(scope="session")
def all_outputs() -> dict[str, Any]:
    """Run all scripts whose libraries are installed."""
    paths = [path for path, needs in SCRIPTS.items() if all(map(find_spec, needs))]
    if not paths:
        return {}
    found: dict[str, Any] = json.loads(
        finish(start(["tests/adapters/record.py", "--each", *paths])).splitlines()[-1]
    )
    return found


@pytest.fixture
def output_of(all_outputs: dict[str, Any]) -> Callable[[str], str]:
    """Return a function: name of a script -> what it printed, if it went well."""

    def output(name: str) -> str:
        (needs,) = [needs for path, needs in SCRIPTS.items() if path.endswith(f"/{name}.py")]
        need(*needs)
        found = all_outputs[name]
        assert found["code"] == 0, found["errors"][-3000:]
        text: str = found["out"]
        return text

    return output
