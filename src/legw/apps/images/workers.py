"""Image workers: processes that decode images before training asks for them.

A request is a list of files with a seed for each. `start` sends it to the workers, and `take` waits
for it; `take` also starts a request that was not started. The result depends on the files and seeds
alone, not on the number of workers or the order of requests.

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
from legw.errors import RunError, setting
from legw.runs.environment import cores_to_use

MAX_AHEAD = 8
"""Most requests that were not taken yet; a further one replaces the oldest."""

MIN_CHUNK = 8
"""Fewest images in a message to a worker."""

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Start method of workers: not a copy of this process, which may hold a GPU and threads."""


class Transform(Protocol):
    """Makes a net's input from an image; worker processes must be able to import it."""

    def __call__(self, image: Image.Image, seed: int | None) -> Tensor:
        """Return uint8 of shape (H, W, C); without a seed the image is not augmented."""
        ...


@dataclass(frozen=True)
class Decoded:
    """The images of one request."""

    pixels_BHWC: Tensor
    """uint8; a broken image is grey."""
    broken: dict[int, str]
    """Fault of each broken image, by its place in the request."""


Key = tuple[tuple[str, ...], tuple[int, ...] | None]


@dataclass
class Workers:
    """Processes that decode.

    Args:
        tree: folder of the images.
        transform: applied to each image.
        count: number of processes, at least 0; 0 decodes in this one.
    """

    tree: Tree
    transform: Transform
    count: int
    _pool: ProcessPoolExecutor | None = None
    _ahead: OrderedDict[Key, list[Future[Decoded]]] = field(default_factory=OrderedDict)

    def start(self, names: Sequence[str], seeds: Sequence[int] | None) -> None:
        """Decode images that will be taken soon; without workers this does nothing."""
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
            RunError: a worker died.
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
        """Turn a dead worker into an error, at its result or at the next request."""
        try:
            yield
        except BrokenProcessPool:
            raise RunError(
                f"{self.tree.task}: a process that decodes images was lost, perhaps for want "
                f"of memory; give fewer {setting('workers')}"
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
        tree: folder of the images.
        transform: applied to each image.
        names: the images' paths in the tree, at least one.
        seeds: of the random draws, one for each image; None applies no augmentation.

    Raises:
        DataError: a file cannot be read.
    """
    pixels: list[Tensor] = []
    broken: dict[int, str] = {}
    for index, name in enumerate(names):
        try:
            image = decoded(tree, name)
        except BrokenImageError as error:
            broken[index] = error.found
            image = Image.new("RGB", (256, 256), (124, 116, 104))  # about the mean colour
        pixels.append(transform(image, None if seeds is None else seeds[index]))
    return Decoded(torch.stack(pixels), broken)


def usual_count() -> int:
    """Return the cores for each training process of this machine, less one for training itself."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores_to_use() // processes - 1)


def _begin() -> None:
    """Use one core, leave signals to the training process, and end together with it."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the training process has ended for any reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _key(names: Sequence[str], seeds: Sequence[int] | None) -> Key:
    return tuple(names), None if seeds is None else tuple(seeds)
