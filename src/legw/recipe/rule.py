"""Rule: the changes of a recipe with the batch size, as data. `legw.rules` has all, and `scale`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from legw.errors import check_name, check_range
from legw.optimizers import Optimizer
from legw.recipe.growth import Growth
from legw.recipe.stretch import Stretch


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to carry a recipe to another batch size.

    Raises:
        RecipeError: a name that is not one line of text, a power outside of [-8, 8).

    >>> Rule(name="cube-root", lr_power=1 / 3).warmup_power
    0.0
    """

    name: str
    """Name on the command line and in tables; 1 to 100 printable characters."""
    lr_power: float
    """Power of k that multiplies the learning rate (and the rate the warmup starts from)."""
    warmup_power: float = 0.0
    """Power of k that multiplies the warmup's epochs; 1 keeps its number of updates."""
    stretch_power: float = 0.0
    """Power of k that multiplies epochs, warmup and milestones; 1 keeps the updates."""
    stretch: Stretch | None = None
    """Law by which epochs and the decay's lengths grow with a number that was measured on the base,
    one of `legw.recipe.stretch` or your own: (base, target) to a factor. The warmup follows
    `warmup_power` alone. None takes `stretch_power`."""
    weight_decay_power: float = 0.0
    """Power of k that multiplies decoupled weight decay (AdamW's, Muon's). With `lr_power`
    0.5, 0.5 keeps the examples over which weights are forgotten, ``B/(lr*weight_decay)``.
    Decay that is added to the gradient (SGD's, Adam's, LARS's, LAMB's) is left."""
    beta2_power: float = 0.0
    """``beta2 -> beta2**(k**power)`` for Adam's family and Muon; 1 keeps the examples over
    which squared gradients are averaged."""
    beta2_floor: float = 0.0
    """Lowest beta2 to which `beta2_power` takes it, in [0, 1); a lower one stays."""
    clip_norm_power: float = 0.0
    """Power of k that multiplies `clip_norm`, where the recipe has one."""
    ema_power: float = 0.0
    """``ema_decay -> ema_decay**(k**power)``, where the recipe has one; 1 keeps the examples
    over which weights are averaged."""
    warmup_epochs: float | None = None
    """Fixed length of the warmup in epochs, at least 0, from the base's rate; None scales."""
    optimizer: Callable[[Optimizer, float], Optimizer] | None = None
    """Change of the optimizer's own settings with k; None keeps them."""
    needs: type[Optimizer] | None = None
    """The optimizer family the rule is defined for; None is any."""
    steers: bool = False
    """Whether the rule changes the learning rate during the run: its recipe is the base's at
    another batch, and `legw.train` adjusts it. Needs ``k >= 1``."""
    growth: Growth | None = None
    """Law by which the batch grows to its target during the run, one of `legw.recipe.growth` or
    your own: (base, target) to batch sizes and the positions where they begin. The rate follows
    with `lr_power`, at least 0 and at most 2. None keeps the batch constant. Needs ``k >= 1``."""
    formula: str = ""
    """The rule in one line, for people."""
    source: str = ""
    """Authors, year, and where to find it."""

    def __post_init__(self) -> None:
        check_name("rule", self.name)
        what = f"rule {self.name}"
        for name in ("lr_power", "warmup_power", "stretch_power", "weight_decay_power",
                     "beta2_power", "clip_norm_power", "ema_power"):  # fmt: skip
            check_range(what, name, getattr(self, name), -8, 8)
        check_range(what, "beta2_floor", self.beta2_floor, 0, 1)
        if self.warmup_epochs is not None:
            check_range(what, "warmup_epochs", self.warmup_epochs, 0)
