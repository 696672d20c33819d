"""Decays as data: the fall of the learning rate after its peak.

A decay is a pure function of the position: `factor(epoch, epochs)` is the learning rate as a share
of its peak. Both arguments are measured from the start of the decay: epoch 0, or the end of the
warmup where `after_warmup` is true. They are in the recipe's unit, like the decay's own lengths:
epochs, steps, examples or tokens. A new decay is one new dataclass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

from legw.errors import RecipeError, check_count, check_range, shown

Unit = Literal["epochs", "steps", "examples", "tokens"]

UNITS: tuple[Unit, ...] = get_args(Unit)
"""The units: passes over the data, optimizer updates, examples seen, tokens seen."""

EPOCH_GUARD = 1e-11
"""Guard, in epochs, so that a boundary counts as reached in spite of rounding.

It lies above the rounding errors of 10,000 epochs and below one example of a data
set of 50,000,000,000, so a boundary is met exactly and never an update too early. Positions
above that, in other units, have one that grows as their rounding errors do.
"""


def power_of(value: float, k: float, power: float) -> float:
    """Return ``value * k**power``, dividing where the power is below 0.

    A division of whole numbers that has no rest is exact, where a product with the
    reciprocal may not be.

    Args:
        value: any finite number.
        k: target over base batch size, above 0.
        power: the exponent.

    >>> power_of(30000, 3, -1), power_of(391, 1.1, 0)
    (10000.0, 391.0)
    """
    return value * math.pow(k, power) if power >= 0 else value / math.pow(k, -power)


def edge(position: float, least: float) -> float:
    """Return the distance below a boundary at which a position counts as reaching it.

    Args:
        position: in any unit, at least 0.
        least: the guard of small positions.

    >>> edge(90, 1e-11), round(edge(1e9, 1e-11), 12)
    (1e-11, 1e-06)
    """
    return max(least, 1e-15 * position)


@dataclass(frozen=True, kw_only=True)
class Decay:
    """Base of all decays. `kind` is the name used in TOML, JSON and tables."""

    kind: ClassVar[str] = ""
    lengths: ClassVar[Mapping[str, Any]] = {}
    """Settings that are lengths, by their names without a unit. The value is the default in
    epochs, or None for a length that must be given. Each length has four fields, one for each
    unit."""

    after_warmup: bool = False
    """False: epochs count from the start of the run. True: from the end of the warmup."""

    def __post_init__(self) -> None:
        self._settle_lengths()

    def factor(self, epoch: float, epochs: float) -> float:
        """Return the share of the peak rate, in [0, 1].

        Args:
            epoch: epochs (or the recipe's unit) since the decay's start, 0 to `epochs`.
            epochs: epochs from the decay's start to the end of the run, above 0.
        """
        raise NotImplementedError

    def first_drop(self, epochs: float) -> float | None:
        """Return the epoch, from the decay's start, up to which the rate stays at its peak.

        None where it falls from the start on, or never.

        Args:
            epochs: epochs from the decay's start to the end of the run, above 0.
        """
        del epochs
        return None

    @property
    def unit(self) -> Unit | None:
        """The unit of the decay's own lengths; None where it has none.

        >>> Step(milestones_steps=(30000, 60000)).unit, Cosine().unit
        ('steps', None)
        """
        return next(
            (unit for unit in UNITS for name in self.lengths if self._stated(name, unit)), None
        )

    def stretched(self, k: float) -> Self:
        """Return the same decay over a run that is k times as long in its unit.

        >>> Step(milestones_steps=(30, 60)).stretched(0.5).milestones_steps
        (15.0, 30.0)
        """
        return self if self.unit is None else self.in_unit(self.unit, k)

    def in_unit(self, unit: Unit, times: float, over: float = 1) -> Self:
        """Return the same decay with its lengths in a unit, each ``length * times / over``.

        Args:
            unit: of the lengths that come back.
            times: factor of each length, above 0.
            over: divisor of the product, above 0.

        >>> Step(milestones_epochs=(30, 60)).in_unit("steps", 5000, over=100).milestones_steps
        (1500.0, 3000.0)
        """
        old = self.unit
        if old is None:
            return self
        defaults = {field.name: field.default for field in fields(self)}
        cleared: dict[str, Any] = {f"{n}_{old}": defaults[f"{n}_{old}"] for n in self.lengths}
        found: dict[str, Any] = {}
        for name in self.lengths:
            value = self._length(name)
            several = isinstance(value, tuple)
            scaled = tuple(v * times / over for v in (value if several else (value,)))
            found[f"{name}_{unit}"] = scaled if several else scaled[0]
        return replace(self, **(cleared | found))

    def _stated(self, name: str, unit: Unit) -> bool:
        """Say whether a length is given in a unit; no milestones are no length."""
        return getattr(self, f"{name}_{unit}") not in (None, (), [])

    def _length(self, name: str) -> Any:
        return getattr(self, f"{name}_{self.unit or 'epochs'}")

    def _settle_lengths(self) -> None:
        """Check that lengths are in one unit, and fill in defaults in epochs."""
        units = [u for u in UNITS if any(self._stated(name, u) for name in self.lengths)]
        if len(units) > 1:
            given = [
                f"{name}_{u}={shown(getattr(self, f'{name}_{u}'))}"
                for u in units
                for name in self.lengths
                if self._stated(name, u)
            ]
            raise RecipeError(
                f"{self.kind}: {', '.join(given)}: must be in one unit; choose one of "
                f"{', '.join(units)}"
            )
        unit = units[0] if units else "epochs"
        for name, usual in self.lengths.items():
            if getattr(self, f"{name}_{unit}") is not None:
                continue
            if usual is None or unit != "epochs":
                raise RecipeError(f"{self.kind}: {name}_{unit} is missing; give it")
            object.__setattr__(self, f"{name}_{unit}", usual)

    @classmethod
    def usual(cls) -> dict[str, Any]:
        """Return the default settings.

        >>> Exponential.usual()["every_epochs"]
        1.0
        """
        values = {field.name: field.default for field in fields(cls)}
        values |= {
            f"{name}_epochs": usual for name, usual in cls.lengths.items() if usual is not None
        }
        return {name: value for name, value in values.items() if value is not MISSING}


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
    lengths: ClassVar[Mapping[str, Any]] = {"milestones": ()}

    milestones_epochs: tuple[float, ...] = ()
    """Epochs, ascending, at which the rate is multiplied."""
    milestones_steps: tuple[float, ...] | None = None
    """The same in optimizer updates."""
    milestones_examples: tuple[float, ...] | None = None
    """The same in examples seen."""
    milestones_tokens: tuple[float, ...] | None = None
    """The same in tokens seen."""
    rate: float = 0.1
    """Factor of each multiplication, above 0 and at most 1."""

    def __post_init__(self) -> None:
        check_range(self.kind, "rate", self.rate, 0, 1, above=True, closed=True)
        for unit in UNITS:
            name = f"milestones_{unit}"
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, tuple | list):
                raise RecipeError(
                    f"step: {name}={shown(given)}: must be a list of {unit}, like [30, 60]"
                )
            object.__setattr__(self, name, tuple(given))
            for milestone in given:
                check_range(self.kind, name, milestone, 0)
            if list(given) != sorted(given):
                raise RecipeError(f"step: {name}={shown(given)}: must ascend; sort them")
        super().__post_init__()

    def factor(self, epoch: float, epochs: float) -> float:
        reached = epoch + edge(epoch, EPOCH_GUARD)
        return float(self.rate ** sum(reached >= place for place in self._length("milestones")))

    def first_drop(self, epochs: float) -> float | None:
        places = self._length("milestones")
        return places[0] if places and self.rate < 1 else None


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
    lengths: ClassVar[Mapping[str, Any]] = {"constant": 1.0, "every": 1.0}

    rate: float = 0.5
    """Factor of the rate at each stair, above 0 and at most 1."""
    constant_epochs: float | None = None
    """Number of epochs at the peak rate, at least 0; 1 if not given."""
    constant_steps: float | None = None
    """The same in optimizer updates."""
    constant_examples: float | None = None
    """The same in examples seen."""
    constant_tokens: float | None = None
    """The same in tokens seen."""
    every_epochs: float | None = None
    """Length of one stair, in epochs, above 0; 1 if not given."""
    every_steps: float | None = None
    """The same in optimizer updates."""
    every_examples: float | None = None
    """The same in examples seen."""
    every_tokens: float | None = None
    """The same in tokens seen."""

    def __post_init__(self) -> None:
        check_range(self.kind, "rate", self.rate, 0, 1, above=True, closed=True)
        super().__post_init__()
        for name, least in (("constant", 0.0), ("every", 1e-6)):
            check_range(self.kind, f"{name}_{self.unit or 'epochs'}", self._length(name), least)

    def factor(self, epoch: float, epochs: float) -> float:
        beyond = epoch - self._length("constant") + edge(epoch, EPOCH_GUARD)
        return float(self.rate ** max(math.floor(beyond / self._length("every")) + 1, 0))

    def first_drop(self, epochs: float) -> float | None:
        return float(self._length("constant")) if self.rate < 1 else None


@dataclass(frozen=True, kw_only=True)
class Polynomial(Decay):
    """``factor = end + (1 - end) * (1 - epoch/epochs) ** power``.

    A floor in absolute terms (`min_lr` of other tools, which files may have) is
    ``end = min_lr/lr``: the share stays when the rate is scaled.

    >>> Polynomial(power=2).factor(45, 90)
    0.25
    """

    kind: ClassVar[str] = "polynomial"

    power: float = 1.0
    """Exponent, above 0; 1 is a straight line."""
    end: float = 0.0
    """Share of the peak rate that is left at the end, in [0, 1)."""
    after_warmup: bool = True
    """True: falls from the end of the warmup on, as in the code of LARS and LAMB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.kind, "power", self.power, 1e-6)
        check_range(self.kind, "end", self.end, 0, 1)

    def factor(self, epoch: float, epochs: float) -> float:
        left = 1.0 - min(epoch / epochs, 1.0)
        return self.end + (1.0 - self.end) * math.pow(left, self.power)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """``factor = end + (1 - end) * (1 + cos(pi * half_cycles * epoch/epochs)) / 2``.

    A floor in absolute terms is ``end = min_lr/lr``, as for `Polynomial`.

    Reference: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5, one cycle.

    >>> round(Cosine().factor(5, 10), 12)
    0.5
    >>> round(Cosine(half_cycles=3).factor(10 / 3, 10), 12)
    0.0
    """

    kind: ClassVar[str] = "cosine"

    end: float = 0.0
    """Share of the peak rate that is left at the lowest, in [0, 1)."""
    half_cycles: float = 1.0
    """Number of half waves in the run, above 0: 1 falls once; 3 falls, rises and falls."""
    after_warmup: bool = True
    """True: falls from the end of the warmup."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.kind, "end", self.end, 0, 1)
        check_range(self.kind, "half_cycles", self.half_cycles, 1e-6)

    def factor(self, epoch: float, epochs: float) -> float:
        left = 1.0 - min(epoch / epochs, 1.0)
        if self.half_cycles != 1:
            wave = math.cos(math.pi / 2.0 * self.half_cycles * (1.0 - left)) ** 2
            return self.end + (1.0 - self.end) * wave
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
    """Number of multiplications, at least 1."""
    rate: float = 0.5
    """Factor of each multiplication, above 0 and at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.kind, "begin", self.begin, 0, 1)
        check_count(self.kind, "times", self.times)
        check_range(self.kind, "rate", self.rate, 0, 1, above=True, closed=True)

    def factor(self, epoch: float, epochs: float) -> float:
        start, near = self.begin * epochs, edge(epoch, EPOCH_GUARD)
        if epoch < start - near:
            return 1.0
        interval = (epochs - start) / self.times
        passed = max(epoch - start + near, 0.0) / interval if interval else math.inf
        return self.rate ** (math.floor(passed) + 1 if passed < self.times else self.times)

    def first_drop(self, epochs: float) -> float | None:
        return self.begin * epochs if self.rate < 1 else None


Tail = Literal["linear", "cosine", "1-sqrt"]
"""Shapes of the fall at the end of a warmup-stable-decay schedule."""


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Decay):
    """The peak rate, and a fall in the last share of the run (a trapezoid, with its warmup).

    With ``x`` the share of the tail that is over, ``factor = end + (1 - end) * fall(x)``:
    ``1 - x`` (linear), ``(1 + cos(pi*x))/2`` (cosine) or ``1 - sqrt(x)`` (1-sqrt).

    Reference: Hägele et al. 2024, arXiv 2405.18392 (the 1-sqrt tail); the name: Hu et al.
    2024, arXiv 2404.06395.

    >>> [WarmupStableDecay(tail=0.2).factor(s, 100) for s in (50, 80, 90, 100)]
    [1.0, 1.0, 0.5, 0.0]
    """

    kind: ClassVar[str] = "wsd"

    tail: float = 0.2
    """Share of the run in which the rate falls, above 0 and at most 1."""
    shape: Tail = "linear"
    """Shape of the fall: linear, cosine or 1-sqrt."""
    end: float = 0.0
    """Share of the peak rate that is left at the end, in [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.kind, "tail", self.tail, 0, 1, above=True, closed=True)
        check_range(self.kind, "end", self.end, 0, 1)
        if self.shape not in get_args(Tail):
            raise RecipeError(
                f"wsd: shape={shown(self.shape)}: must be one of {', '.join(get_args(Tail))}"
            )

    def factor(self, epoch: float, epochs: float) -> float:
        span = self.tail * epochs
        left = min(max((epochs - epoch) / span, 0.0), 1.0) if span else float(epoch < epochs)
        return self.end + (1.0 - self.end) * self._fall(left)

    def _fall(self, left: float) -> float:
        """Return the share of the fall that is left, for the share of the tail that is left."""
        if self.shape == "linear":
            return left
        if self.shape == "cosine":
            return math.sin(math.pi / 2.0 * left) ** 2
        return left / (1.0 + math.sqrt(1.0 - left))  # 1 - sqrt(1 - left)

    def first_drop(self, epochs: float) -> float | None:
        return (1.0 - self.tail) * epochs


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Decay):
    """``factor = max(end, 1 / sqrt(1 + epoch/time_scale))``.

    With the warmup's length as time scale it is the schedule of the Transformer,
    ``sqrt(warmup/step)``, which does not depend on the length of the run.

    Reference: Vaswani et al. 2017, arXiv 1706.03762, section 5.3; with a time scale it is
    Transformers' `inverse_sqrt`.

    >>> [InverseSqrt(time_scale_steps=4000).factor(s, 100_000) for s in (0, 12_000)]
    [1.0, 0.5]
    """

    kind: ClassVar[str] = "inverse-sqrt"
    lengths: ClassVar[Mapping[str, Any]] = {"time_scale": None}

    time_scale_epochs: float | None = None
    """Length after which the rate is at 1/sqrt(2) of the peak, in epochs, above 0."""
    time_scale_steps: float | None = None
    """The same in optimizer updates."""
    time_scale_examples: float | None = None
    """The same in examples."""
    time_scale_tokens: float | None = None
    """The same in tokens."""
    end: float = 0.0
    """Share of the peak rate below which it does not fall, in [0, 1)."""
    after_warmup: bool = True
    """True: falls from the end of the warmup."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.kind, f"time_scale_{self.unit}", self._length("time_scale"), 1e-9)
        check_range(self.kind, "end", self.end, 0, 1)

    def factor(self, epoch: float, epochs: float) -> float:
        return max(self.end, 1.0 / math.sqrt(1.0 + epoch / self._length("time_scale")))
