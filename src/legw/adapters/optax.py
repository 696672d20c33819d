"""optax: the recipe as a traced schedule, and its optimizer, LARS and LAMB too.

    optimizer = recipe_optimizer(big, num_examples=60000)

The schedule is `legw.schedule`'s closed form written for arrays: whole updates are
counted in integers, and what rounds in single precision is added up before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from jax import numpy as jnp

from legw import optimizers
from legw.decays import Constant, Cosine, InverseSqrt, Polynomial, WarmupStableDecay
from legw.errors import RecipeError, unknown_name
from legw.recipe import Recipe
from legw.schedule import update_length, updates, warmup_updates
from legw.units import in_unit


def recipe_schedule(recipe: Recipe, num_examples: int | None = None) -> Callable[[Any], Array]:
    """Return the schedule as optax takes it: from the number of updates made to the rate.

    Args:
        recipe: what is trained.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Returns:
        A function of an integer or an int32 array of any shape, that can be traced and
        jitted; float32, within 1e-6 of `legw.in_steps`, relatively.

    Raises:
        RecipeError: the number of examples is not known.
    """
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
    recipe: Recipe, num_examples: int | None = None
) -> optax.GradientTransformation:
    """Return the recipe's clipping, optimizer and schedule as one optax transformation.

    LARS and LAMB leave arrays of fewer than two dimensions (biases, norms) out of the
    layer-wise ratio and of weight decay, as `legw.train.parameter_groups` does.

    Args:
        recipe: what is trained.
        num_examples: examples in one epoch, at least 1; None takes the recipe's own.

    Raises:
        RecipeError: the optimizer's type is unknown, or the number of examples.
    """
    kind = _KINDS.get(type(recipe.optimizer))
    if kind is None:
        known = [each.__name__ for each in _KINDS]
        raise RecipeError(unknown_name("optimizer", type(recipe.optimizer).__name__, known))
    step: optax.GradientTransformation = kind(
        recipe.optimizer, recipe_schedule(recipe, num_examples)
    )
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


_KINDS: dict[type[optimizers.Optimizer], Callable[[Any, Any], optax.GradientTransformation]] = {
    optimizers.SGD: _sgd,
    optimizers.Adam: _adam,
    optimizers.AdamW: _adamw,
    optimizers.LARS: _lars,
    optimizers.LAMB: _lamb,
}
