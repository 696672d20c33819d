"""`legw report`: one HTML page from a folder of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from legw import evidence, verdict
from legw.cli import inputs, outputs


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make one HTML page from a folder of runs: a study's, or any other.

    The page is one file that needs no network and no server.

    Example: legw report runs/digits-lstm-study
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help_behavior_hint="")]
    """Folder with a study, or with run folders at any depth."""
    out: inputs.File = None
    """The page; FOLDER/report.html if not given."""


def run(options: Options) -> int:
    """Read the folder, write the page, and say in a sentence what it shows."""
    found = evidence.read(options.folder)
    from legw import report

    page = report.page(found)
    path = options.out or str(options.folder / "report.html")
    outputs.write(path, page)
    for one in found:
        outputs.notes(one.problems, to_stderr=False)
        if one.rows:
            outputs.say(f"{one.title}: {verdict.sentence(one.table)}")
    outputs.wrote(path, to_stderr=False)
    return 0
