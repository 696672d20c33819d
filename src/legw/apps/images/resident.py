"""Resident images: a small data set decoded once, kept in one file, and held in memory."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from legw.apps.images.decode import BrokenImageError, stacked
from legw.apps.images.tree import Tree
from legw.errors import DataError, RunError
from legw.runs.cache import cache_folder
from legw.runs.files import atomic
from legw.runs.locks import in_turn


@dataclass(frozen=True)
class Resident:
    """Images of one size in memory, as they are stored."""

    train: tuple[Tensor, Tensor]
    """Pixels, uint8 of shape (images, H, W, 3), and labels, int64 of shape (images,)."""
    held_out: tuple[Tensor, Tensor]
    """The same of the images for the metric."""
    classes: tuple[str, ...]
    """Names, by number."""
    broken: tuple[str, ...] = ()
    """Message of each file that was left out."""


def resident(
    tree: Tree, size: int, *, skip_broken: bool = False, cache: Path | None = None
) -> Resident:
    """Return all images of a tree with two splits, decoded now or earlier.

    Several processes that ask at once decode once: the others wait.

    Args:
        tree: folder of the images; its first split is trained on.
        size: height and width that every image must have, in pixels.
        skip_broken: leave broken files out, and count them, in place of an error.
        cache: folder for the decoded images; None is ``~/.cache/legw/images``.

    Raises:
        BrokenImageError: a file is broken, and `skip_broken` is False.
        DataError: a file cannot be read, or an image has another size.
    """
    path = (cache or cache_folder() / "images") / f"{tree.task}-{tree.fingerprint()}.npz"
    with in_turn(path.with_suffix(".lock")):
        found = _read(path, tree)
        if found is None:
            broken: list[str] = []

            def on_broken(error: BrokenImageError) -> None:
                if not skip_broken:
                    raise error
                broken.append(error.found)

            arrays = [stacked(tree, split, size, on_broken) for split in tree.splits]
            for split, (_, labels) in zip(tree.splits, arrays, strict=True):
                if not len(labels):
                    raise DataError(f"{tree.task}: {tree.path / split}: every image is broken")
            train, held_out = ((torch.from_numpy(a), torch.from_numpy(b)) for a, b in arrays)
            found = Resident(train, held_out, tree.classes, tuple(broken))
            _write(path, found)
    if found.broken and not skip_broken:
        raise BrokenImageError(found.broken[0])
    return found


def _read(path: Path, tree: Tree) -> Resident | None:
    """Return the images decoded earlier; None where there are none, or not all."""
    try:
        with path.open("rb") as content, numpy.load(content, allow_pickle=False) as file:
            names = ("train", "train_labels", "held_out", "held_out_labels")
            tensors = [torch.from_numpy(file[name]) for name in names]
            broken = tuple(str(line) for line in file["broken"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Resident((tensors[0], tensors[1]), (tensors[2], tensors[3]), tree.classes, broken)


def _write(path: Path, content: Resident) -> None:
    """Keep the decoded images, all or nothing; a full disk is no reason to stop."""
    with contextlib.suppress(RunError), atomic(path) as file:
        numpy.savez(
            file,
            train=content.train[0].numpy(),
            train_labels=content.train[1].numpy(),
            held_out=content.held_out[0].numpy(),
            held_out_labels=content.held_out[1].numpy(),
            broken=numpy.array(content.broken, dtype=str),
        )
