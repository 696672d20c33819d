"""The softmax loss in pieces is torch's own, of all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from legw.apps import softmax
from legw.apps.softmax import IGNORED, summed_loss


def example(
    dtype: torch.dtype = torch.float64, rows: int = 23
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rows of 5 units, some of which do not count, and 11 classes."""
    torch.manual_seed(0)
    floats = [torch.randn(shape, dtype=dtype) for shape in ((rows, 5), (11, 5), (11,))]
    targets_N = torch.randint(0, 11, (rows,)).masked_fill(torch.rand(rows) < 0.3, IGNORED)
    hidden_NH, weight_VH, bias_V = (each.requires_grad_() for each in floats)
    return hidden_NH, weight_VH, bias_V, targets_N


def plain(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    logits_NV = functional.linear(hidden_NH, weight_VH, bias_V)
    return functional.cross_entropy(
        logits_NV, targets_N, reduction="sum", label_smoothing=smoothing
    )


@pytest.fixture(params=[1, 8 * 7 * 11, 10**6])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the rows one by one, a few at once, or all at once."""
    monkeypatch.setattr(softmax, "CPU_PIECE", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_loss_and_gradient(smoothing: float) -> None:
    *inputs, targets_N = example()
    found = summed_loss(*inputs, targets_N, smoothing=smoothing)
    expected = plain(*inputs, targets_N, smoothing)
    assert_close(found, expected)
    found_grads = torch.autograd.grad(3 * found, inputs)
    assert_close(found_grads, torch.autograd.grad(3 * expected, inputs))


@pytest.mark.ci
@pytest.mark.usefixtures("piece")
def test_bf16_loses_no_more_than_torch_does() -> None:
    *inputs, targets_N = example(torch.float32, rows=1000)
    exact = plain(*inputs, targets_N)
    with torch.autocast("cpu", torch.bfloat16):
        found, theirs = summed_loss(*inputs, targets_N), plain(*inputs, targets_N)
    assert found.dtype == torch.float32
    assert_close(found, exact, rtol=1e-2, atol=0)
    for exact_grad, grad, their_grad in zip(
        *(torch.autograd.grad(loss, inputs) for loss in (exact, found, theirs)), strict=True
    ):
        assert grad.dtype == torch.float32
        assert (grad - exact_grad).norm() <= 1.1 * (their_grad - exact_grad).norm() + 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_can_be_differentiated(smoothing: float) -> None:
    *inputs, targets_N = example()
    assert torch.autograd.gradgradcheck(
        lambda *given: summed_loss(*given, targets_N, smoothing=smoothing), inputs
    )


def test_a_large_loss_stays_finite() -> None:
    hidden_NH, weight_VH, bias_V, targets_N = example(torch.float32)
    loss = summed_loss(hidden_NH, 1e4 * weight_VH, bias_V, targets_N)
    assert_close(loss, plain(hidden_NH, 1e4 * weight_VH, bias_V, targets_N))


def test_without_gradients_none_is_made() -> None:
    *inputs, targets_N = example()
    with torch.no_grad():
        loss = summed_loss(*inputs, targets_N)
    assert not loss.requires_grad
    assert_close(loss, plain(*inputs, targets_N).detach())


def test_a_second_backward_pass_finds_the_gradient_as_they_were() -> None:
    *inputs, targets_N = example()
    loss = summed_loss(*inputs, targets_N)
    loss.backward(retain_graph=True)
    once = [each.grad.clone() for each in inputs]
    for each in inputs:
        each.grad.mul_(7.0)  # a clipping, say
        each.grad = None
    loss.backward()
    assert_close([each.grad for each in inputs], once, rtol=0, atol=0)


def test_tied_weights_count_once_in_a_gradient_that_is_differentiated_again() -> None:
    """The rows are made with the softmax's own weights, as where embedding and output are one."""
    table = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    ids, targets = torch.randint(0, 7, (2, 9))
    found = []
    for literal in (False, True):
        hidden = table[ids].tanh()
        if literal:
            logits = functional.linear(hidden, table, bias)
            loss = functional.cross_entropy(logits, targets, reduction="sum")
        else:
            loss = summed_loss(hidden, table, bias, targets)
        (first,) = torch.autograd.grad(loss, [table], create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), [table])
        found.append((first.detach(), second))
    torch.testing.assert_close(found[0], found[1])
