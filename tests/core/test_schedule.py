"""Schedules: the laws of the design, in integers where they are exact; AdaptDL as an oracle."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from expect import error_line, golden, number
from legw import (
    Constant,
    Cosine,
    Decay,
    Exponential,
    Halving,
    Polynomial,
    Recipe,
    Step,
    in_steps,
    lr_at,
    updates,
    warmup_updates,
)
from legw.presets import RECIPES
from legw.rules import HOFFER, LEGW, apply
from legw.schedule import epoch_size
from strategies import recipes

MILLI = 1000
"""Fractional epochs are drawn in thousandths, and sizes as multiples of it: exact integers."""
SIZES = st.integers(1, 10**9)
BATCHES = st.integers(1, 10**6)


def whole(numerator: int, denominator: int) -> int:
    """Return ``ceil(numerator / denominator)`` in integers."""
    return -(-numerator // denominator)


# The number of updates -------------------------------------------------------


@given(SIZES, st.integers(1, 10**8), st.integers(1, 1000))
def test_updates_of_whole_epochs_are_an_integer_ceiling(size: int, batch: int, epochs: int) -> None:
    recipe = Recipe(batch_size=batch, lr=1, epochs=epochs)
    assert updates(recipe, size) == whole(epochs * size, batch)


@given(
    st.integers(1, 10**6).map(MILLI.__mul__), BATCHES, st.integers(2, 10**6), st.integers(1, 10**6)
)
@example(MILLI * 1000, 7, 1100, 300)
@example(984_788_000, 1, 10**6, 519_897)  # in floats 511988326836.00006: rounding beyond 1e-9
def test_updates_of_fractional_epochs_are_an_integer_ceiling(
    size: int, batch: int, epochs: int, warmup: int
) -> None:
    """0.3 epoch of 1000 examples are 300, though 0.3 * 1000 may be 300.00000000000006."""
    assume(warmup < epochs)
    recipe = Recipe(batch_size=batch, lr=1, epochs=epochs / MILLI, warmup_epochs=warmup / MILLI)
    assert updates(recipe, size) == whole(epochs * size // MILLI, batch)
    assert warmup_updates(recipe, size) == whole(warmup * size // MILLI, batch)


def test_the_guard_drops_a_rounding_error_and_nothing_more() -> None:
    def count(epochs: float) -> int:
        return updates(Recipe(batch_size=1, lr=1, epochs=epochs), 1)

    assert (count(3), count(3 + 1e-12), count(3 + 5e-10)) == (3, 3, 3)
    assert (count(3 + 2e-9), count(3.001), count(4 - 1e-12)) == (4, 4, 4)


@pytest.mark.parametrize(
    ("warmup", "count"), [(0, 0), (1e-6, 1), (0.1, 1), (0.125, 1), (0.126, 2), (0.25, 2), (1, 8)]
)
def test_warmup_updates_round_up(warmup: float, count: int) -> None:
    recipe = Recipe(batch_size=100, lr=1, epochs=2, warmup_epochs=warmup)
    assert warmup_updates(recipe, 800) == count


def test_the_last_update_may_straddle_the_end() -> None:
    recipe = Recipe(batch_size=64, lr=1, epochs=1.5)
    assert updates(recipe, 100) == 3
    assert updates(recipe, 43) == 2
    assert updates(recipe, 42) == 1


# The ramp --------------------------------------------------------------------


@given(recipes(decay=Constant()), SIZES, st.data())
def test_the_ramp_is_read_at_the_end_of_the_update(
    recipe: Recipe, size: int, data: st.DataObject
) -> None:
    lr, count = in_steps(recipe, size), warmup_updates(recipe, size)
    assert lr(count) == lr(count + 1) == recipe.lr
    if count == 0:
        return
    assert lr(count - 1) == recipe.lr, "the last warmup update is at the peak"
    assert lr(0) > 0, "no update has rate 0"
    update = data.draw(st.integers(0, count - 1))
    risen = min(1, (update + 1) * recipe.batch_size / (recipe.warmup_epochs * size))
    expected = recipe.warmup_from_lr + (recipe.lr - recipe.warmup_from_lr) * risen
    assert math.isclose(lr(update), expected, rel_tol=1e-12)
    assert lr(max(update - 1, 0)) <= lr(update) <= recipe.lr


@given(recipes(decay=Constant()), SIZES, st.data())
def test_the_published_ramp_is_ours_one_update_later(
    recipe: Recipe, size: int, data: st.DataObject
) -> None:
    update = data.draw(st.integers(0, warmup_updates(recipe, size) + 1))
    ours, published = in_steps(recipe, size), in_steps(recipe, size, ramp="start")
    assert published(update + 1) == ours(update)
    assert published(0) == (recipe.warmup_from_lr if warmup_updates(recipe, size) else recipe.lr)


def test_a_ramp_by_hand() -> None:
    recipe = Recipe(
        batch_size=100, lr=1.0, warmup_from_lr=0.2, epochs=10, warmup_epochs=0.4, decay=Constant()
    )
    assert [lr_at(recipe, s, 1000) for s in range(6)] == pytest.approx([0.4, 0.6, 0.8, 1, 1, 1])
    assert [lr_at(recipe, s, 1000, ramp="start") for s in range(6)] == (
        pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    )


@pytest.mark.parametrize("warmup", [1e-9, 1e-3, 0.05, 0.1])
def test_a_warmup_of_at_most_one_update_starts_at_the_peak(warmup: float) -> None:
    recipe = Recipe(batch_size=100, lr=0.3, warmup_from_lr=0.1, epochs=2, warmup_epochs=warmup)
    assert [lr_at(recipe, s, 1000) for s in range(3)] == [0.3, 0.3, 0.3]


def test_without_warmup_the_first_update_is_at_the_peak_in_both_conventions() -> None:
    recipe = Recipe(batch_size=100, lr=0.3, epochs=2)
    assert lr_at(recipe, 0, 1000) == lr_at(recipe, 0, 1000, ramp="start") == 0.3


@given(st.integers(1, 10**9), st.integers(1, 2**20))
def test_the_peak_is_met_exactly_however_the_floats_fall(size: int, batch: int) -> None:
    recipe = Recipe(batch_size=batch, lr=0.7, warmup_from_lr=0.1, epochs=90, warmup_epochs=6.4)
    assert lr_at(recipe, warmup_updates(recipe, size) - 1, size) == 0.7


# The decay -------------------------------------------------------------------


@st.composite
def boundaries(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Return N, B, an epoch, and an update around the start of that epoch."""
    size = draw(SIZES | st.integers(10**9 - 50, 10**9))
    batch = draw(st.integers(1, 50) | st.integers(1, 10**9))
    epoch = draw(st.integers(1, 1000))
    update = whole(epoch * size, batch) + draw(st.integers(-2, 2))
    return size, batch, epoch, max(update, 0)


@given(boundaries(), st.integers(0, 1000))
@example((10**9, 1, 1000, 10**12 - 1), 0)  # one example before the boundary
@example((10**9, 1, 1000, 10**12), 0)
@example((999_999_999, 7, 999, whole(999 * 999_999_999, 7)), 14)
def test_a_per_epoch_decay_changes_exactly_on_the_boundary(
    place: tuple[int, int, int, int], constant: int
) -> None:
    """In integers: epoch i holds the updates with ``i*N <= s*B < (i+1)*N``."""
    size, batch, _, update = place
    decay = Exponential(rate=0.99, constant_epochs=constant)
    recipe = Recipe(batch_size=batch, lr=1.0, epochs=10**10, decay=decay)
    epoch = update * batch // size
    assert lr_at(recipe, update, size) == 0.99 ** max(epoch + 1 - constant, 0)


@given(boundaries())
@example((10**9, 1, 1000, 10**12 - 1))
def test_a_milestone_is_met_exactly(place: tuple[int, int, int, int]) -> None:
    size, batch, epoch, update = place
    decay = Step(milestones_epochs=(epoch,), rate=0.1)
    recipe = Recipe(batch_size=batch, lr=1.0, epochs=10**10, decay=decay)
    assert lr_at(recipe, update, size) == (0.1 if update * batch >= epoch * size else 1.0)


@given(
    st.tuples(st.integers(1, 10**6).map(MILLI.__mul__), BATCHES),
    st.integers(1, 500_000),
    st.integers(1, 500_000),
    st.integers(-1, 1),
    st.booleans(),
)
@example((MILLI * 1000, 1), 6400, 100, 0, True)  # 6.5 - 6.4 is a little less than 0.1
@example((MILLI * 1000, 1), 6400, 100, -1, True)
def test_where_a_decay_counts_from_is_its_field(
    place: tuple[int, int], warmup: int, milestone: int, offset: int, after_warmup: bool
) -> None:
    """Fractional milestones too are met exactly, counted from epoch 0 or the warmup's end."""
    size, batch = place
    decay = Step(milestones_epochs=(milestone / MILLI,), rate=0.1, after_warmup=after_warmup)
    recipe = Recipe(
        batch_size=batch, lr=1.0, epochs=1001, warmup_epochs=warmup / MILLI, decay=decay
    )
    at = (milestone + (warmup if after_warmup else 0)) * (size // MILLI)
    update = max(whole(at, batch) + offset, warmup_updates(recipe, size))
    assert lr_at(recipe, update, size) == (0.1 if update * batch >= at else 1.0)


def test_decay_from_the_start_and_after_the_warmup_by_hand() -> None:
    def drops(after_warmup: bool) -> list[int]:
        decay = Exponential(rate=0.5, constant_epochs=1, after_warmup=after_warmup)
        recipe = Recipe(batch_size=10, lr=1.0, epochs=4, warmup_epochs=0.5, decay=decay)
        rates = [lr_at(recipe, s, 100) for s in range(40)]
        return [s for s in range(1, 40) if rates[s] < rates[s - 1]]

    assert drops(after_warmup=False) == [10, 20, 30]
    assert drops(after_warmup=True) == [15, 25, 35]


@given(
    recipes(),
    st.floats(0, 1, exclude_max=True),
    SIZES,
    st.sampled_from([Polynomial(power=1), Polynomial(power=2), Cosine()]),
    st.integers(1, 10**6),
)
def test_a_smooth_decay_falls_from_the_peak_and_ends_at_its_end(
    recipe: Recipe, end: float, size: int, decay: Any, beyond: int
) -> None:
    decay = type(decay)(**{**vars(decay), "end": end})
    assert decay.after_warmup
    recipe = Recipe(**{**vars(recipe), "decay": decay})
    lr, last = in_steps(recipe, size), updates(recipe, size)
    if 0 < (count := warmup_updates(recipe, size)) < last:
        assert lr(count - 1) == pytest.approx(recipe.lr, rel=1e-15, abs=0)
    assert lr(last + beyond) == end * recipe.lr
    assert lr(last) == pytest.approx(end * recipe.lr, rel=1e-6, abs=1e-9 * recipe.lr)


@given(recipes(), SIZES, st.integers(1, 10**9))
def test_past_the_end_the_rate_of_the_end_stays(recipe: Recipe, size: int, beyond: int) -> None:
    lr, last = in_steps(recipe, size), updates(recipe, size)
    assert lr(last + 1 + beyond) == lr(last + 1)
    assert lr(last) == pytest.approx(lr(last + 1), rel=1e-6, abs=1e-9 * recipe.lr)
    lengths = recipe.epochs - (recipe.warmup_epochs if recipe.decay.after_warmup else 0)
    assert lr(last + 1) == recipe.lr * recipe.decay.factor(lengths, lengths)


@given(recipes(), SIZES, st.data())
def test_no_update_of_the_run_has_rate_0_or_is_above_the_peak(
    recipe: Recipe, size: int, data: st.DataObject
) -> None:
    stairs = isinstance(recipe.decay, Exponential) and recipe.epochs / recipe.decay.every_epochs
    assume(getattr(recipe.decay, "rate", 1) ** (stairs or 1) > 1e-200)  # 0.01**1000 is 0 in floats
    lr, count = in_steps(recipe, size), updates(recipe, size)
    assume(count > 0)
    for update in {0, count - 1, data.draw(st.integers(0, count - 1))}:
        assert 0 < lr(update) <= recipe.lr * (1 + 1e-15), update


@given(recipes(), SIZES, st.data())
def test_the_rate_is_the_ramp_times_the_decay_read_at_the_start(
    recipe: Recipe, size: int, data: st.DataObject
) -> None:
    """The module's formula, transcribed with fractions."""
    update = data.draw(st.integers(0, updates(recipe, size)))
    ramp = Recipe(**{**vars(recipe), "decay": Constant()})
    epoch = min(float(Fraction(update * recipe.batch_size, size)), recipe.epochs)
    start = recipe.warmup_epochs if recipe.decay.after_warmup else 0
    left = recipe.decay.factor(max(epoch - start, 0), recipe.epochs - start)
    assert lr_at(recipe, update, size) == lr_at(ramp, update, size) * left


def test_an_overlapping_decay_takes_its_share_of_the_ramp() -> None:
    recipe = Recipe(
        batch_size=10,
        lr=1.0,
        epochs=4,
        warmup_epochs=1,
        decay=Step(milestones_epochs=(0.5,), rate=0.1),
    )
    assert lr_at(recipe, 4, 100) == 0.5
    assert lr_at(recipe, 5, 100) == pytest.approx(0.06)
    assert lr_at(recipe, 9, 100) == pytest.approx(0.1)


# Carried to other batches ----------------------------------------------------


@given(
    st.integers(1, 1000), st.integers(1, 10**6), SIZES, st.integers(1, 999), st.floats(1e-6, 1e3)
)
@example(5, 650_960, 3_849_225_000, 668, 1.0)  # a product of floats that is off by 6e-8
def test_legw_keeps_the_number_of_warmup_updates(
    base_batch: int, batch: int, size: int, warmup: int, lr: float
) -> None:
    base = Recipe(batch_size=base_batch, lr=lr, epochs=10**9, warmup_epochs=warmup / MILLI)
    big = apply(base, batch, LEGW)
    assert warmup_updates(big, size) == warmup_updates(base, size)
    last = warmup_updates(base, size) - 1
    assert lr_at(big, last, size) == big.lr
    assert lr_at(big, 0, size) == pytest.approx(
        lr_at(base, 0, size) * math.sqrt(batch / base_batch)
    )


@given(
    st.integers(1, 100), st.integers(1, 200), st.integers(10**4, 10**9), st.integers(1, 100),
    st.integers(1, 100),
)  # fmt: skip
def test_legw_keeps_the_warmup_updates_of_streams_to_one_an_epoch(
    base_batch: int, k: int, tokens: int, window: int, warmup: int
) -> None:
    """Streams drop the rest of each epoch: up to one update (and two tokens) at the target.

    So a warmup of up to one epoch at the target keeps its updates within 1, to rounding up.
    """
    assume(tokens >= (window + 1) * base_batch * k)
    base = Recipe(
        batch_size=base_batch,
        lr=1,
        epochs=10**9,
        warmup_epochs=warmup / MILLI,
        num_tokens=tokens,
        window_tokens=window,
    )
    big = apply(base, base_batch * k, LEGW)
    lost = warmup_updates(base) - warmup_updates(big)
    assert -1 - warmup / MILLI * 2 <= lost <= 1 + big.warmup_epochs * (1 + 2 / window)


@pytest.mark.parametrize("name", ["ptb-small", "ptb-medium", "ptb-large"])
@pytest.mark.parametrize("batch", [40, 80, 160, 320, 640])
def test_legw_keeps_the_warmup_updates_of_penn_treebank_within_1(name: str, batch: int) -> None:
    """With a warmup of 0.05 epochs at batch 20, 1.6 epochs at 640."""
    base = Recipe(**{**vars(RECIPES[name]), "warmup_epochs": 0.05})
    assert abs(warmup_updates(apply(base, batch, LEGW)) - warmup_updates(base)) <= 1


@given(
    recipes(warmup_from_lr=0.0),
    st.integers(1, 10**6),
    SIZES,
    st.data(),
)
def test_hoffer_is_the_same_schedule_in_updates_times_sqrt_k(
    base: Recipe, batch: int, size: int, data: st.DataObject
) -> None:
    """The same number of updates (within 1), and every milestone at the same update."""
    k = batch / base.batch_size
    assume(k > 1e-3 and base.epochs * k < 1e9)  # stairs of at least 1e-6 epoch
    assume(not 0 < getattr(base.decay, "begin", 0) < 1e-6)  # the guard against rounding is 1e-9
    big = apply(base, batch, HOFFER)
    count = updates(base, size)
    assert abs(updates(big, size) - count) <= 1
    assert abs(warmup_updates(big, size) - warmup_updates(base, size)) <= 1
    update = data.draw(st.integers(0, count))
    near = [lr_at(base, max(update + d, 0), size) * math.sqrt(k) for d in (-1, 0, 1)]
    slack = 1e-6 * big.lr
    assert min(near) - slack <= lr_at(big, update, size) <= max(near) + slack


@pytest.mark.parametrize("batch", [32, 48, 100, 160, 1600])
@pytest.mark.parametrize(
    "decay",
    [
        Step(milestones_epochs=(3, 6.5), rate=0.1),
        Exponential(rate=0.5, constant_epochs=4),
        Halving(begin=2 / 3, times=4),
        Polynomial(power=2),
        Cosine(),
    ],
)
def test_hoffer_by_every_update(decay: Decay, batch: int) -> None:
    base = Recipe(batch_size=16, lr=0.1, epochs=9, warmup_epochs=0.5, decay=decay)
    big = apply(base, batch, HOFFER)
    size = 16 * 30
    assert updates(big, size) == updates(base, size) == 270
    for update in range(271):
        expected = lr_at(base, update, size) * math.sqrt(batch / 16)
        assert lr_at(big, update, size) == pytest.approx(expected, rel=1e-9, abs=1e-15), update


# Oracles ---------------------------------------------------------------------


@pytest.mark.parametrize("row", golden("adaptdl.csv"), ids=str)
def test_adaptdl(row: dict[str, str]) -> None:
    """AdaptDL's `LEGWScale(base_warmup_epochs=10, data_size=1000)`, its published test values.

    The conventions differ in two ways. AdaptDL reads the ramp at the *start* of an
    update, so its first update has rate 0 and does nothing; ours, ``ramp="end"``, reads
    it at the end, so no update is lost, and is one update ahead all along the ramp. And
    AdaptDL's `progress` is not a raw count of steps: it counts steps of the base batch,
    so that the epoch is ``progress * batch / 1000`` at every scale. With N examples an
    epoch and B = scale * batch, our update s is at epoch ``s * B / N``; N = 1000 * scale
    makes the two the same, with s = progress.
    """
    batch, progress, scale = (int(row[name]) for name in ("batch_size", "progress", "scale"))
    base = Recipe(batch_size=batch, lr=1.0, epochs=1000, warmup_epochs=10)
    big = apply(base, batch * scale, LEGW)
    size = 1000 * scale
    assert progress * big.batch_size / size == progress * batch / 1000
    factor = lr_at(big, progress, size, ramp="start")
    assert math.isclose(factor, number(row["factor"]), rel_tol=1e-12)
    assert lr_at(big, 0, size, ramp="start") == 0
    assert lr_at(big, 0, size) > 0
    assert lr_at(big, progress - 1, size) == factor


@pytest.mark.parametrize("row", golden("ptb.csv"), ids=lambda row: "-".join(row.values()))
def test_penn_treebank_epoch_by_epoch(row: dict[str, str]) -> None:
    """`lr * decay ** max(i + 1 - constant_epochs, 0)` in the first and last update of epoch i."""
    recipe = replace(RECIPES[row["recipe"]], warmup_epochs=0)
    each = epoch_size(recipe) // recipe.batch_size
    first = int(row["epoch"]) * each
    for update in (first, first + each - 1):
        assert math.isclose(lr_at(recipe, update), number(row["lr"]), rel_tol=1e-12)


def test_penn_treebanks_table_covers_each_run() -> None:
    rows = golden("ptb.csv")
    for name in ("ptb-small", "ptb-medium", "ptb-large"):
        epochs = [int(row["epoch"]) for row in rows if row["recipe"] == name]
        assert epochs == list(range(int(RECIPES[name].epochs)))


# Streams ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "each"), [(20, 2323), (640, 72), (929589 // 21, 1), (1, (929589 - 1) // 20)]
)
def test_an_epoch_of_streams(batch: int, each: int) -> None:
    """``((tokens // B) - 1) // T`` updates."""
    recipe = Recipe(batch_size=batch, lr=1, epochs=13, num_tokens=929589, window_tokens=20)
    assert epoch_size(recipe) == each * batch
    assert updates(recipe) == 13 * each


# Errors ----------------------------------------------------------------------

PLAIN = Recipe(name="mine", batch_size=8, lr=1, epochs=2)


@pytest.mark.parametrize("function", [updates, warmup_updates, epoch_size, in_steps])
def test_an_unknown_number_of_examples(function: Any) -> None:
    error_line(function, PLAIN)
    error_line(lr_at, PLAIN, 0)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "60000", float("nan")])
def test_a_wrong_number_of_examples(value: Any) -> None:
    for function in (updates, warmup_updates, epoch_size, in_steps):
        error_line(function, PLAIN, value)


def test_too_many_examples() -> None:
    error_line(updates, PLAIN, 10**400)


def test_the_given_number_of_examples_beats_the_recipes_own() -> None:
    recipe = Recipe(**{**vars(PLAIN), "num_examples": 80})
    assert (updates(recipe), updates(recipe, 16)) == (20, 4)


def test_a_negative_update() -> None:
    error_line(lr_at, PLAIN, -1, 10)


@pytest.mark.parametrize("value", ["middle", "", None, 1])
def test_an_unknown_ramp(value: Any) -> None:
    error_line(in_steps, PLAIN, 10, ramp=value)
