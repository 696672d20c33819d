"""Command `legw report`: folders of runs as one HTML page, as Markdown, or as pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from tyro.conf import Positional, arg

from legw.analysis import evidence, summary
from legw.analysis.verdict import read_tolerance
from legw.cli import output
from legw.cli.options import File, Number
from legw.errors import RunError

if TYPE_CHECKING:
    from legw.analysis.evidence import Evidence

# ruff: noqa: UP045 (as in inputs: tyro reads Optional without importing typeguard)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make one HTML page from folders of runs: of studies, or any other.

    The page is one file that needs no network and no server.

    Example: legw report runs/digits-lstm-study
    """

    folders: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="FOLDER...", help_behavior_hint="")
    ]
    """Folders with a study, or with run folders at any depth."""
    format: Literal["html", "md", "svg", "png"] = "html"
    """One page, its text as Markdown, or its charts, a file each."""
    out: File = None
    """The page, - for stdout; of charts, the folder they go to. FOLDER/report.html (or .md), or
    FOLDER/charts, if not given."""
    target: Number = None
    """The metric that updates, examples and seconds are counted to; what the worst
    run of base and legw ended with, if not given."""
    tolerance: Annotated[Optional[str], arg(metavar="X|X%", help_behavior_hint="")] = None
    """Largest loss against the base that counts as keeping its metric, if not the study's own:
    in the
    metric's unit, or as a share of the base's mean."""


def run(options: Options) -> int:
    """Read the folders, write the report, and print its result in one sentence."""
    if not options.folders:
        raise RunError("report: FOLDER is missing; give the folder of a study or of runs")
    tolerance = options.tolerance or ""
    if options.tolerance is not None:
        read_tolerance(tolerance)
    to_stdout = options.out == "-"
    if to_stdout and options.format in ("svg", "png"):
        raise RunError("--out=-: charts are several files; give a folder")
    found = [
        replace(each, tolerance=tolerance)
        for folder in options.folders
        for each in evidence.read(folder)
    ]
    wrote = _write_charts(options, found) if options.format in ("svg", "png") else []
    if not wrote:
        wrote = [_write_text(options, found)]
    for one in found:
        output.notes(one.problems, to_stderr=to_stdout)
        if one.rows and not to_stdout:
            output.say(f"{one.title}: {summary.sentence(one.table)}")
    for path in () if to_stdout else wrote:
        output.wrote(path, to_stderr=False)
    return 0


def _write_text(options: Options, found: list[Evidence]) -> str:
    from legw.report import markdown, page

    make = markdown.text if options.format == "md" else page.text
    suffix = "md" if options.format == "md" else "html"
    path = options.out or str(options.folders[0] / f"report.{suffix}")
    if path == "-":
        print(make(found, options.target), end="")
    else:
        output.write(path, make(found, options.target))
    return path


def _write_charts(options: Options, found: list[Evidence]) -> list[str]:
    from legw.report import pictures
    from legw.runs import records

    folder = Path(options.out) if options.out else options.folders[0] / "charts"
    if not any(each.runs for each in found):
        raise RunError(f"{options.folders[0]}: has no run that has begun, and so no charts")
    records.create(folder)
    wrote = []
    for name, content in pictures.files(found, options.format, options.target):
        output.write(folder / name, content)
        wrote.append(str(folder / name))
    return wrote
