"""Notebook view of a report: outcome, table and charts of a folder, within the cell's own HTML.

    from legw.report.notebook import show
    show("runs/digits-lstm-study")

Charts are pictures (SVG as data), so that no script runs and nothing is fetched: the notebook shows
them wherever it is opened, until its output is cleared.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from legw.analysis import evidence
from legw.analysis.evidence import Evidence
from legw.recipe.notebook import paragraph, text
from legw.report import pictures


@dataclass(frozen=True)
class Report:
    """Report of a folder, as the last value of a notebook's cell shows it."""

    everything: tuple[Evidence, ...]
    """The studies in the folder, at least one."""
    target: float | None = None
    """The metric that costs are counted to; None takes the usual one."""

    def _repr_html_(self) -> str:
        """Return outcome, table and charts; without `legw[report]` a line in place of charts."""
        return "".join(self._part(each) for each in self.everything)

    def _part(self, one: Evidence) -> str:
        said = one._repr_html_()
        try:
            drawn = [
                _picture(name, content)
                for name, content in pictures.files([one], "svg", self.target)
            ]
        except ModuleNotFoundError as error:
            if error.name not in ("altair", "vl_convert"):
                raise
            line = f"no charts: {error.name} is not installed; pip install 'legw[report]'"
            return said + paragraph(text(line))
        return said + "".join(drawn)


def show(folder: str | Path, target: float | None = None) -> Report:
    """Return the report of a folder for a notebook.

    Args:
        folder: of a study, or with run folders at any depth.
        target: the metric that costs are counted to; None takes the usual one.

    Raises:
        RunError: the folder is not there, or holds neither runs nor a study.
    """
    return Report(tuple(evidence.read(folder)), target)


def _picture(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    label = text(name.removesuffix(".svg").replace("-", " "))
    return (
        f'<p><img alt="{label}" src="data:image/svg+xml;base64,{data}" '
        'style="max-width:100%;background:#fff"></p>'
    )
