"""Noise scale and critical batch size in a Lightning module: `pip install 'legw[lightning]'`."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from legw.probes import Branches, NoiseScale

images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32)[:1280] / 16, torch.as_tensor(labels)[:1280]
MICRO, BATCH = 4, 16


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.noise, self.seen = NoiseScale(), 0

    def training_step(self, batch, index):
        return cross_entropy(self.layers(batch[0]), batch[1])

    def on_after_backward(self):
        self.seen += MICRO  # the gradient is that of all micro-batches of the update so far
        self.noise.observe(self.parameters(), examples=self.seen)

    def on_before_optimizer_step(self, optimizer):
        self.noise.step()
        self.seen = 0

    def on_train_end(self):
        optimizer = self.optimizers().optimizer
        branches = Branches(
            self, optimizer, batch_size=BATCH, examples=len(x) * 12, tolerance=0.01, absolute=True
        )
        for branch in branches:
            for ids in torch.arange(len(x)).repeat(12).split(branch.batch_size):
                loss = self.training_step((x[ids], y[ids]), 0)
                optimizer.zero_grad()
                loss.backward()
                branch.step(loss)
                optimizer.step()
        print(branches.advice())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


torch.manual_seed(0)
model = Digits()
loader = DataLoader(TensorDataset(x, y), batch_size=MICRO, shuffle=True)
trainer = lightning.Trainer(
    max_epochs=10, accelerator="cpu", logger=False, accumulate_grad_batches=BATCH // MICRO,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(model, loader)
print(model.noise.advice(BATCH))
