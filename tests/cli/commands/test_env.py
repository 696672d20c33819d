"""`legw env`: what a report of a bug needs, at once, and nothing that is private."""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from legw import __version__
from legw.runs import environment

Legw = Callable[[str], Any]
ROOT = Path(__file__).parents[3]


def test_it_tells_versions_and_machine_in_80_columns(legw: Legw) -> None:
    answer = legw("env")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["legw:", __version__]
    assert f"torch {metadata.version('torch')}" in answer.out
    assert re.search(r"^python: +\w+ 3\.1\d\.\d+$", answer.out, re.MULTILINE)
    assert re.search(r"^processor: .* cores", answer.out, re.MULTILINE)


def test_json_has_the_same(legw: Legw) -> None:
    found = legw("env --json").json
    assert found["versions"]["legw"] == __version__
    assert found["machine"]["cores"] == os.cpu_count()
    assert (
        found["torch"]["version"].partition("+")[0] == metadata.version("torch").partition("+")[0]
    )
    assert found["optional"]["torch"] == metadata.version("torch")


def test_a_missing_package_is_told(legw: Legw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "OPTIONAL", ("numpy", "no-such-package"))
    assert re.search(r"^missing: +no-such-package$", legw("env").out, re.MULTILINE)
    assert legw("env --json").json["optional"]["no-such-package"] is None


def test_every_package_of_an_extra_is_among_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [line for name, lines in extras.items() if name not in ("dev", "docs")
              for line in lines]  # fmt: skip
    names = {re.split(r"[><=\[]", line)[0] for line in listed} - {"legw"}
    assert names <= set(environment.OPTIONAL)
    assert {re.split(r"[><=]", line)[0] for line in project["dependencies"]} == set(
        environment.NEEDED
    )


def test_no_folder_host_person_or_secret_is_told(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    private = {
        "LEGW_DATA": str(tmp_path / "secret"), "XDG_CACHE_HOME": str(tmp_path / "secret-too"),
        "MASTER_ADDR": "secret-host", "WANDB_API_KEY": "secret-key", "PYTHONPATH": "/secret/path",
        "MLFLOW_TRACKING_URI": "https://user:secret@host", "HF_TOKEN": "secret-token",
    }  # fmt: skip
    for name, value in private.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    text, found = legw("env").out, legw("env --json").json
    for each in (text, str(found)):
        assert "secret" not in each and str(Path.home()) not in each and "WANDB_API" not in each
        assert socket.gethostname() not in each.split() and getpass.getuser() not in each.split()
    assert found["folders"]["data (LEGW_DATA)"] == "set, not there"
    assert found["folders"]["cache"] == "set by XDG_CACHE_HOME, not there"
    assert found["variables"]["MASTER_ADDR"] == "(set)"
    assert found["variables"]["OMP_NUM_THREADS"] == "3"


def test_hostile_values_are_shown_as_python_escapes_them(
    legw: Legw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1\x1b[2J\n\u202elegw: all is well")
    text = legw("env").out
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "OMP_NUM_THREADS=1\\x1b[2J\\n\\u202elegw:" in text


def test_gpus_are_those_that_the_driver_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legw: Legw
) -> None:
    for number in (0, 1):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 3{number}\n"
        (tmp_path / "gpus" / str(number) / "information").write_text(text)
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n"
    (tmp_path / "version").write_text(version)
    monkeypatch.setattr(environment, "NVIDIA", tmp_path)
    assert "gpu:              NVIDIA H200, NVIDIA H200, driver 570.86.15\n" in legw("env").out


def test_it_imports_neither_torch_nor_numpy_and_takes_less_than_half_a_second() -> None:
    """In CPU time, with the bytecode there: about 0.15 s on an idle machine."""
    script = """
import sys, time
from legw.cli import main
code = main(["env"])
assert code == 0 and not {"torch", "numpy", "wandb", "mlflow"} & set(sys.modules)
print("\\nseconds", time.process_time())
"""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ
        )
        if float(done.stdout.rpartition("seconds")[2]) < 0.5:
            return
    raise AssertionError(done.stdout)
