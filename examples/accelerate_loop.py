"""Accelerate at 16 times the batch, on any number of processes: `pip install 'legw[accelerate]'`.

accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import legw
from legw.adapters.accelerate import recipe_scheduler

images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
y = torch.as_tensor(labels)[order]
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

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=big.lr, momentum=0.9)
share = big.batch_size // accelerator.num_processes  # examples of an update, on each process
loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=share, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
scheduler = recipe_scheduler(accelerator, optimizer, big, num_examples=1280)

for _ in range(20):
    for images, labels in loader:
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()  # one update further, however many processes there are

with torch.no_grad():
    accuracy = (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()
accelerator.print(f"batch {big.batch_size}   lr {big.lr:.2f}   accuracy {accuracy:.1%}")
accelerator.end_training()
