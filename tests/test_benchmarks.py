"""The benchmarks are fair: all sides train the same. And their last line is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks import __main__ as bench
from benchmarks import memory, optimizers, plain, ratios, rows, words
from benchmarks.ratios import Ratio, race
from legw import recipe as recipes
from legw import records
from legw.apps.ptb import SIZES
from legw.optimizers import LAMB, LARS
from legw.train import Settings, fit
from legw.train.batches import derive
from legw.train.state import load_newest

UPDATES = 3


def trained_by_fit(task: object, recipe: recipes.Recipe, out: Path) -> dict[str, Tensor]:
    """Return the weights after a few updates of ours, in micro-batches."""
    epochs = UPDATES * recipe.batch_size / task.num_examples(recipe.batch_size)
    settings = Settings(micro_batch_size=5, device="cpu")
    fit(task, replace(recipe, epochs=epochs), out=out, settings=settings)
    content = load_newest(out, warn=print)
    assert content is not None
    return content["model"]
