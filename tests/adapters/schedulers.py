"""Print the rates of transformers' own schedulers, for arguments that `from_config` has scaled."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import torch

from legw import from_config

KINDS = ("linear", "cosine", "polynomial", "constant_with_warmup")
MINE = {
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 1e-4,
    "num_train_epochs": 4.0, "warmup_steps": 30, "optim": "sgd",
}  # fmt: skip


def rates(kind: str) -> tuple[str, int, list[float]]:
    """Return the schedule's name, the batch size, and the rate of each update."""
    from transformers import TrainingArguments, get_scheduler

    values: dict[str, Any] = MINE | {
        "use_cpu": True, "lr_scheduler_type": kind, "output_dir": tempfile.mkdtemp(),
    }  # fmt: skip
    whole = from_config(TrainingArguments(**values), num_examples=12800)
    assert whole.recipe == from_config(values, num_examples=12800).recipe
    big = from_config(values, num_examples=12800).scaled(128)
    arguments = TrainingArguments(**big.values)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=arguments.learning_rate)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, int(arguments.warmup_steps), 400,
        arguments.lr_scheduler_kwargs,
    )  # fmt: skip
    found = []
    for _ in range(400):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return kind, batch, found


if __name__ == "__main__":
    print(json.dumps([rates(kind) for kind in KINDS]))
