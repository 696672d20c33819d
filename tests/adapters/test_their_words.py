"""Twelve recipes in the words of their own tools: the rates that those run at, and ours.

Where a tool is installed, its own scheduler is asked; the others' are the formulas of their
training scripts, written down here. Each is compared at its base, and scaled by LEGW with its
own settings scaled the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from torch.nn import Parameter
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR
from transformers import get_scheduler

from legw import Recipe, in_steps, updates, warmup_updates
from legw.recipe import from_dict
from legw.rules import LEGW, apply

K = 4
"""How many times the batch each is scaled to."""

Rate = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """One recipe as its tool has it."""

    tool: str
    """Whose words they are."""
    words: dict[str, Any]
    """The recipe in a file of ours, in those words."""
    rate: Callable[[Recipe, int, int], Rate]
    """(recipe, warmup updates, updates) -> the tool's own rate of each update."""
    ramp: Any = "end"
    """Where the tool reads its ramp."""
    convention: str = ""
    """What it does otherwise than we, in words."""
    every: int = 1
    """Updates between two of which the tool moves its rate."""
    num_examples: int | None = None
    """Examples of an epoch, where lengths are in epochs."""
    notes: tuple[str, ...] = field(default=())


def sgd(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([Parameter(torch.ones(1))], lr=lr)


def nano_gpt(recipe: Recipe, warmup: int, steps: int) -> Rate:
    low = recipe.min_lr or 0.0

    def rate(it: int) -> float:
        if it < warmup:
            return recipe.lr * (it + 1) / (warmup + 1)
        if it > steps:
            return low
        share = (it - warmup) / (steps - warmup)
        return low + 0.5 * (1.0 + math.cos(math.pi * share)) * (recipe.lr - low)

    return rate


def nanochat(recipe: Recipe, warmup: int, steps: int) -> Rate:
    down, low = round(recipe.decay.tail * steps), recipe.decay.end  # type: ignore[attr-defined]

    def rate(it: int) -> float:
        if it < warmup:
            return recipe.lr * (it + 1) / warmup
        if it <= steps - down:
            return recipe.lr
        left = (steps - it) / down
        return recipe.lr * (left + (1 - left) * low)

    return rate


def titan(recipe: Recipe, warmup: int, steps: int) -> Rate:
    """The virtual last step, and both counts from 1, cancel each other."""
    decay: Any = recipe.decay
    fall = round(steps * decay.tail)
    stable = steps + 1 - warmup - fall

    def rate(step: int) -> float:
        if step < warmup:
            return recipe.lr * (step + 1) / warmup
        if step < warmup + stable:
            return recipe.lr
        share = (step + 1 - warmup - stable) / fall
        left = {"linear": 1 - share, "1-sqrt": 1 - math.sqrt(share)}[decay.shape]
        return recipe.lr * (decay.end + (1 - decay.end) * left)

    return rate


def megatron(recipe: Recipe, warmup: int, steps: int) -> Rate:
    """In samples: its counters hold those of the updates made."""
    low, ramp, end = recipe.min_lr or 0.0, recipe.warmup, recipe.length

    def rate(update: int) -> float:
        seen = update * recipe.batch_size
        if seen <= ramp:
            return recipe.lr * seen / ramp
        share = min((seen - ramp) / (end - ramp), 1)
        return low + 0.5 * (math.cos(math.pi * share) + 1) * (recipe.lr - low)

    return rate


def trainer(kind: str, **more: Callable[[Recipe, int], float]) -> Callable[..., Rate]:
    def of(recipe: Recipe, warmup: int, steps: int) -> Rate:
        given = {name: value(recipe, steps) for name, value in more.items()}
        scheduler = get_scheduler(
            kind, sgd(recipe.lr), warmup, steps, scheduler_specific_kwargs=given or None
        )
        factor = scheduler.lr_lambdas[0]
        return lambda update: recipe.lr * factor(update)

    return of


def timm(cls: Any, **more: Any) -> Callable[..., Rate]:
    def of(recipe: Recipe, warmup: int, steps: int) -> Rate:
        scheduler = cls(
            sgd(recipe.lr), t_initial=steps - warmup, lr_min=recipe.min_lr or 0.0, warmup_t=warmup,
            warmup_lr_init=recipe.warmup_from_lr, warmup_prefix=True, t_in_epochs=False, **more,
        )  # fmt: skip
        return lambda update: scheduler._get_lr(update)[0]

    return of


def by_epoch(make: Callable[[Recipe, torch.optim.Optimizer], Any]) -> Callable[..., Rate]:
    """A torch scheduler, stepped after each epoch, as torchvision's references do."""

    def of(recipe: Recipe, warmup: int, steps: int) -> Rate:
        optimizer = sgd(recipe.lr)
        scheduler, seen = make(recipe, optimizer), []
        for _ in range(round(recipe.length)):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        each = steps // len(seen)
        return lambda update: float(seen[update // each])

    return of


def references_cosine(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    warmup = round(recipe.warmup)
    ramp = LinearLR(optimizer, recipe.warmup_from_lr / recipe.lr, total_iters=warmup)
    rest = CosineAnnealingLR(optimizer, round(recipe.length) - warmup)
    return SequentialLR(optimizer, [ramp, rest], [warmup])


def deepseek(recipe: Recipe, warmup: int, steps: int) -> Rate:
    """MLPerf 6.0's reference: 2.4e-5 at a batch of 16384, by its root; 4 updates of warmup."""
    peak = 0.000024 * math.sqrt(recipe.batch_size / 16384)
    return lambda update: peak * min(1, (update + 1) / 4)


ADAMW = {"kind": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1}
SGD = {"kind": "sgd", "momentum": 0.9, "weight_decay": 1e-4}
AT_0 = 'Its ramp starts at 0: `s/n`, our `ramp="start"`.'

TABLE = [
    Theirs(
        tool="nanoGPT, GPT-2 124M", rate=nano_gpt, ramp="between",
        convention="Its ramp is `(s+1)/(n+1)`: our `ramp=\"between\"`.",
        words={"batch_tokens": 491_520, "tokens_per_example": 1024, "learning_rate": 6e-4,
               "max_iters": 600_000, "warmup_iters": 2000, "min_lr": 6e-5, "grad_clip": 1.0,
               "optimizer": ADAMW, "decay": "cosine"},
    ),
    Theirs(
        tool="nanoGPT, Shakespeare", rate=nano_gpt, ramp="between", convention="The same.",
        words={"batch_size": 64, "learning_rate": 1e-3, "max_iters": 5000, "warmup_iters": 100,
               "min_lr": 1e-4, "optimizer": {"kind": "adamw", "betas": [0.9, 0.99]},
               "decay": "cosine"},
    ),
    Theirs(
        tool="nanochat, base model", rate=nanochat,
        words={"batch_tokens": 524_288, "tokens_per_example": 2048, "lr": 0.02, "steps": 20_000,
               "warmup_steps": 40, "optimizer": "muon",
               "decay": {"kind": "trapezoid", "warmdown_ratio": 0.65, "final_lr_frac": 0.05}},
    ),
    Theirs(
        tool="torchtitan, Llama 3", rate=titan,
        words={"global_batch_size": 64, "lr": 3e-4, "steps": 10_000, "warmup_steps": 200,
               "optimizer": ADAMW,
               "decay": {"kind": "wsd", "decay_ratio": 0.8, "min_lr_factor": 0.1}},
    ),
    Theirs(
        tool="torchtitan, sqrt decay", rate=titan,
        words={"global_batch_size": 64, "lr": 3e-4, "steps": 10_000, "warmup_steps": 200,
               "optimizer": ADAMW,
               "decay": {"kind": "wsd", "decay_ratio": 0.1, "shape": "1-sqrt"}},
    ),
    Theirs(
        tool="torchvision, ResNet-50", num_examples=256 * 5008,
        rate=by_epoch(lambda recipe, optimizer: StepLR(optimizer, 30, 0.1)),
        words={"batch_size": 256, "lr": 0.1, "epochs": 90, "optimizer": SGD,
               "decay": {"kind": "step", "milestones": [30, 60], "gamma": 0.1}},
    ),
    Theirs(
        tool="torchvision, new ResNet-50", num_examples=1024 * 1252, ramp="start", every=313,
        rate=by_epoch(references_cosine),
        convention="It moves once an epoch, and its ramp starts at 0.01 of the peak: the same "
        "rates at the start of each epoch, with `warmup_from_lr` and `ramp=\"start\"`.",
        words={"batch_size": 1024, "lr": 0.5, "epochs": 600, "warmup_epochs": 5,
               "warmup_from_lr": 0.005, "optimizer": SGD, "decay": "cosine"},
    ),
    Theirs(
        tool="timm, cosine", rate=timm(CosineLRScheduler), ramp="start", num_examples=512 * 2504,
        convention="With `--sched-on-updates --warmup-prefix`; its ramp starts at `warmup_lr`: "
        "our `ramp=\"start\"`.",
        words={"batch_size": 512, "lr": 0.4, "epochs": 305, "warmup_epochs": 5,
               "warmup_from_lr": 1e-5, "min_lr": 1e-6, "optimizer": SGD, "decay": "cosine"},
    ),
    Theirs(
        tool="timm, poly", rate=timm(PolyLRScheduler, power=2.0), ramp="start",
        num_examples=512 * 2504, convention="The same.",
        words={"batch_size": 512, "lr": 0.4, "epochs": 95, "warmup_epochs": 5,
               "warmup_from_lr": 1e-5, "optimizer": SGD,
               "decay": {"kind": "polynomial", "power": 2.0}},
    ),
    Theirs(
        tool="Transformers, linear", rate=trainer("linear"), ramp="start", convention=AT_0,
        words={"batch_size": 32, "learning_rate": 5e-5, "max_steps": 12_000,
               "num_warmup_steps": 600, "optimizer": {"kind": "adamw", "weight_decay": 0.0},
               "decay": "linear"},
    ),
    Theirs(
        tool="Transformers, inverse_sqrt", ramp="start", convention=AT_0,
        rate=trainer("inverse_sqrt", timescale=lambda recipe, steps: recipe.decay.time_scale_steps),  # type: ignore[attr-defined]
        words={"batch_size": 256, "learning_rate": 1e-3, "max_steps": 100_000,
               "warmup_steps": 4000, "optimizer": {"kind": "adam", "betas": [0.9, 0.98]},
               "decay": {"kind": "inverse_sqrt", "time_scale": 4000}},
    ),
    Theirs(
        tool="Megatron-LM, in samples", rate=megatron, ramp="start", convention=AT_0,
        words={"batch_size": 1536, "lr": 1e-4, "examples": 146_484_375, "warmup_examples": 183_105,
               "min_lr": 1e-5, "optimizer": ADAMW, "decay": "cosine"},
    ),
    Theirs(
        tool="MLPerf, DeepSeek-V3", rate=deepseek,
        words={"batch_size": 4096, "lr": 1.2e-5, "steps": 8000, "warmup_steps": 4,
               "optimizer": ADAMW},
    ),
]  # fmt: skip
"""A recipe a row; MLPerf's is the one that scales itself."""


def recipe_of(theirs: Theirs) -> Recipe:
    known = {} if theirs.num_examples is None else {"num_examples": theirs.num_examples}
    return from_dict({"name": "mine", **theirs.words, **known})


def places(warmup: int, steps: int, every: int) -> list[int]:
    """Return updates of the ramp, of its ends, of the whole run and of its end."""
    ends = {0, 1, warmup - 2, warmup - 1, warmup, warmup + 1, steps - 2, steps - 1}
    even = {i * (steps - 1) // 997 for i in range(998)} | {i * warmup // 50 for i in range(50)}
    return sorted({s // every * every for s in ends | even if 0 <= s < steps})


def test_there_are_twelve_and_mlperfs() -> None:
    assert len(TABLE) == 13
    assert len({theirs.tool.partition(",")[0] for theirs in TABLE}) == 8


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("theirs", TABLE, ids=lambda theirs: theirs.tool)
@pytest.mark.parametrize("k", [1, K])
def test_their_rates_are_ours_to_1e_9(theirs: Theirs, k: int) -> None:
    """A difference of their own is named in the table, and reproduced."""
    base = recipe_of(theirs)
    recipe = apply(base, k * base.batch_size, LEGW)
    warmup, steps = warmup_updates(recipe), updates(recipe)
    assert (warmup == warmup_updates(base)) and steps == -(-updates(base) // k)
    rate = theirs.rate(recipe, warmup, steps)
    ours = in_steps(recipe, ramp=theirs.ramp)
    every = theirs.every if k > 1 or theirs.every == 1 else theirs.every * K
    for update in places(warmup, steps, every):
        assert math.isclose(ours(update), rate(update), rel_tol=1e-9, abs_tol=1e-15), update


def row(theirs: Theirs) -> str:
    """Return a recipe as a row of the docs' table."""
    base = recipe_of(theirs)
    big = apply(base, K * base.batch_size, LEGW)

    def change(old: float, new: float) -> str:
        return f"{old:.4g}" if old == new else f"{old:.4g} → {new:.4g}"

    decay = base.decay.kind + (f" to {base.decay.end:.2g}" if base.min_lr else "")  # type: ignore[attr-defined]
    cells = [
        theirs.tool,
        f"{base.batch_size} → {big.batch_size}",
        change(base.lr, big.lr),
        f"{warmup_updates(base)}",
        f"{updates(base)} → {updates(big)}",
        decay,
        theirs.convention,
    ]
    return f"| {' | '.join(cells)} |"


def test_the_docs_have_this_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "their-words.md").read_text(encoding="utf-8")
    for theirs in TABLE:
        assert f"\n{row(theirs)}\n" in page, row(theirs)
