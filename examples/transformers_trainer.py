"""A Hugging Face Trainer at 16 times its batch: `pip install 'legw[transformers]'`."""

from tempfile import TemporaryDirectory

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import legw
from legw.adapters.transformers import trainer_arguments, trainer_optimizers

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


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x, labels=None):
        logits = self.layers(x)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels)}


torch.manual_seed(0)
model = Digits()
examples = [{"x": a, "labels": b} for a, b in zip(x[train], y[train], strict=True)]
with TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        **trainer_arguments(big, 1280, micro_batch_size=64),  # 4 passes make one update
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(
        model, arguments, train_dataset=examples, optimizers=trainer_optimizers(model, big, 1280)
    ).train()
model = model.layers
with torch.no_grad():
    accuracy = (model(x[test]).argmax(dim=1) == y[test]).float().mean().item()
print(f"batch {big.batch_size}   lr {big.lr:.2f}   accuracy {accuracy:.1%}")
