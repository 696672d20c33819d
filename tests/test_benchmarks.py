"""The benchmarks are fair: all sides train the same. And their last line is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import __main__ as bench
from benchmarks import images, optimizers, pairs, plain, rows, words
from benchmarks.ratios import WARM_UP, Ratio, race
from legw import Recipe
from legw.apps.translation import SIZES
from legw.optimizers import LAMB
from legw.runs import records
from legw.train import Settings, Task, fit
from legw.train.batches import derive
from legw.train.microbatch.candidates import Candidate

UPDATES = 5

ROWS = rows.synthetic(examples=100)
ROWS_RECIPE = replace(rows.recipe(20), lr=0.5, clip_norm=0.2)
WORDS = words.synthetic(tokens=2000, num_words=11)
WORDS_RECIPE = replace(words.recipe(10), lr=1.0, clip_norm=1.0)
PAIRS = pairs.synthetic(
    100, replace(SIZES["gnmt-small"], hidden_size=16, num_subwords=50, dropout=0.0)
)
PAIRS_RECIPE = replace(pairs.recipe(20), lr=0.15, clip_norm=0.1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def losses_of_fit(task: Task, recipe: Recipe, out: Path) -> list[float]:
    """Return the losses of our own updates, made in micro-batches."""
    epochs = UPDATES * recipe.batch_size / task.num_examples(recipe.batch_size)
    settings = Settings(micro_batch_size=7, device="cpu")
    fit(task, replace(recipe, epochs=epochs), out=out, settings=settings)
    losses = [row.loss for row in records.load(out).updates]
    assert max(losses) > 1.02 * min(losses), "weights that stay where they are show nothing"
    return losses


def first_model(task: Task) -> nn.Module:
    """Return the model that `fit` begins with."""
    torch.manual_seed(derive(0, "model"))
    return task.model()


def assert_same_losses(other: Iterator[float], expected: list[float]) -> None:
    assert list(islice(other, len(expected))) == pytest.approx(expected, rel=1e-4)


def test_plain_rows_train_the_same(tmp_path: Path) -> None:
    expected = losses_of_fit(ROWS, ROWS_RECIPE, tmp_path)
    given = (ROWS_RECIPE, *ROWS.train, rows.order(ROWS, 20))
    assert_same_losses(plain.train_rows(first_model(ROWS), *given), expected)
    given = (ROWS_RECIPE, *ROWS.train, rows.order(ROWS, 20))
    in_pieces = plain.train_rows_in_pieces(first_model(ROWS), *given, micro_batch_size=7)
    assert_same_losses(in_pieces, expected)


def test_plain_words_train_the_same(tmp_path: Path) -> None:
    expected = losses_of_fit(WORDS, WORDS_RECIPE, tmp_path)
    model = plain.words_from(first_model(WORDS))
    given = (WORDS_RECIPE, WORDS.corpus.train, WORDS.size.window, rows.order(WORDS, 10))
    assert_same_losses(plain.train_words(model, *given), expected)


def test_plain_pairs_train_the_same(tmp_path: Path) -> None:
    expected = losses_of_fit(PAIRS, PAIRS_RECIPE, tmp_path)
    model = plain.pairs_from(first_model(PAIRS))
    batches = rows.order(PAIRS, 20)
    smoothing = PAIRS.size.smoothing
    given = (PAIRS_RECIPE, PAIRS.corpus.train, batches, smoothing)
    assert_same_losses(plain.train_pairs(model, *given), expected)


@pytest.mark.slow
def test_jax_trains_the_same(tmp_path: Path) -> None:
    pytest.importorskip("optax", reason="JAX and optax are installed by make bench")
    from benchmarks import xla

    expected = losses_of_fit(ROWS, ROWS_RECIPE, tmp_path / "rows")
    weights = xla.weights_from(first_model(ROWS))
    given = (ROWS_RECIPE, *ROWS.train, rows.order(ROWS, 20))
    assert_same_losses(xla.train_rows(weights, *given), expected)

    expected = losses_of_fit(WORDS, WORDS_RECIPE, tmp_path / "words")
    weights = xla.weights_from(plain.words_from(first_model(WORDS)))
    given = (WORDS_RECIPE, WORDS.corpus.train, WORDS.size.window, rows.order(WORDS, 10))
    assert_same_losses(xla.train_words(weights, *given), expected)


@pytest.mark.slow
def test_both_ways_to_update_resnet_agree() -> None:
    torch.manual_seed(0)
    updates = [optimizers.Updates(LAMB(), "cpu", foreach) for foreach in (None, False)]
    for update in updates:
        update()
    many, one_by_one = (list(update.model.parameters()) for update in updates)
    assert len(many) == 161
    torch.testing.assert_close(many, one_by_one)


@pytest.mark.parametrize("lanes", [1, 2])
def test_muons_whole_updates_are_those_of_fit(lanes: int, tmp_path: Path) -> None:
    recipe = replace(ROWS_RECIPE, lr=0.02, optimizer=optimizers.MUON)
    expected = losses_of_fit(ROWS, recipe, tmp_path)
    ours = optimizers.WholeUpdates(ROWS, recipe, Candidate(7, lanes), "fp32")
    assert [ours() for _ in expected] == pytest.approx(expected, rel=1e-4)
    ours.close()


def test_an_images_step_is_timed_with_and_without_its_batch() -> None:
    task = images.synthetic(4 * images.BATCH_SIZE)
    shares = list(images.shares_of_a_step(task, bf16=False, rounds=2))
    assert len(shares) == 2
    assert all(0.5 < share < 1 for share in shares), "the pass is nearly all of a step"
    ids = task.order(0, 0, 8)[:8]
    pixels, labels = images.made_batch(task, ids)
    assert torch.equal(labels, task.train[1][ids])
    assert not torch.equal(pixels, task.train[0][ids]), "shifted and mirrored, too"


@pytest.mark.ci
def test_a_race_takes_turns() -> None:
    asked = count()
    other = (float(number) for number in asked)
    ratio = race("name", ROWS, ROWS_RECIPE, other, rounds=3, block=2, floor=0.5)
    assert next(asked) == (WARM_UP + 3) * 2, "as many updates as ours"
    assert len(ratio.values) == 3
    assert min(ratio.values) > 0
    assert ratio.note in ("micro-batch 16", "micro-batch 20"), "what was measured as fastest"


@pytest.mark.parametrize(
    ("ratios", "last", "status"),
    [
        ([Ratio("a", [1.0, 2.0, 3.0], 2.0)], "1 of 1 ratios at or above their floor", 0),
        ([Ratio("a", [1.9, 1.9], 2.0)], "0 of 1 ratios at or above their floor", 1),
        ([Ratio("a", [9.0], 2.0), Ratio("b", [0.1])], "1 of 1 ratios at or above their floor", 0),
        (
            [Ratio("a", [9.0], 2.0), Ratio("b", [0.1], 0.2)],
            "1 of 2 ratios at or above their floor",
            1,
        ),
    ],
)
def test_the_last_line(ratios: list[Ratio], last: str, status: int) -> None:
    assert bench.verdict(ratios) == (last, status)


def test_a_missed_floor_shows() -> None:
    shown = bench.line(Ratio("speed", [1.0, 2.0, 3.0, 4.0, 5.0], 3.5, "micro-batch 128"))
    assert shown.split() == (
        ["speed", "3.000x", "2.000", "-", "4.000", "5", "3.5x", "MISSED;", "micro-batch", "128"]
    )
    assert "MISSED" not in bench.line(Ratio("speed", [1.0]))
