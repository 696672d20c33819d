"""torch.compile on a CPU: said before it begins, for it takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legw import LegwWarning
from train.runs import train


def test_compiling_on_a_cpu_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []

    def compile_(model: torch.nn.Module) -> None:
        compiled.append(model)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    with pytest.warns(LegwWarning, match=r"^`compile`: on a CPU torch.compile works for minutes"):
        train("lines", tmp_path, updates=2, compile=True)
    assert len(compiled) == 1
