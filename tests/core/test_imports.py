"""`import legw` is light: neither torch nor numpy, and quick."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
TORCH_FREE = [
    *sorted(
        str(path.relative_to(SOURCE).with_suffix("")).replace("/", ".")
        for folder in (".", "runs", "analysis", "report")
        for path in (SOURCE / "legw" / folder).glob("[a-z]*.py")
    ),
    *(f"legw.adapters.{name}" for name in ("configs", "timm_config", "transformers_config")),
    *(f"legw.study.{name}" for name in ("plan", "grid", "baselines", "durations", "watch")),
]
"""The seven files of the idea, three packages, and of two others what needs no torch."""

USE = f"""
import {", ".join(TORCH_FREE)}
from legw import in_steps, scale, updates
base = legw.preset("resnet50-imagenet")
big = scale(base, 32768)
assert in_steps(big)(390) == big.lr and updates(big) == 3519
again = legw.recipe.from_dict(legw.recipe.to_dict(big))
assert again == big and legw.recipe.to_toml(big) and legw.recipe.to_json(big)
"""

CHECK = """
import sys
heavy = {"torch", "numpy"} & {name.partition(".")[0] for name in sys.modules}
sys.exit(f"imported: {sorted(heavy)}" if heavy else 0)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_core_imports_neither_torch_nor_numpy_when_it_is_used() -> None:
    assert {"legw.rules", "legw.runs.records", "legw.report.page"} <= set(TORCH_FREE)
    done = run(USE + CHECK)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heavy", ["torch", "numpy", "torch.nn"])
def test_that_test_can_fail(tmp_path: Path, heavy: str) -> None:
    """The same check reports a core module that imports one of them (here: an empty fake)."""
    package = tmp_path / heavy.partition(".")[0]
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nn.py").touch()
    (tmp_path / "guilty.py").write_text(f"import {heavy}\n", encoding="utf-8")
    done = run(USE + "import guilty\n" + CHECK, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == f"imported: ['{package.name}']"


def test_import_takes_less_than_50_ms(tmp_path: Path) -> None:
    """Median of 5 fresh processes, in CPU time (the wall clock of a shared machine lies).

    The first run writes the bytecode, as an installation does, and is not counted. About
    28 ms on an idle machine; a busy one gets three tries.
    """
    script = """
import time
start = time.process_time()
import legw
print((time.process_time() - start) * 1000)
"""
    environment = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    run(script, **environment)
    medians = (
        statistics.median(float(run(script, **environment).stdout) for _ in range(5))
        for _ in range(3)
    )
    assert any(median < 50 for median in medians)


def test_train_is_imported_on_request_only() -> None:
    done = run("import legw, sys; sys.exit('legw.train' in sys.modules)")
    assert done.returncode == 0


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    import legw

    with pytest.raises(AttributeError, match="module 'legw' has no attribute 'trian'"):
        legw.trian  # noqa: B018


def test_every_public_name_is_there_and_documented() -> None:
    import legw

    assert len(set(legw.__all__)) == len(legw.__all__)
    for name in legw.__all__:
        assert getattr(legw, name).__doc__, name
