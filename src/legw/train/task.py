"""Task protocol: all the training loop knows about an application.

A class with these members works with every part of legw: the loop, studies, probes, several
processes. It needs no base class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, device, nn

from legw.runs.records import Evaluation, Manifest, Summary, Update

State = tuple[Tensor, ...] | None
"""State carried from one update to the next: tensors whose first dimension is the slot in the
batch, shape (slots, ...). None at the start of an epoch, and for tasks without a state."""


@dataclass(frozen=True)
class Metric:
    """Name and direction of the value that `Task.evaluate` returns.

    >>> Metric("perplexity", higher_is_better=False).name
    'perplexity'
    """

    name: str
    higher_is_better: bool = True


@runtime_checkable
class Task(Protocol):
    """Data, model, loss and metric of one application.

    These members are optional:

    - `fingerprint() -> str` identifies the data in the manifest.
    - `artifacts() -> dict[str, bytes]` are files for the run folder, such as a vocabulary.
    - `final_metrics(model) -> dict[str, float]` are measured once, after the last update. One
      named `held_out_loss` is the loss on the held-out data, in the unit of the training loss.
    - `holdout: str` is "validation" or "test", the data on which `evaluate` measures. Tuning
      refuses "test". Applications have it from their options.
    - `begin(seed, batch_size, micro_batch_size)` is called before a run's first update, unless
      its batch grows.
    - `augment(batch, draws_B) -> batch` changes examples at random: `draws_B` are int64
      seeds of shape (examples,), each a function of (seed, epoch, example id).
    - `prefetch(ids, draws_B)` is called some micro-batches before `batch` and `augment` with the
      same arguments, so that data can be prepared.
    - `concurrent: bool` is True where several threads may call `batch`, `augment` and `loss`
      at once, each with a micro-batch of its own: they draw no random numbers from torch's
      generator, and change nothing that another call sees. On a CPU that is faster.
      Dropout is no hindrance as `legw.train.SeededDropout`.
    - `output_layer: str` is the name of the model's output layer, which Muon leaves to AdamW;
      without it that is the linear layer registered last.
    """

    name: str
    """The task's name in run folders and tables."""
    metric: Metric
    """Name and direction of what `evaluate` returns."""

    def num_examples(self, batch_size: int) -> int:
        """Return the examples in one epoch: for streams a multiple of the batch size."""
        ...

    def model(self) -> nn.Module:
        """Return a new model with fresh weights; the loop seeds torch before the call."""
        ...

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """Return the example ids of one epoch: int64 of shape (num_examples,), on the CPU.

        It must be a function of its arguments alone. For streams, `batch_size`
        consecutive ids are one window of each stream, in the streams' order.
        """
        ...

    def batch(self, ids: Tensor, device: device) -> Any:
        """Return the data of these examples; `ids` is int64 of shape (examples,), on the CPU."""
        ...

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        """Return the summed loss (0-dim), its weight, and the state to carry.

        The loop divides the sum of all micro-batches by the sum of their weights
        (examples, or tokens where the loss counts tokens). Call ``model(...)``, not
        its parts, so that several processes see their gradients.
        """
        ...

    def evaluate(self, model: nn.Module) -> float:
        """Return the metric on the held-out data; the model is in evaluation mode."""
        ...


class Observer:
    """Observer of a run: it measures and never steers.

    Every method does nothing unless overridden, and is called on the first process only.
    """

    def on_start(self, manifest: Manifest, updates_done: int) -> None:
        """Before the first update; `updates_done` is above 0 after a restart."""

    def on_update(self, row: Update) -> None:
        """After each update, in order; on an accelerator some updates late."""

    def on_evaluation(self, row: Evaluation) -> None:
        """After each evaluation."""

    def on_end(self, summary: Summary) -> None:
        """After the last update, however the run ended."""
