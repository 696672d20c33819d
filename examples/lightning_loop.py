"""A Lightning module at 16 times its batch: `pip install 'legw[lightning]'`."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import legw
from legw.adapters.lightning import recipe_optimizers

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


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, index):
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return recipe_optimizers(self, big, num_examples=1280)  # once an update


torch.manual_seed(0)
model = Digits()
loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=256, shuffle=True)
trainer = lightning.Trainer(
    max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(model, loader)
with torch.no_grad():
    accuracy = (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()
print(f"batch {big.batch_size}   lr {big.lr:.2f}   accuracy {accuracy:.1%}")
