"""The built site: its pages that are made from the code, and its looks in a browser."""

from __future__ import annotations

import re

import pytest

from docs import commands
from legw.cli import COMMANDS, main

REFERENCE = commands.reference()


def sections() -> dict[str, str]:
    """Return the text of each command's section by its head; shared options are in it."""
    found = {}
    for part in re.split(r"^## ", REFERENCE, flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        found[head] = text
    return {
        head: text.replace(f"[{commands.SHARED}]", found[commands.SHARED])
        for head, text in found.items()
    }


def helps() -> list[str]:
    subcommands = {"probe": ("curvature", "noise")}
    return [
        " ".join([name, sub]).strip() for name in COMMANDS for sub in subcommands.get(name, [""])
    ]


@pytest.mark.parametrize("command", helps())
def test_the_reference_has_every_option_and_default(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # so that a text has one line
    assert main([*command.split(), "--help"]) == 0
    rows = [
        line.strip("│─- ") and line.strip("│ ") for line in capsys.readouterr().out.splitlines()
    ]
    told = re.sub(r"\n(?!-|$)", " ", "\n".join(rows))  # the text of a long name is below it
    section = sections()[f"legw {command}"]

    options = re.findall(r"^(?:(-\w)[^,\n]*, )?(--[a-z][\w-]*)(.*)", told, re.MULTILINE)
    listed = re.findall(r"^- (?:`(-\w)`, )?`(--[a-z][\w-]*)(.*)", section, re.MULTILINE)
    wanted = {(short, name) for short, name, _ in options} - {("-h", "--help")}
    assert {(short, name) for short, name, _ in listed} == wanted
    defaults = {name: re.findall(r"\(default: (.*?)\)", rest) for _, name, rest in options}
    for _, name, rest in listed:
        if (command, name) != ("demo", "--jobs"):  # as many as the machine has cores
            assert re.findall(r"Default: `(.*?)`", rest) == defaults[name], name
    if command != "report":  # which asks for a folder itself
        assert section.count("*Required.*") == told.count("(required)")


def test_the_reference_has_nothing_else() -> None:
    assert set(sections()) == {f"legw {name}" for name in helps()} | {commands.SHARED}
