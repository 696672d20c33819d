"""Digits: scikit-learn's embedded 8x8 images, read row by row; seconds a run, no download."""

from __future__ import annotations

import numpy
import torch

from legw.apps import Options
from legw.apps.row_lstm import RowTask, ShiftedRowTask, held_out

SHIFTS = {"digits-lstm-muon": 1}
"""Applications whose training images are shifted at random, and by how many pixels at most."""

TEST_SHARE = 0.2
"""Share of the 1,797 images that is kept for the test."""


def task(name: str, options: Options) -> RowTask:
    """Return the digits: 1,438 images to train on, 359 to test, in one fixed split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    shuffle = numpy.random.RandomState(0).permutation(len(bunch.target))
    images = torch.from_numpy(bunch.images[shuffle].astype(numpy.uint8))
    labels = torch.from_numpy(bunch.target[shuffle].astype(numpy.int64))
    train, test = held_out((images, labels), TEST_SHARE)
    if options.holdout == "validation":
        train, test = held_out(train, TEST_SHARE)
    if name in SHIFTS:
        most = SHIFTS[name]
        return ShiftedRowTask(name, train, test, scale=16.0, hidden_size=32, most=most)
    return RowTask(name, train, test, scale=16.0, hidden_size=32)
