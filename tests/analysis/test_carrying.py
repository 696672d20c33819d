"""Predictors of a base's carrying from stored runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from folders import BASE, write_run
from legw.analysis import carrying
from legw.errors import RunError
from legw.optimizers import AdamW
from legw.runs import records
from legw.runs.records import Run
from messages import said

CLIPPED = replace(BASE, clip_norm=1.0)


def run(folder: Path, *, metrics: dict[str, float] | None = None, **given: object) -> Run:
    """Return a run that was written and not trained, with further metrics of its end."""
    found = records.load(write_run(folder, **given))
    if found.summary is None or metrics is None:
        return found
    return replace(found, summary=replace(found.summary, metrics=metrics))


def test_the_means_over_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed=seed, losses=[2.0, 1.0, 0.5 + seed])
    found = carrying.of_folders(tmp_path.iterdir())
    assert (found.lr, found.optimizer) == (0.1, "sgd")
    assert found.train_loss == 1.0  # the last of three losses stands for the last epoch's mean
    assert (found.clipped_share, found.headroom, found.noise_scale) == (None, None, None)
    assert found.held_out_loss is None and found.gap is None  # an accuracy is no loss


def test_the_share_of_clipped_updates(tmp_path: Path) -> None:
    first = run(tmp_path / "a", recipe=CLIPPED, base=CLIPPED)
    norms = [0.5, 1.5, 2.0, 0.9]
    updates = [replace(u, grad_norm=n) for u, n in zip(first.updates, norms, strict=False)]
    second = replace(first, updates=[replace(u, grad_norm=0.1) for u in updates])
    found = carrying.of_runs([replace(first, updates=updates), second])
    assert found.clipped_share == pytest.approx(0.25)  # a half of one seed, none of the other
    adaptive = replace(CLIPPED, optimizer=AdamW())
    third = run(tmp_path / "b", recipe=adaptive, base=adaptive)
    assert carrying.of_runs([third]).clipped_share is None


def test_the_early_loss_is_that_of_the_first_tenth(tmp_path: Path) -> None:
    """The base makes 100 updates: the first ten count, all of them or some, evenly spaced."""
    whole = run(tmp_path / "a", losses=[3.0] * 5 + [1.0] * 5 + [9.0] * 20)
    assert carrying.early_loss(whole) == pytest.approx(2.0)
    some = replace(whole, updates=whole.updates[::2])
    assert carrying.early_loss(some) == pytest.approx((3 * 3 + 2 * 1) / 5)
    assert carrying.early_loss(replace(whole, updates=whole.updates[::3])) is None  # only four
    lost = [replace(row, loss=None) if row.update == 3 else row for row in whole.updates]
    assert carrying.early_loss(replace(whole, updates=lost)) is None
    assert carrying.of_runs([whole]).early_loss == pytest.approx(2.0)


def test_where_a_recipe_is_from_makes_no_other_base(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    second = run(tmp_path / "b", recipe=replace(BASE, source="a book"))
    assert carrying.of_runs([first, second]).lr == BASE.lr


def test_held_out_losses_by_their_source(tmp_path: Path) -> None:
    perplexity = run(tmp_path / "a", metric=math.exp(3.0))
    perplexity = replace(perplexity, manifest=replace(perplexity.manifest, metric="perplexity"))
    assert carrying.held_out_loss(perplexity) == pytest.approx(3.0)
    assert carrying.held_out_loss(perplexity, tokens=20) == pytest.approx(60.0)
    loss = replace(perplexity, manifest=replace(perplexity.manifest, metric="loss"))
    assert carrying.held_out_loss(loss) == pytest.approx(math.exp(3.0))
    own = run(tmp_path / "b", metrics={carrying.HELD_OUT_LOSS: 1.25}, losses=[2.0, 1.0])
    assert carrying.held_out_loss(own) == 1.25
    assert carrying.of_runs([own]).gap == pytest.approx(0.25)


@pytest.mark.parametrize("status", ["diverged", "interrupted", None])
def test_a_run_that_has_not_finished_tells_no_loss(tmp_path: Path, status: None) -> None:
    found = run(tmp_path / "a", status=status, metrics={carrying.HELD_OUT_LOSS: 1.0})
    assert carrying.train_loss(found) is None
    assert carrying.held_out_loss(found) is None


def test_runs_of_two_bases_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", recipe=replace(BASE, lr=0.2))
    with pytest.raises(RunError) as error:
        carrying.of_folders([tmp_path / "a", tmp_path / "b"])
    said(str(error.value))
