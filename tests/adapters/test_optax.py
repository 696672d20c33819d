"""optax: the schedule is the closed form, traced; the optimizers step as legw's torch ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from legw import (
    LAMB,
    LARS,
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    Halving,
    Polynomial,
    Recipe,
    Step,
    in_steps,
    updates,
)
from legw.decays import Decay
from legw.optimizers import Optimizer


@pytest.fixture(scope="module")
def jax() -> Any:
    """JAX, which takes seconds to import: one process alone does."""
    pytest.importorskip("optax", reason="optax not installed; pip install -e '.[dev]'")
    return pytest.importorskip("jax", reason="jax not installed; pip install -e '.[dev]'")


DECAYS = [
    Constant(),
    Cosine(),
    Cosine(end=0.1, after_warmup=False),
    Exponential(rate=0.8, constant_epochs=3.5),
    Halving(),
    Polynomial(power=2),
    Polynomial(power=1, end=0.01, after_warmup=False),
    Step(milestones_epochs=(3, 6.5)),
]
OPTIMIZERS = [
    SGD(momentum=0.9, weight_decay=0.01),
    SGD(momentum=0.9, nesterov=True),
    SGD(),
    Adam(weight_decay=0.01),
    AdamW(weight_decay=0.1),
    LARS(weight_decay=0.01, trust_coefficient=0.02),
    LAMB(weight_decay=0.1),
]


@pytest.mark.parametrize("decay", DECAYS, ids=lambda decay: type(decay).__name__)
@pytest.mark.parametrize(("batch_size", "num_examples"), [(256, 1437), (100, 1000), (7, 99_991)])
def test_the_traced_schedule_is_the_closed_form(
    jax: Any, decay: Decay, batch_size: int, num_examples: int
) -> None:
    """Over the run and some after its end in one jitted call: all updates, of many every 29th."""
    from legw.adapters.optax import recipe_schedule

    recipe = Recipe(
        batch_size=batch_size, lr=0.4, epochs=9.3, warmup_epochs=1.7, warmup_from_lr=0.01,
        decay=decay,
    )  # fmt: skip
    count = updates(recipe, num_examples) + 5
    steps = jax.numpy.arange(0, count, 1 if count < 1000 else 29)
    traced = jax.jit(recipe_schedule(recipe, num_examples))(steps)
    lr = in_steps(recipe, num_examples)
    assert traced.tolist() == pytest.approx([lr(s) for s in steps.tolist()], rel=1e-6, abs=1e-12)


@pytest.mark.usefixtures("jax")
def test_an_optimizer_of_ones_own_is_refused() -> None:
    from expect import error_line
    from legw.adapters.optax import recipe_optimizer

    class Mine(SGD):
        kind = "test-optax-mine"

    recipe = Recipe(batch_size=8, lr=1.0, epochs=2, optimizer=Mine())
    line = error_line(recipe_optimizer, recipe, 100)
    assert line == "optimizer 'Mine' is unknown; (known: SGD, Adam, AdamW, LARS, LAMB)"


@pytest.mark.parametrize("data", OPTIMIZERS, ids=lambda data: type(data).__name__)
def test_an_optimizer_steps_as_the_torch_one(jax: Any, data: Optimizer) -> None:
    """Twelve updates under a moving rate: matrix, bias, and a matrix that is 0 at first."""
    import numpy
    import optax
    import torch

    from legw.adapters.optax import recipe_optimizer
    from legw.train import RecipeLR, optim

    recipe = Recipe(
        batch_size=100, lr=0.05, epochs=1.2, warmup_epochs=0.4, optimizer=data, decay=Cosine()
    )
    draws = numpy.random.default_rng(0)
    model = torch.nn.Linear(5, 3)
    model.zero = torch.nn.Parameter(torch.zeros(2, 2))
    weights = {n: jax.numpy.asarray(p.detach().numpy().copy()) for n, p in model.named_parameters()}
    mine = optim.build(data, model, recipe.lr)
    schedule = RecipeLR(mine, recipe, 1000)
    theirs = recipe_optimizer(recipe, 1000)
    state = theirs.init(weights)
    for _ in range(updates(recipe, 1000)):
        slopes = {n: draws.normal(size=w.shape).astype("float32") for n, w in weights.items()}
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(slopes[name].copy())
        mine.step()
        schedule.step()
        steps, state = theirs.update(slopes, state, weights)
        weights = optax.apply_updates(weights, steps)
    for name, parameter in model.named_parameters():
        found, wanted = numpy.asarray(weights[name]), parameter.detach().numpy()
        numpy.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6, err_msg=name)


def test_clipping_is_the_recipes(jax: Any) -> None:
    from legw.adapters.optax import recipe_optimizer

    recipe = replace(Recipe(batch_size=1, lr=1.0, epochs=1), clip_norm=0.5)
    weights = {"w": jax.numpy.ones((2,))}
    optimizer = recipe_optimizer(recipe, 10)
    steps, _ = optimizer.update(
        {"w": jax.numpy.asarray([3.0, 4.0])}, optimizer.init(weights), weights
    )
    assert steps["w"].tolist() == pytest.approx([-0.3, -0.4])
