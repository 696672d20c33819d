"""Noise scale and critical batch size in Accelerate's loop: `pip install 'legw[accelerate]'`.

accelerate launch --cpu --num_processes 2 examples/critical_accelerate.py
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from legw.probes import Branches, NoiseScale

images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32)[:1280] / 16, torch.as_tensor(labels)[:1280]

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
ranks = accelerator.num_processes
loader = DataLoader(TensorDataset(x, y), batch_size=16 // 4 // ranks, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
noise, seen = NoiseScale(), 0

for _ in range(10):
    for images, labels in loader:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(images), labels))
            seen += len(images)  # by this rank; at the last, all ranks' gradients are averaged
            whole = accelerator.sync_gradients
            noise.observe(
                model.parameters(), seen * ranks if whole else seen, times=ranks if whole else 1
            )
            if whole:
                noise.step()
                seen = 0
            optimizer.step()
            optimizer.zero_grad()
accelerator.print(noise.advice(16))

plain, inner = accelerator.unwrap_model(model), optimizer.optimizer
branches = Branches(
    plain, inner, batch_size=16, examples=len(x) * 12, tolerance=0.01, absolute=True
)
for branch in branches:
    for ids in torch.arange(len(x)).repeat(12).split(branch.batch_size):
        loss = cross_entropy(plain(x[ids]), y[ids])
        inner.zero_grad()
        accelerator.backward(loss * 4)  # which divides by the steps of the accumulation
        branch.step(loss)
        inner.step()
accelerator.print(branches.advice())
accelerator.end_training()
