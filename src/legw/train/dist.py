"""Several processes: who we are, and the few sums that processes share.

Processes are started by `torchrun`, which sets the environment variables read
here. Without them there is one process, and every function is the identity.
"""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from legw.errors import RunError


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

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model such that a backward pass sums gradients over processes."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, gradient_as_bucket_view=True, **_OWN_BUFFERS
        )


def _own_buffers() -> dict[str, Any]:
    """Return the option that leaves buffers alone: ours are equal on all processes already."""
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


@contextmanager
def joined(device_name: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started; they stay joined until the process ends.

    Raises:
        RunError: the rendezvous fails, or another process is lost on the way.
    """
    device = choose_device(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(device, distributed.get_rank(), distributed.get_world_size())
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        raise RunError(
            f"rank {distributed.get_rank()}: lost another process ({_first_line(error)}); "
            "the same command with --resume goes on from the last checkpoint"
        ) from None


def _join(backend: str) -> None:
    """Meet the other processes, once: torchrun's store serves one rendezvous a process."""
    if distributed.is_initialized():
        return
    try:
        distributed.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"rendezvous: {_first_line(error)}; is the port free?") from None
    atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    words = ("onnection", "Socket", "timed out", "Timed out", "remote worker")
    return isinstance(error, distributed.DistBackendError | distributed.DistNetworkError) or any(
        word in str(error) for word in words
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
