"""Dropout whose draws are a function of (seed, update, rows), in every thread.

torch's own dropout draws from one generator that all threads share. Where several micro-batches run
at once, the order of their draws is random, and so is the result. Here each thread has a generator
of its own, which the training loop seeds before each micro-batch.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn
from torch.nn import functional

_THREAD = threading.local()


def seed_thread(seed: int, device: torch.device) -> None:
    """Seed the generator of `SeededDropout` in this thread, on this device.

    Args:
        seed: in [0, 2**63).
        device: the model's.
    """
    generators = vars(_THREAD).setdefault("generators", {})
    if device not in generators:
        generators[device] = torch.Generator(device)
    generators[device].manual_seed(seed)


def forget_thread() -> None:
    """Let `SeededDropout` in this thread draw from torch's generator again."""
    vars(_THREAD).clear()


def thread_generator(device: torch.device) -> torch.Generator | None:
    """Return this thread's generator for a device; None where it was never seeded."""
    generators: dict[torch.device, torch.Generator] = vars(_THREAD).get("generators", {})
    found = generators.get(device)
    if found is None and device.index is not None:
        found = generators.get(torch.device(device.type))
    return found


class SeededDropout(nn.Module):
    """Dropout for models that several threads train at once.

    In training each number is 0 with probability `p`, and multiplied by ``1/(1 - p)``
    otherwise. Outside of a training loop that seeds it, it draws as torch's dropout does.

    Args:
        p: share of the numbers that are dropped, in [0, 1].

    Raises:
        ValueError: `p` is no number in [0, 1].

    >>> SeededDropout(0.5).eval()(torch.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout: p={p}: must be in [0, 1]")
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, some of them dropped in training; any shape."""
        if not self.training or self.p == 0:
            return values
        generator = None if torch.compiler.is_compiling() else thread_generator(values.device)
        if generator is None or self.p == 1:
            return functional.dropout(values, self.p)
        kept = torch.empty_like(values).bernoulli_(1 - self.p, generator=generator)
        return values * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
