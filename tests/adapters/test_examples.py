"""The examples run with the real libraries, and every update has the recipe's rate, in all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from legw import SGD, Polynomial, Recipe, in_steps, scale, updates
from train.launch import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "transformers_trainer": ("transformers", "accelerate"),
    "accelerate_loop": ("accelerate",),
    "lightning_loop": ("lightning",),
    "timm_loop": ("timm",),
    "optax_loop": ("jax", "optax"),
}
"""The examples and the libraries that they need."""

BASE = Recipe(
    name="digits-mlp",
    batch_size=16,
    lr=0.1,
    epochs=20,
    warmup_epochs=0.2,
    decay=Polynomial(power=1),
    optimizer=SGD(momentum=0.9),
)
BIG = scale(BASE, batch_size=256)
LIMIT = 500.0
"""Seconds: an import of some of these takes minutes on a busy machine."""


def need(*libraries: str) -> None:
    """Leave the test out, and say so, if a library is not installed."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; pip install -e '.[dev]'")


def start(words: Sequence[str], **variables: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONWARNINGS": "ignore", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        out, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return out


def rates_of(out: str) -> list[float]:
    rates: list[float] = json.loads(re.findall(r"^rates of \d: (.*)$", out, re.MULTILINE)[0])
    return rates


def check_accuracy(out: str) -> None:
    found = re.findall(r"^batch 256   lr 0\.40   accuracy ([\d.]+)%$", out, re.MULTILINE)
    assert len(found) == 1, out
    assert float(found[0]) > 94


def expected() -> list[float]:
    lr = in_steps(BIG, 1280)
    return [lr(update) for update in range(updates(BIG, 1280))]


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", ["accelerate_loop", "lightning_loop", "timm_loop", "transformers_trainer"]
)
def test_every_update_has_the_recipes_rate(name: str, output_of: Callable[[str], str]) -> None:
    """All libraries, over a whole run: rates that agree with one agree with each other."""
    out = output_of(name)
    assert rates_of(out) == pytest.approx(expected(), rel=1e-6)
    check_accuracy(out)


@pytest.mark.ci
def test_two_processes_step_once_an_update() -> None:
    """Accelerate's own prepared scheduler would be at the end of the run halfway through."""
    need("accelerate")
    port, words = free_port(), ["tests/adapters/record.py", "examples/accelerate_loop.py"]
    ranks = [
        start(
            words, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port, ACCELERATE_USE_CPU="true",
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outs = [finish(rank) for rank in ranks]
    for out in outs:
        assert rates_of(out) == pytest.approx(expected(), rel=1e-6)
    check_accuracy(outs[0])


@pytest.mark.ci
def test_the_example_of_optax_runs() -> None:
    need("jax", "optax")
    check_accuracy(finish(start(["examples/optax_loop.py"])))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_read_at_one_go(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60


def test_the_modules_whose_doctests_are_not_collected_have_none() -> None:
    """They import the libraries above, which each of the test processes would do."""
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    left_out = re.findall(r"--ignore=(\S+\.py)", told)
    assert len(left_out) == len(EXAMPLES)
    for path in left_out:
        assert ">>>" not in (ROOT / path).read_text(encoding="utf-8"), path
