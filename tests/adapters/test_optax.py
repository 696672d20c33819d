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
    InverseSqrt,
    LegwWarning,
    Muon,
    Polynomial,
    Recipe,
    Step,
    WarmupStableDecay,
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
    Cosine(half_cycles=3, end=0.1),
    WarmupStableDecay(tail=0.3),
    WarmupStableDecay(tail=0.3, shape="cosine", end=0.05),
    WarmupStableDecay(tail=0.5, shape="1-sqrt", after_warmup=True),
    InverseSqrt(time_scale_epochs=1.7),
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


@pytest.mark.ci
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


def test_a_recipe_in_steps_needs_no_number_of_examples(jax: Any) -> None:
    from legw.adapters.optax import recipe_schedule

    recipe = Recipe(batch_size=8, lr=0.4, steps=500 / 3, warmup_steps=20, decay=Cosine(end=0.1))
    steps = jax.numpy.arange(0, 170)
    lr = in_steps(recipe)
    assert recipe_schedule(recipe)(steps).tolist() == pytest.approx(
        [lr(s) for s in steps.tolist()], rel=1e-6
    )


@pytest.mark.usefixtures("jax")
def test_an_optimizer_of_ones_own_is_refused() -> None:
    from expect import error_line
    from legw.adapters.optax import recipe_optimizer

    class Mine(SGD):
        kind = "test-optax-mine"

    recipe = Recipe(batch_size=8, lr=1.0, epochs=2, optimizer=Mine())
    error_line(recipe_optimizer, recipe, 100)


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
        gradients = {n: draws.normal(size=w.shape).astype("float32") for n, w in weights.items()}
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(gradients[name].copy())
        mine.step()
        schedule.step()
        steps, state = theirs.update(gradients, state, weights)
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


def test_an_average_of_the_weights_is_told_to_be_ones_own(jax: Any) -> None:
    from legw.adapters.optax import recipe_optimizer

    recipe = Recipe(name="mine", batch_size=1, lr=1.0, epochs=1, ema_decay=0.75)
    with pytest.warns(LegwWarning, match=r"^mine: ema_decay=0.75: is yours to keep"):
        optimizer = recipe_optimizer(recipe, 10)
    import optax

    weights = average = {"w": jax.numpy.zeros((1,))}
    steps, _ = optimizer.update({"w": -jax.numpy.ones((1,))}, optimizer.init(weights), weights)
    weights = optax.apply_updates(weights, steps)
    average = optax.incremental_update(weights, average, 1 - 0.75)  # as the warning says
    assert average["w"].tolist() == pytest.approx([0.25])


# Muon -------------------------------------------------------------------------------------

MUONS = {
    "default": Muon(),
    "plain momentum": Muon(momentum=0.8, nesterov=False, ns_steps=3),
    "decays": Muon(weight_decay=0.2, adamw_weight_decay=0.3, adamw_lr_ratio=0.5, beta2=0.9),
    "stacked": Muon(split_gates=False),
}


def network():
    """Return a torch model with a stack of gates, a plain matrix, a convolution, and the rest."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts = {
        "embed": nn.Embedding(7, 6),
        "lstm": nn.LSTM(6, 8),
        "tall": nn.Linear(5, 12),
        "wide": nn.Conv2d(3, 4, 3),
        "output": nn.Linear(8, 3),
    }
    return nn.ModuleDict(parts)


def counts_of(model) -> dict[str, int]:
    from legw.train import muon_choices

    choices = muon_choices(model, output="output")
    return {choice.name: choice.split if choice.use_muon else 0 for choice in choices}


def muon_recipe(data: Optimizer = MUONS["default"]) -> Recipe:
    return Recipe(
        name="small", batch_size=100, lr=0.05, epochs=2, warmup_epochs=0.4, optimizer=data,
        decay=Cosine(),
    )  # fmt: skip


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "default" else pytest.mark.ci) for name in MUONS],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param("float32", 5e-6, marks=pytest.mark.ci), ("float64", 1e-7)],
)
def test_muon_steps_as_the_torch_one(jax: Any, name: str, dtype: str, tolerance: float) -> None:
    """All weights after each of 20 jitted updates, under a moving rate.

    The numbers are about 1 and move by 0.01 to 0.1 an update. In single precision they stay
    within 5e-6; the schedule, which is float32 here, allows 1e-7 in double precision.
    """
    import numpy
    import optax
    import torch

    from legw.adapters.optax import recipe_optimizer
    from legw.train import RecipeLR, optim

    recipe = muon_recipe(MUONS[name])
    with jax.enable_x64(dtype == "float64"):
        draws = numpy.random.default_rng(0)
        model = network().to(getattr(torch, dtype))
        weights = {n: jax.numpy.asarray(p.detach().numpy()) for n, p in model.named_parameters()}
        mine = optim.build(recipe.optimizer, model, recipe.lr, output="output")
        schedule = RecipeLR(mine, recipe, 1000)
        theirs = recipe_optimizer(recipe, 1000, hidden=counts_of(model))
        state = theirs.init(weights)
        update = jax.jit(theirs.update)
        for _ in range(updates(recipe, 1000)):
            gradients = {n: draws.normal(size=w.shape).astype(dtype) for n, w in weights.items()}
            for key, parameter in model.named_parameters():
                parameter.grad = torch.from_numpy(gradients[key].copy())
            mine.step()
            schedule.step()
            steps, state = update(gradients, state, weights)
            weights = optax.apply_updates(weights, steps)
            for key, parameter in model.named_parameters():
                found, wanted = numpy.asarray(weights[key]), parameter.detach().numpy()
                assert found.dtype == wanted.dtype == dtype
                numpy.testing.assert_allclose(found, wanted, 0, tolerance, err_msg=key)


@pytest.mark.ci
def test_hidden_may_be_a_function_of_the_parameters(jax: Any) -> None:
    """With trees in trees; the same steps as from the tree itself."""
    from legw.adapters.optax import recipe_optimizer

    weights = {"a": [jax.numpy.ones((4, 3)), jax.numpy.ones(3)], "b": jax.numpy.ones((2, 2))}
    gradients = jax.tree.map(lambda w: jax.random.normal(jax.random.key(0), w.shape), weights)
    tree = {"a": [2, 0], "b": 1}

    def by_shape(params):
        return jax.tree.map(lambda w: 0 if w.ndim < 2 else w.shape[0] // 2, params)

    found = []
    for hidden in (tree, by_shape):
        optimizer = recipe_optimizer(muon_recipe(), 1000, hidden=hidden)
        state = jax.jit(optimizer.init)(weights)
        found.append(jax.jit(optimizer.update)(gradients, state, weights)[0])
    assert jax.tree.all(jax.tree.map(lambda one, two: bool((one == two).all()), *found))
    bias = found[0]["a"][1]
    assert abs(bias).tolist() == pytest.approx([0.05 / 4] * 3), "Adam's first step has length lr"


def test_an_array_of_zeros_stays_finite(jax: Any) -> None:
    from legw.adapters.optax import recipe_optimizer

    weights = {"w": jax.numpy.zeros((3, 3))}
    optimizer = recipe_optimizer(muon_recipe(), 1000, hidden={"w": 1})
    steps, _ = optimizer.update(weights, optimizer.init(weights), weights)
    assert not steps["w"].any()


def test_what_muon_must_know(jax: Any) -> None:
    from expect import error_line
    from legw.adapters.optax import recipe_optimizer

    recipe = muon_recipe()
    error_line(recipe_optimizer, recipe, 1000)
    other = replace(recipe, optimizer=AdamW())
    error_line(recipe_optimizer, other, 1000, hidden={"w": 1})
    weights = {"w": jax.numpy.ones((4, 3)), "b": jax.numpy.ones(3)}
    for hidden in ((1, 1), (3, 0), (-1, 0), (True, 0)):
        optimizer = recipe_optimizer(recipe, 1000, hidden=dict(zip("wb", hidden, strict=True)))
        error_line(optimizer.init, weights)
    optimizer = recipe_optimizer(recipe, 1000, hidden={"w": 1})
    error_line(optimizer.init, weights)
    optimizer = recipe_optimizer(recipe, 1000, hidden={"w": 1, "b": 0})
    error_line(optimizer.update, weights, optimizer.init(weights))


def test_a_batch_that_grows_has_its_rates(jax: Any) -> None:
    from legw import BatchSchedule
    from legw.adapters.optax import recipe_schedule

    plan = BatchSchedule(sizes=(10, 30), until=(1.3, 4))
    recipe = Recipe(batch_size=100, lr=0.4, epochs=10, warmup_epochs=0.7, num_examples=1000,
                    decay=Cosine(), batch_schedule=plan)  # fmt: skip
    schedule, lr = jax.jit(recipe_schedule(recipe)), in_steps(recipe)
    count = updates(recipe)
    for update in (0, 50, 69, 130, 131, 220, 221, count - 1):
        assert float(schedule(update)) == pytest.approx(lr(update), rel=1e-6)
    assert float(schedule(count + 10)) == float(schedule(count - 1))
