"""Transformers' Trainer and ours: the same parameters are decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapters.test_examples import need
from legw import LAMB, SGD, AdamW, LegwWarning, Recipe, scale
from legw.adapters.transformers import trainer_arguments, trainer_optimizers
from legw.train import RecipeLR


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("data", [AdamW(weight_decay=0.1), SGD(weight_decay=0.1)])
def test_biases_and_norms_are_not_decayed_as_in_trainer(data: AdamW | SGD) -> None:
    from transformers import Trainer, TrainingArguments

    model = Small()
    recipe = Recipe(batch_size=8, lr=0.1, steps=100, warmup_steps=10, optimizer=data)
    optimizer, scheduler = trainer_optimizers(model, recipe)
    arguments = TrainingArguments("unused", weight_decay=0.1, use_cpu=True, report_to=[])
    theirs = Trainer(model, arguments).create_optimizer()

    def decays(of: torch.optim.Optimizer) -> dict[str, float]:
        names = {id(weight): name for name, weight in model.named_parameters()}
        return {
            names[id(weight)]: group["weight_decay"]
            for group in of.param_groups
            for weight in group["params"]
        }

    assert decays(optimizer) == decays(theirs)
    assert scheduler.base_lrs == [0.1, 0.1]


def test_what_has_groups_or_no_decay_is_left() -> None:
    one, _ = trainer_optimizers(Small(), Recipe(batch_size=8, lr=0.1, steps=9, optimizer=SGD()))
    assert len(one.param_groups) == 1
    two, _ = trainer_optimizers(Small(), Recipe(batch_size=8, lr=0.1, steps=9, optimizer=LAMB()))
    assert len(two.param_groups) == 2
    norm = nn.Sequential(nn.LayerNorm(4))
    recipe = Recipe(batch_size=8, lr=0.1, steps=9, optimizer=SGD(weight_decay=0.1))
    alone, _ = trainer_optimizers(norm, recipe)
    assert [group["weight_decay"] for group in alone.param_groups] == [0.0]


def test_the_groups_that_timms_script_makes_have_one_peak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    need("timm")
    from timm.optim import create_optimizer_v2

    base = Recipe(batch_size=8, lr=0.01, steps=1000, warmup_steps=10)
    optimizer = create_optimizer_v2(Small(), opt="adamw", lr=base.lr, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    for stated in ({"base": base}, {}):
        scheduler = RecipeLR(optimizer, scale(base, 32), **stated)
        assert scheduler.base_lrs == [0.02, 0.02]
    assert capsys.readouterr().err == "", "one peak needs no word"


def test_an_average_of_the_weights_is_told_to_be_ones_own() -> None:
    with pytest.warns(LegwWarning, match=r"^mine: ema_decay=0.9: Trainer averages no weights; "):
        trainer_arguments(Recipe(name="mine", batch_size=8, lr=1, steps=9, ema_decay=0.9))
