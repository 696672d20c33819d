"""The schedule as a plain function, lr(step), in a loop without optimizer and without torch.

Run it with `python examples/plain_function.py`: softmax regression on digits, in numpy.
"""

import numpy as np
from sklearn.datasets import load_digits

import legw

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
x, y = images[order] / 16, np.eye(10)[labels[order]]
train, test = slice(0, 1437), slice(1437, None)


def run(recipe: legw.Recipe) -> float:
    """Train one model and return its accuracy on the test set."""
    lr = legw.in_steps(recipe, num_examples=1437)
    draws = np.random.default_rng(0)
    weights = np.zeros((64, 10))
    ids = np.concatenate([draws.permutation(1437) for _ in range(int(recipe.epochs))])
    for step in range(legw.updates(recipe, num_examples=1437)):
        batch = ids[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        scores = np.exp(x[train][batch] @ weights)
        errors = scores / scores.sum(axis=1, keepdims=True) - y[train][batch]
        weights -= lr(step) * x[train][batch].T @ errors / len(batch)
    return float(((x[test] @ weights).argmax(axis=1) == y[test].argmax(axis=1)).mean())


base = legw.Recipe(name="softmax", batch_size=16, lr=0.5, epochs=20, warmup_epochs=0.2)
big = legw.scale(base, batch_size=16 * base.batch_size)

for recipe in (base, big):
    accuracy = run(recipe)
    print(
        f"batch {recipe.batch_size:4d}   lr {recipe.lr:.2f}   "
        f"warmup {recipe.warmup_epochs:.1f} epochs   accuracy {accuracy:.1%}"
    )
