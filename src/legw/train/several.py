"""Several optimizers as one, for a schedule: Muon and AdamW, or the two of a GAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from legw.errors import RecipeError, shown


class SeveralOptimizers(Optimizer):
    """The parameter groups of several optimizers, which are stepped and saved by themselves.

    Args:
        optimizers: at least one, each once.

    Raises:
        RecipeError: it is no list of optimizers.

    >>> import torch
    >>> one, two = (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr) for lr in (1, 2))
    >>> [group["lr"] for group in SeveralOptimizers([one, two]).param_groups]
    [1, 2]
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)
        known = all(isinstance(each, Optimizer) for each in self.optimizers)
        if not known or not 0 < len({id(each) for each in self.optimizers}) == len(self.optimizers):
            raise RecipeError(
                f"RecipeLR: optimizer={shown([type(each).__name__ for each in self.optimizers])}: "
                "must be a torch optimizer, or a list of them, each once"
            )
        self.defaults = {}
        self._opt_called = True  # a schedule cannot see that its members are stepped

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all of them, one optimizer's after the other's."""
        return [group for each in self.optimizers for group in each.param_groups]

    @property
    def step_was_skipped(self) -> bool:
        """Whether all of them report a skipped last step, as accelerate's do."""
        return all(getattr(each, "step_was_skipped", False) for each in self.optimizers)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step all of them."""
        for each in self.optimizers:
            each.step(closure)

    def register_load_state_dict_post_hook(
        self, hook: Callable[[Optimizer], None], prepend: bool = False
    ) -> Any:
        """Call a function after the state of any of them is loaded."""
        return [each.register_load_state_dict_post_hook(hook, prepend) for each in self.optimizers]

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers, "defaults": {}, "_opt_called": True}

    def __repr__(self) -> str:
        return f"SeveralOptimizers({list(self.optimizers)!r})"
