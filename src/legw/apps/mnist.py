"""MNIST read row by row: the MNIST-LSTM application of You et al. 2019 (arXiv 1901.08256)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy
import torch
from torch import Tensor

from legw.apps import Options
from legw.apps.row_lstm import RowTask, ShiftedRowTask, held_out
from legw.errors import DataError
from legw.runs.cache import cache_folder, data_folder

VALIDATION_SHARE = 1 / 6
"""Share of the training images that is left out for validation: the last 10,000."""

SHIFTS = {"mnist-lstm-muon": 2}
"""Applications whose training images are shifted at random, and by how many pixels at most."""

FILES = {
    "train-images-idx3-ubyte": (60000, 28, 28),
    "train-labels-idx1-ubyte": (60000,),
    "t10k-images-idx3-ubyte": (10000, 28, 28),
    "t10k-labels-idx1-ubyte": (10000,),
}
"""The four published files, and the shape of each."""


def task(name: str, options: Options) -> RowTask:
    """Return MNIST: 60,000 images to train on, 10,000 to test.

    Raises:
        DataError: the files are neither given nor cached and cannot be downloaded, or one of them
            is not the published one.
    """
    folder = find_folder(options.data)
    images, labels, test_images, test_labels = (read_idx(folder, name) for name in FILES)
    train, test = (images, labels.long()), (test_images, test_labels.long())
    if options.holdout == "validation":
        train, test = held_out(train, VALIDATION_SHARE)
    if name in SHIFTS:
        most = SHIFTS[name]
        return ShiftedRowTask(name, train, test, scale=255.0, hidden_size=128, most=most)
    return RowTask(name, train, test, scale=255.0, hidden_size=128)


def find_folder(data: Path | None) -> Path:
    """Return the folder with the four files: the one given, $LEGW_DATA/mnist, or a download."""
    return data_folder("mnist", data) or _download(cache_folder())


def read_idx(folder: Path, name: str) -> Tensor:
    """Read one IDX file, plain or gzipped, as a uint8 tensor of its published shape.

    Raises:
        DataError: it is missing, or not the published file.
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise DataError(
            f"mnist-lstm: {folder / name}[.gz]: is missing; put the four files "
            f"{', '.join(FILES)} (plain or .gz) there, or set LEGW_DATA to the folder above mnist/"
        )
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise DataError(f"mnist-lstm: {path}: cannot be read: {error}") from None
    shape = FILES[name]
    header = numpy.array([0x0800 + len(shape), *shape], dtype=">i4").tobytes()
    size = int(numpy.prod(shape))
    if not content.startswith(header) or len(content) != len(header) + size:
        raise DataError(f"mnist-lstm: {path}: is not the published IDX file of shape {shape}")
    return torch.frombuffer(bytearray(content[len(header) :]), dtype=torch.uint8).view(shape)


def _download(cache: Path) -> Path:
    from torchvision.datasets import MNIST

    folder = cache / "MNIST" / "raw"
    try:
        MNIST(str(cache), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"mnist-lstm: the download failed ({reason[:80]}); put the four files "
            f"{', '.join(FILES)} (plain or .gz) into {folder}, or into a folder mnist/ "
            "and set LEGW_DATA to the folder above it"
        ) from None
    return folder
