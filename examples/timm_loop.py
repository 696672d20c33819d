"""A training loop of timm's kind at 16 times its batch: `pip install 'legw[timm]'`."""

import torch
from sklearn.datasets import load_digits
from timm.layers import Mlp
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

import legw
from legw.adapters.timm import RecipeScheduler

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

torch.manual_seed(0)
model = Mlp(64, 128, 10)
optimizer = create_optimizer_v2(model, "momentum", lr=big.lr, momentum=0.9)
scheduler = RecipeScheduler(optimizer, big, num_examples=1280)  # 3.2 epochs of warmup

num_updates = 0
for _ in range(20):
    for batch in torch.randperm(1280).split(big.batch_size):
        loss = cross_entropy(model(x[train][batch]), y[train][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        num_updates += 1
        scheduler.step_update(num_updates)

with torch.no_grad():
    accuracy = (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()
print(f"batch {big.batch_size}   lr {big.lr:.2f}   accuracy {accuracy:.1%}")
