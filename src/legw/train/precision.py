"""Precision of training, on processors with and without bf16 arithmetic of their own."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from legw.errors import LegwWarning

Precision = Literal["fp32", "bf16"]
"""fp32, or bf16 (autocast; weights and optimizer state stay fp32)."""


@contextlib.contextmanager
def autocast(kind: str, precision: Precision, *, keep_casts: bool = True) -> Iterator[None]:
    """Context in which torch computes in this precision.

    oneDNN has no LSTM in bf16 for a CPU without AVX-512 and raises an error; there it is
    computed in single precision, which is faster than bf16 by emulation too. (One that is
    computed again in the backward pass, by `torch.utils.checkpoint`, is out of reach.)

    Args:
        kind: type of the device: cpu, cuda, ...
        precision: fp32, or bf16.
        keep_casts: True casts a weight once and keeps it, for all threads; False casts at each use.
    """
    low = precision == "bf16"
    with contextlib.ExitStack() as held:
        held.enter_context(
            torch.autocast(kind, torch.bfloat16, enabled=low, cache_enabled=low and keep_casts)
        )
        if low and kind == "cpu" and not has_bf16_lstm():
            held.enter_context(_SinglePrecisionLSTM())
        yield


def warn_if_slow(kind: str, precision: Precision) -> None:
    """Warn of bf16 on a CPU that has no LSTM in it and computes everything else slowly.

    Warns:
        LegwWarning: fp32 would be faster.
    """
    if precision == "bf16" and kind == "cpu" and not has_bf16_lstm():
        line = (
            "precision bf16: this CPU has no bf16 arithmetic; fp32 is several times as fast, "
            "and LSTMs are computed in it"
        )
        warnings.warn(line, LegwWarning, stacklevel=2)


@functools.cache
def has_bf16_lstm() -> bool:
    """Say whether this CPU can run an LSTM in bf16."""
    zeros = functools.partial(torch.zeros, dtype=torch.float32, device="cpu")
    weights = [zeros(64, 16), zeros(64, 16), zeros(64), zeros(64)]
    state = [zeros(1, 2, 16), zeros(1, 2, 16)]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        try:
            torch.lstm(zeros(3, 2, 16), state, weights, True, 1, 0.0, True, False, False)
        except RuntimeError:
            return False
    return True


class _SinglePrecisionLSTM(TorchFunctionMode):
    """Computes LSTMs of this thread without autocast, their inputs in single precision."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is not torch.lstm:
            return function(*args, **kwargs or {})
        with torch.autocast("cpu", enabled=False):
            return function(*(_single(each) for each in args), **kwargs or {})


def _single(argument: Any) -> Any:
    """Return an argument with the tensors in it in single precision."""
    if isinstance(argument, Tensor) and argument.dtype is torch.bfloat16:
        return argument.float()
    if isinstance(argument, list | tuple):
        return type(argument)(_single(each) for each in argument)
    return argument
