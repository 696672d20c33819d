"""Process pool: trains runs one after the other, or several at a time.

A worker process imports torch and reads the data once. Then it receives one run after the other
through its pipe, reports its progress, and writes the run's folder itself.
Workers share the machine: its threads, its memory, and its GPUs in turn, each with a
context of its own. A run that fails leaves the others alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from legw.errors import LegwError, RunError, is_command_line, set_command_line, setting
from legw.runs.records import Evaluation, Manifest, Summary, Update
from legw.study.plan import Planned
from legw.train import Observer, Settings, Task, fit
from legw.train.audience import Audience
from legw.train.dist import choose_device
from legw.train.hardware import available_memory, out_of_memory

MakeTask = Callable[[], Task]
"""Returns the task."""
Watch = Callable[[Planned], Sequence[Observer]]
"""Returns the observers of a run."""

TELL_SECONDS = 0.1
"""Shortest time between two progress messages of a run to the first process."""

SHARE = 0.8
"""Share of the free memory that the micro-batches of all workers may take together."""

CONTEXT = multiprocessing.get_context("spawn")
"""Start method of worker processes: a fresh process each, as a fork cannot use its parent's GPU."""

LAST_SECONDS = 60.0
"""Time for a worker to write its checkpoint after the first process has ended."""


@dataclass(frozen=True)
class Failed:
    """A run that failed; its folder is kept, and the same command tries again."""

    reason: str
    """Why, as one line."""
    crowded: bool = False
    """Whether memory ran out, so that it may succeed with fewer runs at a time."""


Ended = Iterator[tuple[Planned, Summary | Failed]]
"""Runs as they end."""


class Onlooker(Observer):
    """An observer of a study, who sees failures too."""

    def on_failure(self, failed: Failed, again: bool) -> None:
        """After a run that could not be made; `again` says whether it is tried once more."""


class _Onlookers(Audience, Onlooker):
    """Several observers, which are also called at failures; each of them may disconnect."""

    def on_failure(self, failed: Failed, again: bool) -> None:
        self.tell("on_failure", failed, again)


def in_turn(
    runs: Sequence[Planned],
    make_task: MakeTask,
    folder: Path,
    *,
    settings: Settings,
    watch: Watch,
) -> Ended:
    """Train runs one after the other in this process; an interrupted one is the last.

    A run during which all observers disconnect is the last, too.
    """
    task, left = make_task(), []

    def leave() -> None:
        left.append(True)
        raise BrokenPipeError  # `fit` stops for it

    for run in runs:
        observers = [_Onlookers(watch(run), leave)]
        end = _attempt(run, task, folder, settings, observers)
        with contextlib.suppress(BrokenPipeError):
            _tell_failure(end, observers, again=False)
        yield run, end
        if left or (isinstance(end, Summary) and end.status == "interrupted"):
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

    A run whose memory runs out is tried once more, after the others and with one process
    fewer.

    Raises:
        RunError: all processes died before they could begin.
        LegwError: none can make the task.
    """
    jobs = min(jobs, len(runs))
    pool = _Pool(list(runs), watch, (make_task, folder, settings, jobs, is_command_line()))
    with pool.signals():
        try:
            pool.start(jobs)
            yield from pool.results()
        finally:
            pool.close()


def _attempt(
    run: Planned, task: Task, folder: Path, settings: Settings, observers: Sequence[Observer]
) -> Summary | Failed:
    """Train one run; an error of the user or of the machine is returned as its failure."""
    try:
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
    except LegwError as error:
        return Failed(str(error))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return Failed(
        f"{run.name}: memory ran out; give fewer {setting('jobs')} or a smaller "
        f"{setting('micro_batch_size')}",
        crowded=True,
    )


def _tell_failure(end: Summary | Failed, observers: Sequence[Observer], *, again: bool) -> None:
    for observer in observers:
        if isinstance(end, Failed) and isinstance(observer, Onlooker):
            observer.on_failure(end, again)


# In a worker process ------------------------------------------------------------------


def _work(  # noqa: PLR0917 (positional, as a process is started)
    pipe: Connection,
    number: int,
    make_task: MakeTask,
    folder: Path,
    settings: Settings,
    jobs: int,
    to_command_line: bool,
) -> None:
    """Train the runs that arrive through the pipe, until its other end is closed."""
    set_command_line(to_command_line)
    for each in (signal.SIGINT, signal.SIGTERM):  # between runs; `fit` takes both in a run
        signal.signal(each, _pass)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    try:
        settings = share(settings, number, jobs)
        task = make_task()
        pipe.send("ready")
        while True:
            run = pipe.recv()
            pipe.send(_attempt(run, task, folder, settings, [_Teller(pipe)]))
    except LegwError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError):  # the first process is gone
        return


def share(settings: Settings, number: int, jobs: int) -> Settings:
    """Return the settings of one of several workers: its GPU, and its part of the memory.

    Args:
        settings: of the study; a device that is named is taken by all.
        number: the worker's, from 0.
        jobs: number of workers, at least 1.

    Raises:
        RunError: there is no such device.
    """
    device = settings.device
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus > 1:
        device = f"cuda:{number % gpus}"
    limit = settings.memory_limit
    if limit is None:
        beside = -(-jobs // gpus) if gpus > 1 else jobs
        limit = int(SHARE * min(available_memory(choose_device(device)), 2**60) / beside)
    return replace(settings, device=device, memory_limit=limit)


def _end_with_the_first(last_seconds: float = LAST_SECONDS) -> None:
    """When the first process is killed, end the run as SIGTERM does, so that it can be resumed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(last_seconds)
    os._exit(1)


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing: SIG_IGN would be handed down to processes that the run starts."""


class _Teller(Observer):
    """Reports a run's progress to the first process; the run goes on if nobody reads it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._told = 0.0

    def _tell(self, *message: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(message)

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        self._tell("on_start", manifest, updates_done)

    def on_update(self, row: Update) -> None:
        if row.seconds - self._told >= TELL_SECONDS:
            self._told = row.seconds
            self._tell("on_update", row)

    def on_evaluation(self, row: Evaluation) -> None:
        self._tell("on_evaluation", row)

    def on_end(self, summary: Summary) -> None:
        self._tell("on_end", summary)


# In the first process -----------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    """A worker process, the pipe to it, and its present run."""

    number: int
    process: BaseProcess
    pipe: Connection
    run: Planned
    observers: Sequence[Observer]
    ready: bool = False
    """Whether it has made its task."""
    lost: bool = False
    """Whether its process has ended by itself."""
    error: LegwError | None = None
    """Reason for which it could not begin."""


@dataclass
class _Pool:
    """Workers, and the runs that none has taken yet."""

    left: list[Planned]
    watch: Watch
    arguments: tuple[Any, ...]
    workers: list[_Worker] = field(default_factory=list)
    again: set[str] = field(default_factory=set)
    """Runs that are tried for the second time."""
    shared: bool = False
    """Whether runs had the machine together."""
    stopping: bool = False

    def start(self, count: int) -> None:
        """Start the workers, each with its first run."""
        self.shared = count > 1
        for number in range(count):
            self._start(number)

    def _start(self, number: int) -> None:
        here, there = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_work, args=(there, number, *self.arguments))
        process.start()
        there.close()
        run = self.left.pop(0)
        self.workers.append(_Worker(number, process, here, run, self._onlookers(run)))
        here.send(run)

    def _onlookers(self, run: Planned) -> Sequence[Observer]:
        """Return the observers of a run; once all have disconnected, all runs stop."""
        return [_Onlookers(self.watch(run), self._stop)]

    def _stop(self) -> None:
        self.stopping = True
        self._ask_to_stop()

    def results(self) -> Ended:
        """Yield each run as it ends, and give its worker the next."""
        while self.workers:
            ready = wait([worker.pipe for worker in self.workers], timeout=1.0)
            for worker in [w for w in self.workers if w.pipe in ready]:
                end = self._hear(worker)
                if end is None:
                    if worker.lost:
                        self._go_on_without(worker)
                    continue
                crowded = isinstance(end, Failed) and end.crowded
                again = crowded and self.shared and worker.run.name not in self.again
                _tell_failure(end, worker.observers, again=again)
                if again:
                    self.again.add(worker.run.name)
                    self.left.append(worker.run)
                else:
                    yield worker.run, end
                self._next(worker, fewer=crowded and len(self.workers) > 1)
            if self.stopping:
                self._ask_to_stop()  # again: one may not have been in its run yet

    def _hear(self, worker: _Worker) -> Summary | Failed | None:
        """Take one message of a worker: how its run ended, if it has."""
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._lost(worker)
        if isinstance(message, Summary | Failed):
            return message
        if isinstance(message, LegwError):
            worker.lost, worker.error = True, message
            return None
        worker.ready = True
        if message == "ready":
            return None
        event, *values = message
        for observer in worker.observers:
            getattr(observer, event)(*values)
        return None

    def _lost(self, worker: _Worker) -> Failed | None:
        """Return the failure of a process that has ended; None where it had not begun."""
        worker.process.join()
        worker.lost = True
        code = worker.process.exitcode
        reason = (
            f"{worker.run.name}: its process was lost (exit code {code}; -9 is out of memory); "
            f"the same command goes on, perhaps with fewer {setting('jobs')}"
        )
        if not worker.ready:
            worker.error = RunError(reason)
            return None
        return Failed(reason, crowded=code == -signal.SIGKILL)

    def _go_on_without(self, worker: _Worker) -> None:
        """Give the run of a worker that could not begin to the other workers, if there are any."""
        self.workers.remove(worker)
        self.left.append(worker.run)
        if worker.error and not self.workers and not self.stopping:
            raise worker.error

    def _next(self, worker: _Worker, *, fewer: bool) -> None:
        """Give a worker its next run; a dead or superfluous worker ends."""
        more = self.left and not self.stopping
        if more and not fewer and not worker.lost:
            worker.run = self.left.pop(0)
            worker.observers = self._onlookers(worker.run)
            with contextlib.suppress(BrokenPipeError):  # lost meanwhile: `_hear` will say so
                worker.pipe.send(worker.run)
            return
        worker.pipe.close()
        self.workers.remove(worker)
        if more and (not fewer or not self.workers):
            self._start(worker.number)

    def _ask_to_stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()  # SIGTERM: `fit` saves and returns

    def close(self) -> None:
        """End all workers that still run, which happens only after an error or a second Ctrl-C."""
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
            self._stop()
            signal.signal(number, before[number])

        before: dict[int, Any] = {
            number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
