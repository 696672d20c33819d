"""Finding commands, exit codes, and every way of failing in one line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import legw as package
from folders import BASE, write_study
from legw import cli
from legw.cli.commands.probe import SUBCOMMANDS
from legw.cli.usage import one_line
from legw.errors import DataError, DivergedError, LegwError, LegwWarning, RunError
from legw.study.plan import Study

Legw = Callable[[str], Any]

FAKE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    \"\"\"A command of a test.\"\"\"
    seed: int = 0
    \"\"\"Any number.\"\"\"

def run(options):
    return act(options)
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], None]:
    """Return a function that makes `legw fake` do something."""

    def install(act: Callable[[Any], int]) -> None:
        (tmp_path / "fake_command.py").write_text(FAKE, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "fake_command", raising=False)
        module = __import__("fake_command")
        module.act = act
        monkeypatch.setitem(sys.modules, "legw.cli.commands.fake", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", "a fake")

    return install


def raises(error: BaseException) -> Callable[[Any], int]:
    def act(_: Any) -> int:
        raise error

    return act


# The overview --------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "--help", "-h", "help"])
def test_without_a_command_there_is_an_overview(legw: Legw, words: str) -> None:
    answer = legw(words)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("usage: legw COMMAND")
    for name, text in cli.COMMANDS.items():
        assert f"  {name:<12}{text}\n" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80


def test_all_commands_of_the_readme_are_there() -> None:
    assert list(cli.COMMANDS) == [
        "recipes",
        "scale",
        "schedule",
        "train",
        "study",
        "tune",
        "probe",
        "check",
        "plan",
        "sample",
        "score",
        "translate",
        "watch",
        "report",
        "env",
        "demo",
        "completion",
    ]


@pytest.mark.parametrize("words", ["--version", "-V"])
def test_version(legw: Legw, words: str) -> None:
    assert legw(words) == (0, f"legw {package.__version__}\n", "")


@pytest.mark.parametrize("name", ["recipes", "scale", "schedule"])
def test_each_command_explains_itself(legw: Legw, name: str) -> None:
    answer = legw(f"{name} --help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: legw {name} ")
    assert max(map(len, answer.out.splitlines())) <= 80


def test_help_of_a_command_is_its_help(legw: Legw) -> None:
    assert legw("help scale") == legw("scale --help")
    assert legw("help scael").err.startswith("legw: command 'scael' is unknown; did you mean")


# The user's mistakes -------------------------------------------------------------


def test_an_unknown_command_names_the_nearest(legw: Legw) -> None:
    assert legw("scael mnist-lstm") == (
        2,
        "",
        "legw: command 'scael' is unknown; did you mean 'scale'? "
        "(known: recipes, scale, schedule, train, study, tune, probe, check, plan, sample, score, "
        "translate, watch, report, env, demo, completion)\n",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scale mnist-lstm --batch-sise 3",
         "unrecognized options: --batch-sise, 3; did you mean '--batch-size'?"),
        ("train mnist-lstm --batch 64",
         "unrecognized options: --batch, 64; did you mean '--batch-size'?"),
        ("scale mnist-lstm once more", "unrecognized options: once, more"),
        ("scale mnist-lstm -b many", "-b/--batch-size: 'many' is no whole number"),
        ("watch . --every often", "--every: 'often' is no number"),
        ("scale mnist-lstm -b", "missing value for argument '-b/--batch-size'"),
        ("train mnist-lstm --precision fp8",
         "--precision: 'fp8' is unknown (known: bf16, fp32)"),
        ("schedule mnist-lstm --to olmo",
         "--to: 'olmo' is unknown; did you mean 'olmo-core'? "
         "(known: levanter, megatron, olmo-core)"),
        ("scale", "missing from legw scale: NAME|FILE"),
        ("study", "missing from legw study: APP, --batch-sizes N,N,..."),
        ("probe", "expected one of {curvature, noise, critical}"),
        ("probe noise mnist-lstm --precision fp8",
         "--precision: 'fp8' is unknown (known: bf16, fp32)"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(legw: Legw, words: str, said: str) -> None:
    command = " ".join(words.split()[: 2 if words.startswith("probe ") else 1])
    assert legw(words) == (2, "", f"legw: {said} (legw {command} --help lists all)\n")


def test_an_unknown_subcommand_is_told_the_known_ones(legw: Legw) -> None:
    said = (
        "legw: probe 'nose' is unknown; did you mean 'noise'? (known: curvature, noise, critical)"
    )
    assert legw("probe nose mnist-lstm") == (2, "", f"{said}\n")
    assert [words for words in SUBCOMMANDS if legw(f"probe {words} --help").code != 0] == []
    assert f"{{{','.join(SUBCOMMANDS)}}}" in legw("probe --help").out


def test_a_box_that_is_laid_out_in_another_way_is_shown_as_it_is() -> None:
    assert one_line("legw: no such option\n", "legw scale") == "legw: no such option"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LegwError("mine: lr=0: must be above 0"), 2),
        (DataError("no data"), 2),
        (RunError("no room"), 2),
        (DivergedError("the loss is not finite"), 3),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    legw: Legw, fake: Any, error: LegwError, code: int
) -> None:
    fake(raises(error))
    assert legw("fake") == (code, "", f"legw: {error}\n")


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [
        (KeyboardInterrupt(), "legw: interrupted\n"),
        (KeyboardInterrupt("go on with --resume"), "legw: go on with --resume\n"),
    ],
)
def test_ctrl_c(legw: Legw, fake: Any, interrupt: BaseException, line: str) -> None:
    fake(raises(interrupt))
    assert legw("fake") == (130, "", line)


def test_a_bug_of_ours_keeps_its_traceback(legw: Legw, fake: Any) -> None:
    fake(raises(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        legw("fake")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch", "legw fake: torch is not installed; pip install 'legw[train]'\n"),
        ("torch.nn", "legw fake: torch is not installed; pip install 'legw[train]'\n"),
        ("numpy", "legw fake: numpy is not installed; pip install 'legw[train]'\n"),
        ("torchvision", "legw fake: torchvision is not installed; pip install 'legw[train]'\n"),
        ("sklearn", "legw fake: scikit-learn is not installed; pip install 'legw[train]'\n"),
        ("altair", "legw fake: altair is not installed; pip install 'legw[report]'\n"),
        (
            "vl_convert",
            "legw fake: vl-convert-python is not installed; pip install 'legw[report]'\n",
        ),
    ],
)
def test_a_missing_extra_is_the_install_command(
    legw: Legw, fake: Any, module: str, line: str
) -> None:
    fake(raises(ModuleNotFoundError(f"No module named {module!r}", name=module)))
    assert legw("fake") == (2, "", line)


def test_another_missing_module_is_a_bug_of_ours(legw: Legw, fake: Any) -> None:
    fake(raises(ModuleNotFoundError("No module named 'typo'", name="typo")))
    with pytest.raises(ModuleNotFoundError, match="typo"):
        legw("fake")


# What else main takes care of ----------------------------------------------------


def test_the_command_gets_its_options_and_gives_the_exit_code(legw: Legw, fake: Any) -> None:
    fake(lambda options: int(options.seed))
    assert legw("fake --seed 7").code == 7


def test_a_legw_warning_is_a_note(legw: Legw, fake: Any) -> None:
    def act(_: Any) -> int:
        for _ in range(2):
            warnings.warn("mine: look again", LegwWarning, stacklevel=1)
        return 0

    fake(act)
    assert legw("fake") == (0, "", "note: mine: look again\nnote: mine: look again\n")


def test_other_warnings_are_left_alone(legw: Legw, fake: Any) -> None:
    def act(_: Any) -> int:
        warnings.warn("not ours", FutureWarning, stacklevel=1)
        return 0

    fake(act)
    with pytest.raises(FutureWarning, match="not ours"):  # pytest makes errors of warnings
        legw("fake")


# As a process --------------------------------------------------------------------


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        f"'{sys.executable}' -m legw {words}",
        shell=True,
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return shell(shlex.join(words), **environment)


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["scale", "none", "-b", "8"], 2), (["nothing"], 2)]
)
def test_the_process_has_the_exit_code(words: list[str], code: int) -> None:
    done = process(*words)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_reader_who_leaves_is_no_error() -> None:
    script = f"'{sys.executable}' -m legw recipes --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


FULL = "output: cannot be written: No space left on device; write to another place"
CLOSED = "output: cannot be written: it is closed; give it with > FILE"


@pytest.mark.parametrize(
    ("words", "where", "unbuffered", "line"),
    [
        ("--help", ">/dev/full", "", FULL),
        ("recipes", ">/dev/full", "", FULL),
        ("recipes", ">/dev/full", "1", FULL),
        ("scale --help", ">&-", "", CLOSED),
    ],
)
def test_output_that_cannot_be_written_is_one_line(
    words: str, where: str, unbuffered: str, line: str
) -> None:
    """In a process of its own: at its end Python writes what is left in a stream once more."""
    done = shell(f"{words} {where}", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"legw: {line}\n")


def test_notes_that_nobody_wants_to_read_are_no_error() -> None:
    done = shell("scale ptb-small -b 640 --rule linear --json 2>&-")
    assert done.returncode == 0 and json.loads(done.stdout)["scaled"]["batch_size"] == 640
    assert shell("scale ptb-small -b 0 2>&-").returncode == 2


def test_a_terminal_without_arrows_gets_question_marks() -> None:
    done = process("scale", "resnet50-imagenet", "-b", "1024", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "batch 512 ? 1024" in done.stdout


# What needs no torch ----------------------------------------------------------------

NO_TORCH = """
import contextlib, io, sys
from legw.cli import COMMANDS, main

for words in WORDS or [[*(["probe", "noise"] if name == "probe" else [name]), "--help"]
                       for name in COMMANDS]:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0, words
    assert "torch" not in sys.modules, words
"""


def start(words: list[list[str]], also: str = "") -> subprocess.CompletedProcess[str]:
    script = NO_TORCH.replace("WORDS", repr(words)) + also
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_help_and_watch_need_no_torch(tmp_path: Path) -> None:
    """Each command's --help, and `legw watch` on a study that has runs."""
    write_study(tmp_path / "s", Study(task="mine", base=BASE, batch_sizes=(16, 64)))
    assert start([]).stderr == ""
    assert start([["watch", str(tmp_path / "s"), "--once"]]).stderr == ""


def test_that_test_can_fail() -> None:
    also = "sys.modules['torch'] = sys\nassert 'torch' not in sys.modules\n"
    assert "AssertionError" in start([["recipes"]], also).stderr


@pytest.mark.parametrize("words", ["train --help", "watch FOLDER --once"])
def test_answers_without_torch_take_half_a_second(tmp_path: Path, words: str) -> None:
    """In CPU time, once the bytecode is written; a busy machine gets three tries."""
    write_study(tmp_path / "s", Study(task="mine", base=BASE, batch_sizes=(16, 64)))
    given = words.replace("FOLDER", str(tmp_path / "s")).split()
    also = "import time, os; print(sum(os.times()[:2]), file=sys.stderr)"
    seconds = [float(start([given], also).stderr) for _ in range(3)]
    assert min(seconds) <= 0.5
