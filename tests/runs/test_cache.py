"""Where data are looked for, and where downloads and caches lie: one rule for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from legw.apps import find
from legw.errors import DataError
from legw.runs.cache import cache_folder, data_folder


def test_the_folder_given_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEGW_DATA", raising=False)
    assert data_folder("ptb") is None
    assert data_folder("ptb", Path("mine")) == Path("mine")
    monkeypatch.setenv("LEGW_DATA", "/data")
    assert data_folder("ptb") == Path("/data/ptb")
    assert data_folder("ptb", Path("mine")) == Path("mine")


@pytest.mark.parametrize("below", ["", "elsewhere"])
def test_the_cache_folder_is_the_homes_unless_a_variable_says_another(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / below) if below else "")
    assert cache_folder() == tmp_path / (below or ".cache") / "legw"


@pytest.mark.parametrize(
    ("name", "below"),
    [("mnist-lstm", "MNIST/raw"), ("cifar10-small", "cifar10/cifar-10-batches-py"),
     ("ptb-small", "ptb"), ("gnmt", "wmt16"), ("gnmt-small", "multi30k")],
)  # fmt: skip
def test_every_application_looks_below_the_cache_folder(
    name: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError("no network")

    monkeypatch.delenv("LEGW_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for data in ("MNIST", "CIFAR10"):
        monkeypatch.setattr(f"torchvision.datasets.{data}", refuse)
    with pytest.raises(DataError) as caught:
        find(name)
    assert f"{tmp_path}/legw/{below}" in str(caught.value)
