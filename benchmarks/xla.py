"""The same two models and loops in JAX: `lax.scan`, `jit`, optax.

Each loop is a generator that makes one update when asked for its next loss. Weights keep
torch's names; matrices are turned once, so that no update has to.
Shapes: B examples or streams, T rows or tokens, H hidden units, G = 4H gates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy
import optax
from jax import Array, lax
from jax import numpy as jnp
from torch import Tensor, nn

from legw.recipe import Recipe

Weights = dict[str, Array]


def weights_from(model: nn.Module) -> Weights:
    """Return a torch model's weights, matrices turned but for the embedding."""
    arrays = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    return {
        name: jnp.asarray(array.T if array.ndim == 2 and not name.startswith("embed") else array)
        for name, array in arrays.items()
    }


def lstm(weights: Weights, layer: int, inputs_TBH: Array, state: Any) -> tuple[Array, Any]:
    """Return one layer's outputs, shape (T, B, H), and its last state (h, c).

    The products with the inputs are made for all steps at once, as is best.
    """
    input_weight, weight = (weights[f"lstm.weight_{kind}_l{layer}"] for kind in ("ih", "hh"))
    input_bias, bias = (weights[f"lstm.bias_{kind}_l{layer}"] for kind in ("ih", "hh"))
    gates_TBG = inputs_TBH @ input_weight + (input_bias + bias)

    def step(carry: Any, gates_BG: Array) -> tuple[Any, Array]:
        h, c = carry
        i, f, g, o = jnp.split(gates_BG + h @ weight, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    after, outputs_TBH = lax.scan(step, state, gates_TBG)
    return outputs_TBH, after


def zero_state(batch_size: int, hidden_size: int) -> Any:
    """Return (h, c) of zeros."""
    return jnp.zeros((batch_size, hidden_size)), jnp.zeros((batch_size, hidden_size))


def sgd(recipe: Recipe) -> optax.GradientTransformation:
    """Return the recipe's clipping and optimizer."""
    assert recipe.clip_norm is not None
    momentum: float = getattr(recipe.optimizer, "momentum", 0.0)
    step = optax.sgd(recipe.lr, momentum=momentum or None)
    return optax.chain(optax.clip_by_global_norm(recipe.clip_norm), step)


def train_rows(
    weights: Weights, recipe: Recipe, images: Tensor, labels: Tensor, batches: Iterable[Tensor]
) -> Iterator[float]:
    """Train the image model; `batches` are the ids of each update's examples."""
    pixels, classes = images.numpy(), labels.numpy().astype(numpy.int32)
    hidden_size = len(weights["classify.weight"])
    optimizer = sgd(recipe)

    def loss_of(weights: Weights, bytes_BTF: Array, labels_B: Array) -> Array:
        rows_BTF = bytes_BTF.astype(jnp.float32) / 255
        rows_BTH = rows_BTF @ weights["project.weight"] + weights["project.bias"]
        state = zero_state(len(labels_B), hidden_size)
        outputs_TBH, _ = lstm(weights, 0, rows_BTH.transpose(1, 0, 2), state)
        logits_BC = outputs_TBH[-1] @ weights["classify.weight"] + weights["classify.bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B).mean()

    def update(weights: Weights, memory: Any, *batch: Array) -> tuple[Weights, Any, Array]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, *batch)
        steps, memory = optimizer.update(gradients, memory)
        return optax.apply_updates(weights, steps), memory, loss

    run = jax.jit(update, donate_argnums=(0, 1))
    memory = optimizer.init(weights)
    for ids_B in batches:
        ids = ids_B.numpy()
        weights, memory, loss = run(weights, memory, pixels[ids], classes[ids])
        yield float(jax.block_until_ready((loss, weights))[0])


def train_words(
    weights: Weights, recipe: Recipe, text: Tensor, window: int, batches: Iterable[Tensor]
) -> Iterator[float]:
    """Train the language model; `batches` are where each stream's next window begins."""
    words = text.numpy()
    hidden_size = weights["embed.weight"].shape[1]
    optimizer = sgd(recipe)

    def loss_of(
        weights: Weights, states: Any, inputs_TB: Array, targets_TB: Array
    ) -> tuple[Array, Any]:
        hidden_TBH = weights["embed.weight"][inputs_TB]
        hidden_TBH, first = lstm(weights, 0, hidden_TBH, states[0])
        hidden_TBH, second = lstm(weights, 1, hidden_TBH, states[1])
        logits_TBV = hidden_TBH @ weights["decode.weight"] + weights["decode.bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_TBV, targets_TB)
        return losses.mean() * window, (first, second)

    def update(
        weights: Weights, memory: Any, states: Any, inputs_TB: Array, targets_TB: Array
    ) -> tuple[Weights, Any, Any, Array]:
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, states), gradients = gradient_of(weights, states, inputs_TB, targets_TB)
        steps, memory = optimizer.update(gradients, memory)
        return optax.apply_updates(weights, steps), memory, states, loss

    run = jax.jit(update, donate_argnums=(0, 1, 2))
    memory = optimizer.init(weights)
    states: Any = None
    for starts_B in batches:
        at_TB = starts_B.numpy() + numpy.arange(window)[:, None]
        if states is None:
            states = tuple(zero_state(len(starts_B), hidden_size) for _ in range(2))
        weights, memory, states, loss = run(weights, memory, states, words[at_TB], words[at_TB + 1])
        yield float(jax.block_until_ready((loss, weights))[0])
