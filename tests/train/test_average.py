"""A weight average (EMA): what evaluations measure, what a restart keeps, who else reads it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expect import error_line
from legw import LegwWarning, RunError
from legw.apps.weights import newest
from legw.runs import records
from legw.train import Observer, checkpoint, fit
from legw.train.average import WeightAverage
from train.launch import complete
from train.runs import assert_same_run, recipe, train, weights
from train.tasks import TASKS

EMA = {"ema_decay": 0.8}


def average(folder: Path) -> dict[str, Tensor]:
    return newest(folder)  # type: ignore[no-any-return]


class Kept(Observer):
    """The weights after each update; the model is caught where the task makes it."""

    def __init__(self, name: str) -> None:
        self.task: Any = TASKS[name]()
        make, self.each = self.task.model, []
        self.task.model = lambda: self.keep(make())

    def keep(self, model: nn.Module) -> nn.Module:
        self.model = model
        return model

    def on_update(self, row: Any) -> None:
        self.each.append(copy.deepcopy(self.model.state_dict()))


@pytest.mark.parametrize("name", TASKS)
def test_it_is_the_average_by_hand_and_what_evaluations_measure(name: str, tmp_path: Path) -> None:
    seen = Kept(name)
    examples = seen.task.num_examples(64)
    summary = fit(seen.task, recipe(epochs=20 * 64 / examples, **EMA), out=tmp_path,
                  observers=[seen])  # fmt: skip
    by_hand = seen.each[0]
    for later in seen.each[1:]:
        by_hand = {key: 0.8 * by_hand[key] + 0.2 * value for key, value in later.items()}
    assert len(seen.each) == 20
    for key, value in average(tmp_path).items():
        expected = seen.each[-1][key] if value.dtype == torch.long else by_hand[key]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    last = copy.deepcopy(seen.model).eval()
    with torch.no_grad():
        both = seen.task.evaluate(last)
        last.load_state_dict(average(tmp_path))
        averaged = seen.task.evaluate(last)
    metric = seen.task.metric.name
    assert summary.metric["value"] == records.load(tmp_path).evaluations[-1].metric
    assert summary.metric["value"] == pytest.approx(averaged, rel=1e-12)
    assert summary.metrics[f"{metric}_of_last_weights"] == pytest.approx(both, rel=1e-12)
    assert summary.metric["value"] != pytest.approx(both)
    (note,) = (n for n in records.load(tmp_path).manifest.notes if "average" in n)
    assert note == (
        "evaluations measure the average of the weights over about 5 updates (ema_decay 0.8)"
    )


def test_the_training_itself_is_untouched(tmp_path: Path) -> None:
    train("normalised", tmp_path / "with", changes=EMA)
    train("normalised", tmp_path / "without")
    for name, value in weights(tmp_path / "without").items():
        assert torch.equal(weights(tmp_path / "with")[name], value), name
    assert torch.equal(newest(tmp_path / "without")["0.weight"],
                       weights(tmp_path / "without")["0.weight"])  # fmt: skip
    content = checkpoint.load_newest(tmp_path / "without", print)
    assert content is not None and "average" not in content


@pytest.mark.parametrize("name", TASKS)
def test_a_run_in_parts_is_the_whole_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    train(name, tmp_path / "whole", changes=EMA)
    for stop in (1, 7, 13, None):
        train(name, tmp_path / "parts", changes=EMA, stop_after=stop, resume=True)
    for key, value in average(tmp_path / "whole").items():
        assert torch.equal(average(tmp_path / "parts")[key], value), key
    one, two = (records.load(tmp_path / each) for each in ("whole", "parts"))
    assert [row.metric for row in one.evaluations] == [row.metric for row in two.evaluations]
    assert one.summary is not None and two.summary is not None
    assert one.summary.metrics == two.summary.metrics


@pytest.mark.parametrize("name", ["normalised", pytest.param("streams", marks=pytest.mark.ci)])
def test_micro_batches_lanes_and_processes_change_nothing(name: str, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    train(name, whole, changes=EMA)
    train(name, folder, changes=EMA, micro_batch_size=16, stop_after=7)
    complete(2, train, logs=tmp_path / "two", name=name, out=folder, changes=EMA, resume=True,
             stop_after=14)  # fmt: skip
    lanes = 1 if name == "normalised" else 2
    train(name, folder, changes=EMA, micro_batch_size=16, lanes=lanes, resume=True)
    assert_same_run(folder, whole)
    for key, value in average(whole).items():
        torch.testing.assert_close(average(folder)[key], value, rtol=0, atol=1e-10)


def test_another_decay_is_another_run(tmp_path: Path) -> None:
    train("lines", tmp_path, stop_after=5)
    said = error_line(
        train, "lines", tmp_path, changes=EMA, resume=True, kind=RunError
    )  # fmt: skip
    assert said.endswith("holds a run of ema_decay=None, not 0.8; choose another `out`")
    train("lines", tmp_path, resume=True)  # a folder from before there were averages goes on


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: c.pop("average"), "is damaged (average: is of a recipe with another ema_decay)"),
        (lambda c: c.update(average=3), "is damaged (average: must be tensors by their names)"),
        (lambda c: c["average"].pop("0.bias"), "is of another model (has no 0.bias)"),
        (lambda c: c["average"].update({"0.bias": torch.zeros(2)}), "is of another model (0.bias"),
        (lambda c: c["average"].update({"0.bias": "text"}), "is damaged (0.bias: must be a dense"),
    ],
)
def test_a_damaged_average_is_passed_over(damage: Any, said: str, tmp_path: Path) -> None:
    train("lines", tmp_path, changes=EMA, stop_after=5)
    train("lines", tmp_path, changes=EMA, stop_after=10, resume=True)
    newest_one = checkpoint.paths(tmp_path)[-1]
    content = torch.load(newest_one, weights_only=True)
    damage(content)
    torch.save(content, newest_one)
    with pytest.warns(LegwWarning) as caught:
        train("lines", tmp_path, changes=EMA, resume=True)
    assert any(f"{newest_one.name}: {said}" in str(each.message) for each in caught)


def test_other_buffers_are_copied_and_infinite_ones_stay() -> None:
    """A mask of -inf has no average, and whole numbers none that is one."""

    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1)
            self.register_buffer("mask", torch.full((2,), float("-inf")))
            self.register_buffer("places", torch.arange(9))

    model = Masked()
    kept = WeightAverage(model, 0.9)
    for update in range(3):
        with torch.no_grad():
            model.weight += 1.0
        kept.move(model, update)
    assert torch.equal(kept.model.mask, model.mask)
    assert torch.equal(kept.model.places, model.places)
    assert not any(weight.requires_grad for weight in kept.model.parameters())
