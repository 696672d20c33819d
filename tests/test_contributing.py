"""The page on contributing is true: files are where it says, and additions cost what it says."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import small
from folders import BASE, write_study
from legw import in_steps, rules
from legw.analysis import columns, evidence
from legw.analysis.columns import Column
from legw.analysis.frame import to_rows
from legw.apps import APPS
from legw.cli import COMMANDS, commands, main
from legw.decays import Decay
from legw.optimizers import Optimizer
from legw.recipe import read
from legw.recipe.rule import Rule
from legw.report import markdown, page, pictures, plots
from legw.rules import RULES
from legw.runs import records
from legw.study.plan import Study
from legw.train import optim
from train.tasks import Lines

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table in a section of the page, without its head."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    """Return what a cell has in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def found(path: str, name: str) -> Any:
    """Return what a file of the package defines under a name, which may be dotted."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    value: Any = importlib.import_module(f"legw.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    return value


# Where is what ----------------------------------------------------------------------


def test_there_are_enough_questions() -> None:
    assert len(rows("Where is what")) >= 21
    assert [row[0] for row in rows("From a command to the weights' change")] == list("12345678")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (path, name)
        for *_, paths, names in [*rows("Where is what"),
                                 *rows("From a command to the weights' change")]
        for path in code(paths)
        for name in code(names) or [""]
    ],
)  # fmt: skip
def test_files_and_what_they_define_are_there(path: str, name: str) -> None:
    assert (ROOT / "src" / "legw" / path).is_file()
    if name:
        assert found(path, name) is not None


def test_the_walk_goes_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eight functions are called for the first time in this order."""
    monkeypatch.chdir(tmp_path)
    small.narrow(monkeypatch)
    small.write_digits(tmp_path / "mnist")
    walk = [(code(path)[0], code(name)[0])
            for *_, path, name in rows("From a command to the weights' change")]  # fmt: skip
    hops = {found(path, name).__code__: name for path, name in walk}
    called: dict[str, None] = {}

    def look(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code in hops:
            called.setdefault(hops[frame.f_code])

    words = "train mnist-lstm -b 8192 --data mnist --micro-batch-size 640 --device cpu --out run"
    sys.setprofile(look)
    try:
        assert main(words.split()) == 0
    finally:
        sys.setprofile(None)
    assert list(called) == [name for _, name in walk]
    manifest = records.read_manifest("run")
    assert manifest.recipe.lr == pytest.approx(8 * manifest.base.lr)
    assert manifest.recipe.warmup_epochs == pytest.approx(64 * manifest.base.warmup_epochs)


# What one addition costs ------------------------------------------------------------


class Made:
    """Counts definitions and lines while something is added."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch, self.folder = monkeypatch, folder
        self.definitions = self.lines = 0

    def define(self, what: Any) -> Any:
        """Count a class, a function or a constant."""
        self.definitions += 1
        return what

    def file(self, path: Path, text: str) -> None:
        """Write a file, which is one definition."""
        self.definitions += 1
        path.write_text(text, encoding="utf-8")

    def entry(self, known: Any, key: Any, value: Any = None) -> None:
        """Put one more line into a list, or a dictionary, that is there."""
        self.lines += 1
        if isinstance(known, dict):
            self.monkeypatch.setitem(known, key, value)
        else:
            known.append(key)
            self.undo = lambda: known.remove(key)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    counts = Made(monkeypatch, tmp_path)
    yield counts
    getattr(counts, "undo", lambda: None)()


def recipe_file(folder: Path, more: str = "") -> str:
    path = folder / "mine.toml"
    path.write_text(f"batch_size = 16\nlr = 0.1\nepochs = 2\n{more}", encoding="utf-8")
    return str(path)


def add_a_rule(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    rule = made.define(Rule(name="cubic", lr_power=3.0))
    made.entry(RULES, rule.name, rule)
    assert main(["scale", recipe_file(made.folder), "-b", "32", "--rule", "cubic"]) == 0
    assert "lr 0.1 → 0.8" in capsys.readouterr().out
    assert rules.find("cubic") is rule


def add_a_decay(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    @made.define
    @dataclass(frozen=True, kw_only=True)
    class Sudden(Decay):
        kind: ClassVar[str] = "test-sudden"
        at: float = 0.5

        def factor(self, epoch: float, epochs: float) -> float:
            return 1.0 if epoch < self.at * epochs else 0.1

    path = recipe_file(made.folder, 'decay = {kind = "test-sudden", at = 0.75}\n')
    lr = in_steps(read(path), num_examples=32)
    assert [lr(update) for update in range(4)] == pytest.approx([0.1, 0.1, 0.1, 0.01])
    assert main(["scale", path, "-b", "32"]) == 0
    assert "test-sudden" in capsys.readouterr().out


def add_an_optimizer(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    @made.define
    @dataclass(frozen=True, kw_only=True)
    class Signs(Optimizer):
        kind: ClassVar[str] = "test-signs"
        share: float = 1.0

    @made.define
    class SignsInTorch(torch.optim.SGD):
        def __init__(self, params: Any, lr: float, share: float, foreach: Any, fused: Any) -> None:
            super().__init__(params, lr=lr * share)

    made.entry(optim._KINDS, Signs, SignsInTorch)
    made.monkeypatch.syspath_prepend(ROOT / "tests")
    path = recipe_file(made.folder, 'optimizer = {kind = "test-signs", share = 0.5}\n')
    words = f"train train.tasks:Lines --recipe {path} -b 32 --micro-batch-size 32 --device cpu"
    assert main([*words.split(), "--out", "run"]) == 0
    assert records.read_manifest("run").recipe.optimizer == Signs(share=0.5)
    capsys.readouterr()


def add_an_application(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from train.tasks import Lines\n\n\ndef task(name, options):\n    return Lines()\n"
    made.file(made.folder / "my_application.py", text)
    made.monkeypatch.syspath_prepend(made.folder)
    made.entry(APPS, "mine", "my_application")
    words = f"train mine --recipe {recipe_file(made.folder)} --micro-batch-size 16 --device cpu"
    assert main([*words.split(), "--out", "run"]) == 0
    assert records.read_manifest("run").task == Lines().name
    capsys.readouterr()


def a_study(folder: Path) -> list[evidence.Evidence]:
    write_study(folder / "s", Study(task="mine", base=BASE, batch_sizes=(16, 64), seeds=(0,)))
    return evidence.read(folder / "s")


def add_a_column(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.entry(columns.COLUMNS, Column("planned", lambda line: f"{line.cell.total} planned"))
    study = a_study(made.folder)
    assert "| planned |" in markdown.text(study) and "| 1 planned |" in markdown.text(study)
    assert '<th scope="col">planned</th>' in page.text(study)
    assert to_rows(study)[0]["planned"] == "1 planned"


def add_a_chart(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    @made.define
    def seeds(study: evidence.Evidence) -> dict[str, plots.Plot]:
        return {"mine": plots.overview(study)._replace(label="what I drew")}

    made.entry(plots.FURTHER, ("My own chart", seeds))
    study = a_study(made.folder)
    text = page.text(study)
    assert "<h2>My own chart</h2>" in text and 'aria-label="what I drew"' in text
    assert "mine.svg" in [name for name, _ in pictures.files(study, "svg")]


def add_a_command(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    made.file(
        made.folder / "hello.py",
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Options:\n"
        '    """Greet."""\n\n    name: str = "you"\n    """Whom."""\n\n\n'
        'def run(options: Options) -> int:\n    print(f"hello, {options.name}")\n    return 0\n',
    )
    made.monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(made.folder)])
    made.entry(COMMANDS, "hello", "greet")
    assert main(["hello", "--name", "all"]) == 0
    assert capsys.readouterr().out == "hello, all\n"
    assert main(["--help"]) == 0
    assert "greet" in capsys.readouterr().out


ADDITIONS: dict[str, Callable[[Made, pytest.CaptureFixture[str]], None]] = {
    "a rule": add_a_rule,
    "a decay": add_a_decay,
    "an optimizer": add_an_optimizer,
    "an application": add_an_application,
    "a column": add_a_column,
    "a chart": add_a_chart,
    "a command": add_a_command,
}


def test_every_addition_of_the_page_is_counted() -> None:
    assert [row[0] for row in rows("What one addition costs")] == list(ADDITIONS)


@pytest.mark.ci
@pytest.mark.parametrize("what", ADDITIONS)
def test_an_addition_costs_what_the_page_says(
    what: str, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    ADDITIONS[what](made, capsys)
    (said,) = [row[1:3] for row in rows("What one addition costs") if row[0] == what]
    assert [str(made.definitions), str(made.lines)] == said
