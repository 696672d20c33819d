"""The newcomer's path: README's commands as printed, in an environment with nothing else in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)

THEIRS = {"per_device_train_batch_size": 32, "learning_rate": 5e-5, "num_train_epochs": 3,
          "warmup_ratio": 0.06, "lr_scheduler_type": "linear"}  # fmt: skip
"""The `training_args.json` that README takes for the reader's own."""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield README's blocks of code with their languages, in order."""
    yield from BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def commands(block: str) -> list[str]:
    """Return a block's commands, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


class Newcomer:
    """Somebody with a checkout, an environment of their own, and a shell.

    Args:
        home: an empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.checkout = home / "legw"
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        for name in filter(None, tracked):
            if (ROOT / name).exists():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                (self.checkout / name).write_bytes((ROOT / name).read_bytes())
        venv.create(home / "env", with_pip=True)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": f"{home / 'env' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home), "COLUMNS": "80", "VIRTUAL_ENV": str(home / "env"),
        }  # fmt: skip
        self.seconds: dict[str, float] = {}

    def run(self, command: str) -> str:
        """Run one command in the checkout and return what it printed."""
        began = time.monotonic()
        done = subprocess.run(
            command, shell=True, cwd=self.checkout, env=self.env, check=False,
            capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        self.seconds[command] = time.monotonic() - began
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout


@pytest.mark.slow
def test_every_command_of_the_readme_works_as_printed(tmp_path: Path) -> None:
    """With no more than README says; `make demo` and `make test` are the ones above all others."""
    newcomer = Newcomer(tmp_path)
    (newcomer.checkout / "training_args.json").write_text(json.dumps(THEIRS))
    told = [block for block in blocks() if "make demo" not in block[1]]
    said = ""
    for language, text in sorted(told, key=lambda block: "pip install" not in block[1]):
        if language == "bash":
            for command in commands(text):
                said = newcomer.run(command)
        elif language == "text":
            assert said.startswith(text)  # what is published of the rule stands below it
        elif language == "toml":
            (newcomer.checkout / "my_recipe.toml").write_text(text)
        elif language == "python":
            (newcomer.checkout / "mine.py").write_text(text)
            newcomer.run("python mine.py")
    print()
    for command, seconds in newcomer.seconds.items():
        print(f"{seconds:8.1f} s  {command}")
    names = ("pip install", "legw scale", "legw probe", "legw plan", "legw demo", "legw study")
    assert all(any(each.startswith(name) for each in newcomer.seconds) for name in names)


def test_the_readme_has_the_commands_that_a_newcomer_needs() -> None:
    """So that the test above, which is slow, is about something."""
    found = [each for language, text in blocks() if language == "bash" for each in commands(text)]
    assert found[:2] == ["make demo", "make test"]
    assert len(found) >= 12
    assert all(each.split()[0] in ("make", "legw", "pip") for each in found)
