"""Batch sampler: the examples of each update of a recipe, for a torch DataLoader of one's own.

    loader = DataLoader(data, batch_sampler=RecipeBatches(big, len(data)))

One pass over the loader is the whole run, in the order in which `fit` reads shuffled examples.
"""

from __future__ import annotations

from collections.abc import Iterator

from legw.errors import RecipeError, check_count
from legw.recipe import Recipe
from legw.schedule import Progress, epoch_size
from legw.train.batches import Batches, shuffled, split


class RecipeBatches:
    """The batches of a whole run as lists of indexes; they may straddle epochs.

    Every example is used once an epoch, also where the batch grows. With a `micro_batch_size` or
    several processes each list is a part of an update: `legw.batches` says of how many examples
    an update is, over all processes.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        micro_batch_size: most examples of a list, at least 1; None is the whole share of a process.
        seed: of the order; each epoch has another.
        rank: number of this process, from 0.
        world_size: number of processes, at least 1.
        first_update: the update to begin with, from 0, to go on with a run.

    Raises:
        RecipeError: the number of examples is not known, a value is out of range, or the recipe is
            of streams, which have an order of their own.
        RunError: a batch has fewer examples than there are processes.

    >>> from legw import BatchSchedule
    >>> grown = Recipe(batch_size=4, lr=1, epochs=2,
    ...     batch_schedule=BatchSchedule(sizes=(2,), until=(1,)))
    >>> [len(indexes) for indexes in RecipeBatches(grown, num_examples=8)]
    [2, 2, 2, 2, 4, 4]
    """

    def __init__(
        self,
        recipe: Recipe,
        num_examples: int | None = None,
        *,
        micro_batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        first_update: int = 0,
    ) -> None:
        if recipe.num_tokens is not None and num_examples is None:
            raise RecipeError(
                f"{recipe.name}: num_tokens={recipe.num_tokens}: streams are read in an order of "
                "their own, with a state carried on; train them with legw.train.fit"
            )
        if micro_batch_size is not None:
            check_count(recipe.name, "micro_batch_size", micro_batch_size)
        check_count(recipe.name, "world_size", world_size)
        check_count(recipe.name, "rank", rank, least=0, most=world_size - 1)
        check_count(recipe.name, "first_update", first_update, least=0)
        size = epoch_size(recipe, num_examples)
        progress = Progress(recipe, size)
        self._batches = Batches(
            lambda epoch: shuffled(size, seed, epoch), size, recipe.batch_size, progress=progress
        )
        self._cuts = {
            batch_size: split(
                batch_size, micro_batch_size or batch_size, rank=rank, world_size=world_size
            )
            for batch_size in progress.sizes
        }
        self._updates = range(first_update, progress.updates)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indexes of each micro-batch of this process, update by update."""
        for update in self._updates:
            ids = self._batches.ids(update).tolist()
            for slots in self._cuts[len(ids)]:
                yield ids[slots]

    def __len__(self) -> int:
        """Return the number of lists."""
        sizes = map(self._batches.progress.batch_size, self._updates)
        return sum(len(self._cuts[size]) for size in sizes)
