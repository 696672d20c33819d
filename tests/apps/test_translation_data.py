"""Translation's data: texts, subwords, the order of batches, scores, the task in the loop."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from corpora import GERMAN, write_pairs
from expect import error_line
from legw import Adam, Recipe, presets
from legw.apps import Options, find
from legw.apps.translation import SIZES, Size, TranslationTask
from legw.apps.translation import text as texts
from legw.apps.translation.batches import POOL_BATCHES, Pairs, order, padding_share
from legw.apps.translation.bleu import Scorer
from legw.apps.translation.decoding import Search, translate
from legw.apps.translation.model import END, GNMT, UNKNOWN
from legw.apps.translation.text import Subwords, learn, read_corpus, read_lines
from legw.errors import DataError, LegwWarning, RunError
from legw.runs import records
from legw.train import Settings, fit
from legw.train.batches import Batches
from legw.train.checkpoint import load_newest
from legw.train.hardware import peak_memory, reset_peak_memory

TINY = Size(hidden_size=64, num_layers=2, num_subwords=60, most_tokens=30, dropout=0.0,
            table_init=1.0)  # fmt: skip
"""A model small enough for a test."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path)


def corpus(folder: Path, **changes: Any) -> texts.Corpus:
    given: dict[str, Any] = {"num_subwords": 60, "most_tokens": 30}
    return read_corpus(folder, "en", "de", **(given | changes))


# Texts ----------------------------------------------------------------------------------


def test_the_pairs_are_those_of_the_files(folder: Path) -> None:
    found = corpus(folder)
    for language, rows in (("en", found.train.source_MS), ("de", found.train.target_MT[:, 1:])):
        lines = (folder / f"train.{language}").read_text(encoding="utf-8").splitlines()
        sentences = [row[: row.index(END)] for row in rows.tolist()]
        assert found.subwords.decode(sentences) == lines
    assert len(found.test.source) == len(found.validation.target) == 40
    assert set(" ".join(found.test.target).split()) == set(GERMAN.values())


def test_gzip_and_other_names_are_read_too(folder: Path) -> None:
    expected = corpus(folder)
    for language in ("en", "de"):
        plain = folder / f"val.{language}"
        with gzip.open(folder / f"valid.{language}.gz", "wb") as file:
            file.write(plain.read_bytes())
        plain.unlink()
        (folder / f"test.{language}").rename(folder / f"test_2016_flickr.{language}")
    found = corpus(folder)
    assert (found.validation.source, found.test.target) == (
        expected.validation.source,
        expected.test.target,
    )


def test_both_languages_come_from_files_of_one_name(folder: Path) -> None:
    """A file that is there in one language alone is passed over."""
    expected = corpus(folder)
    for language in ("en", "de"):
        shutil.copy(folder / f"test.{language}", folder / f"test_2016_flickr.{language}")
    (folder / "test.de").unlink()
    (folder / "test.en").write_text("a dog\n" * 40)
    found = corpus(folder)
    assert (found.test.source, found.test.target) == (expected.test.source, expected.test.target)
    (folder / "test_2016_flickr.en").unlink()
    error_line(corpus, folder, kind=DataError)


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("\ufeffone\x0b\u2028two \r\n\n  three".encode())
    assert list(read_lines(path)) == ["one\x0b\u2028two", "", "three"]


def test_texts_with_the_line_ends_of_windows_read_as_others(folder: Path) -> None:
    expected = corpus(folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = corpus(folder)
    assert found.subwords.content == expected.subwords.content
    assert found.train.source_MS.equal(expected.train.source_MS)
    assert found.train.target_MT.equal(expected.train.target_MT)
    for part, lines in expected.held_out.items():
        both = found.held_out[part].source, found.held_out[part].target
        assert both == (lines.source, lines.target)


def test_subwords_put_text_together_again() -> None:
    lines = [
        "A man, two dogs: \u201cwalk\u201d!",
        "Ein Mann \u2013 zwei Hunde.",
        "gro\u00df \u00e4rgern 3.5%",
    ]
    subwords = learn(lines * 3, 80)
    assert subwords.decode(subwords.encode(lines)) == lines
    assert Subwords(subwords.content).encode(lines) == subwords.encode(lines)
    assert learn(lines * 3, 80).content == subwords.content, "the same each time"
    assert [UNKNOWN in ids for ids in subwords.encode(["a \u6f22 man", "a man"])] == [True, False]


@pytest.mark.parametrize(
    "count",
    [
        9,
        5000,
    ],
)
def test_subwords_that_cannot_be_learned(count: int) -> None:
    error_line(learn, ["a dog runs", "ein Hund"], count, kind=DataError)


def test_files_of_different_length(folder: Path) -> None:
    with (folder / "val.de").open("a") as file:
        file.write("zu viel\n")
    error_line(corpus, folder, kind=DataError)


def test_empty_lines_are_left_out_and_counted(folder: Path) -> None:
    lines = (folder / "train.de").read_text(encoding="utf-8").splitlines()
    lines[6], lines[10] = "", "  "
    (folder / "train.de").write_text("\n".join(lines), encoding="utf-8")
    with pytest.warns(LegwWarning) as notes:
        found = corpus(folder)
    assert [str(note.message) for note in notes] == [
        f"{folder}/train.en: 2 of 40 pairs have an empty side, the first in line 7; "
        "they are left out"
    ]
    assert len(found.train) == 38


def test_long_lines_are_left_out_and_counted(folder: Path) -> None:
    full = corpus(folder)
    lengths = torch.maximum(full.train.source_lengths_M - 1, full.train.target_lengths_M - 2)
    with pytest.warns(LegwWarning) as notes:
        found = corpus(folder, most_tokens=6)
    kept = int((lengths <= 6).sum())
    assert 0 < len(found.train) == kept < 40
    assert [str(note.message) for note in notes] == [
        f"{folder}/train.en: {40 - kept} of 40 pairs are longer than 6 subwords; they are left out"
    ]
    assert len(found.test.source) == 40, "what is measured stays whole"


def test_lines_that_no_subword_is_in_are_left_out(folder: Path) -> None:
    lines = (folder / "train.en").read_text(encoding="utf-8").splitlines()
    lines[3] = "\u200b"  # no white space to Python, nothing to sentencepiece
    (folder / "train.en").write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.warns(LegwWarning) as notes:
        found = corpus(folder)
    assert len(found.train) == 39
    assert [str(note.message) for note in notes] == [
        f"{folder}/train.en: 1 of 40 pairs have a side of invisible characters alone; "
        "they are left out"
    ]


def test_pairs_of_which_each_has_an_invisible_side(folder: Path) -> None:
    """There is text to learn subwords from, and still nothing to train on."""
    (folder / "train.en").write_text("a dog\n\u200b\n" * 20, encoding="utf-8")
    (folder / "train.de").write_text("\u200b\nein Hund\n" * 20, encoding="utf-8")
    error_line(corpus, folder, num_subwords=15, kind=DataError)


def test_notes_name_the_file_that_is_there(folder: Path) -> None:
    lines = (folder / "train.en").read_text(encoding="utf-8").splitlines()
    lines[2], lines[5], lines[8] = "", "\u200b", "a big red dog and a man sees here"
    with gzip.open(folder / "train.en.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join([*lines, ""]))
    (folder / "train.en").unlink()
    with pytest.warns(LegwWarning) as notes:
        corpus(folder, most_tokens=6)
    said = [str(note.message) for note in notes]
    assert [line.partition(".gz: ")[0] for line in said] == [f"{folder}/train.en"] * 3
    assert ["empty" in said[0], "invisible" in said[1], "longer" in said[2]] == [True] * 3
    with gzip.open(folder / "train.en.gz", "wt", encoding="utf-8") as file:
        file.write("\n" * 40)
    error_line(corpus, folder, kind=DataError)


@pytest.mark.parametrize("line", ["a" * 4193, "\u200b"], ids=["long", "invisible"])
def test_subwords_of_no_text_are_refused(line: str) -> None:
    error_line(texts.learn, [line] * 9, 60, kind=DataError)


def test_the_full_model_reads_texts_of_ones_own(folder: Path) -> None:
    task = find("gnmt", Options(data=folder, vocabulary=60))
    assert isinstance(task, TranslationTask)
    assert (task.name, task.size) == ("gnmt", SIZES["gnmt"])
    assert (len(task.corpus.subwords), task.num_examples(64)) == (60, 40)


@pytest.mark.parametrize("name", ["gnmt", "gnmt-small"])
def test_the_usual_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGW_DATA", str(tmp_path))
    error_line(find, name, kind=DataError)


@pytest.mark.parametrize("option", ["source", "target"])
def test_an_empty_language_is_refused(option: str, folder: Path) -> None:
    options = Options(data=folder, **{option: ""})
    error_line(find, "gnmt-small", options, kind=DataError)


def test_unknown_characters_are_counted(folder: Path) -> None:
    with (folder / "test.en").open("a", encoding="utf-8") as file:
        file.write("a \u6f22\u5b57 dog \u03b1\n")
    with (folder / "test.de").open("a", encoding="utf-8") as file:
        file.write("ein Hund\n")
    with pytest.warns(LegwWarning) as notes:
        corpus(folder)
    assert [str(note.message) for note in notes] == [
        "test en: 2 subwords are unknown: their characters are not among the subwords"
    ]


def test_unknown_characters_of_training_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many lines some are passed over when subwords are learned, and their characters, too."""
    for language, line in (("en", "a \u6f22 dog \u03b1"), ("de", "ein \u6f22")):
        lines = (folder / f"train.{language}").read_text(encoding="utf-8").splitlines()
        lines[7] = line  # of both languages' 80 lines, every second is taken
        (folder / f"train.{language}").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(texts, "MAX_LINES", 40)
    with pytest.warns(LegwWarning) as notes:
        corpus(folder)
    assert [str(note.message) for note in notes] == [
        "train en: 2 subwords are unknown: their characters are not among the subwords",
        "train de: 1 subword is unknown: its characters are not among the subwords",
    ]


@pytest.mark.parametrize("empty", ["", "\u200b"], ids=["empty", "invisible"])
def test_empty_held_out_lines_stay_and_are_counted(folder: Path, empty: str) -> None:
    for name, number in (("val.de", 3), ("test.en", 5), ("test.en", 8)):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        lines[number - 1] = empty
        (folder / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    with pytest.warns(LegwWarning) as notes:
        found = corpus(folder)
    rest = "; they stay in; the translation of an empty line is empty"
    assert [str(note.message) for note in notes] == [
        f"validation: 1 of 40 pairs have an empty side, the first in line 3{rest}",
        f"test: 2 of 40 pairs have an empty side, the first in line 5{rest}",
    ]
    assert len(found.test.source) == 40
    task = TranslationTask("gnmt-small", TINY, found)
    torch.manual_seed(0)  # other weights may have nothing to say to other lines, too
    written = task._translations(task.model().eval())
    assert [at for at, line in enumerate(written, 1) if not line] == [5, 8]


def spoil(folder: Path, what: str) -> None:
    if what == "missing":
        (folder / "train.de").unlink()
    elif what == "empty":
        (folder / "train.en").write_bytes(b"")
    elif what == "latin1":
        (folder / "train.en").write_bytes(b"a dog\ncaf\xe9\n")
    elif what == "cut":
        packed = gzip.compress((folder / "train.en").read_bytes())
        (folder / "train.en").unlink()
        (folder / "train.en.gz").write_bytes(packed[:-20])
    elif what == "all empty":
        (folder / "train.en").write_text("\n" * 40)


@pytest.mark.parametrize(
    "what",
    [
        "missing",
        "empty",
        "latin1",
        "cut",
        "all empty",
    ],
)
def test_bad_files_are_one_line(folder: Path, what: str) -> None:
    spoil(folder, what)
    error_line(corpus, folder, kind=DataError)


def test_nothing_short_enough(folder: Path) -> None:
    error_line(corpus, folder, most_tokens=0, kind=DataError)


@pytest.mark.parametrize(
    "options",
    [
        {"source": "de"},
        {"target": "fr"},
        {"vocabulary": 7},
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any]) -> None:
    given = Options(data=folder, **options)
    error_line(find, "gnmt-small", given, kind=DataError)


def test_options_of_translation_alone() -> None:
    error_line(find, "digits-lstm", Options(source="en"), kind=RunError)


# Order ----------------------------------------------------------------------------------


def lengths(count: int = 5000) -> tuple[Tensor, Tensor]:
    """Return lengths like those of real sentence pairs: source and target are alike."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(count, generator=generator).mul(0.4).add(2.6).exp().ceil().long()
    other = torch.randint(-3, 4, (count,), generator=generator)
    return source, (source + other).clamp(min=2)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1024, 5000, 6000])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_is_every_pair_once(batch_size: int, epoch: int) -> None:
    ids = order(*lengths(), seed=1, epoch=epoch, batch_size=batch_size)
    assert sorted(ids.tolist()) == list(range(5000))


def test_the_order_is_a_function_of_seed_epoch_and_batch_size() -> None:
    def of(seed: int, epoch: int, batch_size: int) -> list[int]:
        return order(*lengths(), seed=seed, epoch=epoch, batch_size=batch_size).tolist()

    assert of(0, 0, 64) == of(0, 0, 64)
    assert len({tuple(of(*which)) for which in ((0, 0, 64), (1, 0, 64), (0, 1, 64))}) == 3


@pytest.mark.parametrize(("batch_size", "digest"), [(64, "13c1d8db4166"), (1024, "a279815e1c48")])
def test_the_order_is_the_one_in_which_published_runs_were_trained(
    batch_size: int, digest: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(2, 40, (29_000,), generator=generator) for _ in range(2))
    ids = [order(source, target, seed=2, epoch=at, batch_size=batch_size) for at in (0, 1, 5)]
    assert hashlib.sha256(torch.cat(ids).numpy().tobytes()).hexdigest()[:12] == digest


@pytest.mark.parametrize("batch_size", [64, 1024])
def test_batches_hold_pairs_of_like_lengths_in_every_epoch(batch_size: int) -> None:
    """Aligned with the updates, though they straddle the epochs: but for the straddlers."""
    source, target = lengths()
    batches = Batches(
        lambda epoch: order(source, target, seed=0, epoch=epoch, batch_size=batch_size),
        5000,
        batch_size,
    )
    spread = []
    for update in range(3 * 5000 // batch_size):
        ids = batches.ids(update)
        if len(set((torch.arange(batch_size) + update * batch_size).div(5000).int().tolist())) > 1:
            continue
        assert (target[ids].diff() <= 0).all(), "the longest first, so micro-batches are tight"
        spread.append(float(target[ids].double().std()))
    share = 0.35 if batch_size == 64 else 0.8
    assert sum(spread) / len(spread) < share * float(target.double().std())


def test_the_longest_pair_comes_first_of_all() -> None:
    """Most of what does not fit into memory fails in the first update, not after hours."""
    source, target = lengths()
    ids = order(source, target, seed=3, epoch=0, batch_size=64)
    assert target[ids[0]] == target.max()
    later = [order(source, target, seed=3, epoch=e, batch_size=64)[0] for e in range(1, 5)]
    assert any(target[at] < target.max() for at in later)


def test_batches_of_a_large_size_differ_little() -> None:
    """A pool has at least eight batches, each with one in eight lengths."""
    source, target = lengths(1024 * POOL_BATCHES)
    ids = order(source, target, seed=0, epoch=0, batch_size=1024)
    means = [float(target[piece].double().mean()) for piece in torch.split(ids, 1024)]
    assert len(set(means)) == POOL_BATCHES


def test_padding_share() -> None:
    source, target = torch.tensor([2, 4, 6]), torch.tensor([3, 3, 5])
    ids = torch.tensor([2, 0, 1])
    share = padding_share(source, target, ids, micro_batch_size=2)
    assert share == pytest.approx(1 - (12 + 11) / ((6 * 2 + 4) + (5 * 2 + 3)))
    assert padding_share(source, target, ids, micro_batch_size=1) == 0
    share = padding_share(source, target, ids, micro_batch_size=2, batch_size=1)
    assert share == 0, "no micro-batch goes over the end of a batch"


@pytest.mark.parametrize(("batch_size", "micro_batch_size"), [(64, 64), (1024, 128), (1024, 64)])
def test_sorting_keeps_padding_below_15_percent(batch_size: int, micro_batch_size: int) -> None:
    source, target = lengths(29_000)
    ids = order(source, target, seed=0, epoch=0, batch_size=batch_size)
    shuffled = order(source, target, seed=0, epoch=0, batch_size=1)
    shares = [
        padding_share(source, target, each, micro_batch_size=micro_batch_size)
        for each in (ids, shuffled[torch.randperm(29_000)])
    ]
    assert shares[0] < 0.15
    assert shares[1] > 0.4


# Scores ---------------------------------------------------------------------------------


def test_scores_are_sacrebleus_with_its_signature() -> None:
    """BLEU of one sentence by hand: 7 of 8 words, 5 of 7, 3 of 6 and 1 of 5 n-grams match."""
    reference = "the quick brown fox jumps over the dog"
    scorer = Scorer([reference])
    score = scorer.score(["the quick brown fox leaps over the dog"])
    assert score.bleu == pytest.approx(100 * (7 / 8 * 5 / 7 * 3 / 6 * 1 / 5) ** 0.25)
    assert 60 < score.chrf < 100
    assert scorer.bleu([reference]) == pytest.approx(100)
    bleu, chrf = score.lines()
    assert bleu.startswith("BLEU 50.00 (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert chrf.startswith(f"chrF {score.chrf:.2f} (nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")


# The task -------------------------------------------------------------------------------


def tiny_task(folder: Path, **changes: Any) -> TranslationTask:
    return TranslationTask("gnmt-small", TINY, corpus(folder), **changes)


def train(task: TranslationTask, out: Path, **changes: Any) -> Any:
    recipe: dict[str, Any] = {"name": "tiny", "batch_size": 4, "lr": 0.02, "epochs": 40,
                              "clip_norm": 5.0, "optimizer": Adam()}  # fmt: skip
    micro = changes.pop("micro_batch_size", 8)
    settings = Settings(micro_batch_size=micro, device="cpu")
    return fit(task, Recipe(**(recipe | changes)), out=out, settings=settings)


@pytest.mark.ci
def test_it_learns_a_few_sentences_by_heart(tmp_path: Path) -> None:
    folder, out = write_pairs(tmp_path, lines=12), tmp_path / "run"
    for language in ("en", "de"):
        shutil.copy(folder / f"train.{language}", folder / f"test.{language}")
    summary = train(tiny_task(folder), out, batch_size=12, lr=0.01, epochs=150)
    run = records.load(out)
    assert summary.metric["name"] == "BLEU"
    assert run.evaluations[0].metric is not None
    assert run.evaluations[0].metric < 10
    assert summary.metric["value"] > 80
    assert summary.metrics["beam_bleu"] > 80
    assert summary.metrics["beam_chrf"] > 80
    assert 1 < summary.metrics["subword_perplexity"] < 1.5
    assert 0 < summary.metrics["padding_share"] < 0.6
    about = json.loads((out / "translation.json").read_text())
    assert (about["source"], about["target"]) == ("en", "de")
    assert about["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert Subwords((out / "subwords.model").read_bytes()).encode(["a dog"])


@pytest.mark.ci
def test_micro_batches_change_nothing(folder: Path, tmp_path: Path) -> None:
    weights = []
    for micro_batch_size in (8, 3, 1):
        out = tmp_path / str(micro_batch_size)
        train(tiny_task(folder), out, micro_batch_size=micro_batch_size, epochs=2, lr=1e-3)
        content = load_newest(out, warn=print)
        assert content is not None
        weights.append(content["model"])
    for name, tensor in weights[0].items():
        for other in weights[1:]:
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_metric_is_that_of_the_held_out_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Its own source is translated, word by word here, and compared with its own target."""
    task = tiny_task(folder, holdout=part)
    subwords, asked = task.corpus.subwords, []

    def by_dictionary(_: Any, sentences: list[list[int]], search: Any = None) -> list[list[int]]:
        lines = subwords.decode(sentences)
        asked.append(lines)
        return subwords.encode([" ".join(GERMAN[word] for word in line.split()) for line in lines])

    module = importlib.import_module("legw.apps.translation.task")
    monkeypatch.setattr(module, "translate", by_dictionary)
    model = task.model().eval()
    assert task.evaluate(model) == pytest.approx(100)
    assert task.final_metrics(model)["beam_bleu"] == pytest.approx(100)
    assert asked == [task.corpus.held_out[part].source] * 2
    other = {"validation": "test", "test": "validation"}[part]
    assert task._scorer.bleu(task.corpus.held_out[other].target) < 50


def test_one_long_line_is_measured_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention holds no more at once than for lines of usual lengths."""
    monkeypatch.setattr("legw.apps.translation.decoding.limit", lambda tokens: 2)
    for language, line in (("en", "a dog " * 300), ("de", "ein Hund " * 300)):
        with (folder / f"test.{language}").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    task = TranslationTask("gnmt-small", replace(TINY, hidden_size=8), corpus(folder))
    model, cells = task.model().eval(), []
    model.attention.register_forward_hook(lambda _, __, out: cells.append(out[1].numel()))
    assert math.isfinite(task.final_metrics(model)["subword_perplexity"])
    assert 100_000 < max(cells) <= 320_000


def test_the_fingerprint_is_of_all_data(folder: Path, tmp_path: Path) -> None:
    first = tiny_task(folder).fingerprint()
    assert tiny_task(folder, holdout="validation").fingerprint() == f"{first}-validation"
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    lines = (other / "test.de").read_text(encoding="utf-8").splitlines()
    (other / "test.de").write_text("\n".join(["hier", *lines[1:]]) + "\n", encoding="utf-8")
    assert tiny_task(other).fingerprint() != first


def test_the_fingerprint_is_of_pieces_not_of_their_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has sentencepiece's own tables in it, which change with its version."""
    task = tiny_task(folder)
    first = task.fingerprint()
    monkeypatch.setattr(task.corpus.subwords, "content", b"of another version")
    assert task.fingerprint() == first
    monkeypatch.setattr(Subwords, "pieces", ["other", "pieces"])
    assert task.fingerprint() != first


def test_sizes() -> None:
    assert (SIZES["gnmt"].hidden_size, SIZES["gnmt"].num_layers) == (1024, 4)
    assert (SIZES["gnmt"].num_subwords, SIZES["gnmt"].most_tokens) == (32_000, 50)
    assert (SIZES["gnmt"].dropout, SIZES["gnmt"].smoothing) == (0.2, 0.1)
    assert SIZES["gnmt-small"].num_subwords <= 8000


def test_pairs_on_a_device_stay_there() -> None:
    pairs = Pairs([[4], [5, 6]], [[7, 8], [9]])
    cpu = torch.device("cpu")
    first = pairs.batch(torch.tensor([1]), cpu)
    assert first.source_BS.tolist() == [[5, 6, END]]
    assert pairs.batch(torch.tensor([0]), cpu).target_BT.tolist() == [[2, 7, 8, END]]
    assert len(pairs._resident) == 1


def test_padding_is_that_of_the_micro_batches_of_training(folder: Path) -> None:
    """What is read beside them, to be timed or probed, changes nothing."""
    task, cpu = tiny_task(folder), torch.device("cpu")
    model = task.model().eval()
    assert "padding_share" not in task.final_metrics(model), "nothing was trained"
    task.begin(3, 12, 5)
    task.batch(task.order(0, 0, 4), cpu)
    train = task.corpus.train
    lengths = train.source_lengths_M, train.target_lengths_M - 1
    first = order(*lengths, seed=3, epoch=0, batch_size=12)
    pieces = [lengths[side][ids] for side in (0, 1) for ids in first.split([5, 5, 2] * 3 + [4])]
    computed = sum(len(piece) * int(piece.max()) for piece in pieces)
    real = sum(int(piece.sum()) for piece in pieces)
    assert task.final_metrics(model)["padding_share"] == pytest.approx(1 - real / computed)


def test_how_bleu_was_measured_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "results"))
    study = tmp_path / "study"
    for run in ("translation", "other", "stopped"):
        (study / "runs" / run).mkdir(parents=True)
        for name in ("manifest.json", "summary.json"):
            (study / "runs" / run / name).write_text("{}")
        (study / "runs" / run / "metrics.jsonl").write_text("")
    (study / "runs" / "stopped" / "summary.json").write_text('{"status": "interrupted"}')
    (study / "runs" / "translation" / "translation.json").write_text('{"bleu": "how"}')
    (study / "table.json").write_text("[]")
    (study / "study.json").write_text('{"command": "legw study --out here"}')
    importlib.import_module("collect").collect(study, tmp_path / "place")
    found = (tmp_path / "place").glob("runs/*/translation.json")
    assert [(path.parent.name, path.read_text()) for path in found] == [
        ("translation", '{"bleu": "how"}')
    ]
    runs = sorted(path.name for path in (tmp_path / "place" / "runs").iterdir())
    assert runs == ["other", "translation"], "a run that was stopped is no evidence"


# The full size --------------------------------------------------------------------------

needs_multi30k = pytest.mark.skipif(
    "LEGW_DATA" not in os.environ, reason="Multi30k is looked for in LEGW_DATA/multi30k"
)


@pytest.mark.ci
@needs_multi30k
def test_multi30k_is_whole_and_little_of_it_is_padding() -> None:
    """29,000 pairs, none left out; under 15 % padding in micro-batches of up to 128."""
    task = find("gnmt-small")
    assert isinstance(task, TranslationTask)
    train = task.corpus.train
    assert len(train) == task.num_examples(64) == presets.GNMT_SMALL.num_examples
    assert len(task.corpus.validation.source) == 1014
    assert len(task.corpus.test.target) == 1000
    lengths = train.source_lengths_M, train.target_lengths_M - 1
    told = {(64, 64): 8.4, (1024, 64): 8.7, (1024, 128): 13.8, (1024, 256): 20.8,
            (1024, 512): 28.5, (1024, 1024): 35.8}  # fmt: skip
    for (batch_size, micro_batch_size), percent in told.items():  # as docs/translation.md has it
        ids = task.order(0, 0, batch_size)
        share = padding_share(
            *lengths, ids, batch_size=batch_size, micro_batch_size=micro_batch_size
        )
        assert 100 * share == pytest.approx(percent, abs=0.06)
    reference = task.corpus.test.target
    pieces = task.corpus.subwords.decode(task.corpus.subwords.encode(reference))
    assert Scorer(reference).bleu(pieces) > 99, "nothing is lost on the way through subwords"


def full_size_update(pairs: Pairs, hidden_size: int) -> tuple[GNMT, float, float]:
    """Make one update of `gnmt` on 64 pairs; return it, and the loss without dropout before and
    after.
    """
    size = replace(SIZES["gnmt"], hidden_size=hidden_size)
    torch.manual_seed(0)
    model = size.model(size.num_subwords)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    batch = pairs.batch(torch.arange(64), torch.device("cpu"))
    count = len(batch.counted_N)

    @torch.no_grad()
    def measured() -> float:
        return float(model.eval()(*batch)) / count

    before = measured()
    (model.train()(*batch) / count).backward()
    optimizer.step()
    return model, before, measured()


@pytest.mark.ci
def test_the_full_model_at_a_reduced_width(folder: Path) -> None:
    """Four layers each, 32,000 subwords: it learns, and what it has learned can be decoded."""
    train = corpus(folder, num_subwords=60).train
    pairs = Pairs(
        [row[: row.index(END)] for row in train.source_MS.tolist()] * 2,
        [row[1 : row.index(END)] for row in train.target_MT.tolist()] * 2,
    )
    model, before, after = full_size_update(pairs, hidden_size=32)
    assert after < before
    assert before == pytest.approx(math.log(32_000), rel=0.01)
    model = model.double()  # after one update many logits are nearly alike
    rows = [*(row[: row.index(END)] for row in train.source_MS[:4].tolist()), []]
    likeliest = translate(model, rows, None)
    assert any(likeliest) and likeliest[-1] == []
    assert translate(model, rows, Search(beam=1)) == likeliest
    assert len(translate(model, rows, Search(beam=3))) == 5


@pytest.mark.slow
@needs_multi30k
def test_the_full_model_updates_on_64_real_pairs_within_24_gib() -> None:
    task = find("gnmt-small", Options(vocabulary=8000))
    assert isinstance(task, TranslationTask)
    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    _, before, after = full_size_update(task.corpus.train, hidden_size=1024)
    assert after < before
    print(f"{peak_memory(cpu) / 2**30:.1f} GiB")
    assert peak_memory(cpu) < 24 * 2**30
