"""Image workers: processes that decode images before training asks for them.

A request is a list of files with a seed for each. `start` hands it out, `take` waits for
it; a request that was never started is started by `take`. What comes back depends on the
files and seeds alone: the number of workers and the order of requests change nothing.

Shapes: B images, H and W pixels, C colours.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.multiprocessing
from PIL import Image
from torch import Tensor

from legw.apps.images.decode import BrokenImageError, decoded
from legw.apps.images.tree import Tree
from legw.errors import RunError

MAX_AHEAD = 8
"""Requests kept that nobody has taken yet; the oldest is dropped for a ninth."""

MIN_CHUNK = 8
"""Fewest images that are worth a message to a worker."""

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How workers start: without a copy of this process, which may hold a GPU and threads."""


class Transform(Protocol):
    """From an image to the pixels that a net sees; must be known to worker processes."""

    def __call__(self, image: Image.Image, seed: int | None) -> Tensor:
        """Return uint8 of shape (H, W, C); without a seed nothing is drawn."""
        ...


@dataclass(frozen=True)
class Decoded:
    """The images of one request."""

    pixels_BHWC: Tensor
    """uint8; a broken image is grey."""
    broken: dict[int, str]
    """What is wrong with each broken image, by its place in the request."""


Key = tuple[tuple[str, ...], tuple[int, ...] | None]


@dataclass
class Workers:
    """Processes that decode.

    Args:
        tree: where the images are.
        transform: what is done to each.
        count: how many processes; 0 decodes in this one.
    """

    tree: Tree
    transform: Transform
    count: int
    _pool: ProcessPoolExecutor | None = None
    _ahead: OrderedDict[Key, list[Future[Decoded]]] = field(default_factory=OrderedDict)

    def start(self, names: Sequence[str], seeds: Sequence[int] | None) -> None:
        """Have images decoded that will be taken soon; nothing without workers."""
        if self.count:
            with self._lost_is_an_error():
                self._ahead[_key(names, seeds)] = self._submit(names, seeds)
            while len(self._ahead) > MAX_AHEAD:
                _, dropped = self._ahead.popitem(last=False)
                for future in dropped:
                    future.cancel()

    def take(self, names: Sequence[str], seeds: Sequence[int] | None) -> Decoded:
        """Return images, waiting for them.

        Raises:
            DataError: a file cannot be read.
            RunError: a worker was lost.
        """
        if not self.count:
            return decode_all(self.tree, self.transform, names, seeds)
        with self._lost_is_an_error():
            futures = self._ahead.pop(_key(names, seeds), None) or self._submit(names, seeds)
            parts = [future.result() for future in futures]
        first = 0
        broken: dict[int, str] = {}
        for part in parts:
            broken |= {first + index: line for index, line in part.broken.items()}
            first += len(part.pixels_BHWC)
        return Decoded(torch.cat([part.pixels_BHWC for part in parts]), broken)

    def close(self) -> None:
        """End the workers; the next request starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._ahead.clear()

    @contextmanager
    def _lost_is_an_error(self) -> Iterator[None]:
        """Say which process was lost: a broken pool shows in its results or at the next request."""
        try:
            yield
        except BrokenProcessPool:
            raise RunError(
                f"{self.tree.task}: a process that decodes images was lost, perhaps for want "
                "of memory; give fewer --workers"
            ) from None

    def _submit(self, names: Sequence[str], seeds: Sequence[int] | None) -> list[Future[Decoded]]:
        """Cut a request into a piece for each worker."""
        if self._pool is None:
            context = multiprocessing.get_context(METHOD)
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin)
        size = max(MIN_CHUNK, -(-len(names) // self.count))
        stub = self.tree.stub()
        return [
            self._pool.submit(
                decode_all,
                stub,
                self.transform,
                names[at : at + size],
                None if seeds is None else seeds[at : at + size],
            )
            for at in range(0, len(names), size)
        ]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None, "_ahead": OrderedDict()}


def decode_all(
    tree: Tree, transform: Transform, names: Sequence[str], seeds: Sequence[int] | None
) -> Decoded:
    """Decode images one after the other.

    Args:
        tree: where they are.
        transform: what is done to each.
        names: which, at least one.
        seeds: of the random draws, one for each image; None draws nothing.

    Raises:
        DataError: a file cannot be read.
    """
    pixels: list[Tensor] = []
    broken: dict[int, str] = {}
    for index, name in enumerate(names):
        try:
            image = decoded(tree, name)
        except BrokenImageError as error:
            broken[index] = str(error)
            image = Image.new("RGB", (256, 256), (124, 116, 104))  # about the mean colour
        pixels.append(transform(image, None if seeds is None else seeds[index]))
    return Decoded(torch.stack(pixels), broken)


def usual_count() -> int:
    """Return the cores for each process of this machine that trains, less one that trains."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    allowed = getattr(os, "sched_getaffinity", None)  # Linux knows which cores are ours
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // processes - 1)


def _begin() -> None:
    """Leave the cores to other workers, and signals to the process that trains; end with it."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that trains is gone, however that came about."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _key(names: Sequence[str], seeds: Sequence[int] | None) -> Key:
    return tuple(names), None if seeds is None else tuple(seeds)
