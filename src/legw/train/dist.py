"""Distributed processes: their ranks, their shared values, and their failures.

Processes are started by `torchrun`, which sets the environment variables read
here. Without them there is one process, and every function is the identity.

A mistake is printed once, however many processes notice it. When one process dies, all others end.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import re
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from legw.errors import LegwError, LegwWarning, RunError, one_line, setting

PATIENCE_SECONDS = 600.0
"""Time that a process waits for an answer of another before it counts as dead."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """One process among `size`, numbered by `rank`, on its own device."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the run folder."""
        return self.rank == 0

    @property
    def process_group(self) -> distributed.ProcessGroup | None:
        """torch's group of all processes; None where there is only one."""
        return distributed.group.WORLD if self.size > 1 else None

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value (anything picklable), in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """Return the first process's value on every process."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def agree(self, action: Callable[[], Value]) -> Value:
        """Do something on the first process; return its value, or raise its error, on all."""
        outcome = self.share(_attempt(action) if self.first else None)
        value: Value = self._agreed(outcome)
        return value

    def together(self, action: Callable[[], Value]) -> Value:
        """Do something on all processes; if it fails on any, raise the first error on all.

        The first process of each machine goes ahead, so that the others find what it
        downloads. The action must not talk to other processes.
        """
        leads = os.environ.get("LOCAL_RANK", "0") == "0" or self.size == 1
        outcome: tuple[Value | None, LegwError | None] = (None, None)
        for turn in (True, False):
            if leads is turn:
                outcome = _attempt(action)
            errors = [error for error in self.gather(outcome[1]) if error is not None]
            if errors:
                self._agreed((None, errors[0]))
        return outcome[0]  # type: ignore[return-value]

    def _agreed(self, outcome: tuple[Any, LegwError | None]) -> Any:
        """Return the value, or raise the error; the first process is the one that prints it."""
        value, error = outcome
        if error is not None:
            error.reported = not self.first
            raise error
        return value

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model such that a backward pass sums gradients over processes."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, gradient_as_bucket_view=True, **_OWN_BUFFERS
        )


def _own_buffers() -> dict[str, Any]:
    """Return the option that leaves buffers alone: they are equal on all processes already."""
    known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    newer = "forward_sync_buffers"  # torch renamed it, and warns of the old name
    return {newer if newer in known else "broadcast_buffers": False}


_OWN_BUFFERS = _own_buffers()


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one.

    Raises:
        RunError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise RunError(f"device={name!r}: is not available here; try cpu") from None
    return device


@contextlib.contextmanager
def joined(
    device_name: str = "auto", patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[World]:
    """Join the processes that torchrun started; they stay joined until the process ends.

    Args:
        device_name: as for `choose_device`; of several GPUs each process takes its own.
        patience_seconds: longest wait for an answer of another process, in seconds, above 0.

    Raises:
        RunError: the rendezvous fails, there is no such device on one of the machines,
            or another process dies.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(choose_device(device_name))
        return
    try:
        _join(device_name, timedelta(seconds=patience_seconds))
    except RunError as error:
        error.reported = False  # each process sees something else of it
        raise
    rank, size = distributed.get_rank(), distributed.get_world_size()
    try:
        without_device = World(torch.device("cpu"), rank, size)
        yield World(without_device.together(lambda: _own_device(device_name)), rank, size)
    except LegwError as error:
        error.reported = error.reported or not _first_to_tell()
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        atexit.unregister(_leave)  # to take leave of a lost process would be to wait for it
        lost = RunError(
            f"rank {rank}: lost another process ({_reason(error).partition('. ')[0]}); "
            f"the same command with {setting('resume')} goes on from the last checkpoint"
        )
        lost.reported = not _first_to_tell()
        raise lost from None


def _own_device(name: str) -> torch.device:
    """Return this process's device: of several GPUs the one with its number on the machine."""
    device = choose_device(name)
    if device.type != "cuda":
        return device
    device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    torch.cuda.set_device(device)
    return device


# Meeting ------------------------------------------------------------------------------


@dataclass
class _Meeting:
    """Meeting point of the processes of this round."""

    store: Store | None = None
    """Store that all of them can read and write, while the process that holds it lives."""
    tells: bool | None = None
    """Whether this process prints the failure; None without a failure."""


_MEETING = _Meeting()
_ARE_THEY_THERE = "are all processes started, and do they reach each other?"


def _join(device_name: str, patience: timedelta) -> None:
    """Meet the other processes, once a process."""
    if distributed.is_initialized():
        return
    on_gpus = device_name != "cpu" and torch.cuda.is_available()
    try:
        store, rank, size = next(rendezvous("env://", timeout=patience))
        store.set_timeout(patience)
        store = _of_this_round(store, rank, size, patience)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=patience,
        )
    except (RuntimeError, ValueError) as error:
        here = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        question = "is the port free?" if "listen" in str(error) else _ARE_THEY_THERE
        raise RunError(f"rendezvous at {here}: {_reason(error)}; {question}") from None
    _MEETING.store = store
    _warn_of_shared_store()
    atexit.register(_leave)


def _of_this_round(store: Store, rank: int, size: int, patience: timedelta) -> Store:
    """Return the part of the store that the processes of this round alone use.

    torchrun keeps one store over its restarts, with addresses of processes that have ended. So the
    first process draws a new name and passes it to the processes that ask now.
    """
    if rank > 0:
        request = uuid.uuid4().hex
        store.set(f"legw/request/{rank}", request)
        name = store.get(f"legw/answer/{request}").decode()
        store.set(f"legw/{name}/{rank}", "here")
        return PrefixStore(f"legw/{name}", store)
    name, deadline = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"legw/{name}/{other}"]):
                missing.remove(other)
            elif store.check([f"legw/request/{other}"]):
                request = store.get(f"legw/request/{other}").decode()
                store.set(f"legw/answer/{request}", name)
        if missing and time.monotonic() > deadline:
            seconds = patience.total_seconds()
            raise RunError(
                f"rendezvous: {len(missing)} of {size} processes did not come within "
                f"{seconds:g} s; {_ARE_THEY_THERE}"
            )
        time.sleep(0.01)
    return PrefixStore(f"legw/{name}", store)


def _warn_of_shared_store() -> None:
    """Warn that torchrun on several hosts may give restarted processes a dead address."""
    elastic = {
        name: os.environ.get(f"TORCHELASTIC_{name}", "")
        for name in ("USE_AGENT_STORE", "MAX_RESTARTS")
    }
    several = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    if several and elastic["USE_AGENT_STORE"] == "True" and elastic["MAX_RESTARTS"] != "0":
        warnings.warn(
            "torchrun: restarts over several hosts can hang; start it with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every host",
            LegwWarning,
            stacklevel=2,
        )


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


# Failing ------------------------------------------------------------------------------


def _attempt(action: Callable[[], Value]) -> tuple[Value | None, LegwError | None]:
    """Return an action's result, and the error that it raises."""
    try:
        return action(), None
    except LegwError as error:
        return None, error


def _first_to_tell() -> bool:
    """Whether no other process is known to have printed a failure yet."""
    if _MEETING.tells is None:
        _MEETING.tells = True
        with contextlib.suppress(RuntimeError, OSError):
            keeper = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            socket.create_connection(keeper, timeout=2).close()  # or torch prints its stack
            if _MEETING.store is not None:
                _MEETING.tells = _MEETING.store.add("failures", 1) == 1
    return _MEETING.tells


def _is_lost_connection(error: RuntimeError) -> bool:
    words = ("onnection", "Socket", "timed out", "Timed out", "remote worker")
    return isinstance(error, distributed.DistBackendError | distributed.DistNetworkError) or any(
        word in str(error) for word in words
    )


def _reason(error: BaseException) -> str:
    """Return the first line of an error of torch's, without its place in the source."""
    text = re.sub(r"\[/\S*\]\s*", "", str(error)).strip() or type(error).__name__
    return one_line(text.splitlines()[0]).rstrip(".")
