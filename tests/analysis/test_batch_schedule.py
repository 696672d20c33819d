"""What runs with a growing batch say: examples to a target, weight decay, durations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from folders import BASE, write_study
from legw import AdamW, Polynomial, Recipe, rules
from legw.analysis import evidence, remarks
from legw.analysis.scaled import carry, counted, headline
from legw.analysis.targets import reached
from legw.presets import RECIPES
from legw.runs.records import Evaluation, MetricsWriter
from legw.study import durations
from legw.study.durations import Rates
from legw.study.plan import Study, plan, rows

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw-ramp",), seeds=(0, 1))


def test_examples_to_a_target_are_those_seen(tmp_path: Path) -> None:
    """Batch 16 for half an epoch, 32 for half: 13 and 6 updates, and 25 of 64."""
    write_study(tmp_path / "s", ASKED)
    for run in plan(ASKED).runs:
        writer = MetricsWriter(tmp_path / "s" / "runs" / run.name)
        writer.write([Evaluation(update=15, epoch=1.0, metric=0.9, loss=1.0, seconds=1.0)])
        writer.close()
    base, ramp = reached(evidence.read(tmp_path / "s")[0], 0.9)
    assert (base.updates, base.examples) == (15, 15 * 16)
    assert (ramp.updates, ramp.examples) == (15, 13 * 16 + 2 * 32)


def test_a_run_takes_the_time_of_each_batch() -> None:
    _, ramp = plan(replace(ASKED, seeds=(0,))).runs
    rates = Rates({16: 100.0, 64: 400.0}, "")
    sizes = [(13, 16, 100.0), (6, 32, 100.0), (19, 64, 400.0)]
    expected = sum(count * size / rate for count, size, rate in sizes)
    assert durations.seconds(ramp, rates) == pytest.approx(expected)


def test_rows_of_several_batches_say_nothing_of_one(tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    found = durations.measured("mine", rows(plan(ASKED).runs, tmp_path / "s"))
    assert found is not None and set(found.of) == {16}


def test_weight_decay_is_summed_over_the_phases() -> None:
    base = Recipe(
        batch_size=16, lr=1e-3, epochs=8, warmup_epochs=0.5, optimizer=AdamW(),
        decay=Polynomial(), num_examples=1600,
    )  # fmt: skip
    ramp = rules.apply(base, 64, rules.LEGW_RAMP)
    by_hand = (1 / 16 * 1 / 2 + 1 / 32 * 2**-0.5 + 6 / 64) / (8 / 16) * 2
    assert remarks.decay_sum_factor(base, ramp) == pytest.approx(by_hand, rel=1e-9)
    steps = replace(base, epochs=None, warmup_epochs=None, steps=800, warmup_steps=50)
    counted_in_examples = rules.apply(steps, 64, rules.LEGW_RAMP)
    assert remarks.decay_sum_factor(steps, counted_in_examples) == pytest.approx(by_hand, rel=1e-9)
    line = headline(carry(steps, 64, rules.LEGW_RAMP))
    assert "warmup 50 steps → 800 examples (50 updates)" in line


def test_another_text_leaves_the_counts_unknown() -> None:
    """Its epochs at the smaller batches are not known without the text."""
    small = RECIPES["ptb-small"]
    outcome = carry(small, 640, rules.LEGW_RAMP)
    assert counted(outcome, small.epoch_examples_at).scaled == outcome.scaled  # type: ignore[arg-type]
    other = counted(outcome, lambda batch: 1000 * batch)
    assert other.to_dict()["updates"] is None
