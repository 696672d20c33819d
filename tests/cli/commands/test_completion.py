"""`legw completion`: the scripts that shells read, tried in those that are here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from legw.cli import COMMANDS

Legw = Callable[[str], Any]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_knows_all_commands_and_their_options(
    legw: Legw, tmp_path: Path, shell: str
) -> None:
    answer = legw(f"completion {shell}")
    assert (answer.code, answer.err) == (0, "")
    for word in (*COMMANDS, "--batch-size", "--every", "--tolerance"):
        assert word in answer.out
    (tmp_path / "script").write_text(answer.out, encoding="utf-8")
    if shutil.which(shell):
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("legw wa", "watch"),
        ("legw report --tol", "--tolerance"),
        ("legw train x --prec", "--precision"),
    ],
)
def test_bash_completes_what_is_typed(legw: Legw, tmp_path: Path, typed: str, found: str) -> None:
    (tmp_path / "script").write_text(legw("completion bash").out, encoding="utf-8")
    words = typed.split()
    line = (
        f"source {tmp_path / 'script'}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE='{typed}'; COMP_POINT={len(typed)}; "
        "$(complete -p legw | sed 's/.*-F \\([^ ]*\\).*/\\1/') legw; echo \"${COMPREPLY[@]}\""
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": path},
        check=True,
    )
    assert found in done.stdout.split(), done.stdout + done.stderr


def test_an_unknown_shell_is_one_line(legw: Legw) -> None:
    answer = legw("completion tcsh")
    assert answer.code == 2
    assert "'tcsh' is unknown (known: bash, fish, zsh)" in answer.err
