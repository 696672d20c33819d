"""`legw watch`: what is running, how far, and when it will end; with a clock of the test's own."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from folders import BASE, write_run, write_study
from legw.cli.commands import watch as command
from legw.runs import locks, records
from legw.runs.records import Update
from legw.study import watch
from legw.study.plan import Study

Legw = Callable[[str], Any]

NOON = datetime(2026, 1, 1, 12, 0)

ASKED = Study(task="mine", base=BASE, batch_sizes=(16, 64), rules=("legw", "sqrt"), seeds=(0,))


@pytest.fixture
def going_on(tmp_path: Path) -> Iterator[Path]:
    """A study: the base has finished, a run goes on at a quarter, the last has not begun."""
    half: dict[str, Any] = {"status": None, "losses": [2.0] * 6 + [0.5], "metric": 0.7}
    write_study(tmp_path / "s", ASKED, legw_b64_s0=half, sqrt_b64_s0={})
    with locks.held(tmp_path / "s" / "runs" / "legw-b64-s0"):
        yield tmp_path / "s"


def test_each_run_is_told_as_far_as_it_is(going_on: Path) -> None:
    base, half, missing = watch.look(going_on).runs
    assert (base.name, base.status, base.share) == ("base-b16-s0", "finished", 1.0)
    assert (half.status, half.updates, half.planned, half.share) == ("running", 7, 25, 7 / 25)
    assert (half.loss, half.metric, half.epoch) == (0.5, 0.7, 7 * 64 / 400)
    assert half.seconds_left == pytest.approx(1.5 * 7 / 25 / 7 * 18)
    assert (missing.status, missing.share) == ("missing", 0.0)


def test_the_end_is_estimated_from_what_is_measured(going_on: Path) -> None:
    view = watch.look(going_on)
    rate = 100 * 16 / 1.5  # of the base, which has finished
    assert view.seconds_left == pytest.approx(1.08 + 25 * 64 / rate)
    assert not view.done


def test_a_run_without_its_process_is_stopped(tmp_path: Path) -> None:
    write_run(tmp_path / "a", status=None)
    (run,) = watch.look(tmp_path).runs
    assert run.status == "stopped"
    assert watch.look(tmp_path).seconds_left is None


def test_without_a_terminal_it_is_told_once(legw: Legw, going_on: Path) -> None:
    answer = legw(f"watch {going_on}")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line for line in lines if line.startswith("legw-b64-s0  running")]
    assert "1.12 of 4" in answer.out and "accuracy" in answer.out
    assert lines[-1].startswith("3 runs: 1 finished, 1 running, 1 missing; the last ends in about")


def test_in_a_terminal_it_goes_on_until_all_has_ended(going_on: Path) -> None:
    text, slept = io.StringIO(), []
    screen = Console(file=text, force_terminal=True, width=100, color_system=None)

    def sleep(seconds: float) -> None:
        """Let the study go on a little: the clock is the test's."""
        slept.append(seconds)
        if len(slept) == 3:
            for name in ("legw-b64-s0", "sqrt-b64-s0"):
                place = going_on / "runs" / name
                for path in place.glob("*"):
                    path.unlink()
                if place.exists():
                    place.rmdir()
            write_study(going_on.parent / "t", ASKED)
            for name in ("legw-b64-s0", "sqrt-b64-s0"):
                (going_on.parent / "t" / "runs" / name).rename(going_on / "runs" / name)

    options = command.Options(folder=going_on, every=0.5)
    view = watch.look(going_on)
    assert command.live(options, view, screen, lambda: NOON, sleep) == 0
    assert slept == [0.5] * 3
    assert "the last ends in about 2.6 s, at Thu 12:00" in text.getvalue()
    assert "3 runs: 3 finished\n" in text.getvalue()


def test_ctrl_c_ends_it_quietly(going_on: Path) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    screen = Console(file=io.StringIO(), force_terminal=True)
    options = command.Options(folder=going_on)
    assert command.live(options, watch.look(going_on), screen, lambda: NOON, sleep) == 0


def test_a_half_written_row_is_passed_over(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", status=None) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind":"update","upda')
    (run,) = watch.look(tmp_path).runs
    assert run.updates == 100


@pytest.mark.parametrize("kind", ["pipe", "folder", "noise"])
def test_metrics_that_cannot_be_read_are_a_note(tmp_path: Path, kind: str) -> None:
    path = write_run(tmp_path / "a", status=None) / "metrics.jsonl"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"no row\nat all\n")
    (run,) = watch.look(tmp_path).runs
    words = {"pipe": "is a pipe", "folder": "is a folder", "noise": "its end has no row"}
    assert run.status == "stopped" and f"metrics.jsonl: {words[kind]}" in run.problem
    path.rmdir() if kind == "folder" else path.unlink()
    assert watch.look(tmp_path).runs[0].problem == ""


def test_of_a_long_file_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = b'{"kind":"update","update":7,"epoch":1,"loss":2,"lr":3}'
    path.write_bytes(b"x" * 10 * watch.TAIL_BYTES + b"\n" + row + b"\n")
    assert watch.last_rows(path) == (Update(update=7, epoch=1.0, loss=2.0, lr=3.0), None)


def test_what_cannot_be_read_is_a_note(legw: Legw, tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", '{"format": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    answer = legw(f"watch {tmp_path}")
    assert answer.code == 0
    assert "b/manifest.json: format=99: is from a newer legw; upgrade to read it" in answer.out


@pytest.mark.parametrize(
    "words",
    [
        "{}",
        "{}/x",
        "{} --every 0",
    ],
)
def test_mistakes(legw: Legw, tmp_path: Path, words: str) -> None:
    answer = legw("watch " + words.format(tmp_path))
    assert answer.code == 2


def test_many_runs_are_cut_and_the_running_ones_stay(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for number in range(command.MAX_ROWS + 5):
            write_run(tmp_path / f"run-{number:03d}", recipe=replace(BASE, epochs=0.5))
        last = tmp_path / f"run-{command.MAX_ROWS + 4:03d}"
        (last / "summary.json").unlink()
        stack.enter_context(locks.held(last))
        screen = Console(file=io.StringIO(), width=100)
        screen.print(command.drawn(watch.look(tmp_path), NOON))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "run-044" in shown
    assert "run-043" not in shown
    assert "and 5 more that are not shown" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_a_line_a_run_in_the_columns_there_are(tmp_path: Path, width: int) -> None:
    """At 80 columns without bars, names cut in the middle; ended seeds are one line."""
    half: dict[str, Any] = {"status": None, "losses": [2.0] * 6 + [0.5], "metric": 0.7}
    asked = replace(ASKED, seeds=(0, 1, 2))
    for name in ("translation-of-a-long-name", "another-study-of-a-name-as-long"):
        write_study(tmp_path / name, asked, legw_b64_s0=half, sqrt_b64_s0={}, sqrt_b64_s1={})
    place = "another-study-of-a-name-as-long"
    with locks.held(tmp_path / place / "runs" / "legw-b64-s0"):
        screen = Console(file=io.StringIO(), width=width)
        screen.print(command.drawn(watch.look(tmp_path), NOON, width))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    (head,) = [line for line in lines if line.startswith("run ")]
    assert head.split() == ["run", "state", "epoch", "loss", "accuracy", "left"]
    table = lines[2 : lines.index(next(line for line in lines if "18 runs" in line))]
    told = [line.split("  ")[0] for line in table]
    assert len(table) == 2 * 5, "base, a seed of legw, the others, and sqrt's in two states"
    assert all(word.strip() for word in told), "no line goes on in the next"
    if width == 80:
        assert not [line for line in lines if "━" in line]
        assert [word for word in told if re.fullmatch(r"another-\S*…\S*/legw-b64-s0", word.strip())]
    else:
        assert f"{place}/runs/legw-b64-s0" in "\n".join(told)
        assert [line for line in lines if "━" in line]


def test_a_group_has_the_means_of_its_seeds(tmp_path: Path) -> None:
    asked = replace(ASKED, batch_sizes=(16,), seeds=(0, 1))
    both = {"base_b16_s0": {"metric": 0.5}, "base_b16_s1": {"metric": 0.7}}
    write_study(tmp_path / "s", asked, **both)
    (line,) = watch.grouped(watch.look(tmp_path).runs)
    assert (line.name, line.status) == ("base-b16, 2 seeds", "finished")
    assert line.metric == pytest.approx(0.6)


def test_a_real_run_can_be_read_while_it_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    assert records.load(tmp_path / "a").status == "finished"
    assert watch.progress(tmp_path / "a").seconds_left is None
