"""Optax: the recipe as a traced schedule, and its optimizer, with LARS, LAMB and Muon.

    optimizer = recipe_optimizer(big, num_examples=60000)
    optimizer = recipe_optimizer(big, num_examples=60000, hidden={"w": 1, "b": 0})  # Muon

The schedule is `legw.schedule`'s closed form written for arrays: whole updates are counted in
integers, and sums that single precision would round are computed before.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from jax import numpy as jnp

from legw import optimizers
from legw.decays import Constant, Cosine, InverseSqrt, Polynomial, WarmupStableDecay
from legw.errors import LegwWarning, RecipeError, is_count, shown, unknown_name
from legw.recipe import Recipe
from legw.schedule import in_steps, in_unit, update_length, updates, warmup_updates

TINY = 1e-7
"""The smallest norm that a matrix is divided by, so that one of zeros stays one."""


def recipe_schedule(recipe: Recipe, num_examples: int | None = None) -> Callable[[Any], Array]:
    """Return the schedule as optax takes it: from the number of updates made to the rate.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Returns:
        A function of an integer or an int32 array of any shape, that can be traced and
        jitted; float32, within 1e-6 of `legw.in_steps`, relatively.

    Raises:
        RecipeError: the number of examples is not known.
    """
    if recipe.batch_schedule is not None:
        return _grown(recipe, num_examples)
    each, one = update_length(recipe, num_examples)
    ramp_updates = warmup_updates(recipe, num_examples)
    ramp_length = recipe.warmup * one / each
    factor = _factor(recipe, num_examples)
    peak, low = recipe.lr, recipe.warmup_from_lr

    def schedule(count: Any) -> Array:
        update = jnp.asarray(count, jnp.int32)
        ramp = (update + 1) / (ramp_length or 1.0)
        top = jnp.where(update + 1 < ramp_updates, low + (peak - low) * ramp, peak)
        return jnp.asarray(top * factor(update), jnp.float32)

    return schedule


def _grown(recipe: Recipe, num_examples: int | None) -> Callable[[Any], Array]:
    """Return the schedule of a batch that grows, as a table of all updates."""
    lr = in_steps(recipe, num_examples)
    rates = jnp.asarray([lr(s) for s in range(updates(recipe, num_examples))], jnp.float32)
    return lambda count: rates[jnp.clip(jnp.asarray(count, jnp.int32), 0, len(rates) - 1)]


def _factor(recipe: Recipe, num_examples: int | None) -> Callable[[Array], Array]:
    """Return the decay as a function of the update."""
    decay = recipe.decay
    each, one = update_length(recipe, num_examples)
    start = recipe.warmup if decay.after_warmup else 0.0
    length = (recipe.length - start) * one / each
    end_update = recipe.length * one / each
    whole, part = int(end_update), end_update - int(end_update)

    def left(update: Array) -> Array:
        """Return the share of the decay that is still to come, in [0, 1]."""
        return jnp.clip(((whole - update) + part) / length, 0.0, 1.0)

    if type(decay) is Constant:
        return lambda update: jnp.ones(jnp.shape(update), jnp.float32)
    if type(decay) is Polynomial:
        power, end = decay.power, decay.end
        return lambda update: end + (1.0 - end) * left(update) ** power
    if type(decay) is Cosine:
        return lambda update: _wave(decay, left(update))
    if type(decay) is WarmupStableDecay:
        return lambda update: _tail(decay, left(update))
    if type(decay) is InverseSqrt:
        end, in_steps = decay.end, in_unit(recipe, "steps", num_examples).decay
        assert isinstance(in_steps, InverseSqrt) and in_steps.time_scale_steps is not None
        scale, begin = in_steps.time_scale_steps, start * one / each
        return lambda update: jnp.maximum(
            end, 1.0 / jnp.sqrt(1.0 + jnp.clip(update - begin, 0.0, length) / scale)
        )
    return _stairs(recipe, num_examples, start)


def _wave(decay: Cosine, left: Array) -> Array:
    """Return a cosine, where so much of it is left."""
    if decay.half_cycles == 1:
        return decay.end + (1.0 - decay.end) * jnp.sin(math.pi / 2 * left) ** 2
    turn = math.pi / 2 * decay.half_cycles  # cos(turn*(1 - left)), exact near the end
    wave = (math.cos(turn) * jnp.cos(turn * left) + math.sin(turn) * jnp.sin(turn * left)) ** 2
    return decay.end + (1.0 - decay.end) * wave


def _tail(decay: WarmupStableDecay, left: Array) -> Array:
    """Return a trapezoid, where so much of the run is left."""
    still = jnp.clip(left / decay.tail, 0.0, 1.0)
    if decay.shape == "cosine":
        still = jnp.sin(math.pi / 2 * still) ** 2
    elif decay.shape == "1-sqrt":
        still = still / (1.0 + jnp.sqrt(1.0 - still))  # 1 - sqrt(1 - still)
    return decay.end + (1.0 - decay.end) * still


def _stairs(recipe: Recipe, num_examples: int | None, start: float) -> Callable[[Array], Array]:
    """Return a decay of jumps (or one of the user's own) by the updates at which it changes."""
    decay, (each, one) = recipe.decay, update_length(recipe, num_examples)
    length = recipe.length - start
    factors, first = [decay.factor(0.0, length)], [0]
    for update in range(1, updates(recipe, num_examples) + 1):
        position = min(update * each / one, recipe.length) - start
        factor = decay.factor(max(position, 0.0), length)
        if factor != factors[-1]:
            factors.append(factor)
            first.append(update)
    values, edges = jnp.asarray(factors, jnp.float32), jnp.asarray(first, jnp.int32)
    return lambda update: values[jnp.searchsorted(edges, update, side="right") - 1]


# Optimizers -----------------------------------------------------------------------


def recipe_optimizer(
    recipe: Recipe, num_examples: int | None = None, *, hidden: Any = None
) -> optax.GradientTransformation:
    """Return the recipe's clipping, optimizer and schedule as one optax transformation.

    LARS and LAMB leave arrays of fewer than two dimensions (biases, norms) out of the
    layer-wise ratio and of weight decay, as `legw.train.parameter_groups` does. Muon steps
    as `legw.train.Muon` does, in single precision (double for double), to rounding; its
    `update` needs the parameters.

    Args:
        recipe: the recipe to train.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.
        hidden: for Muon alone: the number of matrices in each array. A tree of whole numbers with
            the parameters' structure, or a function that returns it for the parameters. A number
            counts the matrices that lie one above the other along an array's first axis
            (1 for a plain matrix, 4 for an LSTM's stacked gates), each made
            orthogonal by itself; 0 leaves an array to AdamW. An array of more than two
            dimensions is taken as (first axis, all others), as torch's convolutions lie.
            With ``split_gates=False`` each array counts as one matrix.

    Raises:
        RecipeError: the optimizer's type or the number of examples is unknown, `hidden` is
            missing for Muon or given for another optimizer. From `init` and `update`:
            `hidden` has another structure than the parameters, or does not suit an array.

    Warns:
        LegwWarning: the recipe has an `ema_decay`, which is no part of a transformation.
    """
    data = recipe.optimizer
    kind = _KINDS.get(type(data))
    if kind is None:
        known = [each.__name__ for each in _KINDS]
        raise RecipeError(unknown_name("optimizer", type(data).__name__, known))
    is_muon = isinstance(data, optimizers.Muon)
    if is_muon and hidden is None:
        raise RecipeError(
            f"{recipe.name}: hidden=None: muon must know how many matrices each array holds; "
            "give a tree of whole numbers, 0 for AdamW"
        )
    if hidden is not None and not is_muon:
        raise RecipeError(
            f"{recipe.name}: hidden: is for muon, and the optimizer is {data.kind}; leave it out"
        )
    if recipe.ema_decay is not None:
        warnings.warn(
            f"{recipe.name}: ema_decay={recipe.ema_decay:g}: is yours to keep, after each update: "
            "average = optax.incremental_update(params, average, 1 - ema_decay)",
            LegwWarning,
            stacklevel=2,
        )
    lr = recipe_schedule(recipe, num_examples)
    settings = {"hidden": hidden} if is_muon else {}
    step: optax.GradientTransformation = kind(data, lr, **settings)
    if recipe.clip_norm is None:
        return step
    return optax.chain(optax.clip_by_global_norm(recipe.clip_norm), step)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def _sgd(data: Any, lr: Any) -> optax.GradientTransformation:
    step = optax.sgd(lr, data.momentum or None, data.nesterov)
    return optax.chain(optax.add_decayed_weights(data.weight_decay), step)


def _adam(data: Any, lr: Any) -> optax.GradientTransformation:
    step = optax.adam(lr, data.beta1, data.beta2, data.epsilon)
    return optax.chain(optax.add_decayed_weights(data.weight_decay), step)


def _adamw(data: Any, lr: Any) -> optax.GradientTransformation:
    return optax.adamw(lr, data.beta1, data.beta2, data.epsilon, weight_decay=data.weight_decay)


def _lamb(data: Any, lr: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(data.beta1, data.beta2, data.epsilon),
        optax.add_decayed_weights(data.weight_decay, mask=_matrices),
        optax.masked(optax.scale_by_trust_ratio(), _matrices),
        optax.scale_by_learning_rate(lr),
    )


def _lars(data: Any, lr: Any) -> optax.GradientTransformation:
    return optax.chain(
        optax.masked(_published_ratio(data), _matrices),
        optax.scale_by_learning_rate(lr),
        optax.trace(data.momentum),
    )


def _published_ratio(data: optimizers.LARS) -> optax.GradientTransformation:
    """Scale by ``c*|w| / (|g| + decay*|w| + eps)``; optax's own has ``|g + decay*w|`` below."""

    def scaled(gradient: Array, weight: Array) -> Array:
        g, w = jnp.linalg.norm(gradient.ravel()), jnp.linalg.norm(weight.ravel())
        below = g + data.weight_decay * w + data.epsilon
        known = (g > 0) & (w > 0)
        ratio = jnp.where(known, data.trust_coefficient * w / jnp.where(known, below, 1.0), 1.0)
        return ratio * (gradient + data.weight_decay * weight)

    def update(gradients: Any, params: Any) -> Any:
        return jax.tree.map(scaled, gradients, params)

    return optax.stateless(update)


# Muon -----------------------------------------------------------------------------
#
# optax.contrib.muon is another optimizer: it corrects momentum and gradient for the start at
# 0, each by a factor of its own, and so mixes them differently in the first updates. Its
# Newton-Schulz iteration is not public.


def _muon(data: optimizers.Muon, lr: Any, hidden: Any) -> optax.GradientTransformation:
    def parts(counts: Any) -> optax.GradientTransformation:
        """Return the transformation for arrays of so many matrices."""
        momentum = optax.chain(
            _orthogonal_momentum(data, _masked(counts)),
            optax.add_decayed_weights(data.weight_decay),
            optax.scale_by_learning_rate(lr),
        )
        adamw = optax.adamw(
            lambda count: data.adamw_lr_ratio * lr(count),
            data.beta1,
            data.beta2,
            data.epsilon,
            weight_decay=data.adamw_weight_decay,
            mask=_matrices,
        )
        labels = jax.tree.map(lambda count: "muon" if count else "adamw", counts)
        return optax.partition({"muon": momentum, "adamw": adamw}, labels)

    def init(params: Any) -> Any:
        return parts(_counts(hidden, params, data)).init(params)

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise RecipeError("muon: params=None: give them as update(gradients, state, params)")
        return parts(_counts(hidden, params, data)).update(gradients, state, params)

    return optax.GradientTransformation(init, update)


def _orthogonal_momentum(data: optimizers.Muon, counts: Any) -> optax.GradientTransformation:
    """Turn gradients into Muon's steps per lr; the state is the momentum."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        keep = data.momentum
        state = jax.tree.map(lambda m, g: m + (1 - keep) * (g - m), state, gradients)
        along = state
        if data.nesterov:
            along = jax.tree.map(lambda m, g: g + keep * (m - g), state, gradients)
        return jax.tree.map(lambda u, n: _turned(u, n, data.ns_steps), along, counts), state

    return optax.GradientTransformation(init, update)


def _turned(array: Array, count: int, ns_steps: int) -> Array:
    """Return an array whose matrices are made orthogonal, times the length of Muon's steps."""
    x_NRC = array.reshape(count, array.shape[0] // count, -1)
    _, rows, columns = x_NRC.shape
    x = x_NRC.astype(jnp.promote_types(array.dtype, jnp.float32))
    if rows > columns:
        x = x.mT
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(1, 2), keepdims=True), TINY)
    a, b, c = optimizers.NEWTON_SCHULZ
    for _ in range(ns_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    if rows > columns:
        x = x.mT
    length = optimizers.MUON_RMS * math.sqrt(max(rows, columns))
    return (length * x).reshape(array.shape).astype(array.dtype)


def _masked(counts: Any) -> Any:
    """Return the counts in the form in which `optax.partition` gives a tree to Muon's part."""
    return jax.tree.map(lambda count: count or optax.MaskedNode(), counts)


def _counts(hidden: Any, params: Any, data: optimizers.Muon) -> Any:
    """Return the user's number of matrices in each array."""
    counts = hidden(params) if callable(hidden) else hidden
    found, wanted = jax.tree.structure(counts), jax.tree.structure(params)
    if found != wanted:
        raise RecipeError(
            f"muon: hidden: must have the parameters' structure, {wanted}; has {found}"
        )
    jax.tree.map_with_path(_check_count, counts, params)
    return counts if data.split_gates else jax.tree.map(lambda count: min(count, 1), counts)


def _check_count(path: Any, count: Any, array: Any) -> None:
    what = f"muon: hidden{jax.tree_util.keystr(path)}={shown(count)}"
    if not is_count(count) or count < 0:
        raise RecipeError(f"{what}: must be a whole number, at least 0")
    shape = tuple(jnp.shape(array))
    if count and len(shape) < 2:
        raise RecipeError(f"{what}: the array of shape {shape} is no matrix; give 0")
    if count and shape[0] % count:
        raise RecipeError(f"{what}: must divide the first axis of the array of shape {shape}")


_KINDS: dict[type[optimizers.Optimizer], Callable[..., optax.GradientTransformation]] = {
    optimizers.SGD: _sgd,
    optimizers.Adam: _adam,
    optimizers.AdamW: _adamw,
    optimizers.LARS: _lars,
    optimizers.LAMB: _lamb,
    optimizers.Muon: _muon,
}
