"""Loss of a finished run over one text, however many streams its own batch read it in.

A batch of streams reads a window of each: at twice the batch an update has other text in it, and
nothing but the whole text is common to two batch sizes. So the weights at a run's end are read
once more over the whole text, in streams whose number is the same for all runs. An example of the
text is then at the same place in each list of losses, and differences have little of the text's
own ups and downs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from legw.errors import RunError, setting
from legw.recipe import Recipe
from legw.runs import files, reading
from legw.train import Settings, Task, batch_norm, checkpoint, optim
from legw.train.batches import derive
from legw.train.checkpoint_content import Expected
from legw.train.dist import joined
from legw.train.precision import autocast
from legw.train.task import State

REPLAY = "replay.json"
"""Name of the file of a run folder that keeps what was read."""

AT_ONCE = 64
"""Streams that are read at once where no micro-batch size is given: no activations are kept."""

COST = 1 / 3
"""Cost at which reading an example is counted, over that of training on it: no backward pass."""


def replay(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    updates: int,
    earlier_updates: int = 0,
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
        updates: the number of the run's last update, from 1.
        earlier_updates: steps that its optimizer had made before, as a branch's.
        batch_size: number of streams in which the examples are read.
        epoch: whose order of examples is read.
        seed: the run's.
        settings: device, precision and micro-batch size; `auto` reads 64 streams at once.

    Returns:
        One mean loss for each window of the streams, in the unit of the training loss.

    Raises:
        RunError: the folder has no checkpoint of the last update, or it is damaged or of another
            model.
    """
    kept = _kept(folder, batch_size)
    if kept is not None:
        return kept
    task.num_examples(batch_size)  # a task may keep the batch size that was asked for last
    size = settings.micro_batch_size
    at_once = AT_ONCE if size == "auto" else size
    with joined(settings.device) as world:
        cuda = [world.device] if world.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            model = _trained(task, recipe, folder, updates, earlier_updates, seed)
        model.to(world.device).eval()
        with torch.no_grad(), autocast(world.device.type, settings.precision):
            ids = task.order(seed, epoch, batch_size).view(-1, batch_size)
            found = _losses(task, model, ids, at_once, world.device)
    files.write_json(folder / REPLAY, {"batch_size": batch_size, "losses": found})
    return found


def _losses(
    task: Task, model: nn.Module, ids: Tensor, at_once: int, device: torch.device
) -> list[float]:
    """Return the mean loss of each window; `ids` has a row for each and a column a stream."""
    sums, weights = torch.zeros(len(ids)).double(), torch.zeros(len(ids)).double()
    for streams in torch.split(ids, at_once, dim=1):
        state: State = None
        for window, examples in enumerate(streams):
            loss, weight, state = task.loss(model, task.batch(examples, device), state)
            sums[window] += float(loss)
            weights[window] += float(weight)
    return [float(each) for each in sums / weights]


def _trained(  # noqa: PLR0917 (all that `replay` knows of the run)
    task: Task, recipe: Recipe, folder: Path, updates: int, earlier_updates: int, seed: int
) -> nn.Module:
    """Return the model with a run's last weights; those of an earlier update would be others."""
    path = folder / f"checkpoint-{updates:09d}.pt"
    if not reading.there(path):
        raise RunError(
            f"{folder}: has no checkpoint of update {updates} any more; choose another "
            f"{setting('out')}"
        )
    torch.manual_seed(derive(seed, "model"))
    model = task.model()
    batch_norm.fix_groups(model, recipe.norm_batch_size)
    expected = Expected(
        model=model,
        optimizer=optim.for_task(task, recipe, model),
        batch_size=recipe.batch_size,
        most_updates=updates,
        steering=None,
        carried=lambda: None,
        earlier_updates=earlier_updates,
    )
    model.load_state_dict(checkpoint.read_stateless(path, updates, expected)["model"])
    return model


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
