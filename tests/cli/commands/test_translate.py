"""`legw translate`, on a run that `legw train gnmt-small` has made from small texts."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import write_pairs
from legw.apps.translation.task import SIZES
from legw.apps.translation.text import learn
from legw.cli import main
from legw.train.checkpoint import load_newest, save

Legw = Callable[[str], Any]
TRAIN = (
    "train gnmt-small -b 8 --epochs 30 --warmup-epochs 0.5 --lr 0.02 --device cpu "
    "--micro-batch-size 8 --vocabulary 60 --source en --target de"
)


NARROW = """
from dataclasses import replace
from legw.apps.translation.task import SIZES
SIZES["gnmt-small"] = replace(SIZES["gnmt-small"], hidden_size=64, dropout=0.0)
"""
"""The model of these tests: narrow, and so trained in a few seconds."""


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Iterator[None]:
    """Make the model narrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "gnmt-small", SIZES["gnmt-small"])
        exec(NARROW, {})  # as a process of its own does
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("texts", numbered=False))


@pytest.fixture(scope="module")
def trained(narrow: None, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "translation"
    assert main([*TRAIN.split(), "--data", str(texts), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function that puts bytes on the standard input."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def test_a_line_for_each_line(
    legw: Legw, trained: Path, given: Callable[[bytes], None], tmp_path: Path
) -> None:
    """Empty lines stay empty; the run folder alone is needed, wherever it lies."""
    alone = shutil.copytree(trained, tmp_path / "alone")
    lines = ["a dog sees a cat", "", "  the man ", "a \u6f22 man"]
    outputs = []
    for folder in (trained, alone):
        given("\n".join(lines).encode())
        answer = legw(f"translate {folder} --device cpu")
        assert answer.code == 0
        assert (
            answer.err
            == "note: input: 1 subword is unknown: its characters are not among the subwords\n"
        )
        outputs.append(answer.out.split("\n"))
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == len(lines) + 1
    assert outputs[0][1] == outputs[0][4] == ""
    assert all(outputs[0][at] for at in (0, 2, 3))


def test_many_lines_are_translated_piece_by_piece(
    legw: Legw, trained: Path, given: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = b"a dog\nthe cat runs here and there\na\nbig red man\n\nhere\n"
    given(texts)
    whole = legw(f"translate {trained} --device cpu --beam 2").out
    monkeypatch.setattr("legw.cli.commands.translate.AT_ONCE", 2)
    given(texts)
    assert legw(f"translate {trained} --device cpu --beam 2").out == whole
    assert whole.count("\n") == 6


def test_scores_are_told_with_their_signatures(
    legw: Legw, trained: Path, given: Callable[[bytes], None], texts: Path, tmp_path: Path
) -> None:
    given((texts / "test.en").read_bytes())
    answer = legw(f"translate {trained} --device cpu --reference {texts}/test.de")
    bleu, chrf = answer.err.splitlines()
    summary = json.loads((trained / "summary.json").read_text())["metrics"]
    about = json.loads((trained / "translation.json").read_text())
    assert bleu == f"BLEU {summary['beam_bleu']:.2f} ({about['bleu']})"
    assert chrf == f"chrF {summary['beam_chrf']:.2f} ({about['chrf']})"

    own = tmp_path / "own.de"
    own.write_text(answer.out, encoding="utf-8")
    given((texts / "test.en").read_bytes())
    answer = legw(f"translate {trained} --device cpu --reference {own}")
    assert answer.err.startswith("BLEU 100.00 (")
    assert "chrF 100.00 (" in answer.err


def test_one_beam_is_the_training_metrics_search(
    legw: Legw, trained: Path, given: Callable[[bytes], None], texts: Path
) -> None:
    given((texts / "test.en").read_bytes())
    answer = legw(f"translate {trained} --device cpu --beam 1 --reference {texts}/test.de")
    metric = json.loads((trained / "summary.json").read_text())["metric"]
    assert answer.err.startswith(f"BLEU {metric['value']:.2f} (")


def test_nothing_in_nothing_out(legw: Legw, trained: Path, given: Callable[[bytes], None]) -> None:
    given(b"")
    assert legw(f"translate {trained} --device cpu") == (0, "", "")


def spoiled(what: str, run: Path) -> Path:
    """Return the run, spoiled."""
    newest = load_newest(run, warn=print)
    assert newest is not None
    if what == "no run":
        (run / "manifest.json").unlink()
    elif what == "another task":
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"task": "digits-lstm"}))
    elif what == "no checkpoint":
        for path in run.glob("*.pt"):
            path.unlink()
    elif what == "no subwords":
        (run / "subwords.model").unlink()
    elif what == "damaged subwords":
        (run / "subwords.model").write_bytes(b"\xff\n")
    elif what == "other subwords":
        (run / "subwords.model").write_bytes(learn(["a dog runs", "ein Hund"], 18).content)
    elif what == "another model":
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"task": "gnmt"}))
    elif what == "another run's checkpoint":
        save(run, newest["position"]["updates"], newest | {"model": {"weight": torch.zeros(2)}})
    elif what == "no weights":
        save(run, newest["position"]["updates"], newest | {"model": {}})
    elif what == "lost":
        summary = json.loads((run / "summary.json").read_text())
        lost = {"status": "diverged", "reason": "the loss is not finite", "updates": 12}
        (run / "summary.json").write_text(json.dumps(summary | lost))
    else:
        newest["model"]["classify.bias"][0] = torch.nan
        save(run, newest["position"]["updates"], newest)
    return run


BAD_RUNS = (
    "no run",
    "another task",
    "no checkpoint",
    "no subwords",
    "damaged subwords",
    "other subwords",
    "another model",
    "another run's checkpoint",
    "no weights",
    "lost",
    "diverged",
)


@pytest.mark.parametrize("what", BAD_RUNS)
def test_bad_runs_are_one_line(legw: Legw, run: Path, what: str) -> None:
    spoiled(what, run)
    answer = legw(f"translate {run} --device cpu")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1


def test_damaged_checkpoints_are_told_one_by_one(legw: Legw, run: Path) -> None:
    """That there is one before is said only where there is."""
    newest = load_newest(run, warn=print)
    assert newest is not None
    for path in [save(run, updates, newest) for updates in (998, 999)]:  # all that are kept
        path.write_bytes(b"spoiled")
    answer = legw(f"translate {run} --device cpu")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        "note: checkpoint-000000999.pt: is damaged (BadZipFile); taking the one before",
        "note: checkpoint-000000998.pt: is damaged (BadZipFile)",
        f"legw: {run}: no checkpoint can be read; train it again with another --out, "
        "or give another run",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "--beam 0",
        "--length-penalty -1",
        "--length-penalty 1000",
        "--coverage-penalty nan",
        "--coverage-penalty 1e300",
        "--device tpu9",
        "--reference nowhere.de",
    ],
)
def test_bad_options_are_one_line(
    capsys: pytest.CaptureFixture[str], trained: Path, words: str
) -> None:
    assert main(["translate", str(trained), *words.split()]) == 2
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1)


def test_bad_input_is_one_line(
    legw: Legw, trained: Path, given: Callable[[bytes], None], texts: Path
) -> None:
    given(b"a dog\ncaf\xe9\n")
    answer = legw(f"translate {trained} --device cpu")
    assert answer.code == 2
    given(b"a dog\n")
    answer = legw(f"translate {trained} --device cpu --reference {texts}/test.de")
    assert answer.code == 2


def test_a_reference_of_another_length_is_told_before_any_work(
    legw: Legw,
    trained: Path,
    given: Callable[[bytes], None],
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("legw.cli.commands.translate.AT_ONCE", 2)
    for lines in (39, 41):
        given(b"a dog\n" * lines)
        answer = legw(f"translate {trained} --device cpu --reference {texts}/test.de")
        assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize(
    ("redirected", "line"),
    [
        pytest.param(
            "<&-", "input: cannot be read: it is closed; give it with < FILE", marks=pytest.mark.ci
        ),
        pytest.param(
            "0>{file}",
            "input: cannot be read: [Errno 9] Bad file descriptor; give it with < FILE",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ">&- < {text}",
            "output: cannot be written: it is closed; give it with > FILE",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ">/dev/full < {text}",
            "output: cannot be written: No space left on device; write to another place",
            marks=pytest.mark.ci,
        ),
    ],
)
def test_streams_that_cannot_be_used_are_one_line(
    trained: Path, texts: Path, tmp_path: Path, redirected: str, line: str
) -> None:
    """In a process of its own: at its end Python writes what is left in a stream once more.

    With buffers, as a user's is, whatever the environment of the tests says.
    """
    where = redirected.format(file=tmp_path / "file", text=texts / "test.en")
    code = shlex.quote(f"{NARROW}\nfrom legw.cli import main\nraise SystemExit(main())")
    command = f"{sys.executable} -c {code} translate {trained} --device cpu {where}"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"legw: {line}\n")


def test_bad_texts_are_one_line(
    capsys: pytest.CaptureFixture[str], texts: Path, tmp_path: Path
) -> None:
    given = ["--data", str(texts), "--out", str(tmp_path / "run")]
    assert main([*TRAIN.replace("--target de", "--target fr").split(), *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"legw: {texts}/train.fr[.gz]: is missing; put train, val and test there")
    assert err.count("\n") == 1
