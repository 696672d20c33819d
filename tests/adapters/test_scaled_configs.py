"""Scaled configurations, given back to their libraries: they train at the recipe's rates."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from adapters.test_examples import need
from expect import error_line
from legw import Constant, Rule, from_config, in_steps, updates
from legw.train.average import WeightAverage
from legw.train.batch_norm import fix_groups, fold
from legw.train.dist import World

TIMM: dict[str, Any] = {
    "batch_size": 32, "opt": "momentum", "lr": 0.1, "sched": "cosine", "epochs": 10,
    "warmup_epochs": 0.3, "warmup_lr": 0.01, "min_lr": 0.001, "warmup_prefix": False,
}  # fmt: skip

WSD = {"sched": "wsd", "decay_epochs": 0.25, "sched_on_updates": True, "warmup_epochs": 0.5}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"warmup_prefix": True},
        {"sched": "step", "decay_epochs": 3, "decay_rate": 0.5},
        {"sched": "multistep", "decay_milestones": [4, 7]},
        {"sched": "poly", "decay_rate": 2.0},
        *(WSD | {"lr_decay_fn": fall} for fall in (None, "linear", "cosine", "power")),
        WSD | {"decay_epochs": 2.5, "warmup_prefix": True, "lr_decay_fn": "linear"},
        {"sched": "wsd", "decay_epochs": 9, "warmup_epochs": 1},
        {"sched": "wsd", "decay_epochs": 0.3, "warmup_epochs": 1},  # timm's fall is 3 epochs of 9
    ],
    ids=str,
)
def test_timms_own_scheduler_has_the_recipes_rates(more: dict[str, Any]) -> None:
    """Its ramp is read at the start of an update; over the whole run, to 1e-9.

    What `left_out` names is left out here: the warmup of a decay that is not prefixed, and the
    update before a milestone.
    """
    need("timm")
    from timm.scheduler import create_scheduler

    big = from_config(TIMM | more, num_examples=5120).scaled(128)
    assert big.values["warmup_epochs"] == pytest.approx(4 * (TIMM | more)["warmup_epochs"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=big.values["lr"])
    scheduler, _ = create_scheduler(
        argparse.Namespace(**big.values), optimizer, updates_per_epoch=5120 // 128
    )
    rates = []
    for update in range(updates(big.recipe)):
        scheduler.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    lr = in_steps(big.recipe, ramp="start")
    said = "".join(big.left_out)
    first = 48 if "warmup: timm's decay begins" in said else 0
    early = {4 * 40 - 1, 7 * 40 - 1} if "one update early" in said else set()
    compared = [update for update in range(first, len(rates)) if update not in early]
    wanted = [lr(update) for update in compared]
    assert [rates[update] for update in compared] == pytest.approx(wanted, rel=1e-9)


def test_what_of_timms_wsd_and_rsqrt_is_not_carried_is_said() -> None:
    wsd = TIMM | WSD | {"decay_epochs": 0.3, "sched_on_updates": False}
    said = from_config(wsd, num_examples=5120).scaled(128).left_out
    assert "decay_epochs: timm rounds its fall to whole updates, legw does not" in said
    assert "sched_on_updates: off, so timm's fall moves once an epoch; the scaled file has it on" \
        in from_config(wsd | {"warmup_epochs": 0}).left_out  # fmt: skip
    exp = from_config(TIMM | WSD | {"lr_decay_fn": "exp"})
    assert exp.recipe.decay == Constant()
    assert "sched='wsd': legw's has no lr_decay_fn='exp'; it stays" in exp.left_out
    rsqrt = from_config(TIMM | {"sched": "rsqrt"})
    assert any(line.startswith("sched='rsqrt': timm's falls to min_lr") for line in rsqrt.left_out)
    assert "decay_epochs=0.2: is not given; this is the default of timm" in rsqrt.filled_in
    assert rsqrt.scaled(128).values["lr_stable_timescale"] == 0.3, "else it is the warmup, of 1.2"
    assert error_line(from_config, TIMM | WSD | {"decay_epochs": 30}) == (
        "timm: decay_epochs=30: wsd falls in 30 of 9.5 epochs after the warmup, and timm refuses "
        "that; choose more than 0 and at most all"
    )
    assert error_line(from_config, wsd | {"decay_epochs": 0.01}).startswith(
        "timm: decay_epochs=0.01: wsd falls in 0 of 9.5 epochs"
    )
    short = TIMM | {"sched": "wsd", "epochs": 1.1, "warmup_epochs": 0.05, "decay_epochs": 1.05,
                    "sched_on_updates": True}  # fmt: skip
    assert any(line.startswith("decay_epochs=0.9: timm takes it for a share")
               for line in from_config(short).scaled(128).left_out)  # fmt: skip


def test_timms_own_average_of_the_weights_is_ours() -> None:
    """From the first update on, that of batch-norm's running averages too."""
    need("timm")
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    fix_groups(model, 8)
    theirs, ours = ModelEmaV3(model, decay=0.7), WeightAverage(model, decay=0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(6):
        model(torch.randn(8, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        fold(model, World(torch.device("cpu")))
        theirs.update(model, step=update + 1)
        ours.move(model, update)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("on_updates", [False, True])
def test_timms_milestones_come_as_early_as_it_is_said(on_updates: bool) -> None:
    """An epoch early in timm's own default, where it steps once an epoch; else an update."""
    need("timm")
    from timm.scheduler import create_scheduler

    values = TIMM | {"sched": "multistep", "decay_milestones": [5, 10], "epochs": 12,
                     "warmup_epochs": 0, "sched_on_updates": on_updates}  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, _ = create_scheduler(argparse.Namespace(**values), optimizer, updates_per_epoch=160)
    one = 160 if on_updates else 1  # an epoch, in what timm counts
    rates = []
    for position in range(12 * one):
        (scheduler.step_update if on_updates else scheduler.step)(position)
        rates.append(optimizer.param_groups[0]["lr"])
    drops = [at for at in range(1, len(rates)) if rates[at] < rates[at - 1]]
    assert drops == [5 * one - 1, 10 * one - 1]
    (said,) = [line for line in from_config(values).left_out if "milestones" in line]
    assert ("one update early" if on_updates else "one epoch early") in said


@pytest.mark.ci
def test_transformers_own_schedulers_have_the_recipes_rates(
    output_of: Callable[[str], str],
) -> None:
    mine = {
        "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-4, "num_train_epochs": 4.0, "warmup_steps": 30, "optim": "sgd",
    }  # fmt: skip
    found = json.loads(output_of("schedulers").splitlines()[-2])  # the last: rates of its own
    assert len(found) == 4
    for kind, batch, rates in found:
        values = mine | {"lr_scheduler_type": kind}
        big = from_config(values, num_examples=12800).scaled(128).recipe
        lr = in_steps(big, ramp="start")
        assert batch == 128
        wanted = [lr(update) for update in range(updates(big))]
        assert rates == pytest.approx(wanted, rel=1e-6, abs=1e-15), kind


ALL = Rule(
    name="all", lr_power=0.5, warmup_power=1.0, weight_decay_power=0.5, beta2_power=1.0,
    clip_norm_power=-0.25, ema_power=1.0,
)  # fmt: skip
"""A rule that changes all that there is."""


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"per_device_train_batch_size": 8, "learning_rate": 1e-4, "max_steps": 900,
          "warmup_steps": 9, "weight_decay": 0.1, "optim": "adamw_torch"}, ()),
        (TIMM | {"opt": "adamw", "model_ema": True, "model_ema_decay": 0.99, "clip_grad": 1.0}, ()),
        ({"batch_size": 8, "lr": 0.1, "epochs": 9, "opt": "adamw", "lr_warmup_epochs": 1,
          "lr_warmup_method": "linear",
          "clip_grad_norm": 1.0}, ("beta2=0.996006: ",)),
        ({"batch_size": 12, "block_size": 1024, "max_iters": 5000, "learning_rate": 6e-4,
          "warmup_iters": 200, "lr_decay_iters": 5000}, ()),
        ({"optimizer": {"name": "AdamW", "lr": 1e-3},
          "lr_scheduler": {"warmup_steps": 2, "decay_ratio": 0.2},
          "training": {"local_batch_size": 8, "steps": 1000, "seq_len": 2048}}, ()),
        ({"device_batch_size": 32, "total_batch_size": 524288, "matrix_lr": 0.02,
          "num_iterations": 1000, "max_seq_len": 2048}, ("beta2=0.814506: ",)),
    ],
    ids=["transformers", "timm", "torchvision", "nanogpt", "torchtitan", "nanochat"],
)  # fmt: skip
def test_what_a_rule_changes_beside_rates_is_written_or_named(
    values: dict[str, Any], named: tuple[str, ...]
) -> None:
    config = from_config(values)
    big = config.scaled(4 * config.recipe.batch_size, ALL)
    back = from_config(big.values).recipe
    told = [line for line in big.left_out if line.endswith("has no word for it")]
    assert [line[: len(name)] for line, name in zip(told, named, strict=True)] == list(named)
    if not named:
        assert back.optimizer == big.recipe.optimizer != config.recipe.optimizer
    assert getattr(back.optimizer, "weight_decay", 0) == pytest.approx(
        getattr(big.recipe.optimizer, "weight_decay", 0)
    )
    assert back.clip_norm == big.recipe.clip_norm
    assert back.ema_decay == big.recipe.ema_decay
