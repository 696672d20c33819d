"""The examples run as they stand, and keep the base batch's quality."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["own_loop", "plain_function"])
def test_an_example_runs(name, capsys) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(before)
    lines = re.findall(r"^batch +(\d+) .* accuracy ([\d.]+)%$", capsys.readouterr().out, re.M)
    assert [batch for batch, _ in lines] == ["16", "256"]
    assert all(float(accuracy) > 95 for _, accuracy in lines)


@pytest.mark.parametrize("name", ["own_loop", "plain_function"])
def test_an_example_can_be_read_at_one_go(name) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60
