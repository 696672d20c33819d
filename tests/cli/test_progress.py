"""What is seen of a study while it runs, with a clock of the test's own."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from folders import BASE
from legw.cli.progress import Board, Display
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.study.plan import Planned, Study, plan

RUNS = plan(Study(task="mine", base=BASE, batch_sizes=(16, 64), seeds=(0, 1))).runs

MANIFEST = Manifest(
    task="mine", rule="legw", seed=0, base=BASE, recipe=BASE, num_examples=400, updates=100,
    micro_batch_size=16, metric="accuracy",
)  # fmt: skip

DONE = Summary(
    status="finished",
    final_loss=0.1,
    metric={"name": "accuracy", "value": 0.95},
    updates=100,
    seconds=12.3,
)


class Clock:
    """Stands still until it is told to move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def board(clock: Clock, *, terminal: bool) -> tuple[Board, io.StringIO]:
    text = io.StringIO()
    console = Console(
        file=text, width=100, force_terminal=terminal, highlight=False, markup=False, no_color=True
    )
    return Board(console, RUNS, done=1, clock=clock), text


def play(shown: Board, clock: Clock, run: Planned, summary: Summary) -> None:
    """Let a run go on for two minutes, with an evaluation every second."""
    (watcher,) = shown.watch(run)
    watcher.on_start(MANIFEST, 0)
    for step in range(100):
        clock.now += 1.2
        watcher.on_update(Update(update=step, epoch=step / 25, loss=0.5, lr=0.1))
        watcher.on_evaluation(Evaluation(update=step, epoch=step / 25, metric=0.9, loss=0.5))
    watcher.on_end(summary)


def test_without_a_terminal_a_line_every_few_seconds_and_one_at_the_end(clock: Clock) -> None:
    shown, text = board(clock, terminal=False)
    with shown:
        play(shown, clock, RUNS[1], DONE)
    lines = text.getvalue().splitlines()
    assert lines[-1] == "run 2 of 4, base-b16-s1: accuracy 0.95, 100 updates in 12.3 s"
    assert lines[0] == "run 2 of 4, base-b16-s1: epoch 0.16 of 4, loss 0.5, accuracy 0.9"
    assert 100 * 1.2 / 6.0 - 2 <= len(lines) <= 100 * 1.2 / 5.0 + 2


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (
            replace(DONE, status="diverged", reason="the loss is not finite"),
            "diverged at update 100: the loss is not finite",
        ),
        (replace(DONE, status="interrupted"), "stopped after update 100"),
    ],
)
def test_a_run_that_does_not_finish_says_why(clock: Clock, summary: Summary, said: str) -> None:
    shown, text = board(clock, terminal=False)
    with shown:
        play(shown, clock, RUNS[0], summary)
    assert text.getvalue().splitlines()[-1] == f"run 1 of 4, base-b16-s0: {said}"


def test_in_a_terminal_there_are_bars_of_the_study_and_of_each_run(clock: Clock) -> None:
    shown, text = board(clock, terminal=True)
    with shown:
        watchers = [shown.watch(run)[0] for run in RUNS[:2]]
        for watcher in watchers:
            watcher.on_start(MANIFEST, 20)
        clock.now += 1
        for watcher in watchers:
            watcher.on_evaluation(Evaluation(update=1, epoch=1, metric=0.9, loss=0.5))
            watcher.on_update(Update(update=49, epoch=2, loss=0.25, lr=0.1))
        clock.now += 1
        watchers[0].on_end(DONE)
        assert shown.progress is not None
        study, other = shown.progress.tasks
        assert (study.completed, study.total) == (2, 4)
        assert (other.completed, other.total) == (50, 100)
        assert other.fields["said"] == "update 50/100 loss 0.25 accuracy 0.9"
    drawn = text.getvalue()
    assert "run 1 of 4, base-b16-s0: accuracy 0.95, 100 updates in 12.3 s" in drawn
    assert "run 2 of 4, base-b16-s1" in drawn


def test_bars_are_not_redrawn_for_every_update(clock: Clock) -> None:
    shown, text = board(clock, terminal=True)
    with shown:
        (watcher,) = shown.watch(RUNS[0])
        watcher.on_start(MANIFEST, 0)
        before = len(text.getvalue())
        for step in range(1000):
            watcher.on_update(Update(update=step, epoch=1, loss=0.5, lr=0.1))
        assert len(text.getvalue()) == before


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_is_one_line_with_one_labelled_clock(clock: Clock, width: int) -> None:
    """Epoch, update, loss, rate, throughput and the time left, at both widths in whole words."""
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, no_color=True, color_system=None)
    long = replace(MANIFEST, updates=11719, num_examples=46876)
    shown = Display(console, "mnist-lstm", clock)
    shown.on_start(long, 0)
    clock.now += 50
    shown.on_evaluation(Evaluation(update=1, epoch=1, metric=0.98765, loss=0.5))
    row = Update(update=2499, epoch=1.2345, loss=0.12345, lr=0.00282843, examples_per_second=53210)
    shown.on_update(row)
    shown.on_end(DONE)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", text.getvalue()).splitlines()
    (line,) = {each.strip() for each in drawn if "loss" in each}
    assert len(line) <= width
    said = "epoch 1.23/4 update 2500/11719 loss 0.1235 {}lr 0.00283 53210 ex/s left 3.1 min"
    if width == 80:
        assert line == said.format("")
    else:
        assert line.endswith("mnist-lstm " + said.format("accuracy 0.9877 "))


def test_lines_above_the_bars_break_between_words(clock: Clock) -> None:
    text = io.StringIO()
    console = Console(file=text, width=40, force_terminal=True, color_system=None)
    shown = Board(console, RUNS, done=0, clock=clock)
    shown.say("run 1 of 4: of many words, warmup of 0.1 epochs and of more")
    lines = text.getvalue().splitlines()
    assert [line.strip() for line in lines] == [
        "run 1 of 4: of many words, warmup of 0.1",
        "epochs and of more",
    ]
