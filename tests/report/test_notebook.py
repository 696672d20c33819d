"""What a notebook shows: tables and pictures that need no script, and are the same numbers."""

from __future__ import annotations

import base64
import html.parser
import sys
from pathlib import Path
from typing import Any

import pytest

import legw
from expect import error_line
from folders import BASE, write_run, write_study
from legw.analysis.evidence import read
from legw.errors import RunError
from legw.report.notebook import show
from legw.study.plan import Study

ALLOWED = {
    "table": set(), "tr": set(), "th": set(), "td": {"style"}, "b": set(), "br": set(),
    "p": set(), "img": {"alt", "src", "style"},
}  # fmt: skip
"""Elements and attributes that Jupyter, VS Code and GitHub all keep, or can do without."""

ASKED = Study(
    task="mine", base=BASE, batch_sizes=(16, 64, 10**6), rules=("legw", "linear"), seeds=(0, 1),
    grid={"lr": (0.1, 0.2)},
)  # fmt: skip


class Parts(html.parser.HTMLParser):
    """Elements, texts and pictures of what a cell shows; only what is allowed, and all closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert set(dict(attrs)) <= ALLOWED[tag], tag
        if tag == "img":
            kind, _, data = str(dict(attrs)["src"]).partition(",")
            assert kind == "data:image/svg+xml;base64"
            self.pictures.append(base64.b64decode(data).decode())
        elif tag != "br":
            self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parts(value: Any) -> Parts:
    return Parts(value._repr_html_())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path / "s", ASKED)
    return tmp_path / "s"


def test_a_scaled_recipe_stands_beside_its_base_with_the_factors() -> None:
    base = legw.preset("mnist-lstm")
    texts = parts(legw.scale(base, 8192)).texts
    at = texts.index("batch_size")
    assert texts[at : at + 4] == ["batch_size", "128", "8192", "×64"]  # noqa: RUF001
    at = texts.index("lr")
    assert texts[at : at + 4] == ["lr", "0.1", "0.8", "×8"]  # noqa: RUF001
    alone = parts(base).texts
    assert "recipe" in alone and "scaled" not in alone
    assert parts(legw.ladder(base, [8192])[0]).texts == texts


def test_a_study_shows_its_grid_and_the_number_of_its_runs() -> None:
    texts = parts(ASKED).texts
    assert texts[0] == "study of mine"
    assert texts[texts.index("runs") + 1] == "16"
    assert texts[texts.index("varied") + 1] == "lr: 0.1, 0.2"
    assert "legw would warm up" in texts[texts.index("undefined") + 1]
    assert texts[texts.index("batch_size") + 1] == "16"


def test_evidence_and_its_table_show_what_the_report_says(folder: Path) -> None:
    [one] = read(folder)
    texts = parts(one).texts
    assert texts[0] == "mine"
    (cell,) = [each for each in one.table.cells if (each.variant, each.rule, each.batch_size)
               == ("lr=0.1", "legw", 64)]  # fmt: skip
    for line in one.table.text(cell):
        assert line in texts
    assert one.table.caption() in texts and one.table.caption() in parts(one.table).texts
    assert [text for text in texts if text.startswith("[1] ")]


@pytest.mark.ci
def test_a_report_has_its_charts_as_pictures(folder: Path) -> None:
    found = parts(show(folder))
    assert len(found.pictures) >= 4
    assert all(picture.startswith("<svg") for picture in found.pictures)
    assert "mine" in found.texts


def test_without_the_charts_packages_the_table_is_still_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    found = parts(show(folder))
    assert not found.pictures
    line = "no charts: vl_convert is not installed; pip install 'legw[report]'"
    assert found.texts[-1] == line


def test_what_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    for number in range(30):
        (tmp_path / f"b{number}").mkdir()
        (tmp_path / f"b{number}" / "manifest.json").write_text("{")
    texts = [text for one in read(tmp_path) for text in parts(one).texts]
    assert len([text for text in texts if text.startswith("note: ")]) == 20
    assert "and 10 notes more" in texts


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    error_line(show, tmp_path, kind=RunError)
