"""What the pages' commands need beside them, small: data in the published formats, narrow nets.

What a reader pastes is run as it stands; only what it works on is small.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from torch import nn

from apps.photographs import write_photographs
from apps.test_cifar10 import write_tree
from corpora import TEXT, write_pairs, write_texts
from folders import write_run, write_study
from legw import presets
from legw.apps import gpt, mnist, ptb, translation
from legw.apps.images import cifar10, imagenet
from legw.apps.row_lstm import RowTask
from legw.study.plan import Study

MNIST = 640
"""Training images: five base batches."""

TASK = '''
import torch
from legw.train import Metric


class task:
    """The largest of four numbers."""

    name = "largest"
    metric = Metric("accuracy")

    def __init__(self):
        self.x = torch.randn(2048, 4, generator=torch.Generator().manual_seed(0))

    def num_examples(self, batch_size):
        return len(self.x)

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))

    def order(self, seed, epoch, batch_size):
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        return torch.randperm(len(self.x), generator=generator)

    def batch(self, ids, device):
        x = self.x[ids].to(device)
        return x, x.argmax(1)

    def loss(self, model, batch, state):
        x, y = batch
        return torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y), None

    def evaluate(self, model):
        with torch.no_grad():
            return float((model(self.x).argmax(1) == self.x.argmax(1)).float().mean())


Task = task
'''
"""A user's own module."""


def small_net(num_classes: int) -> nn.Module:
    """Return a net with batch-norm whose update of 8,192 images takes a moment."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, num_classes),
    )  # fmt: skip


def write_digits(folder: Path) -> None:
    """Write MNIST's four files, as small as `narrow` says: the brightest row is the label."""
    folder.mkdir()
    numbers = numpy.random.RandomState(0)
    for name, shape in mnist.FILES.items():
        labels = numpy.arange(shape[0], dtype=numpy.uint8) % 10
        body = labels
        if len(shape) == 3:
            body = numbers.randint(0, 120, shape, dtype=numpy.uint8)
            body[numpy.arange(shape[0]), 4 + 2 * labels] += 120
        header = numpy.array([0x0800 + len(shape), *shape], dtype=">i4").tobytes()
        (folder / name).write_bytes(header + body.tobytes())


def write_data(folder: Path) -> None:
    """Write what `LEGW_DATA` points at: mnist, ptb, multi30k, cifar10."""
    write_digits(folder / "mnist")
    for name, lines in (("ptb", 2500), ("multi30k", 40)):
        (folder / name).mkdir()
        (write_texts if name == "ptb" else write_pairs)(folder / name, lines)
    pictures = write_tree(folder / "pictures", train=48, test=8)
    (folder / "cifar10").mkdir()
    with zipfile.ZipFile(folder / "cifar10" / "small.zip", "w") as archive:
        for file in sorted(pictures.rglob("*")):
            archive.write(file, file.relative_to(pictures))


def write_place(folder: Path) -> None:
    """Write what lies in the folder in which the commands are given."""
    (folder / "my_module.py").write_text(TASK, encoding="utf-8")
    texts = folder / "my-texts"
    texts.mkdir()
    write_texts(texts, 300)
    write_pairs(texts)
    for german in texts.glob("*.de"):
        german.rename(german.with_suffix(".fr"))
    (folder / "my-text.txt").write_text(f"{TEXT}\n" * 4, encoding="utf-8")
    (folder / "in.en").write_text("a dog runs\n\na big cat\n", encoding="utf-8")
    (folder / "ref.de").write_text("ein Hund läuft\n\nein großer Katze\n", encoding="utf-8")
    write_photographs(folder / "imagenet", train=8)
    for seed, name in enumerate(("one", "two")):
        write_run(folder / "runs" / name, seed=seed)
    asked = Study(
        task="mine", base=presets.DIGITS_LSTM, batch_sizes=(16, 512),
        rules=("legw", "linear"), seeds=(0, 1, 2),
    )  # fmt: skip
    write_study(folder / "runs" / "digits-lstm-study", asked)


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make nets narrow, and MNIST's files as small as they are written here."""
    for name, (_, *rest) in mnist.FILES.items():
        count = MNIST if name.startswith("train") else MNIST // 8
        monkeypatch.setitem(mnist.FILES, name, (count, *rest))
    monkeypatch.setattr(mnist, "RowTask", lambda *a, **k: RowTask(*a, **(k | {"hidden_size": 8})))
    for name in ("cifar10", "cifar10-small"):
        monkeypatch.setitem(cifar10.MODELS, name, small_net)
    monkeypatch.setattr(imagenet, "resnet50", small_net)
    monkeypatch.setitem(ptb.SIZES, "ptb-small", replace(ptb.SIZES["ptb-small"], hidden_size=16))
    for name in gpt.SIZES:
        size = replace(gpt.SIZES[name], width=6, num_layers=1, window=8)
        monkeypatch.setitem(gpt.SIZES, name, size)
        # Lengths in epochs shrink with the data, lengths in updates do not.
        recipe = presets.RECIPES[name].with_lengths(480, 10)
        monkeypatch.setitem(presets.RECIPES, name, recipe)
    monkeypatch.setitem(
        translation.SIZES, "gnmt-small",
        replace(translation.SIZES["gnmt-small"], hidden_size=16, num_subwords=60, dropout=0.0),
    )  # fmt: skip
