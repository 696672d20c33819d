"""Batch schedules in other tools' forms, read back by what the tools do with them.

Megatron-LM's and OLMo-core's own modules need a whole training stack, so the lines that read these
values are written out here, from megatron/core/num_microbatches_calculator.py (class
StepBatchsizeNumMicroBatchesCalculator, 2026), olmo_core/train/callbacks/batch_size_scheduler.py
(3.0.0) and levanter/schedule.py (class BatchSchedule, 0.2.20).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from expect import error_line
from legw import SGD, AdamW, BatchSchedule, Cosine, Recipe, batches, scale
from legw.adapters.batch_schedules import written
from legw.presets import RECIPES

GPT = Recipe(
    name="gpt", batch_size=48, lr=6e-4, steps=5000, warmup_steps=100, optimizer=AdamW(),
    decay=Cosine(end=0.1), tokens_per_example=1024,
)  # fmt: skip
GROWN = [
    scale(GPT, 768, "legw-ramp"),
    scale(replace(GPT, decay=Cosine()), 768, "seesaw"),
    scale(GPT, 1536, "legw-ramp-linear"),
]


def megatron(text: str, updates: int) -> list[int]:
    """Return the batches of Megatron-LM: of the last threshold that the samples have reached."""
    option, _, quoted = text.partition(" ")
    assert option == "--step-batch-size-schedule"
    schedule = []
    for entry in quoted.strip('"').replace(",", " ").split():
        threshold, size = entry.split(":", 1)
        schedule.append((int(float(threshold)) // 1024, int(float(size))))
    assert schedule[0][0] == 0
    assert all(b[0] > a[0] for a, b in itertools.pairwise(schedule))
    found, consumed = [], 0
    for _ in range(updates):
        found.append([size for threshold, size in schedule if consumed >= threshold][-1])
        consumed += found[-1]
    return found


def levanter(text: str, updates: int) -> list[int]:
    """Return the batches of Levanter: of the segment in which the step lies."""
    steps = json.loads(text)["train_batch_size"]
    assert steps[0]["start"] == 0
    return [[s["value"] for s in steps if update >= s["start"]][-1] for update in range(updates)]


def olmo_core(text: str, updates: int) -> list[int]:
    """Return the batches of OLMo-core, which waits until the batches made divide by the ratio."""
    values = json.loads(text)
    sizes, places = values["batch_sizes"], [each["value"] for each in values["schedule"]]
    assert {each["unit"] for each in values["schedule"]} == {"tokens"} and places[0] == 0
    assert all(b % a == 0 and b > a for a, b in itertools.pairwise(sizes))
    found: list[int] = []
    seen, current = 0, sizes[0]
    for _ in range(updates):
        target = [s for s, place in zip(sizes, places, strict=True) if seen >= place][-1]
        if target > current and (seen // current) % (target // current) == 0:
            current = target
        found.append(current // 1024)
        seen += current
    return found


@pytest.mark.parametrize("recipe", [*GROWN, GPT], ids=range(4))
def test_megatron_and_levanter_make_the_same_batches(recipe: Recipe) -> None:
    expected = list(batches(recipe))
    for tool, read in (("megatron", megatron), ("levanter", levanter)):
        found = written(recipe, tool)  # type: ignore[arg-type]
        assert read(found.text, len(expected)) == expected
        assert bool(found.left_out) is (recipe.batch_schedule is not None), "the rate stays there"


@pytest.mark.parametrize("recipe", [*GROWN, GPT], ids=range(4))
def test_olmo_core_waits_for_a_whole_batch(recipe: Recipe) -> None:
    """Its larger batch begins at most one such batch later, and exactly where ours divides."""
    expected = list(batches(recipe))
    found = written(recipe, "olmo-core")
    there = olmo_core(found.text, len(expected))
    late = [line for line in found.left_out if "later" in line]
    assert (there == expected) is not bool(late)
    for size in {*expected} - {expected[0]}:
        ours, theirs = (sum(made[: made.index(size)]) for made in (expected, there))
        assert ours <= theirs < ours + size
    if recipe.batch_schedule is not None:
        assert "lr=0.0006" in found.left_out[0], "the base's own rate"


def test_what_no_tool_has_a_word_for() -> None:
    mnist = scale(RECIPES["mnist-lstm"], 8192, "legw-ramp")
    for tool in ("megatron", "olmo-core"):
        error_line(written, mnist, tool)
    assert json.loads(written(mnist, "levanter").text)["train_batch_size"][0]["value"] == 128
    odd = replace(GROWN[0], batch_schedule=BatchSchedule(sizes=(48, 80), until=(4800, 9600)))
    error_line(written, odd, "olmo-core")
    error_line(written, replace(GROWN[0], optimizer=SGD()), "olmo-core")
    error_line(written, GROWN[0], "megatorn")
    still = replace(GROWN[0], batch_schedule=BatchSchedule(sizes=(48,), until=(9600,), lr_power=0))
    assert written(still, "megatron").left_out == ()


def test_installed_levanter_reads_it_back() -> None:
    levanter: Any = pytest.importorskip("levanter.schedule")
    for recipe in GROWN:
        values = json.loads(written(recipe, "levanter").text)["train_batch_size"]
        there = levanter.BatchSchedule([levanter.ScheduleStep(**each) for each in values])
        expected = list(batches(recipe))
        assert [there.batch_size_at_step(s) for s in range(len(expected))] == expected


def test_the_trainer_of_transformers_has_a_constant_batch() -> None:
    from legw.adapters.transformers import trainer_arguments

    error_line(trainer_arguments, GROWN[0])
    assert trainer_arguments(GPT)["max_steps"] == 5000
