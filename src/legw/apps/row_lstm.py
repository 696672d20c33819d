"""Row LSTM: reads images row by row; the model and the task of digits and MNIST.

Shapes: B examples, T rows, F pixels a row, H hidden units, C classes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from legw.apps.augment import shifted
from legw.runs.records import HELD_OUT_LOSS
from legw.train.batches import shuffled
from legw.train.task import Metric, State


class RowLSTM(nn.Module):
    """A linear layer on each row, one LSTM layer, and a linear layer on its last output.

    The forget gate's bias starts at 1 in total, so that the memory is kept at first
    (Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures").
    """

    def __init__(self, row_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(row_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size)
        self.classify = nn.Linear(hidden_size, num_classes)
        with torch.no_grad():  # gates lie in the order input, forget, cell, output
            self.lstm.get_parameter("bias_ih_l0")[hidden_size : 2 * hidden_size] = 1.0
            self.lstm.get_parameter("bias_hh_l0")[hidden_size : 2 * hidden_size] = 0.0

    def forward(self, rows_BTF: Tensor) -> Tensor:
        """Return the classes' logits, shape (B, C)."""
        rows_TBH = self.project(rows_BTF.transpose(0, 1))
        outputs_TBH, _ = self.lstm(rows_TBH)
        logits_BC: Tensor = self.classify(outputs_TBH[-1])
        return logits_BC


class RowTask:
    """Classify images row by row; the images stay on the device as bytes.

    Args:
        name: the application's name.
        train, test: images as uint8 (examples, T, F), and labels as int64 (examples,).
        scale: divisor of the bytes, above 0.
        hidden_size, num_classes: of the model.
    """

    metric = Metric("accuracy")
    concurrent = True

    def __init__(
        self,
        name: str,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        *,
        scale: float,
        hidden_size: int,
        num_classes: int = 10,
    ) -> None:
        self.name = name
        self.train, self.test = train, test
        self.scale = scale
        self.hidden_size, self.num_classes = hidden_size, num_classes
        self._resident: dict[tuple[torch.device, str], tuple[Tensor, Tensor]] = {}

    def num_examples(self, batch_size: int) -> int:
        return len(self.train[1])

    def model(self) -> nn.Module:
        return RowLSTM(self.train[0].shape[-1], self.hidden_size, self.num_classes)

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return shuffled(len(self.train[1]), seed, epoch)

    def batch(self, ids: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        images, labels = self._on(device, "train")
        ids = ids.to(device, non_blocking=True)
        return self._pixels(images.index_select(0, ids)), labels[ids]  # whole images: no gather

    def loss(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], state: State
    ) -> tuple[Tensor, int, State]:
        rows_BTF, labels_B = batch
        total = functional.cross_entropy(model(rows_BTF), labels_B, reduction="sum")
        return total, len(labels_B), None

    def evaluate(self, model: nn.Module) -> float:
        """Return the accuracy on the held-out images, in [0, 1]."""
        device = next(model.parameters()).device
        images, labels = self._on(device, "test")
        size = 500 if device.type == "cpu" else 10_000  # a CPU keeps a small piece in its cache
        right = torch.zeros((), dtype=torch.int64, device=device)  # read once, at the end
        for at in range(0, len(labels), size):
            guesses_B = model(self._pixels(images[at : at + size])).argmax(dim=1)
            right += (guesses_B == labels[at : at + size]).sum()
        return int(right) / len(labels)

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the mean loss on the held-out images."""
        images, labels = self._on(next(model.parameters()).device, "test")
        total = images.new_zeros((), dtype=torch.float64)
        for part, truth in zip(torch.split(images, 500), torch.split(labels, 500), strict=True):
            total += functional.cross_entropy(model(self._pixels(part)), truth, reduction="sum")
        return {HELD_OUT_LOSS: float(total) / len(labels)}

    def fingerprint(self) -> str:
        """Return a hash of all images and labels."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.test):
            digest.update(tensor.contiguous().numpy().tobytes())
        return f"sha256:{digest.hexdigest()[:16]}"

    def _pixels(self, images: Tensor) -> Tensor:
        return images.to(torch.get_default_dtype()).div_(self.scale)

    def _on(self, device: torch.device, part: str) -> tuple[Tensor, Tensor]:
        """Return images and labels on a device, where they stay."""
        if (device, part) not in self._resident:
            images, labels = self.train if part == "train" else self.test
            self._resident[device, part] = (images.to(device), labels.to(device))
        return self._resident[device, part]


class ShiftedRowTask(RowTask):
    """`RowTask` with each training image shifted at random by up to `most` pixels both ways.

    Args:
        most: pixels, at least 1; the others as for `RowTask`.
    """

    def __init__(self, *args: Any, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most = most

    def augment(self, batch: tuple[Tensor, Tensor], draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """Shift the images, each by its own seed."""
        rows_BTF, labels_B = batch
        return shifted(rows_BTF, draws_B.to(rows_BTF.device), self.most), labels_B


def held_out(train: tuple[Tensor, Tensor], share: float) -> tuple[tuple[Tensor, Tensor], ...]:
    """Split training data into a first part and a last part of about `share`, for validation.

    >>> images, labels = torch.zeros(10, 2, 2), torch.arange(10)
    >>> [len(part[1]) for part in held_out((images, labels), share=0.2)]
    [8, 2]
    """
    keep = round(len(train[1]) * (1 - share))
    return (train[0][:keep], train[1][:keep]), (train[0][keep:], train[1][keep:])
