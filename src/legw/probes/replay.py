"""Loss of a finished run over one text, however many streams its own batch read it in.

A batch of streams reads a window of each: at twice the batch an update has other text in it, and
nothing but the whole text is common to two batch sizes. So the weights at a run's end are read
once more over the whole text, in streams whose number is the same for all runs. An example of the
text is then at the same place in each list of losses, and differences have little of the text's
own ups and downs.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from legw.errors import RunError, setting
from legw.recipe import Recipe
from legw.runs import files, reading
from legw.train import Settings, Task, batch_norm, checkpoint
from legw.train.dist import joined
from legw.train.precision import autocast
from legw.train.task import State

REPLAY = "replay.json"
"""Name of the file of a run folder that keeps what was read."""

STREAMS = 64
"""Streams that are read at once where no micro-batch size is given: no activations are kept."""

SHARE = 1 / 3
"""Cost of reading an example once more over that of training on it: there is no backward pass."""


def replay(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    settings: Settings,
) -> list[float]:
    """Return the losses of a finished run's weights over one epoch's examples.

    The model is in evaluation mode. What was read is kept in the run's folder, and not read again.

    Args:
        task: the run's task.
        recipe: the run's recipe.
        folder: the run's folder.
        batch_size: number of streams in which the examples are read.
        epoch: whose order of examples is read.
        seed: of that order.
        settings: device, precision and micro-batch size; `auto` reads 64 streams at once.

    Returns:
        One mean loss for each window of the streams, in the unit of the training loss.

    Raises:
        RunError: the folder has no checkpoint, or the last one cannot be read.
    """
    kept = _kept(folder, batch_size)
    if kept is not None:
        return kept
    with joined(settings.device) as world, torch.random.fork_rng():
        model = task.model()
        batch_norm.fix_groups(model, recipe.norm_batch_size)
        model.load_state_dict(_last_weights(folder))
        model.to(world.device).eval()
        ids = task.order(seed, epoch, batch_size).view(-1, batch_size)
        size = settings.micro_batch_size
        at_once = STREAMS if size == "auto" else size
        sums, weights = torch.zeros(len(ids)).double(), torch.zeros(len(ids)).double()
        with torch.inference_mode(), autocast(world.device.type, settings.precision):
            for streams in torch.split(ids, at_once, dim=1):
                state: State = None
                for window, examples in enumerate(streams):
                    batch = task.batch(examples, world.device)
                    loss, weight, state = task.loss(model, batch, state)
                    sums[window] += float(loss)
                    weights[window] += float(weight)
    found = [float(each) for each in sums / weights]
    files.write_json(folder / REPLAY, {"batch_size": batch_size, "losses": found})
    return found


def _last_weights(folder: Path) -> dict[str, Tensor]:
    """Return a finished run's weights; those before its last update would be others."""

    def refuse(line: str) -> None:
        raise RunError(f"{folder}: {line.partition(';')[0]}; choose another {setting('out')}")

    content = checkpoint.load_newest(folder, refuse)
    if content is None:
        raise RunError(f"{folder}: has no checkpoint any more; choose another {setting('out')}")
    return cast("dict[str, Tensor]", content["model"])


def _kept(folder: Path, batch_size: int) -> list[float] | None:
    """Return what was read before; None if nothing was, or in another number of streams."""
    path = folder / REPLAY
    if not reading.there(path):
        return None
    try:
        found = reading.json_object(path)
        losses = reading.typed(list[float], found["losses"])
        return losses if found["batch_size"] == batch_size else None
    except (RunError, KeyError):
        return None  # it is read once more
