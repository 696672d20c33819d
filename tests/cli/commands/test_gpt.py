"""The transformer by command: trained on words and on subwords, sampled, scored, resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corpora import WORDS, write_texts
from legw.apps.gpt import SIZES
from legw.cli import main
from legw.runs import records

Legw = Callable[[str], Any]
TRAIN = "train gpt-small -b 4 --steps 80 --warmup-steps 5 --lr 0.01 --device cpu"
KINDS = {"words": "", "subwords": "--subwords 60"}


@pytest.fixture(scope="module", autouse=True)
def narrow() -> Any:
    """A width at which a hundred updates take a moment; runs are read with it too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SIZES:
            small = replace(SIZES[name], width=24, num_layers=2, window=16, dropout=0.0)
            patch.setitem(SIZES, name, small)
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"), lines=150)


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for kind, words in KINDS.items():
        more = [*words.split(), "--data", str(texts), "--out", str(folder / kind)]
        assert main([*TRAIN.split(), "--micro-batch-size", "4", *more]) == 0
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_sample_goes_on_from_the_prompt(
    trained: dict[str, Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past the window too, of which it reads the last tokens."""
    written = []
    for words in ((), (), ("--seed", "1"), ("--temperature", "0")):
        line = ["sample", str(trained[kind]), "--prompt", "the company", "--tokens", "60"]
        assert main([*line, *words]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("the company") and out.endswith("\n") and not err
        written.append(out)
    assert written[0] == written[1] != written[2]
    assert written[3].count("\n") > 3
    found = written[3].split()
    assert sum(word in WORDS for word in found) > 0.8 * len(found)
    if kind == "words":
        assert set(found) <= {"<unk>", *WORDS}
    assert main(["sample", str(trained[kind]), "--prompt", "the Ж of", "--tokens", "2"]) == 0
    out, err = capsys.readouterr()
    named = {"words": "Ж, of", "subwords": "Ж"}[kind]
    assert err == f"note: not in the vocabulary, taken as <unk>: {named}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_perplexity_of_the_run(
    legw: Legw, trained: dict[str, Path], texts: Path, kind: str
) -> None:
    answer = legw(f"score {trained[kind]} {texts}/test.txt --json")
    summary = records.read_summary(trained[kind])
    assert summary is not None
    assert answer.json["perplexity"] == pytest.approx(summary.metrics["test_perplexity"])
    assert summary.metrics["test_perplexity"] == summary.metric["value"]
    assert answer.json["unknown"] == 0
    of_words = {"words": "perplexity", "subwords": "word_perplexity"}[kind]
    assert set(answer.json) == {"perplexity", "tokens", "unknown", of_words}
    if kind == "subwords":
        expected = pytest.approx(summary.metrics["test_word_perplexity"])
        assert answer.json["word_perplexity"] == expected
    assert answer.json[of_words] < 6, "each of 15 words would be 15"
    told = legw(f"score {trained[kind]} {texts}/test.txt").out
    also = r" of a subword, [\d.]+ of a word" if kind == "subwords" else ""
    assert re.fullmatch(rf"perplexity [\d.]+{also}, \d+ tokens, 0 of them unknown\n", told)


def test_a_text_of_nothing_visible_has_no_score(
    legw: Legw, trained: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "blank.txt").write_text("\u200b", encoding="utf-8")
    assert legw(f"score {trained['subwords']} {tmp_path}/blank.txt").code == 2


def test_files_of_another_run_are_one_line(
    legw: Legw, trained: dict[str, Path], texts: Path, tmp_path: Path
) -> None:
    """A vocabulary of another size, damaged subwords, none at all."""
    folder = tmp_path / "run"
    for spoil in ("shorter", "damaged", "missing"):
        kind = "words" if spoil == "shorter" else "subwords"
        folder.mkdir(exist_ok=True)
        for file in trained[kind].iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        if spoil == "shorter":
            (folder / "subwords.model").unlink(missing_ok=True)
            (folder / "vocabulary.txt").write_text("<eos>\n<unk>\n")
        elif spoil == "damaged":
            (folder / "subwords.model").write_bytes(b"nothing")
        else:
            (folder / "subwords.model").unlink()
            (folder / "vocabulary.txt").unlink()
        assert legw(f"score {folder} {texts}/test.txt").code == 2


def test_a_run_of_words_does_not_go_on_with_subwords(
    legw: Legw, texts: Path, tmp_path: Path
) -> None:
    line = f"train gpt-small-muon -b 8 --steps 6 --warmup-steps 2 --data {texts} --device cpu"
    line += f" --out {tmp_path}/run --micro-batch-size 3 --lanes 2"
    assert legw(line).code == 0
    assert legw(f"{line} --resume").code == 0
    assert legw(f"{line} --resume --subwords 60").code == 2


@pytest.mark.parametrize("name", ["gpt-small", "gpt-small-muon"])
def test_scaled_and_planned_in_updates(legw: Legw, texts: Path, name: str) -> None:
    """16 times the batch: a 16th of the updates, of which as many are warmup."""
    scaled = legw(f"scale {name} -b 256 --json").json["scaled"]
    assert (scaled["steps"], scaled["warmup_steps"]) == (5448 / 16, 100)
    words = f"--data {texts} --device cpu --micro-batch-size 4"
    found = legw(f"train {name} -b 4 {words} --subwords 60 --dry-run --json").json["estimate"]
    assert found["parameters"] == sum(p.numel() for p in SIZES[name].model(60).parameters())
    assert found["updates"] == 4 * 5448
    groups = [line.partition(":")[0] for line in found["optimizer_groups"]]
    assert groups == (["Muon", "AdamW", "AdamW"] if name == "gpt-small-muon" else [])
    words = f"--seeds 1 --data {texts} --subwords 60 --dry-run --json"
    cells = json.loads(legw(f"study {name} --batch-sizes 16,32 {words}").out)
    assert [(cell["batch_size"], cell["planned_updates"]) for cell in cells] == [
        (16, 5448), (32, 2724),
    ]  # fmt: skip


@pytest.mark.ci
def test_probed_checked_and_weighed(
    legw: Legw, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = f"--data {texts} --device cpu"
    line = f"probe curvature gpt-small {words} --updates 6 --batch-sizes 4,8 --examples 8"
    found = legw(f"{line} --micro-batch-size 4 --method exact --json")
    assert found.code == 0
    found = legw(f"probe noise gpt-small-muon -b 8 {words} --epochs 0.5 --micro-batch-size 4")
    assert found.code == 0
    found = legw(
        f"check gpt-small {words} --updates 12 --batch-sizes 4,8 --examples 8 "
        "--micro-batch-size 4 --json --fixed"
    )
    assert found.code == 0
    assert len(found.json["assumptions"]) == 4
    found = legw(f"plan gpt-small {words} --steps 40 --warmup-steps 2 --batch-sizes 8,16 --json")
    assert found.code == 0
    assert [row["batch_size"] for row in found.json["options"]] == [8, 16]
