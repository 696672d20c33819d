"""How large may the batch of your own loop be? Its noise scale and its critical batch size.

Run it with `python examples/critical_loop.py`; it trains for 10 epochs on scikit-learn's digits.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from legw.probes import Branches, NoiseScale

images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x, y = torch.as_tensor(images, dtype=torch.float32)[order] / 16, torch.as_tensor(labels)[order]

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
batch_size, micro = 16, 4  # 898 whole batches in 10 epochs
noise = NoiseScale()


def epochs(count: int) -> torch.Tensor:
    return torch.cat([torch.randperm(1437) for _ in range(count)])


for ids in epochs(10)[: 898 * batch_size].split(batch_size):
    optimizer.zero_grad()
    for number, part in enumerate(ids.split(micro), 1):
        loss = cross_entropy(model(x[part]), y[part], reduction="sum") / batch_size
        loss.backward()
        noise.observe(model.parameters(), examples=number * micro)
    noise.step()
    optimizer.step()
print(noise.advice(batch_size))

same = epochs(12)[: 1024 * 16]  # the examples that every branch trains on
branches = Branches(
    model, optimizer, batch_size=batch_size, examples=len(same), tolerance=0.01, absolute=True
)
for branch in branches:
    for ids in same.split(branch.batch_size):
        loss = cross_entropy(model(x[ids]), y[ids])
        optimizer.zero_grad()
        loss.backward()
        branch.step(loss)
        optimizer.step()
print(branches.advice())
