"""Extreme recipes that are accepted: the law's own formula decides what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from legw import Recipe, schedule
from legw.cli import main
from legw.decays import Cosine, Decay, Exponential, Halving, Polynomial, Step
from legw.errors import too_deep
from legw.recipe import read
from legw.report.charts.schedule import points
from legw.report.charts.terminal import lr_text, round_numbers


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {"batch_size": 8, "lr": 0.1, "epochs": 2.0, "num_examples": 80}
    return Recipe(**(values | changes))


@pytest.mark.parametrize(
    ("epochs", "count"),
    [(5e-324, 1), (1e-13, 1), (1e-9, 1), (0.1, 1), (0.1 + 1e-12, 1), (0.11, 2), (2.0, 20)],
)
def test_there_is_always_an_update(epochs: float, count: int) -> None:
    short = recipe(epochs=epochs)
    assert schedule.updates(short) == count
    assert schedule.counts(short) == (count, 0)
    assert [point.update for point in points(short)] == list(range(count))
    assert schedule.lr_at(short, 0) == 0.1


@pytest.mark.parametrize(
    ("times", "epoch", "factor"),
    [(10**6, 1.0, 0.5), (10**6, 1.0 + 1e-6 / 2, 0.5), (10**6, 1.0 + 1e-6, 0.25),
     (10**6, 2.0, 0.0), (10**14, 1.5, 0.0), (1, 2.0, 0.5)],
)  # fmt: skip
def test_a_million_halvings(times: int, epoch: float, factor: float) -> None:
    """Half of the run is left for them: each comes a 10**-6th of an epoch after the other."""
    assert Halving(times=times).factor(epoch, 2.0) == factor


def test_halvings_closer_than_any_number_have_all_passed() -> None:
    assert Halving(times=10**14, rate=0.9999).factor(5e-324, 1e-323) == pytest.approx(
        0.9999 ** (10**14)
    )
    assert Halving(times=3, rate=0.5).factor(1e-323, 1e-323) == 0.125


@pytest.mark.parametrize(
    "decay",
    [
        Halving(times=10**14), Step(milestones_epochs=(0.5,) * 400, rate=0.1), Cosine(),
        Exponential(rate=1e-9, every_epochs=1e-6), Polynomial(power=1e9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lr", [5e-324, 1e-300, 0.1, 9e14])
def test_rates_that_underflow_are_drawn(decay: Decay, lr: float) -> None:
    low = recipe(decay=decay, lr=lr)
    curve = points(low)
    assert len(curve) == 20 and all(0 <= point.lr <= lr for point in curve)
    assert lr_text({"base": curve, "other": curve}).count("\n") > 8


def test_a_scale_of_nothing_has_one_tick() -> None:
    assert round_numbers(0.0, 5) == round_numbers(5e-324, 5) == [0.0]


@pytest.mark.parametrize("command", ["scale mnist-lstm -b 256", "schedule mnist-lstm -b 256"])
def test_the_command_line_takes_a_run_of_one_update(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--epochs", "1e-13", "--warmup-epochs", "0"]) == 0
    assert capsys.readouterr().err == ""


# Nested without end ---------------------------------------------------------------------


@pytest.mark.parametrize("depth", [40, 1000, 5000])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.toml", lambda depth: "batch_size = 8\n" + ".".join(["lr", *["a"] * depth]) + " = 1"),
        ("b.toml", lambda depth: "lr = " + "[" * depth + "]" * depth),
        ("c.json", lambda depth: '{"lr": ' + '{"a":' * depth + "1" + "}" * depth + "}"),
        ("d.json", lambda depth: '{"lr": ' + "[" * depth + "]" * depth + "}"),
    ],
)
def test_a_file_nested_without_end_is_one_line(
    tmp_path: Path, name: str, make: Callable[[int], str], depth: int
) -> None:
    path = tmp_path / name
    path.write_text(make(depth), encoding="utf-8")
    error_line(read, path)


def test_lists_that_are_named_many_times_are_looked_at_once() -> None:
    """YAML's aliases: ten lists that each hold the one before ten times."""
    value: Any = [1]
    for _ in range(30):
        value = [value] * 10
    assert not too_deep(value) and too_deep(value, most=20)
