"""RecipeLR against the schedule it is made of, against torch's schedulers, and over restarts."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from expect import error_line
from legw import decays, scale
from legw.errors import LegwWarning
from legw.recipe import Recipe
from legw.schedule import in_steps, updates, updates_per_epoch, warmup_updates
from legw.train import RecipeLR
from strategies import recipes

BIG = Recipe(name="mine", batch_size=10, lr=0.4, epochs=8, warmup_epochs=2.5, num_examples=100)
"""25 updates of warmup, 80 in all, 10 an epoch; the decay is constant."""
LINEAR = replace(BIG, decay=decays.Polynomial(power=1))

PAST = pytest.mark.filterwarnings("ignore:.* is past the end:legw.errors.LegwWarning")

DECAYS = [
    decays.Constant(),
    decays.Step(milestones_epochs=(3, 5), rate=0.1),
    decays.Exponential(rate=0.8, constant_epochs=4),
    decays.Polynomial(power=2),
    decays.Cosine(end=0.01),
    decays.Halving(begin=0.5, times=3),
]


def sgd(*lrs: float | Tensor, lr: float | Tensor = BIG.lr) -> Optimizer:
    """An optimizer with one group for each of `lrs`, or with one group at its own rate."""
    groups = [{"params": [Parameter(torch.ones(1))], "lr": rate} for rate in lrs]
    return SGD(groups or [Parameter(torch.ones(1))], lr=lr, momentum=0.9)


def rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def run(
    optimizer: Optimizer, scheduler: RecipeLR, begin: int = 0, end: int = 80
) -> list[list[float]]:
    """Go through updates as a user's loop does; return the rates that each ran at."""
    seen = []
    for update in range(begin, end):
        seen.append(rates(optimizer))
        optimizer.step()
        scheduler.step()
        if scheduler.after_warmup is not None and (update + 1) % 10 == 0:
            plateau = isinstance(scheduler.after_warmup, ReduceLROnPlateau)
            scheduler.step_after_warmup(*[1.0] * plateau)
    return seen


# Agreement with the schedule ------------------------------------------------


@PAST
@pytest.mark.parametrize("decay", DECAYS, ids=lambda decay: decay.kind)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("warmup_epochs", [2.5, 0.15625, 0.05, 0.0])
def test_every_update_has_the_rate_of_the_schedule(decay, late, warmup_epochs) -> None:
    recipe = replace(BIG, warmup_epochs=warmup_epochs, decay=replace(decay, after_warmup=late))
    optimizer, lr = sgd(), in_steps(recipe)
    scheduler = RecipeLR(optimizer, recipe)
    assert run(optimizer, scheduler, end=90) == [[lr(s)] for s in range(90)]
    assert scheduler.last_epoch == 90
    assert scheduler.get_last_lr() == [lr(90)] == [lr(80)]


@PAST
@given(recipes(), st.integers(1, 10**6), st.sampled_from(["end", "start"]), st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_any_recipe_agrees_with_its_schedule(recipe, num_examples, ramp, steps) -> None:
    lr, optimizer = in_steps(recipe, num_examples, ramp=ramp), sgd(lr=recipe.lr)
    scheduler = RecipeLR(optimizer, recipe, num_examples, ramp=ramp)
    assert run(optimizer, scheduler, end=steps) == [[lr(s)] for s in range(steps)]
    assert scheduler.get_last_lr() == rates(optimizer) == [lr(steps)]


def test_the_first_update_has_its_rate_from_construction() -> None:
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, BIG)
    assert rates(optimizer) == scheduler.get_last_lr() == [in_steps(BIG)(0)] == [0.4 / 25]
    assert (scheduler.last_epoch, scheduler.base_lrs) == (0, [0.4])
    start = RecipeLR(sgd(), replace(BIG, warmup_from_lr=0.1), ramp="start")
    assert start.get_last_lr() == [0.1]


def test_a_scaled_recipe_warms_up_in_as_many_updates_as_its_base() -> None:
    base = Recipe(batch_size=32, lr=0.1, epochs=8, warmup_epochs=0.15625)
    big = scale(base, batch_size=512)
    optimizer = sgd(lr=big.lr)
    seen = run(optimizer, RecipeLR(optimizer, big, num_examples=6400), end=40)
    assert seen.index([big.lr]) == warmup_updates(base, 6400) - 1 == 31


def test_torchs_lambda_takes_the_same_schedule() -> None:
    ours, theirs, lr = sgd(), sgd(), in_steps(LINEAR)
    scheduler, same = RecipeLR(ours, LINEAR), LambdaLR(theirs, lambda s: lr(s) / LINEAR.lr)
    for _ in range(updates(LINEAR)):
        assert rates(ours) == pytest.approx(rates(theirs), rel=1e-15)
        for part in (ours, theirs, scheduler, same):
            part.step()


# Groups and their ratios ----------------------------------------------------


def test_groups_keep_their_ratio_at_every_update() -> None:
    first, second, third = (Parameter(torch.ones(1)) for _ in range(3))
    groups = [{"params": [first]}, {"params": [second], "lr": 0.04}, {"params": [third], "lr": 0}]
    optimizer, lr = AdamW(groups, lr=0.4), in_steps(LINEAR)
    scheduler = RecipeLR(optimizer, LINEAR)
    assert scheduler.base_lrs == [0.4, 0.04, 0.0]
    for s, seen in enumerate(run(optimizer, scheduler)):
        assert seen == [lr(s), 0.04 / 0.4 * lr(s), 0.0]
        assert seen[1] == pytest.approx(0.1 * lr(s), rel=1e-15)


@pytest.mark.parametrize("built_with", [0.1, 7, torch.tensor(0.1), 1e-3])
def test_the_recipe_decides_whatever_lr_the_optimizer_was_built_with(built_with) -> None:
    optimizer = AdamW([Parameter(torch.ones(1))], lr=built_with)
    scheduler = RecipeLR(optimizer, BIG)
    assert scheduler.base_lrs == [0.4]
    run(optimizer, scheduler)
    assert rates(optimizer) == pytest.approx([0.4], rel=1e-7)


def test_the_ratio_to_an_unscaled_lr_is_kept() -> None:
    optimizer = sgd(0.1, 0.025, lr=0.1)
    assert RecipeLR(optimizer, BIG).base_lrs == [0.4, 0.1]


def test_groups_with_rates_of_their_own_are_measured_against_the_recipe() -> None:
    groups = [{"params": [Parameter(torch.ones(1))], "lr": lr} for lr in (0.04, 0.4)]
    assert RecipeLR(SGD(groups), BIG).base_lrs == pytest.approx([0.04, 0.4], rel=1e-15)  # not 1e-3
    exact = Parameter(torch.ones(1))
    tensor = SGD([{"params": [exact], "lr": torch.tensor(0.4)}])
    assert RecipeLR(tensor, BIG).base_lrs == [0.4]


@pytest.mark.parametrize(
    ("lrs", "default"),
    [
        ((0.1, 0.01), 1e-3),
        ((0.01, 0.001), 1e-3),
        ((), 0.0),
    ],
)
def test_groups_without_a_rate_to_compare_with_are_refused(lrs, default) -> None:
    optimizer = sgd(*lrs, lr=default)
    before = [{**group} for group in optimizer.param_groups]
    error_line(RecipeLR, optimizer, BIG)
    assert optimizer.param_groups == before, "and the optimizer is left as it was"


def test_a_rate_that_is_no_number_is_refused() -> None:
    optimizer = sgd()
    optimizer.param_groups[0]["lr"] = None
    error_line(RecipeLR, optimizer, BIG)


def test_a_group_that_joins_is_taken_in(capsys) -> None:
    optimizer = sgd(lr=0.1)
    scheduler = RecipeLR(optimizer, BIG)
    run(optimizer, scheduler, end=10)
    assert capsys.readouterr().err == "", "one peak needs no word"
    optimizer.add_param_group({"params": [Parameter(torch.ones(1))], "lr": 0.05})
    optimizer.add_param_group({"params": [Parameter(torch.ones(1))]})
    run(optimizer, scheduler, begin=10, end=11)
    assert scheduler.base_lrs == [0.4, 0.2, 0.4]
    lr = in_steps(BIG)(11)
    assert rates(optimizer) == [lr, 0.5 * lr, lr]
    assert capsys.readouterr().err == (
        "RecipeLR: mine: peaks 0.4 (2 groups), 0.2 (1 group); "
        "lr=0.1 of the groups has the ratio 1\n"
    )
    again = RecipeLR(optimizer, BIG, last_epoch=9)
    assert again.base_lrs == [0.4, 0.2, 0.4]
    assert rates(optimizer)[1] == 0.5 * in_steps(BIG)(10)
    loaded = RecipeLR(optimizer, BIG)
    loaded.load_state_dict(scheduler.state_dict())
    assert rates(optimizer) == [lr, 0.5 * lr, lr]


def test_a_group_that_joins_a_wrapped_scheduler_or_leaves_needs_a_new_one() -> None:
    optimizer, scheduler = build("cosine")
    optimizer.add_param_group({"params": [Parameter(torch.ones(1))], "lr": 0.05})
    optimizer.step()
    error_line(scheduler.step)
    optimizer = sgd(0.1, 0.05, lr=0.1)
    scheduler = RecipeLR(optimizer, BIG)
    optimizer.step()
    del optimizer.param_groups[1]
    error_line(scheduler.step)


def test_what_ratios_are_to_can_be_stated() -> None:
    base = replace(BIG, lr=0.01)
    for stated in ({"base": base}, {"reference_lr": 0.01}):
        optimizer = SGD([{"params": [Parameter(torch.ones(1))], "lr": lr} for lr in (0.01, 0.001)])
        assert RecipeLR(optimizer, BIG, **stated).base_lrs == pytest.approx([0.4, 0.04], rel=1e-15)
    error_line(RecipeLR, sgd(0.1, 0.2), BIG, base=base)
    error_line(RecipeLR, sgd(), BIG, reference_lr=0)
    error_line(RecipeLR, sgd(), BIG, base=base, reference_lr=1)


def test_peaks_are_printed_once_and_by_the_first_process(capsys, monkeypatch) -> None:
    scheduler = RecipeLR(sgd(0.1, 0.01, 0.1, lr=0.1), BIG)
    said = (
        "RecipeLR: mine: peaks 0.4 (2 groups), 0.04 (1 group); "
        "lr=0.1 of the groups has the ratio 1\n"
    )
    assert capsys.readouterr().err == said
    run(scheduler.optimizer, scheduler, end=3)
    monkeypatch.setenv("RANK", "1")
    RecipeLR(sgd(0.1, 0.01, lr=0.1), BIG)
    assert capsys.readouterr() == ("", "")


def test_a_list_of_optimizers_has_one_schedule() -> None:
    """As Muon and AdamW, or the two networks of a GAN."""
    one, two = sgd(0.4, lr=0.4), AdamW([Parameter(torch.ones(1))], lr=0.004)
    scheduler = RecipeLR([one, two], LINEAR)
    assert scheduler.base_lrs == [0.4, 0.004]
    lr = in_steps(LINEAR)
    for s in range(30):
        assert rates(one) == [lr(s)]
        assert rates(two) == [pytest.approx(0.01 * lr(s), rel=1e-15)]
        one.step()
        two.step()
        scheduler.step()
    one.add_param_group({"params": [Parameter(torch.ones(1))], "lr": 0.2})  # not the last group
    one.step()
    scheduler.step()
    assert scheduler.base_lrs == [0.4, 0.2, 0.004]
    other, more = sgd(0.4, 0.2, lr=0.4), AdamW([Parameter(torch.ones(1))], lr=0.004)
    again = RecipeLR([other, more], LINEAR)
    again.load_state_dict(scheduler.state_dict())
    other.load_state_dict(one.state_dict())
    more.load_state_dict(two.state_dict())
    assert rates(other) + rates(more) == rates(one) + rates(two)
    assert copy.deepcopy(again).base_lrs == again.base_lrs


@pytest.mark.parametrize("optimizers", [[], [1], ["sgd"]])
def test_a_list_of_something_else(optimizers) -> None:
    error_line(RecipeLR, optimizers, BIG)
    twice = sgd()
    error_line(RecipeLR, [twice, twice], BIG)


# The loop's own epoch, its end, and steps that are skipped -------------------


def test_a_loop_with_accumulation_and_a_short_last_window() -> None:
    """45 batches of 8, accumulated by 8: 6 updates an epoch, of which the last is short."""
    big = Recipe(batch_size=64, lr=0.4, epochs=15, warmup_epochs=1, decay=decays.Polynomial())
    made = updates_per_epoch(45, 8)
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, big, updates_per_epoch=made)
    for _ in range(15):
        for batch in range(45):
            if (batch + 1) % 8 == 0 or batch + 1 == 45:
                optimizer.step()
                scheduler.step()
    assert scheduler.last_epoch == scheduler.updates == 90
    assert rates(optimizer) == [0]
    error_line(RecipeLR, sgd(), big, 360, updates_per_epoch=6)
    error_line(RecipeLR, sgd(), big, updates_per_epoch=0)


def test_windows_that_cannot_be() -> None:
    error_line(updates_per_epoch, 5, 0)
    error_line(updates_per_epoch, 5, 8, keep_last=False)


def test_an_update_past_the_end_is_told_once() -> None:
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, BIG)
    run(optimizer, scheduler)
    with pytest.warns(LegwWarning, match="update 81 is past the end of the schedule, 80 updates"):
        run(optimizer, scheduler, begin=80, end=81)
    run(optimizer, scheduler, begin=81, end=90)
    assert rates(optimizer) == [in_steps(BIG)(80)]


def test_a_stream_of_data_needs_no_number_of_examples() -> None:
    recipe = Recipe(batch_size=64, lr=0.4, steps=20, warmup_steps=4)
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, recipe)
    assert (scheduler.warmup_updates, scheduler.updates) == (4, 20)
    assert [seen for [seen] in run(optimizer, scheduler, end=5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4]
    )


def test_a_step_that_the_optimizer_tells_it_skipped_does_not_move_the_schedule() -> None:
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, BIG)
    optimizer.step_was_skipped = True  # type: ignore[attr-defined]
    run(optimizer, scheduler, end=3)
    assert scheduler.last_epoch == 0
    optimizer.step_was_skipped = False  # type: ignore[attr-defined]
    run(optimizer, scheduler, end=1)
    assert scheduler.last_epoch == 1


def test_a_step_that_is_refused_does_not_count() -> None:
    """One update and three refusals are one update, and the next has the second one's rate."""
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, BIG)
    run(optimizer, scheduler, end=1)
    group = optimizer.param_groups.pop()
    for _ in range(3):
        assert error_line(scheduler.step).startswith("RecipeLR: param_groups: the optimizer has 0")
    for word in (5, -1):
        assert error_line(scheduler.step, word).startswith(f"RecipeLR.step({word}): takes no")
    assert (scheduler.last_epoch, scheduler.state_dict()["last_epoch"]) == (1, 1)
    optimizer.param_groups.append(group)
    run(optimizer, scheduler, begin=1, end=2)
    assert (scheduler.last_epoch, rates(optimizer)) == (2, [in_steps(BIG)(2)])


def test_a_state_of_another_batch_goes_on_at_the_same_examples() -> None:
    optimizer, scheduler = build("none")
    run(optimizer, scheduler, end=40)
    bigger = replace(LINEAR, batch_size=20, warmup_epochs=5, lr=0.8)
    again = sgd(0.1, 0.03, lr=0.1)
    loaded = RecipeLR(again, bigger)
    with pytest.warns(LegwWarning) as caught:
        loaded.load_state_dict(scheduler.state_dict())
    assert [str(w.message) for w in caught] == [
        "mine: RecipeLR: after 40 updates of 10 examples the run goes on at batch 20 as after "
        "20 updates: so many hold the same examples"
    ]
    assert loaded.last_epoch == 20
    assert rates(again)[0] == in_steps(bigger)(20)


def test_a_second_phase_keeps_the_ratios_of_the_first() -> None:
    optimizer = sgd(0.1, 0.4, lr=0.1)  # one of them happens to be the recipe's
    run(optimizer, RecipeLR(optimizer, BIG))
    second = RecipeLR(optimizer, replace(LINEAR, lr=0.2))
    assert second.base_lrs == [0.2, 0.8]


# Misuse, and torch's own checks ---------------------------------------------


@pytest.mark.parametrize("argument", [3, 0, 0.25])
def test_step_takes_no_argument(argument) -> None:
    error_line(RecipeLR(sgd(), BIG).step, argument)


def test_the_schedules_own_errors_come_before_anything_is_changed() -> None:
    optimizer = sgd()
    before = [{**group} for group in optimizer.param_groups]
    unknown = replace(BIG, num_examples=None)
    error_line(RecipeLR, optimizer, unknown)
    error_line(RecipeLR, optimizer, BIG, ramp="middle")
    error_line(RecipeLR, optimizer, BIG, last_epoch=-2)
    assert optimizer.param_groups == before


def test_torch_still_warns_of_the_wrong_order() -> None:
    scheduler = RecipeLR(sgd(), BIG)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


# Restarts -------------------------------------------------------------------

WRAPPED: dict[str, Any] = {
    "none": lambda optimizer: None,
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=5, eta_min=0.01),
    "step": lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "linear": lambda optimizer: LinearLR(optimizer, start_factor=0.5, total_iters=3),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [StepLR(optimizer, 1), CosineAnnealingLR(optimizer, 3)], milestones=[2]
    ),
}


def build(wrapped: str, lr: float = 0.1) -> tuple[Optimizer, RecipeLR]:
    optimizer = sgd(lr, 0.3 * lr, lr=lr)
    after_warmup = WRAPPED[wrapped](optimizer)
    recipe = LINEAR if after_warmup is None else BIG
    return optimizer, RecipeLR(optimizer, recipe, after_warmup=after_warmup)


def saved(*parts: Any) -> list[Any]:
    """State_dicts as they come back from a file that may hold nothing but data."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return list(torch.load(file, weights_only=True))


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's SequentialLR warns of itself
@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("stop", [0, 1, 24, 25, 30, 55])
def test_a_restart_goes_on_as_if_there_had_been_none(wrapped, stop) -> None:
    whole = run(*build(wrapped))
    before = build(wrapped)
    assert run(*before, end=stop) == whole[:stop]
    optimizer_state, scheduler_state = saved(*before)
    for order in ("optimizer first", "scheduler first", "scheduler built last"):
        if order == "scheduler built last":
            optimizer = sgd(0.1, 0.03, lr=0.1)
            optimizer.load_state_dict(optimizer_state)
            after_warmup = WRAPPED[wrapped](optimizer)
            recipe = before[1].recipe
            scheduler = RecipeLR(optimizer, recipe, after_warmup=after_warmup)
            scheduler.load_state_dict(scheduler_state)
        else:
            optimizer, scheduler = build(wrapped)
            if order == "optimizer first":
                optimizer.load_state_dict(optimizer_state)
                scheduler.load_state_dict(scheduler_state)
            else:
                scheduler.load_state_dict(scheduler_state)
                optimizer.load_state_dict(optimizer_state)
        assert scheduler.last_epoch == stop
        assert scheduler.get_last_lr() == rates(optimizer)
        assert run(optimizer, scheduler, begin=stop) == whole[stop:], order


def test_states_saved_at_different_moments_give_the_schedulers_rate() -> None:
    optimizer, scheduler = build("none")
    run(optimizer, scheduler, end=40)
    optimizer.step()
    optimizer_state = copy.deepcopy(optimizer.state_dict())  # before the scheduler's step
    scheduler.step()
    again, loaded = build("none")
    loaded.load_state_dict(scheduler.state_dict())
    again.load_state_dict(optimizer_state)
    assert rates(again) == loaded.get_last_lr() == rates(optimizer) != optimizer_state


def test_a_position_alone_is_enough_to_go_on() -> None:
    whole = run(*build("none"))
    fresh = sgd(0.1, 0.03, lr=0.1)
    assert run(fresh, RecipeLR(fresh, LINEAR, last_epoch=39), begin=40) == whole[40:]
    old = build("none")
    run(*old, end=40)
    loaded = sgd(0.4, 0.12)  # a script that was mended since: the saved ratios stand
    loaded.load_state_dict(old[0].state_dict())
    assert run(loaded, RecipeLR(loaded, LINEAR, last_epoch=39), begin=40) == whole[40:]


def test_a_state_takes_the_recipe_it_meets() -> None:
    optimizer, scheduler = build("none")
    run(optimizer, scheduler, end=40)
    longer = replace(LINEAR, epochs=16, lr=0.8)
    again = sgd(0.1, 0.03, lr=0.1)
    loaded = RecipeLR(again, longer)
    loaded.load_state_dict(scheduler.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert rates(again)[0] == in_steps(longer)(40)


def test_states_of_something_else_are_refused_and_change_nothing() -> None:
    optimizer, scheduler = build("none")
    run(optimizer, scheduler, end=10)
    state, before = scheduler.state_dict(), rates(optimizer)
    load = scheduler.load_state_dict
    error_line(load, StepLR(sgd(), 1).state_dict())
    error_line(load, {**state, "batch_size": 0})
    error_line(load, {**state, "own_lrs": [0.4]})
    error_line(load, {**state, "after_warmup": {}})
    assert scheduler.state_dict() == state
    assert rates(optimizer) == before


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_copy_goes_its_own_way(clone) -> None:
    optimizer, scheduler = build("cosine")
    whole = run(*build("cosine"))
    run(optimizer, scheduler, end=40)
    copied = clone(scheduler)
    assert run(copied.optimizer, copied, begin=40) == whole[40:]
    assert rates(optimizer) == whole[40]


# A scheduler of the user's after the warmup ---------------------------------


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("wrapped", [name for name in WRAPPED if name != "none"])
def test_a_wrapped_scheduler_begins_where_the_warmup_ends(wrapped) -> None:
    """From the warmup's end on the rates are those of the scheduler alone, from its start."""
    alone = sgd(0.4, 0.12)
    theirs = WRAPPED[wrapped](alone)
    begins, curve = rates(alone), []
    for _ in range(6):  # epochs 2 to 7; the warmup ends in the middle of epoch 2
        curve += [rates(alone)] * 10
        alone.step()
        theirs.step(*[1.0] * (wrapped == "plateau"))
    optimizer, scheduler = build(wrapped, lr=0.4)
    seen = run(optimizer, scheduler)
    assert seen[25:] == curve[5:]
    ramp = in_steps(BIG)
    for s in range(25):
        assert seen[s] == pytest.approx([rate * ramp(s) / 0.4 for rate in begins], rel=1e-15)
    assert scheduler.after_warmup.last_epoch == 6


def test_a_wrapped_scheduler_may_step_at_every_update() -> None:
    optimizer, alone = sgd(), sgd()
    scheduler = RecipeLR(optimizer, BIG, after_warmup=CosineAnnealingLR(optimizer, T_max=55))
    theirs = CosineAnnealingLR(alone, T_max=55)
    for s in range(80):
        assert rates(optimizer) == ([in_steps(BIG)(s)] if s < 25 else rates(alone))
        optimizer.step()
        scheduler.step()
        scheduler.step_after_warmup()
        if s >= 25:
            alone.step()
            theirs.step()


def test_a_wrapped_scheduler_runs_at_the_recipes_scale() -> None:
    """Whatever lr the optimizer was built with: 0.1 and 0.4 end in the same rates."""
    for small, scaled in zip(run(*build("step", 0.1)), run(*build("step", 0.4)), strict=True):
        assert small == pytest.approx(scaled, rel=1e-14)


def test_without_warmup_it_is_the_wrapped_scheduler_alone() -> None:
    recipe = replace(BIG, warmup_epochs=0)
    optimizer, alone = sgd(), sgd()
    scheduler = RecipeLR(optimizer, recipe, after_warmup=StepLR(optimizer, 2))
    theirs = StepLR(alone, 2)
    for _ in range(8):
        assert rates(optimizer) == rates(alone)
        run(optimizer, scheduler, end=10)
        alone.step()
        theirs.step()


def test_metrics_of_the_warmup_do_not_count_for_the_plateau() -> None:
    optimizer = sgd()
    plateau = ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    scheduler = RecipeLR(optimizer, BIG, after_warmup=plateau)
    metrics = [0.0, 0.0, 5.0, 5.0, 4.0, 4.0, 3.0, 3.0]  # the best two fall into the warmup
    halved = []
    for metric in metrics:
        for _ in range(10):
            optimizer.step()
            scheduler.step()
        scheduler.step_after_warmup(torch.tensor(metric))
        halved.append(rates(optimizer)[0])
    assert halved[2:] == [0.4, 0.2, 0.2, 0.1, 0.1, 0.05]


def test_a_step_of_the_wrapped_scheduler_that_fails_leaves_the_rates() -> None:
    optimizer = sgd()
    scheduler = RecipeLR(optimizer, BIG, after_warmup=ReduceLROnPlateau(optimizer))
    run(optimizer, scheduler, end=40)
    with pytest.raises(TypeError, match="metrics"):
        scheduler.step_after_warmup()
    assert rates(optimizer) == [0.4]
    scheduler.step()


def test_wrapping_refuses_what_cannot_be_meant() -> None:
    optimizer, other = sgd(), sgd()
    cosine = CosineAnnealingLR(optimizer, 5)
    error_line(RecipeLR, optimizer, LINEAR, after_warmup=cosine)
    error_line(RecipeLR, other, BIG, after_warmup=cosine)
    error_line(RecipeLR, optimizer, BIG, after_warmup=in_steps(BIG))
    error_line(RecipeLR, optimizer, BIG, after_warmup=cosine, last_epoch=9)
    error_line(RecipeLR(other, BIG).step_after_warmup)


@pytest.mark.parametrize(
    ("build_", "begins"),
    [
        (lambda optimizer: OneCycleLR(optimizer, max_lr=0.4, total_steps=60), 0.016),
        (lambda optimizer: CyclicLR(optimizer, 0.1, 0.4, step_size_up=20), 0.1),
    ],
    ids=["one cycle", "cyclic"],
)
def test_a_wrapped_scheduler_with_a_warmup_of_its_own(build_: Any, begins: float) -> None:
    """It has set the rates, so that lr=recipe.lr is no advice; the rate of ratio 1 is to be said.

    Then the warmup ends where that scheduler begins, and it goes on from there.
    """
    optimizer = sgd()
    after = build_(optimizer)
    line = error_line(RecipeLR, optimizer, BIG, after_warmup=after)
    assert line.startswith(f"RecipeLR: after_warmup={type(after).__name__}: has set lr=[0.")
    assert line.endswith(
        "when it was built, and none is the recipe's 0.4; say with reference_lr= which rate has "
        "the ratio 1, or take a scheduler without a warmup of its own, as CosineAnnealingLR"
    )
    scheduler = RecipeLR(optimizer, BIG, after_warmup=after, reference_lr=0.4)
    seen = []
    for _ in range(25 + 20):
        optimizer.step()
        scheduler.step()
        scheduler.step_after_warmup()
        seen.append(rates(optimizer)[0])
    assert seen[24] == pytest.approx(begins)
    assert max(seen) == pytest.approx(0.4, rel=0.01)


def test_a_wrapped_scheduler_that_is_stepped_by_itself_is_noticed() -> None:
    optimizer = sgd()
    cosine = CosineAnnealingLR(optimizer, 5)
    scheduler = RecipeLR(optimizer, BIG, after_warmup=cosine)
    optimizer.step()
    cosine.step()
    for call in (scheduler.step, scheduler.step_after_warmup):
        error_line(call)


# Tensors, compiled steps, wrappers ------------------------------------------


@pytest.mark.parametrize("wrapped", ["none", "cosine", "plateau"])
def test_tensor_rates_are_filled_in_place(wrapped) -> None:
    lrs = [torch.tensor(0.4), torch.tensor(0.12)]
    optimizer = sgd(*lrs, lr=lrs[0])
    after_warmup = WRAPPED[wrapped](optimizer)
    recipe = LINEAR if after_warmup is None else BIG
    scheduler = RecipeLR(optimizer, recipe, after_warmup=after_warmup)
    seen = run(optimizer, scheduler)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        assert group["lr"] is lr
    assert torch.allclose(torch.tensor(seen), torch.tensor(run(*build(wrapped, 0.4))), rtol=1e-6)
    last = scheduler.get_last_lr()
    assert all(rate == lr and rate is not lr for rate, lr in zip(last, lrs, strict=True))


def test_a_tensor_that_a_scheduler_has_filled_is_still_ratio_one() -> None:
    lr = torch.tensor(0.1)
    optimizer = SGD([Parameter(torch.ones(1))], lr=lr)
    LinearLR(optimizer, start_factor=0.5)
    assert RecipeLR(optimizer, BIG).base_lrs == [0.4]


def trained(optimizer: Optimizer, scheduler: LRScheduler, step: Any = None) -> Tensor:
    """The weight after 12 updates along a gradient of 1."""
    (weight,) = optimizer.param_groups[0]["params"]
    step = step or optimizer.step
    for _ in range(12):
        weight.grad = torch.ones(1)
        step()
        scheduler.step()
    return weight.detach()


# Slow in the default suite alone: in a process that has imported and traced much else, torch
# takes minutes for what is half a second in one of its own.


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after", "beside"])
@pytest.mark.parametrize("lr", [0.4, torch.tensor(0.4)], ids=["float", "tensor"])
def test_a_compiled_step_sees_every_rate(when, lr) -> None:
    torch.compiler.reset()
    optimizer, eager, step = sgd(lr=lr), sgd(), None
    if when == "before":
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore
    scheduler = RecipeLR(optimizer, LINEAR)
    if when == "after":
        optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore
    if when == "beside":
        step = torch.compile(optimizer.step, backend="eager")
    expected = trained(eager, RecipeLR(eager, LINEAR))
    torch.testing.assert_close(trained(optimizer, scheduler, step), expected)


@pytest.mark.slow
def test_a_tensor_rate_compiles_no_more_than_twice() -> None:
    """Once without and once with momentum's buffer: never for a new rate."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    optimizer = sgd(lr=torch.tensor(0.4))
    scheduler = RecipeLR(optimizer, LINEAR)
    trained(optimizer, scheduler, torch.compile(optimizer.step, backend=backend))
    assert len(graphs) == 2


@pytest.mark.slow
def test_a_step_compiled_to_machine_code_sees_every_rate() -> None:
    torch.compiler.reset()
    optimizer, eager = sgd(lr=torch.tensor(0.4)), sgd()
    expected = trained(eager, RecipeLR(eager, LINEAR))
    scheduler = RecipeLR(optimizer, LINEAR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        seen = trained(optimizer, scheduler, torch.compile(optimizer.step))
    torch.testing.assert_close(seen, expected)


class Wrapper(Optimizer):
    """What accelerate makes of an optimizer: another object in front of the same groups."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    @property
    def defaults(self) -> Any:
        return self.inner.defaults

    def step(self, closure: Any = None) -> None:
        self.inner.step(closure)


def test_an_optimizer_inside_a_wrapper_is_followed() -> None:
    inner = sgd(lr=0.1)
    wrapped = Wrapper(inner)
    scheduler = RecipeLR(wrapped, BIG, after_warmup=StepLR(inner, 1, gamma=0.5))
    seen = run(wrapped, scheduler)
    assert [seen[s] for s in (0, 24, 29, 30, 40)] == [[0.4 / 25], [0.4], [0.4], [0.2], [0.1]]
