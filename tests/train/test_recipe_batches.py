"""One's own loop with a batch that grows: the sampler, the scheduler and the sizes agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import Linear, functional
from torch.utils.data import DataLoader, TensorDataset

from expect import error_line
from legw import (
    BatchSchedule,
    Cosine,
    LegwWarning,
    Recipe,
    RunError,
    batches,
    in_steps,
    updates,
)
from legw.presets import RECIPES
from legw.schedule import Progress
from legw.train import RecipeBatches, RecipeLR
from legw.train.batches import Batches, shuffled

GROWN = Recipe(
    name="grown", batch_size=64, lr=0.4, epochs=4, warmup_epochs=0.5, decay=Cosine(),
    batch_schedule=BatchSchedule(sizes=(12, 24), until=(0.7, 2.2)),
)  # fmt: skip
EXAMPLES = 200


def test_the_lists_are_the_examples_of_fit() -> None:
    expected = Batches(
        lambda epoch: shuffled(EXAMPLES, 3, epoch), EXAMPLES, 64,
        progress=Progress(GROWN, EXAMPLES),
    )  # fmt: skip
    lists = list(RecipeBatches(GROWN, EXAMPLES, seed=3))
    assert [len(each) for each in lists] == list(batches(GROWN, EXAMPLES))
    assert lists == [expected.ids(update).tolist() for update in range(updates(GROWN, EXAMPLES))]
    assert len(RecipeBatches(GROWN, EXAMPLES)) == len(lists)


@pytest.mark.parametrize("world_size", [1, 3])
def test_shares_and_micro_batches_make_up_the_updates(world_size: int) -> None:
    whole = RecipeBatches(GROWN, EXAMPLES)
    shares = [
        RecipeBatches(GROWN, EXAMPLES, micro_batch_size=5, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert all(len(list(share)) == len(share) for share in shares)
    parts = [list(share) for share in shares]
    assert max(len(each) for part in parts for each in part) == 5
    joined = sorted(sum(map(len, part)) for part in parts)
    assert sum(joined) == sum(map(len, whole)) and joined[-1] - joined[0] <= len(list(whole))
    if world_size == 1:
        assert [i for each in parts[0] for i in each] == [i for each in whole for i in each]


def test_going_on_in_the_middle() -> None:
    whole = list(RecipeBatches(GROWN, EXAMPLES))
    assert list(RecipeBatches(GROWN, EXAMPLES, first_update=13)) == whole[13:]
    assert list(RecipeBatches(GROWN, EXAMPLES, first_update=10_000)) == []


def own_loop(model: Linear, micro_batch_size: int, **of_loader: Any) -> RecipeLR:
    """Train as docs/batch-schedule.md does."""
    data = TensorDataset(
        torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(0)).double()
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=GROWN.lr)
    scheduler = RecipeLR(optimizer, GROWN, EXAMPLES)
    sampler = RecipeBatches(GROWN, EXAMPLES, micro_batch_size=micro_batch_size)
    lr, sizes = in_steps(GROWN, EXAMPLES), batches(GROWN, EXAMPLES)
    size, seen = next(sizes), 0
    for (x,) in DataLoader(data, batch_sampler=sampler, **of_loader):
        (functional.mse_loss(model(x), x[:, :1], reduction="sum") / size).backward()
        seen += len(x)
        if seen == size:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(lr(scheduler.last_epoch))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            size, seen = next(sizes, 0), 0
    return scheduler


def model() -> Linear:
    torch.manual_seed(0)
    return Linear(4, 1).double()


def test_a_loop_of_ones_own_makes_every_update() -> None:
    one, other = model(), model()
    assert own_loop(one, 64).last_epoch == updates(GROWN, EXAMPLES)
    assert own_loop(other, 5).last_epoch == updates(GROWN, EXAMPLES)
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {"micro_batch_size": 0},
        {"rank": 2, "world_size": 2},
        {"world_size": 0},
        {"first_update": -1},
        {"num_examples": None},
    ],
    ids=str,
)
def test_values_that_cannot_be(values: dict[str, Any]) -> None:
    error_line(RecipeBatches, GROWN, **{"num_examples": EXAMPLES} | values)


def test_streams_and_too_many_processes() -> None:
    error_line(RecipeBatches, RECIPES["ptb-small"])
    error_line(RecipeBatches, GROWN, EXAMPLES, world_size=13, kind=RunError)


# The scheduler --------------------------------------------------------------------


def scheduler_of(recipe: Recipe) -> RecipeLR:
    optimizer = torch.optim.SGD(model().parameters(), lr=recipe.lr)
    return RecipeLR(optimizer, recipe, EXAMPLES)


def stepped(recipe: Recipe, count: int) -> dict[str, Any]:
    scheduler = scheduler_of(recipe)
    for _ in range(count):
        scheduler.optimizer.step()
        scheduler.step()
    return scheduler.state_dict()


def test_a_state_goes_on_where_it_was() -> None:
    state = stepped(GROWN, 15)
    assert state["examples"] == Progress(GROWN, EXAMPLES).seen(15)
    scheduler = scheduler_of(GROWN)
    scheduler.load_state_dict(state)
    assert scheduler.last_epoch == 15
    assert scheduler.get_last_lr() == [in_steps(GROWN, EXAMPLES)(15)]
    assert "examples" not in stepped(replace(GROWN, batch_schedule=None), 3)


def test_a_state_of_another_growth_goes_on_after_the_same_examples() -> None:
    constant = replace(GROWN, batch_schedule=None)
    scheduler = scheduler_of(GROWN)
    with pytest.warns(LegwWarning, match="saw 256 examples, the run goes on as after 17 updates"):
        scheduler.load_state_dict(stepped(constant, 4))
    assert Progress(GROWN, EXAMPLES).seen(17) == 264
    back = scheduler_of(constant)
    with pytest.warns(LegwWarning, match="goes on as after 4 updates"):
        back.load_state_dict(stepped(GROWN, 17))
    assert back.last_epoch == 4
    grown = replace(GROWN, batch_schedule=BatchSchedule(sizes=(10,), until=(1,)))
    with pytest.warns(LegwWarning, match="goes on as after 21 updates"):
        scheduler_of(grown).load_state_dict(stepped(GROWN, 17))


def test_what_a_growing_batch_has_not() -> None:
    optimizer = torch.optim.SGD(model().parameters(), lr=0.4)
    error_line(RecipeLR, optimizer, GROWN, updates_per_epoch=4)
    scheduler = scheduler_of(GROWN)
    error_line(scheduler.load_state_dict, stepped(GROWN, 2) | {"examples": -1})
