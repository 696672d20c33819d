"""Second derivatives, by autograd, of functions with a hand-written gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_gradient(
    output: Tensor, inputs: Sequence[Tensor | None], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a function's inputs, as tensors that can be differentiated again.

    A hand-written ``backward`` has no derivative. Where ``torch.is_grad_enabled()`` says in it that
    a derivative is wanted, it computes its output again with torch's own functions and returns
    this.

    Args:
        output: made from the inputs with functions of torch's own.
        inputs: those of the function; None for one that is not there.
        gradient: of the output, of its shape.

    Returns:
        One for each input; None for one that needs none.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> (first,) = differentiable_gradient(x**3, [x], torch.tensor(1.0))
    >>> torch.autograd.grad(first, x)
    (tensor(18.),)
    """
    needed = [each for each in inputs if each is not None and each.requires_grad]
    found = iter(torch.autograd.grad(output, needed, gradient, create_graph=True))
    return tuple(
        next(found) if each is not None and each.requires_grad else None for each in inputs
    )
