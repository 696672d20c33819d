"""Data frame of a study: its table with numbers for numbers, a row a cell or a row a run.

    to_frame("runs/digits-lstm-study")              a row a rule and batch size
    to_frame("runs/digits-lstm-study", by="run")    a row a run

Columns by cell: `study`, then those of `legw.analysis.columns`. By run: `study`, then the fields of
`legw.study.plan.Row`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from legw.analysis import columns, evidence
from legw.analysis.evidence import Evidence
from legw.errors import RunError


def to_frame(
    folder: str | Path | Evidence | Sequence[Evidence], *, by: Literal["cell", "run"] = "cell"
) -> Any:
    """Return the table of a folder's studies as a pandas data frame.

    Args:
        folder: of a study, or with runs at any depth; or what `legw.analysis.evidence.read` read.
        by: "cell" for a row a rule and batch size, with means over seeds; "run" for a row a run.

    Returns:
        A `pandas.DataFrame`; what is not known is None or NaN.

    Raises:
        RunError: pandas is not installed, or the folder holds no runs.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise RunError("to_frame: pandas is not installed; pip install pandas") from None
    return pandas.DataFrame(to_rows(folder, by=by))


def to_rows(
    folder: str | Path | Evidence | Sequence[Evidence], *, by: Literal["cell", "run"] = "cell"
) -> list[dict[str, Any]]:
    """Return the same as plain values, a dictionary a row: for polars, or without any package.

    Args:
        folder: as for `to_frame`.
        by: as for `to_frame`.

    Raises:
        RunError: `by` is neither, or the folder holds no runs.
    """
    if by not in ("cell", "run"):
        raise RunError(f"to_frame: by={by!r}: must be 'cell' or 'run'")
    if isinstance(folder, Evidence):
        everything: Sequence[Evidence] = [folder]
    elif isinstance(folder, str | Path):
        everything = evidence.read(folder)
    else:
        everything = folder
    rows = _cells if by == "cell" else _runs
    return [{"study": one.title, **row} for one in everything for row in rows(one)]


def _cells(one: Evidence) -> Iterator[dict[str, Any]]:
    for line in columns.lines_of(one):
        row: dict[str, Any] = {}
        for column in [columns.VARIANT, *columns.COLUMNS]:
            row |= column.numbers(line)
        yield row


def _runs(one: Evidence) -> Iterator[dict[str, Any]]:
    for row in one.rows:
        yield asdict(row)
