"""optax and JAX at 16 times the batch, schedule and all in one jit: `pip install 'legw[optax]'`."""

import jax
import numpy as np
import optax
from jax import numpy as jnp
from sklearn.datasets import load_digits

import legw
from legw.adapters.optax import recipe_optimizer

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
x, y = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])
train, test = slice(0, 1280), slice(1280, None)

base = legw.Recipe(
    name="digits-mlp",
    batch_size=16,
    lr=0.1,  # tuned at batch 16 alone
    epochs=20,
    warmup_epochs=0.2,
    decay=legw.Polynomial(power=1),
    optimizer=legw.SGD(momentum=0.9),
)
big = legw.scale(base, batch_size=256)
optimizer = recipe_optimizer(big, num_examples=1280)  # clipping, SGD and the schedule


def logits_of(weights, x):
    return jax.nn.relu(x @ weights["in"] + weights["bias"]) @ weights["out"]


def loss_of(weights, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(weights, x), y).mean()


@jax.jit
def update(weights, state, x, y):
    gradients = jax.grad(loss_of)(weights, x, y)
    steps, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, steps), state


draws = np.random.default_rng(0)
weights = {"in": draws.normal(0, 0.1, (64, 128)), "out": draws.normal(0, 0.1, (128, 10))}
weights = jax.tree.map(jnp.float32, weights | {"bias": np.zeros(128)})
state = optimizer.init(weights)
for _ in range(20):
    for batch in draws.permutation(1280).reshape(-1, big.batch_size):
        weights, state = update(weights, state, x[train][batch], y[train][batch])

accuracy = (logits_of(weights, x[test]).argmax(axis=1) == y[test]).mean()
print(f"batch {big.batch_size}   lr {big.lr:.2f}   accuracy {accuracy:.1%}")
