"""Your own PyTorch loop at 16 times its batch: scale the recipe, then step RecipeLR.

Run it with `python examples/own_loop.py`; it trains twice, on scikit-learn's digits.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import legw
from legw.train import RecipeLR

images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
y = torch.as_tensor(labels)[order]
train, test = slice(0, 1437), slice(1437, None)


def run(recipe: legw.Recipe) -> float:
    """Train one model and return its accuracy on the test set."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9)
    scheduler = RecipeLR(optimizer, recipe, num_examples=1437)
    ids = torch.cat([torch.randperm(1437) for _ in range(int(recipe.epochs))])
    for batch in ids.split(recipe.batch_size):
        loss = cross_entropy(model(x[train][batch]), y[train][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()  # once an update, not once an epoch
    return (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()


base = legw.Recipe(
    name="digits-mlp",
    batch_size=16,
    lr=0.1,  # tuned at batch 16 alone
    epochs=20,
    warmup_epochs=0.2,
    decay=legw.Polynomial(power=1),
)
big = legw.scale(base, batch_size=16 * base.batch_size)

for recipe in (base, big):
    accuracy = run(recipe)
    print(
        f"batch {recipe.batch_size:4d}   lr {recipe.lr:.2f}   "
        f"warmup {recipe.warmup_epochs:.1f} epochs   accuracy {accuracy:.1%}"
    )
