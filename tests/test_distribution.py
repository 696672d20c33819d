"""Wheel and sdist: built, installed where nothing else is, and at work."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import sys
import legw
base = legw.Recipe(batch_size=128, lr=0.1, epochs=25, warmup_epochs=0.1)
assert legw.scale(base, batch_size=8192).warmup_epochs == 6.4
mine = {"per_device_train_batch_size": 8, "learning_rate": 0.1}
assert legw.from_config(mine).recipe.batch_size == 8
assert "torch" not in sys.modules and "site-packages" in legw.__file__
"""


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.ci
def test_a_wheel_made_from_the_sdist_works_in_a_clean_environment(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build not installed; pip install -e '.[dev]'")
    run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= held
    assert {"src/legw/py.typed", "examples/own_loop.py", "tests/test_api.py"} <= held
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "legw/py.typed" in names and "legw/adapters/optax.py" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"legw"}

    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    run(python, "-W", "error", "-c", USE, cwd=tmp_path)
    line = "mnist-lstm: batch 128 → 8192 (k=64, legw)"
    assert line in run(python, "-m", "legw", "scale", "mnist-lstm", "-b", "8192", cwd=tmp_path)
    assert run(python.with_name("legw"), "--version", cwd=tmp_path).startswith("legw ")
    done = subprocess.run(
        [python, "-m", "legw", "train", "digits-lstm", "-b", "512"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("is not installed; pip install 'legw[train]'\n")
