"""The verdict of a study: keeps, loses, or cannot tell, within a stated tolerance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folders import write_study
from legw.analysis import evidence, table
from legw.analysis.stats import Difference
from legw.analysis.verdict import judge, read_tolerance
from legw.cli import main
from legw.cli.commands.study import Options, command, read
from legw.errors import LegwError
from legw.study.plan import Row
from studies import ASKED


def rows(rule: str, batch_size: int, *metrics: float | None) -> list[Row]:
    return [
        Row(
            recipe="mine", rule=rule, batch_size=batch_size, seed=seed, metric=metric,
            status="diverged" if metric is None else "finished", updates=9, seconds=1.0,
        )
        for seed, metric in enumerate(metrics)
    ]  # fmt: skip


def verdict(
    base: list[float], big: list[float | None], tolerance: str = "1%", *, higher: bool = True
) -> str:
    found = table.of(
        rows("base", 16, *base) + rows("legw", 64, *big),
        metric="accuracy" if higher else "perplexity",
        higher_is_better=higher,
        tolerance=tolerance,
    )
    return str(found.verdict(found.cells[1]))


@pytest.mark.parametrize(
    ("big", "tolerance", "said"),
    [
        ([0.9899, 0.99, 0.9901], "0.001", "keeps"),
        ([0.995, 0.996, 0.994], "0.001", "keeps"),  # better is kept too
        ([0.9889, 0.9889, 0.9889], "0.001", "loses 0.11 points"),
        ([0.9885, 0.989, 0.9895], "0.001", "cannot tell"),
        ([0.9799, 0.98, 0.9801], "0.001", "loses 1 point"),
        ([0.9799, 0.98, 0.9801], "2%", "keeps"),
        ([0.98], "2%", "cannot tell"),  # one run shows no spread
    ],
)
def test_verdicts_of_an_accuracy(big: list[float | None], tolerance: str, said: str) -> None:
    assert verdict([0.99, 0.99, 0.99], big, tolerance) == said


def test_of_a_perplexity_more_is_worse() -> None:
    base = [99.9, 100.0, 100.1]
    assert verdict(base, [101.9, 102.0, 102.1], "3%", higher=False) == "keeps"
    assert verdict(base, [90.0, 90.1, 90.2], "3%", higher=False) == "keeps"
    said = verdict(base, [132.9, 133.0, 133.1], "3%", higher=False)
    assert said == "loses 33 perplexity (33 %)"


def test_a_diverged_run_is_a_loss() -> None:
    assert verdict([0.99, 0.99], [0.99, 0.99, None]).startswith("loses")


@given(
    mean=st.floats(-1, 1),
    half=st.floats(0, 1),
    allowed=st.floats(0.001, 1),
)
def test_the_verdict_is_the_place_of_the_interval(mean: float, half: float, allowed: float) -> None:
    difference = Difference(mean=mean, low=mean - half, high=mean + half)
    found = judge(
        difference, 1.0, read_tolerance(str(allowed)), metric="x", better_is_more=False
    ).outcome
    expected = "cannot tell"
    if mean + half <= allowed:
        expected = "keeps"
    if mean - half > allowed:
        expected = "loses"
    assert found == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1%%", "nan", "inf", "0%"])
def test_a_tolerance_that_cannot_be(text: str) -> None:
    with pytest.raises(LegwError) as caught:
        read_tolerance(text)
    assert str(caught.value) == (
        f"tolerance={text}: must be a number above 0 in the metric's unit, "
        "or a share of the base's as in 1%"
    )


@pytest.mark.ci
def test_a_study_keeps_its_tolerance_and_a_report_may_take_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = replace(ASKED, seeds=(0, 1, 2), rules=("legw",), tuned={}, tolerance="99%")
    write_study(tmp_path / "s", asked)
    (found,) = evidence.read(tmp_path)
    assert str(found.table.tolerance) == "99 %"
    assert main(["report", str(tmp_path)]) == 0
    assert "Keeps the base's accuracy within 99 %: at batch" in _said(capsys)
    assert main(["report", str(tmp_path), "--tolerance", "1e-9"]) == 0
    assert "within 1e-07 points: at batch" in _said(capsys)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "within 1e-07 points" in page and "within 99" not in page


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "words", [["study", "digits-lstm", "--batch-sizes", "16"], ["report", "."]]
)
def test_the_commands_refuse_a_tolerance_that_cannot_be(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--tolerance", "none"]) == 2
    assert "--tolerance=none: must be a number above 0" in capsys.readouterr().err


def test_the_command_to_run_a_study_again_names_its_tolerance() -> None:
    options = Options(app="digits-lstm", batch_sizes="16", tolerance="3%")
    assert "--tolerance 3%" in command(options)
    assert read(options).tolerance == "3%"
