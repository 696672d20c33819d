"""The attention's scores: what the formula gives, made in pieces, with a gradient of its own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from legw.apps.translation import attention_scores
from legw.apps.translation.attention_scores import additive_scores


def inputs(dtype: torch.dtype = torch.float64, size: float = 1.0) -> list[Tensor]:
    """Return queries of 5 target tokens, keys of 4 source tokens, and directions: 3 pairs."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 3, 6), (3, 4, 6), (6,))
    return [
        (size * torch.randn(shape, generator=generator, dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
        for shape in shapes
    ]


@pytest.fixture(params=[1, 2, 5, 1000])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into pieces of so many target tokens, by the size of 3 pairs of 4 tokens."""
    monkeypatch.setattr(attention_scores, "THREAD_PIECE", request.param * 3 * 4 * 6 * 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def by_hand(query_TBH: Tensor, keys_BSH: Tensor, direction_H: Tensor) -> Tensor:
    """Return the score of each pair of tokens, one at a time."""
    found = query_TBH.new_empty(*query_TBH.shape[:2], keys_BSH.shape[1])
    for t, b, s in itertools.product(*map(range, found.shape)):
        found[t, b, s] = direction_H @ (query_TBH[t, b] + keys_BSH[b, s]).tanh()
    return found


@pytest.mark.usefixtures("piece")
def test_they_are_the_formulas() -> None:
    torch.testing.assert_close(additive_scores(*inputs()), by_hand(*inputs()))


@pytest.mark.usefixtures("piece")
def test_so_is_their_gradient() -> None:
    slope_TBS = torch.randn(5, 3, 4, dtype=torch.float64)
    ours, its = inputs(), inputs()
    additive_scores(*ours).backward(slope_TBS)
    by_hand(*its).backward(slope_TBS)
    for one, other in zip(ours, its, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_gradient_can_be_differentiated() -> None:
    assert torch.autograd.gradcheck(additive_scores, inputs())
    assert torch.autograd.gradgradcheck(additive_scores, inputs())


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_so_can_that_of_some_inputs(wanted: tuple[int, ...]) -> None:
    given = inputs()
    for place, each in enumerate(given):
        each.requires_grad_(place in wanted)
    asked = [given[place] for place in wanted]
    first = torch.autograd.grad(additive_scores(*given).exp().sum(), asked, create_graph=True)
    plain = torch.autograd.grad(by_hand(*given).exp().sum(), asked, create_graph=True)
    for one, other in zip(first, plain, strict=True):
        torch.testing.assert_close(one, other)
    second, expected = (
        torch.autograd.grad(sum((each**2).sum() for each in both), asked)  # type: ignore
        for both in (first, plain)
    )
    for one, other in zip(second, expected, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_each_thread_has_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_scores, "THREAD_PIECE", 3 * 4 * 6 * 8)
    for threads, sizes in ((1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (64, [5])):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert [len(part) for _, part in attention_scores._sigmoids(*inputs()[:2])] == sizes


@pytest.mark.ci
def test_compiled_they_are_the_same() -> None:
    torch.compiler.reset()
    ours, its = inputs(), inputs()
    found = torch.compile(additive_scores, backend="eager", fullgraph=True)(*ours)
    torch.testing.assert_close(found, additive_scores(*its))
    found.sum().backward()
    additive_scores(*its).sum().backward()
    for one, other in zip(ours, its, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_in_single_precision_at_least(dtype: torch.dtype) -> None:
    """Half precision is what goes in, and the gradient that comes back; nothing between."""
    given = inputs(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = additive_scores(*given)
    assert found.dtype == torch.float32
    exact = [each.detach().double().requires_grad_() for each in given]
    torch.testing.assert_close(found.double(), by_hand(*exact), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        found.sum().backward()
    by_hand(*exact).sum().backward()
    for one, other in zip(given, exact, strict=True):
        assert one.grad is not None and one.grad.dtype == dtype
        rtol = 1e-5 if dtype == torch.float32 else 8e-3
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_large_sums_saturate(size: float) -> None:
    *given, _ = inputs(torch.float32, size)
    given.append(inputs(torch.float32)[-1])
    found = additive_scores(*given)
    torch.testing.assert_close(found, by_hand(*given), rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in given)


@pytest.mark.parametrize("empty", ["target", "pairs", "source"])
def test_nothing_to_look_at_gives_nothing(empty: str) -> None:
    tokens, pairs, source = (0 if empty == name else 2 for name in ("target", "pairs", "source"))
    query_TBH = torch.randn(tokens, pairs, 6, requires_grad=True)
    found = additive_scores(query_TBH, torch.randn(pairs, source, 6), torch.randn(6))
    assert found.shape == (tokens, pairs, source)
    found.sum().backward()
    assert query_TBH.grad is not None and not query_TBH.grad.any()


def test_what_the_tanh_is_taken_of_is_not_kept() -> None:
    """Only what goes in is kept for the backward pass."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        additive_scores(*inputs())
    assert sorted(kept) == [6, 3 * 4 * 6, 5 * 3 * 6]
