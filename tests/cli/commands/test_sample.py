"""`legw sample` and `legw score`, on a run that `legw train ptb-small` has made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from corpora import WORDS, write_texts
from legw import preset
from legw.cli import main
from legw.recipe import to_toml
from legw.runs import records
from legw.train.checkpoint import load_newest, save

Legw = Callable[[str], Any]
TRAIN = "train ptb-small -b 4 --epochs 4 --device cpu --micro-batch-size 4"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"), lines=150)


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "words"
    assert main([*TRAIN.split(), "--data", str(texts), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def sample(folder: Path, *words: str) -> int:
    return main(["sample", str(folder), "--prompt", "the company", *words])


def test_sample_goes_on_from_the_prompt(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in ((), (), ("--seed", "1"), ("--temperature", "0"), ("--temperature", "1e-300")):
        assert sample(trained, "--tokens", "30", *words) == 0
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("the company") and text.endswith("\n") for text in texts)
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4], "a low temperature takes the likeliest word"
    vocabulary = {"<unk>", *WORDS}
    assert set(texts[0].split()) <= vocabulary


def test_sample_writes_so_many_words(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The end of a line counts as a word, and is shown as one."""
    assert sample(trained, "--tokens", "40") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    words, ends = sum(len(line.split()) for line in lines), len(lines) - 1
    assert words + ends in (42, 41), "the prompt's 2 and 40, of which the last may be an end"


def test_unknown_words_in_the_prompt_are_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(trained), "--prompt", "the Zebra of zebra Zebra"]) == 0
    out, err = capsys.readouterr()
    assert err == "note: not in the vocabulary, taken as <unk>: Zebra, of, zebra\n"
    assert out.startswith("the <unk> <unk> <unk> <unk> ")


def test_score_is_the_perplexity_of_the_run(legw: Legw, trained: Path, texts: Path) -> None:
    answer = legw(f"score {trained} {texts}/test.txt --json")
    summary = records.read_summary(trained)
    assert summary is not None
    test = (texts / "test.txt").read_text()
    assert answer.json == {
        "perplexity": pytest.approx(summary.metric["value"]),
        "tokens": sum(len(line.split()) + 1 for line in test.splitlines()),
        "unknown": 0,
    }
    assert summary.metrics["test_perplexity"] == summary.metric["value"]
    assert set(summary.metrics) == {"test_perplexity", "validation_perplexity", "held_out_loss"}
    assert answer.json["perplexity"] < 12, "each of 15 words would be 15"


@pytest.mark.ci
def test_a_run_that_averages_its_weights_is_scored_with_the_average(
    legw: Legw, texts: Path, tmp_path: Path
) -> None:
    recipe = to_toml(replace(preset("ptb-small"), ema_decay=0.9))
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    run = tmp_path / "run"
    words = f"{TRAIN} --recipe {tmp_path}/mine.toml --data {texts} --out {run} --json"
    summary = legw(words).json
    found = legw(f"score {run} {texts}/test.txt --json").json["perplexity"]
    assert found == pytest.approx(summary["metric"]["value"], rel=1e-6)
    assert found != pytest.approx(summary["metrics"]["perplexity_of_last_weights"], rel=1e-3)


def test_score_counts_unknown_words(legw: Legw, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("the zebra bought\nthe company\n")
    answer = legw(f"score {trained} {tmp_path}/letter.txt")
    assert answer.code == 0
    assert answer.out.startswith("perplexity ")
    assert answer.out.endswith(", 7 tokens, 2 of them unknown\n")


def spoiled(what: str, run: Path) -> Path:
    """Return the run folder with something wrong about it."""
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
    elif what == "no vocabulary":
        (run / "vocabulary.txt").unlink()
    elif what == "damaged vocabulary":
        (run / "vocabulary.txt").write_bytes(b"\xff\n")
    elif what == "another vocabulary":
        (run / "vocabulary.txt").write_text("<eos>\n<unk>\n")
    elif what == "lost":
        summary = json.loads((run / "summary.json").read_text())
        lost = {"status": "diverged", "updates": 12, "reason": "the loss is not finite"}
        (run / "summary.json").write_text(json.dumps(summary | lost))
    elif what == "another run's checkpoint":
        save(run, newest["position"]["updates"], newest | {"model": {"weight": torch.ones(2, 2)}})
    else:
        newest["model"]["decode.bias"][0] = torch.nan
        save(run, newest["position"]["updates"], newest)
    return run


BAD_RUNS = (
    "no run",
    "another task",
    "no checkpoint",
    "no vocabulary",
    "damaged vocabulary",
    "another vocabulary",
    "another run's checkpoint",
    "lost",
    "diverged",
)


@pytest.mark.parametrize("what", BAD_RUNS)
def test_bad_runs_are_one_line(legw: Legw, run: Path, what: str, texts: Path) -> None:
    spoiled(what, run)
    for words in (f"sample {run} --prompt the", f"score {run} {texts}/test.txt"):
        answer = legw(words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--prompt", " "],
        ["--tokens", "0"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
    ],
)
def test_bad_options_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(["sample", "nowhere", "--prompt", "a", *words]) == 2


def test_bad_files_are_one_line(legw: Legw, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\n")
    for name in ("missing.txt", "empty.txt", "latin1.txt"):
        answer = legw(f"score {trained} {tmp_path}/{name}")
        assert answer.code == 2


def test_training_on_too_short_a_text_is_one_line(
    capsys: pytest.CaptureFixture[str], texts: Path, tmp_path: Path
) -> None:
    words = ["train", "ptb-small", "-b", "640", "--data", str(texts), "--out", str(tmp_path)]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("legw: ptb-small: batch_size=640: the training text of ")
    assert err.count("\n") == 1


def test_a_vocabulary_limit_at_training(
    capsys: pytest.CaptureFixture[str], texts: Path, tmp_path: Path
) -> None:
    words = ["--data", str(texts), "--out", str(tmp_path / "run"), "--vocabulary", "9"]
    assert main([*TRAIN.split(), *words]) == 0
    assert "vocabulary=9: the 7 rarest of 16 words become <unk>, " in capsys.readouterr().err
    content = load_newest(tmp_path / "run", warn=print)
    assert content is not None
    assert len(content["model"]["decode.bias"]) == 9
