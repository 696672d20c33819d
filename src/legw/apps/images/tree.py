"""Image folders: images in folders named after their classes, on disk or in a zip file.

    ROOT/train/CLASS/*.jpg    ROOT/val/CLASS/*.jpg    (or test/ in place of val/)

Classes are numbered in the order of their names, images in the order of theirs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from legw.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
"""Suffixes of images, also in capitals; other files are skipped."""

LAYOUT = "SPLIT/CLASS/*.jpg"


@dataclass(frozen=True)
class Split:
    """The images of one part of the data."""

    names: tuple[str, ...]
    """Paths below the root, with /; sorted by class, then by name."""
    labels: tuple[int, ...]
    """The class of each, a number from 0 in `Tree.classes`."""


@dataclass(frozen=True)
class Tree:
    """Images in folders named after their classes.

    Args:
        task: the application's name, for errors.
        path: a folder, or a zip file with the same layout inside.
        classes: names in alphabetical order.
        splits: the parts, by name.
    """

    task: str
    path: Path
    classes: tuple[str, ...]
    splits: dict[str, Split]

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            return self._archive().read(name)
        except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.task}: {self.path / name}: cannot be read: {error}") from None

    def fingerprint(self) -> str:
        """Return a hash that changes with the files: names, sizes, and CRCs or times."""
        digest = hashlib.sha256(repr(self.path.is_dir()).encode())
        facts: Iterable[object]
        if self.path.is_dir():
            names = (name for split in self.splits.values() for name in split.names)
            stats = ((name, (self.path / name).stat()) for name in names)
            facts = ((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
        else:
            infos = self._archive().infolist()
            facts = ((info.filename, info.file_size, info.CRC) for info in infos)
        for fact in facts:
            digest.update(repr(fact).encode())
        return digest.hexdigest()[:16]

    def _archive(self) -> zipfile.ZipFile:
        return _opened(self.path, os.getpid())

    def stub(self) -> Tree:
        """Return an object that can only `read`: small enough to be sent with every request."""
        return Tree(self.task, self.path, (), {})


@functools.cache
def _opened(path: Path, process: int) -> zipfile.ZipFile:
    """Return a zip file, opened once a process: a handle cannot be shared."""
    return zipfile.ZipFile(path)


def scan(task: str, path: Path, splits: tuple[str, ...]) -> Tree:
    """List the images below a folder or in a zip file.

    Args:
        task: the application's name, for errors.
        path: the folder that holds the splits, or a zip file of one.
        splits: names of the parts; the first one's classes are those of all.

    Raises:
        DataError: there is no such folder or zip file, a split has no classes, a class no
            images, or the splits have different classes.
    """
    found = _in_zip(task, path) if path.is_file() else _in_folder(path, splits)
    by_split = {split: found.get(split, {}) for split in splits}
    for split, by_class in by_split.items():
        if not by_class:
            raise DataError(
                f"{task}: {path / split}: has no folders of classes; "
                f"the layout is {LAYOUT}, with splits {' and '.join(splits)}"
            )
        for name, files in by_class.items():
            if not files:
                raise DataError(
                    f"{task}: {path / split / name}: has no images ({', '.join(SUFFIXES)}); "
                    "put some there, or remove the class"
                )
    first, *others = splits
    classes = tuple(sorted(by_split[first]))
    for other in others:
        _check_same(task, path, by_split, (first, other))
    numbers = {name: number for number, name in enumerate(classes)}
    return Tree(
        task,
        path,
        classes,
        {split: _listed(split, by_class, numbers) for split, by_class in by_split.items()},
    )


def _check_same(
    task: str, path: Path, by_split: dict[str, dict[str, list[str]]], pair: tuple[str, str]
) -> None:
    for one, two in (pair, pair[::-1]):
        missing = sorted(set(by_split[one]) - set(by_split[two]))
        if missing:
            raise DataError(
                f"{task}: {path / two}: class {missing[0]!r} of {one} is missing "
                f"({len(missing)} in all); both must have the same classes"
            )


def _listed(split: str, by_class: dict[str, list[str]], numbers: dict[str, int]) -> Split:
    pairs = [
        (f"{split}/{name}/{file}", numbers[name])
        for name in sorted(by_class)
        for file in sorted(by_class[name])
    ]
    return Split(tuple(name for name, _ in pairs), tuple(label for _, label in pairs))


def _in_folder(path: Path, splits: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """Return split -> class -> files, for the existing folders."""
    found: dict[str, dict[str, list[str]]] = {}
    for split in splits:
        if (path / split).is_dir():
            with os.scandir(path / split) as entries:
                names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
            found[split] = {name: _images(path / split / name) for name in names}
    return found


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if _is_image(entry.name)]


def _in_zip(task: str, path: Path) -> dict[str, dict[str, list[str]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{task}: {path}: is no zip file that can be read: {error}") from None
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = name.split("/")
        if len(parts) == 3 and all(parts[:2]):
            files = found.setdefault(parts[0], {}).setdefault(parts[1], [])
            if _is_image(parts[2]):
                files.append(parts[2])
    return found


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
