"""Decays as data: how the learning rate falls after its peak.

A decay is a pure function of the position: `factor(epoch, epochs)` is the share
of the peak rate that is left. Both numbers are measured from where the decay
starts: epoch 0, or the end of the warmup where `after_warmup` is true. A new
decay is one new dataclass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from legw.errors import RecipeError, shown
from legw.optimizers import check_range

EDGE = 1e-11
"""Guard, in epochs, so that a boundary counts as reached in spite of rounding.

It lies above the rounding errors of 10,000 epochs and below one example of a data
set of 50,000,000,000, so a boundary is met exactly and never an update too early.
"""


@dataclass(frozen=True, kw_only=True)
class Decay:
    """What all decays share. `kind` is the name used in TOML, JSON and tables."""

    kind: ClassVar[str] = ""

    after_warmup: bool = False
    """False: epochs count from the start of the run. True: from the end of the warmup."""

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the share of the peak rate, in [0, 1].

        Args:
            epoch: epochs since the decay's start, 0 to `epochs`.
            epochs: epochs from the decay's start to the end of the run, above 0.
        """
        raise NotImplementedError

    def first_drop(self, epochs: float) -> float | None:
        """Return the epoch, from the decay's start, at which it first falls in a jump, if any.

        Args:
            epochs: epochs from the decay's start to the end of the run, above 0.
        """
        del epochs
        return None

    def stretched(self, k: float) -> Self:
        """Return the same decay over k times the epochs (absolute positions times k)."""
        del k
        return self


@dataclass(frozen=True, kw_only=True)
class Constant(Decay):
    """The peak rate to the end: ``factor = 1``.

    >>> Constant().factor(3, 10)
    1.0
    """

    kind: ClassVar[str] = "constant"

    def factor(self, epoch: float, epochs: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step(Decay):
    """One multiplication at each milestone: ``factor = rate ** (milestones passed)``.

    >>> Step(milestones_epochs=(30, 60)).factor(30, 90)
    0.1
    """

    kind: ClassVar[str] = "step"

    milestones_epochs: tuple[float, ...] = ()
    """Epochs, ascending, at which the rate is multiplied."""
    rate: float = 0.1
    """What it is multiplied by, above 0 and at most 1."""

    def __post_init__(self) -> None:
        check_share(self.kind, "rate", self.rate)
        given = self.milestones_epochs
        if not isinstance(given, tuple | list):
            raise RecipeError(
                f"step: milestones_epochs={shown(given)}: must be a list of epochs, like [30, 60]"
            )
        object.__setattr__(self, "milestones_epochs", tuple(given))
        for milestone in given:
            check_range(self.kind, "milestones_epochs", milestone, 0)
        if list(given) != sorted(given):
            raise RecipeError(f"step: milestones_epochs={shown(given)}: must ascend; sort them")

    def factor(self, epoch: float, epochs: float) -> float:
        passed = sum(epoch >= milestone - EDGE for milestone in self.milestones_epochs)
        return self.rate**passed

    def first_drop(self, epochs: float) -> float | None:
        return self.milestones_epochs[0] if self.milestones_epochs and self.rate < 1 else None

    def stretched(self, k: float) -> Self:
        return replace(self, milestones_epochs=tuple(m * k for m in self.milestones_epochs))


@dataclass(frozen=True, kw_only=True)
class Exponential(Decay):
    """One multiplication each epoch, after some constant ones.

    With ``i`` the epoch from 0: ``factor = rate ** max(i + 1 - constant_epochs, 0)``,
    which changes exactly on the epoch's boundary.

    Reference: Zaremba et al. 2014, arXiv 1409.2329, section 4.1 (``constant_epochs``
    4, 6, 14 and ``rate`` 0.5, 0.8, 1/1.15).

    >>> [Exponential(rate=0.5, constant_epochs=4).factor(e, 13) for e in (0, 3.9, 4, 5)]
    [1.0, 1.0, 0.5, 0.25]
    """

    kind: ClassVar[str] = "exponential"

    rate: float = 0.5
    """What the rate is multiplied by each epoch, above 0 and at most 1."""
    constant_epochs: float = 1.0
    """How many epochs keep the peak rate, at least 0."""
    every_epochs: float = 1.0
    """Length of one stair, in epochs, above 0."""

    def __post_init__(self) -> None:
        check_share(self.kind, "rate", self.rate)
        check_range(self.kind, "constant_epochs", self.constant_epochs, 0)
        check_range(self.kind, "every_epochs", self.every_epochs, 1e-6)

    def factor(self, epoch: float, epochs: float) -> float:
        stair = math.floor((epoch - self.constant_epochs + EDGE) / self.every_epochs)
        return self.rate ** max(stair + 1, 0)

    def first_drop(self, epochs: float) -> float | None:
        return self.constant_epochs if self.rate < 1 else None

    def stretched(self, k: float) -> Self:
        return replace(
            self, constant_epochs=self.constant_epochs * k, every_epochs=self.every_epochs * k
        )


@dataclass(frozen=True, kw_only=True)
class Polynomial(Decay):
    """``factor = end + (1 - end) * (1 - epoch/epochs) ** power``.

    >>> Polynomial(power=2).factor(45, 90)
    0.25
    """

    kind: ClassVar[str] = "polynomial"

    power: float = 1.0
    """Exponent, above 0; 1 is a straight line."""
    end: float = 0.0
    """Share of the peak rate that is left at the end, in [0, 1)."""
    after_warmup: bool = True
    """True: falls from the end of the warmup, as in the code of LARS and LAMB."""

    def __post_init__(self) -> None:
        check_range(self.kind, "power", self.power, 1e-6)
        check_range(self.kind, "end", self.end, 0, 1)

    def factor(self, epoch: float, epochs: float) -> float:
        left = 1.0 - min(epoch / epochs, 1.0)
        return self.end + (1.0 - self.end) * math.pow(left, self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """``factor = end + (1 - end) * (1 + cos(pi * epoch/epochs)) / 2``.

    Reference: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5, one cycle.

    >>> round(Cosine().factor(5, 10), 12)
    0.5
    """

    kind: ClassVar[str] = "cosine"

    end: float = 0.0
    """Share of the peak rate that is left at the end, in [0, 1)."""
    after_warmup: bool = True
    """True: falls from the end of the warmup."""

    def __post_init__(self) -> None:
        check_range(self.kind, "end", self.end, 0, 1)

    def factor(self, epoch: float, epochs: float) -> float:
        left = 1.0 - min(epoch / epochs, 1.0)
        # (1 + cos(pi*(1 - left)))/2, without its cancellation near the end of a long run
        return self.end + (1.0 - self.end) * math.sin(math.pi / 2.0 * left) ** 2


@dataclass(frozen=True, kw_only=True)
class Halving(Decay):
    """Repeated halving at equal intervals in the last part of the run.

    From ``start = begin*epochs`` on, `times` multiplications by `rate`, the first at
    `start`, each ``interval = (epochs - start)/times`` after the one before:
    ``factor = rate ** min(floor((epoch - start)/interval) + 1, times)``.

    MLPerf's GNMT: ``begin`` 2/3, ``times`` 4. TensorFlow NMT (`luong10`) cuts the second
    half into ten intervals but halves first at the end of the first of them, so its
    tenth falls on the end of the run: here ``begin`` 0.55, ``times`` 9.

    >>> [Halving(begin=0.5, times=2).factor(e, 8) for e in (3, 4, 6, 8)]
    [1.0, 0.5, 0.25, 0.25]
    """

    kind: ClassVar[str] = "halving"

    begin: float = 0.5
    """Share of the run after which the first halving comes, in [0, 1)."""
    times: int = 4
    """How many halvings, at least 1."""
    rate: float = 0.5
    """What the rate is multiplied by, above 0 and at most 1."""

    def __post_init__(self) -> None:
        check_range(self.kind, "begin", self.begin, 0, 1)
        check_range(self.kind, "times", self.times, 1)
        if not isinstance(self.times, int):
            raise RecipeError(f"halving: times={shown(self.times)}: must be a whole number")
        check_share(self.kind, "rate", self.rate)

    def factor(self, epoch: float, epochs: float) -> float:
        start = self.begin * epochs
        if epoch < start - EDGE:
            return 1.0
        interval = (epochs - start) / self.times
        passed = (epoch - start + EDGE) / interval if interval else math.inf
        return self.rate ** (math.floor(passed) + 1 if passed < self.times else self.times)

    def first_drop(self, epochs: float) -> float | None:
        return self.begin * epochs if self.rate < 1 else None


def check_share(kind: str, name: str, value: float) -> None:
    """Raise RecipeError unless ``0 < value <= 1``.

    >>> check_share("step", "rate", 0.5)
    """
    check_range(kind, name, value, 0)
    if not 0 < value <= 1:
        raise RecipeError(f"{kind}: {name}={shown(value)}: must be above 0 and at most 1")
