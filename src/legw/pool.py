"""Train runs one after the other, or several at a time in processes of their own.

A worker process imports torch and reads the data once; then it takes one run after
the other through its pipe, tells how it goes on, and writes the run's folder itself.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from legw.errors import LegwError, RunError
from legw.records import Evaluation, Manifest, Summary, Update
from legw.study import Planned
from legw.train import Observer, Settings, Task, fit

MakeTask = Callable[[], Task]
"""Returns what is trained."""
Watch = Callable[[Planned], Sequence[Observer]]
"""Returns who looks on while a run goes on."""
Ended = Iterator[tuple[Planned, Summary]]
"""Runs as they end."""

TELL_SECONDS = 0.1
"""Least time between two updates of a run that are told to the first process."""


def in_turn(
    runs: Sequence[Planned],
    make_task: MakeTask,
    folder: Path,
    *,
    settings: Settings,
    watch: Watch,
) -> Ended:
    """Train runs one after the other in this process; an interrupted one is the last."""
    task = make_task()
    for run in runs:
        summary = _train(run, task, folder, settings, watch(run))
        yield run, summary
        if summary.status == "interrupted":
            return


def at_a_time(
    runs: Sequence[Planned],
    make_task: MakeTask,
    folder: Path,
    *,
    jobs: int,
    settings: Settings,
    watch: Watch,
) -> Ended:
    """Train runs in `jobs` processes; the first Ctrl-C lets each end after its update.

    Raises:
        RunError: a process was lost.
    """
    pool = _Pool(list(runs), watch)
    with pool.signals():
        try:
            pool.start(min(jobs, len(runs)), (make_task, folder, settings, jobs))
            yield from pool.results()
        finally:
            pool.close()


def _train(
    run: Planned, task: Task, folder: Path, settings: Settings, observers: Sequence[Observer]
) -> Summary:
    return fit(
        task,
        run.recipe,
        out=folder / "runs" / run.name,
        seed=run.seed,
        base=run.base,
        rule=run.rule,
        settings=settings,
        observers=observers,
    )


# In a worker process ------------------------------------------------------------------


def _work(
    pipe: Connection, make_task: MakeTask, folder: Path, settings: Settings, jobs: int
) -> None:
    """Train what comes through the pipe, until it is closed at the other end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # between runs; `fit` takes both in a run
        signal.signal(number, _pass)
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    try:
        task = make_task()
        while True:
            run = pipe.recv()
            pipe.send(_train(run, task, folder, settings, [_Teller(pipe)]))
    except LegwError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError):  # the first process is gone
        return


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing: SIG_IGN would be handed down to processes that the run starts."""


class _Teller(Observer):
    """Tells the first process how a run goes on."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._told = 0.0

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._pipe.send(("on_start", manifest, updates_done))

    def on_update(self, row: Update) -> None:
        if row.seconds - self._told >= TELL_SECONDS:
            self._told = row.seconds
            self._pipe.send(("on_update", row))

    def on_evaluation(self, row: Evaluation) -> None:
        self._pipe.send(("on_evaluation", row))

    def on_end(self, summary: Summary) -> None:
        self._pipe.send(("on_end", summary))


# In the first process -----------------------------------------------------------------


@dataclass
class _Worker:
    """A process, the pipe to it, and what it trains."""

    process: BaseProcess
    pipe: Connection
    run: Planned
    observers: Sequence[Observer]


@dataclass
class _Pool:
    """Workers, and the runs that none has taken yet."""

    left: list[Planned]
    watch: Watch
    workers: list[_Worker] = field(default_factory=list)
    stopping: bool = False

    def start(self, count: int, arguments: tuple[Any, ...]) -> None:
        """Start the workers, each with its first run."""
        context = multiprocessing.get_context("spawn")
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, *arguments))
            process.start()
            there.close()
            run = self.left.pop(0)
            self.workers.append(_Worker(process, here, run, self.watch(run)))
            here.send(run)

    def results(self) -> Ended:
        """Yield each run as it ends, and give its worker the next."""
        while self.workers:
            ready = wait([worker.pipe for worker in self.workers], timeout=1.0)
            for worker in [w for w in self.workers if w.pipe in ready]:
                summary = self._hear(worker)
                if summary is not None:
                    yield worker.run, summary
                    self._next(worker)
            if self.stopping:
                self._ask_to_stop()  # again: one may not have been in its run yet

    def _hear(self, worker: _Worker) -> Summary | None:
        """Take one message of a worker: the summary at a run's end, else None."""
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            raise RunError(
                f"{worker.run.name}: its process was lost (exit code {worker.process.exitcode}; "
                "-9 is out of memory); the same command goes on, perhaps with fewer --jobs"
            ) from None
        if isinstance(message, Summary):
            return message
        if isinstance(message, LegwError):
            raise message
        event, *values = message
        for observer in worker.observers:
            getattr(observer, event)(*values)
        return None

    def _next(self, worker: _Worker) -> None:
        if self.left and not self.stopping:
            worker.run = self.left.pop(0)
            worker.observers = self.watch(worker.run)
            worker.pipe.send(worker.run)
        else:
            worker.pipe.close()
            self.workers.remove(worker)

    def _ask_to_stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()  # SIGTERM: `fit` saves and returns

    def close(self) -> None:
        """End whatever still runs: only after an error or a second Ctrl-C is there anything."""
        for worker in self.workers:
            worker.process.kill()
            worker.pipe.close()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM stop all runs after their update; a second one, at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            self._ask_to_stop()
            signal.signal(number, before[number])

        before: dict[int, Any] = {
            number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
