"""Hostile text in folders and files: no output of any kind lets it through as it is.

What is written into every place that takes text holds escape codes, right-to-left marks, line
breaks with a line that is a lie, and markup; every output is then looked at letter by letter.
"""

from __future__ import annotations

import html
import html.parser
import io
import json
import unicodedata
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import legw
from folders import BASE, write_run, write_study
from legw.analysis import evidence
from legw.analysis.scaled import carry
from legw.cli import commands, main
from legw.cli.commands import watch as watch_command
from legw.errors import clean
from legw.recipe import read, to_toml
from legw.report import pictures
from legw.report.notebook import show
from legw.report.server import Pages
from legw.runs import records
from legw.runs.measurements import Noise, append
from legw.study import watch
from legw.study.plan import Study

LIE = "legw: all is well"
HOSTILE = (
    (
        "a\x1b[2J\x1b]0;title\x07b\x9b31m\u202etxt\u2066\u200f\u2028\x85\r\n"
        f"{LIE}\n| x | <script>alert(1)</script> </script> [red]*`$\x00\ud800"
    )
    .encode("utf-8", "replace")
    .decode()
)  # JSON in a file has no half of a pair
NAME = "run\x1b[31m\u202e\n" + LIE
"""A folder's name: all but what a path cannot hold."""


def assert_clean(text: str, where: str) -> None:
    """See that nothing moves a cursor, turns a line round, or begins a line of its own."""
    for letter in text:
        fine = letter.isprintable() or letter == "\n" or unicodedata.category(letter) == "Zs"
        assert fine, f"{where}: {letter!r} in {text[max(0, text.index(letter) - 60) :][:120]!r}"
    assert not [line for line in text.splitlines() if line.strip().startswith(LIE)], where


class Texts(html.parser.HTMLParser):
    """All that a page holds but its two scripts and its style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.charts: list[Any] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script" or not self._inside.startswith("json")
        kind = dict(attrs).get("type") if tag == "script" else ""
        self._inside = "json" if kind == "application/json" else tag
        self.texts += [value or "" for name, value in attrs if name != "content"]

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.charts.append(json.loads(data))
        elif self._inside not in ("script", "style"):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def strings(value: Any) -> list[str]:
    """Return every text in a value, names of fields too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in strings(each)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study and runs outside of it, in which every text is hostile."""
    base = replace(BASE, source=HOSTILE)
    asked = Study(
        task=HOSTILE, base=base, batch_sizes=(16, 64), rules=("legw",), seeds=(0, 1),
        grid={"source": (HOSTILE, "plain")}, command=HOSTILE, holdout=HOSTILE,
    )  # fmt: skip
    write_study(tmp_path / "all" / "study", asked)
    more: dict[str, Any] = {
        "task": HOSTILE, "metric": HOSTILE, "device": HOSTILE, "data": HOSTILE,
        "environment": {HOSTILE: HOSTILE, "started": HOSTILE, "torch": HOSTILE},
        "notes": (HOSTILE,), "extra": {HOSTILE: HOSTILE}, "precision": HOSTILE,
    }  # fmt: skip
    runs = tmp_path / "all" / "study" / "runs"
    for name, status in ((NAME, "finished"), (f"{NAME}2", "diverged"), (f"{NAME}3", None)):
        made = write_run(runs / name, base=base, recipe=base, status=status, seed=7, **more)  # type: ignore[arg-type]
        path = made / "summary.json"
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            data |= {
                "reason": HOSTILE,
                "metrics": {HOSTILE: 1.0},
                "metric": {"name": HOSTILE, "value": 0.5},
            }
            path.write_text(json.dumps(data), encoding="utf-8")
        with (made / "metrics.jsonl").open("ab") as file:
            file.write(json.dumps({"kind": HOSTILE}).encode() + b"\n\xff\x1b[2J\n")
        append(made, [Noise(update=u, epoch=1.0, trace=2.0, squared_norm=1.0, examples=8)
                      for u in range(40)])  # fmt: skip
    write_run(tmp_path / "all" / "alone" / NAME, base=base, recipe=base, **more)
    broken = tmp_path / "all" / "broken" / NAME
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text(json.dumps({"format": HOSTILE}), encoding="utf-8")
    (broken / "study.json").write_text(json.dumps({HOSTILE: 1}), encoding="utf-8")
    return tmp_path / "all"


def test_the_folder_is_as_hostile_as_it_is_meant_to_be(folder: Path) -> None:
    found = evidence.read(folder)
    assert len(found) >= 3 and sum(len(one.runs) for one in found) >= 11
    assert any(one.title == HOSTILE for one in found)
    assert sum(len(one.problems) for one in found) >= 8


COMMANDS = (
    "report {} --out page.html", "report {} --format md --out page.md", "watch {} --once",
    "scale mnist-lstm -b 8192 --noise {}", "scale hostile.toml -b 64",
    "scale hostile.toml -b 64 --toml -", "scale hostile.toml -b 64 --json",
    "schedule hostile.toml -b 64", "scale nowhere -b 64 --rule {}",
    "train digits-lstm -b 512 --epochs 1 --out {}",
    "train digits-lstm --resume --out {}/alone/" + NAME,
    "study digits-lstm --batch-sizes 16 --out {}/study", "sample {} --prompt a", "score {} {}",
    "report {}/nothing", "train {}", "watch {} --every 0", "recipes", "plan {}", "check {}",
    "probe noise {}", "probe curvature {}/alone/" + NAME, "translate {} nowhere",
    "scale args.json -b 64", "scale args.yaml -b 64 --write new.yaml", "scale bad.yaml -b 64",
    "scale args.json -b 64 --json", "scale bad.py -b 64", "scale hostile.toml --ladder 16:64",
    "schedule args.json -b 64", "report {} --format svg --out pictures",
    "study digits-lstm --recipe hostile.toml --batch-sizes 16,32 --rules legw --seeds 1 --dry-run "
    "--micro-batch-size 16 --out {}/new",
    "tune digits-lstm --recipe hostile.toml --grid lr=0.1,0.2 --seeds 1 --dry-run --out {}/new",
    "tune digits-lstm --grid {}", "tune digits-lstm --grid lr=0.1,0.2 --out {}/study",
)  # fmt: skip
CONFIGURATION = {
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 1e-4,
    "num_train_epochs": 3, "warmup_steps": 0.01, "lr_scheduler_type": HOSTILE, "optim": HOSTILE,
    "run_name": HOSTILE, "deepspeed": HOSTILE, f"{HOSTILE}batch_size": HOSTILE,
    "lr_scheduler_kwargs": {f"{HOSTILE}steps": HOSTILE},
}  # fmt: skip
"""Of Transformers; YAML reads JSON too."""


def test_every_command_is_walked_through() -> None:
    there = {path.stem for path in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert {words.split()[0] for words in COMMANDS} == there - {"demo", "env", "completion"}, (
        "which take no text"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_lets_it_through(
    folder: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = replace(BASE, source=HOSTILE)
    Path("hostile.toml").write_text(to_toml(recipe), encoding="utf-8")
    for name in ("args.json", "args.yaml"):
        Path(name).write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    Path("bad.yaml").write_text("a: [\x1b\u202e", encoding="utf-8")
    Path("bad.py").write_text(f"# {HOSTILE}".replace("\0", "") + "\nx = f(\u202e)", "utf-8")
    if "--out {}/alone" in command:
        (folder / "alone" / NAME / "summary.json").unlink()
    words = [word.replace("{}", str(folder)) for word in command.replace(NAME, "@").split()]
    code = main([word.replace("@", NAME) for word in words])
    out, err = capsys.readouterr()
    assert code in (0, 2) and out + err
    assert_clean(out, command)
    assert_clean(err, command)
    for page in (Path("page.md"), Path("page.html")):
        if page.suffix == ".md" and page.exists():
            assert_clean(page.read_text(encoding="utf-8"), command)
        if page.suffix == ".html" and page.exists():
            parts = Texts(page.read_text(encoding="utf-8"))
            for text in [*parts.texts, *strings(parts.charts)]:
                assert_clean(text.replace(LIE, ""), command)
            assert len(parts.charts) > 4
    if "--toml -" in command:
        Path("again.toml").write_text(out, encoding="utf-8")
        assert read("again.toml").source == HOSTILE


@pytest.mark.ci
def test_charts_and_the_live_table_are_clean(folder: Path) -> None:
    found = [one for one in evidence.read(folder) if one.runs]
    for name, content in pictures.files(found, "svg"):
        assert_clean(html.unescape(content.decode()).replace(LIE, ""), name)
    screen = Console(file=io.StringIO(), width=200, color_system=None)
    screen.print(watch_command.drawn(watch.look(folder), datetime(2026, 1, 1)))
    assert_clean(screen.file.getvalue(), "watch")  # type: ignore[attr-defined]


def test_the_page_that_is_served_is_clean(folder: Path) -> None:
    parts = Texts(Pages(folder).drawn().whole.decode())
    for text in [*parts.texts, *strings(parts.charts)]:
        assert_clean(text.replace(LIE, ""), "served")
    assert [text for text in parts.texts if "runs have ended" in text]


@pytest.mark.ci
def test_a_notebook_shows_it_clean(folder: Path) -> None:
    report = show(folder)
    shown: list[Any] = [report, *report.everything]
    for one in report.everything:
        shown += [one.table, *([one.study] if one.study else [])]
        shown += [run.manifest.recipe for _, run in one.runs]
    base = replace(BASE, source=HOSTILE)
    shown += [
        base,
        legw.scale(base, 64),
        carry(base, 64, legw.Rule(name="<b>&", lr_power=1.0)),
    ]
    assert len(shown) > 20
    for each in shown:
        parts = Texts(each._repr_html_())
        for text in [text for text in parts.texts if not text.startswith("data:image/svg+xml")]:
            assert_clean(text.replace(LIE, ""), type(each).__name__)


def test_files_that_we_write_are_clean_and_say_the_same(folder: Path) -> None:
    place = folder / "alone" / NAME
    before = records.read_manifest(place)
    records.write_manifest(place, before)
    assert records.read_manifest(place) == before
    for path in folder.rglob("manifest.json"):
        if "broken" not in str(path):
            assert_clean(path.read_text(encoding="utf-8"), str(path.name))
    assert_clean((folder / "study" / "study.json").read_text(encoding="utf-8"), "study.json")


@pytest.mark.parametrize(
    "text", ["plain", "中 é ñ Ж", "no\u00a0break", "a\u200db", "\u05d0\u05d1", "🙂"]
)
def test_letters_and_spaces_are_left_alone(text: str) -> None:
    assert clean(text) == text
