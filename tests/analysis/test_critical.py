"""Critical batch size of a ladder of branches: a quadratic with a known answer, and each edge."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy
import pytest

from expect import error_line
from legw.analysis import critical
from legw.analysis.critical import Rung
from legw.errors import LegwError

Floats = numpy.typing.NDArray[numpy.float64]


@dataclass(frozen=True)
class Quadratic:
    """Loss of example z: ``1 + sum(h * x**2) / 2 + z . x``, with z normal of variances c.

    The gradient of B examples is ``h x + mean(z)``, so that an update at rate r makes

        E[x**2]  ->  (1 - r h)**2 E[x**2] + r**2 c / B

    since mean(z) has variance c / B and no correlation with x. With ``a = (1 - r h)**2``, s updates
    at one rate make of ``m = E[x**2]``, by the sum of a geometric series,

        a**s m + (1 - a**s) / (1 - a) * r**2 c / B

    and the expected loss is ``1 + sum(h * m) / 2``. Updates of a warmup have s = 1.
    The critical batch is B times the k at which a branch's expected loss, in the mean over the
    second half of the examples, is the tolerance above the base's at the same examples. With a
    cooldown, of the base's branch too, both are the ends of lines through its second half.
    """

    h: Floats = field(default_factory=lambda: numpy.array([1.0, 0.3, 0.1, 0.03, 0.01, 0.003]))
    c: float = 0.02
    batch_size: int = 4
    lr: float = 0.03
    warmup: int = 10
    window: int = 1024
    cooldown: float = 0.0

    def start(self) -> Floats:
        """Return x after the base's first 256 updates from 2, in root mean square."""
        m = self.after(numpy.full(len(self.h), 4.0), self.lr, self.batch_size, 256)
        root: Floats = numpy.sqrt(m)
        return root

    def after(self, m: Floats, lr: float, batch_size: float, updates: int) -> Floats:
        a = (1 - lr * self.h) ** 2
        after: Floats = a**updates * m + (1 - a**updates) / (1 - a) * lr**2 * self.c / batch_size
        return after

    def expected(self, k: float) -> Floats:
        """Return the expected loss of each update of a branch (1 is the base) of a window."""
        m, losses = self.start() ** 2, []
        for rate in self.rates(k):
            losses.append(m)
            m = self.after(m, rate, self.batch_size * k, 1)
        return 1 + numpy.array(losses) @ self.h / 2

    def rates(self, k: float) -> Floats:
        updates = numpy.arange(int(self.window / k))
        ramp = numpy.minimum((updates + 1) / self.warmup, 1.0) if k > 1 else 1.0
        falling = (len(updates) - updates) / (self.cooldown * len(updates) or 1e-9)
        found: Floats = self.lr * math.sqrt(k) * ramp * numpy.minimum(falling, 1.0)
        return found

    def excess(self, k: float) -> float:
        branch, base = self.expected(k), self.expected(1)
        same = base[(numpy.arange(len(branch)) * k).astype(int)]
        half = math.ceil(len(branch) * (self.cooldown or 1) / 2)
        if not self.cooldown:
            return float(branch[-half:].mean() / same[-half:].mean() - 1)
        left = numpy.arange(half, 0, -1)
        ends = [numpy.polynomial.Polynomial.fit(left, x[-half:], 1)(0) for x in (branch, same)]
        return float(ends[0] / ends[1] - 1)

    def answer(self, tolerance: float) -> float:
        """Return the critical batch size, by bisection of the excess, which grows with k."""
        low, high = 1.0, 32.0
        for _ in range(40):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.excess(middle) > tolerance else (middle, high)
        return self.batch_size * low

    def train(self, k: int, z: Floats) -> Floats:
        """Return the losses of SGD at k times the batch on examples z, (seeds, examples, x)."""
        x = numpy.repeat(self.start()[None], len(z), 0)
        size, losses = self.batch_size * k, []
        for update, rate in enumerate(self.rates(k)):
            mean = z[:, update * size : (update + 1) * size].mean(1)
            losses.append(1 + (self.h * x * x).sum(1) / 2 + (x * mean).sum(1))
            x = x - rate * (self.h * x + mean)
        return numpy.array(losses).T


@pytest.mark.parametrize("tolerance", [0.01, 0.02])
@pytest.mark.parametrize(
    ("cooldown", "seeds"), [(0.0, 1), (0.5, 1), pytest.param(0.5, 5, marks=pytest.mark.ci)]
)
def test_a_known_critical_batch_lies_in_the_interval_in_nine_of_ten(
    tolerance: float, cooldown: float, seeds: int
) -> None:
    """The end of a line is known less well than a mean: within a factor of 2 with five seeds."""
    known, count = Quadratic(cooldown=cooldown), 50
    answer = known.answer(tolerance)
    assert 2 * 4 < answer < 8 * 4
    numbers = numpy.random.default_rng(1)
    shape = (count * seeds, known.window * known.batch_size, len(known.h))
    z = numbers.normal(size=shape) * math.sqrt(known.c)
    losses = {k: known.train(k, z).reshape(count, seeds, -1) for k in (1, 2, 4, 8, 16, 32)}
    within, informative, bounded = 0, 0, 0
    for each in range(count):
        rungs = []
        for k, branches in list(losses.items())[1:]:
            runs = list(zip(losses[1][each], branches[each], strict=True))
            rungs.append(critical.rung(k, 4 * k, runs, cooldown=cooldown))
        found = critical.critical_batch(rungs, 4, tolerance)
        high = math.inf if found.high is None else found.high
        within += found.low <= answer <= high
        informative += found.low > answer / 2 and high < 2 * answer
        bounded += found.low > 4 and found.high is not None
    assert within >= 0.9 * count
    least = {(0.0, 1): 0.9, (0.5, 5): 0.8, (0.5, 1): 0.0}[cooldown, seeds]
    assert informative >= least * count  # the intervals are no excuse
    assert bounded >= 2 / 3 * count  # nor where one seed tells less


def test_what_was_expected_is_what_many_seeds_make() -> None:
    """The closed form of the docstring against the mean over simulated runs."""
    known = Quadratic(c=0.1, lr=0.3)
    z = numpy.random.default_rng(2).normal(size=(200, 4096, 6)) * math.sqrt(known.c)
    for k in (1, 8):
        found, expected = known.train(k, z).mean(0), known.expected(k)
        parts = len(found) // 4  # of many updates, each with noise of its own
        means, wanted = (each.reshape(4, parts).mean(1) for each in (found, expected))
        assert means == pytest.approx(wanted, rel=0.01)


def made(*excesses: float | None, half: float | None = 0.0) -> list[Rung]:
    return [
        Rung(k=2**i, batch_size=16 * 2**i, excess=each, half_width=half, updates=40, seeds=1)
        for i, each in enumerate(excesses, 1)
    ]


def test_a_loss_that_falls_meanwhile_is_no_excess() -> None:
    """A branch that follows the base's line exactly: its losses are those before its examples."""
    base = [10 - 0.01 * update for update in range(400)]
    for k in (2, 8):
        found = critical.rung(k, 16 * k, [(base, base[::k])])
        assert found.excess == pytest.approx(0, abs=1e-9)


def test_an_excess_is_a_share_or_in_the_unit_of_the_loss() -> None:
    runs = [([0.5] * 80, [0.6] * 40)]
    assert critical.rung(2, 32, runs).excess == pytest.approx(0.2)
    assert critical.rung(2, 32, runs, absolute=True).excess == pytest.approx(0.1)


def test_a_loss_below_0_has_no_share() -> None:
    runs = [([-0.5] * 80, [-0.4] * 40)]
    error_line(critical.rung, 2, 32, runs, kind=LegwError)
    assert critical.rung(2, 32, runs, absolute=True).excess == pytest.approx(0.1)


def test_seeds_give_an_interval() -> None:
    runs = [([1.0] * 80, [1.0 + e] * 40) for e in (0.01, 0.03)]
    found = critical.rung(2, 32, runs)
    assert found.excess == pytest.approx(0.02) and found.half_width and found.seeds == 2


def test_a_diverged_branch_is_above_every_tolerance() -> None:
    diverged = critical.rung(4, 64, [([1.0] * 80, [1.0, math.inf])])
    assert diverged.excess is None and critical.passed(diverged, 0.5)
    found = critical.critical_batch([*made(0.0), diverged], 16, 0.01)
    assert (found.value, found.low, found.high, found.largest) == (32.0, 32.0, 32.0, 32)


def test_nothing_above_the_tolerance_gives_a_lower_bound() -> None:
    found = critical.critical_batch(made(-0.1, 0.005), 16, 0.01)
    assert (found.value, found.low, found.high, found.largest) == (None, 64, None, 64)


def test_the_first_branch_above_the_tolerance_ends_the_ladder() -> None:
    found = critical.critical_batch(made(0.0, 0.02, 0.0, 0.0), 16, 0.01)
    assert found.largest == 32 and found.value == pytest.approx(32 * math.sqrt(2))


def test_without_an_interval_nothing_is_sure() -> None:
    found = critical.critical_batch(made(0.0, 0.001, half=None), 16, 0.01)
    assert (found.low, found.high, found.largest) == (16, None, 64)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1, math.nan])
def test_a_tolerance_that_cannot_be(tolerance: float) -> None:
    error_line(critical.check_tolerance, tolerance, kind=LegwError)
    if tolerance == 1.0:
        critical.check_tolerance(tolerance, absolute=True)


def result(*ladders: list[Rung], tolerance: float = 0.01, absolute: bool = False) -> dict:
    points = [
        {
            "epoch": float(number),
            "branches": [vars(one) for one in ladder],
            "critical_batch": vars(critical.critical_batch(ladder, 16, tolerance)),
        }
        for number, ladder in enumerate(ladders, 1)
    ]
    return {
        "points": points, "tolerance": tolerance, "absolute": absolute,
        "base": {"batch_size": 16}, **critical.over_points(points),
    }  # fmt: skip


def test_the_smallest_point_counts_and_the_advice_follows_it() -> None:
    found = result(made(0.0, 0.0, 0.02), made(0.0, 0.02))
    assert (found["epoch"], found["largest_batch"]) == (2.0, 32)
    line, advice = critical.critical_lines(found)
    assert line == (
        "critical batch size 45.3 examples (95 % interval 45.3 to 45.3) at epoch 2, the smallest "
        "of 2 points; tolerance 0.01 of the base's loss"
    )
    assert advice == (
        "batch 32 (k = 2) is within the tolerance at every point; elsewhere in the run batch 64 "
        "is, too; a larger one needs more epochs for the same loss"
    )


def test_without_a_branch_past_the_tolerance_the_largest_is_a_lower_bound() -> None:
    line = critical.critical_lines(result(made(0.0, 0.0)))[0]
    assert line.startswith("critical batch size at least 64 examples (95 % interval from 64) ")


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_what_one_seed_of_streams_leaves_out_is_told(streams: bool, seeds: list[int]) -> None:
    found = {**result(made(0.0, 0.02)), "plan": {"streams": streams, "seeds": seeds}}
    told = [line for line in critical.critical_lines(found) if "another training" in line]
    assert len(told) == (streams and len(seeds) == 1)
    assert all(line.endswith("give more `seeds`") for line in told)


@pytest.mark.parametrize(
    ("ladder", "says"),
    [
        (made(0.0, 0.0), "is within the tolerance at every point; give a larger"),
        (made(0.02), "no larger batch is within the tolerance"),
        (made(0.0, 0.1, half=0.05), "some intervals are wider than the tolerance"),
    ],
)
def test_other_advice(ladder: list[Rung], says: str) -> None:
    assert says in critical.critical_lines(result(ladder))[1]


@pytest.mark.parametrize(("absolute", "by"), [(False, "0.03 of it"), (True, "0.03")])
def test_branches_below_the_base_tell_that_it_is_held_back(absolute: bool, by: str) -> None:
    ladders = made(-0.02, -0.012, half=0.001), made(-0.03, 0.0, half=0.001)
    lines = critical.critical_lines(result(*ladders, absolute=absolute))
    assert lines[2] == (
        f"batch 32 ends below the base's loss, by {by}, at epoch 2: the base is held back at its "
        "own batch, for example by its rate or by a beta2 too small for rare words; tune these at "
        "its batch first"
    )


@pytest.mark.parametrize(
    "ladder",
    [made(-0.009), made(-0.012, half=0.003), made(-0.02, half=None), made(None, half=None)],
)
def test_branches_that_may_be_as_good_tell_nothing(ladder: list[Rung]) -> None:
    assert not any("held back" in line for line in critical.critical_lines(result(ladder)))


def test_a_tolerance_in_the_unit_of_the_loss_is_told_as_one() -> None:
    line = critical.critical_lines(result(made(0.02), absolute=True))[0]
    assert line.endswith("tolerance 0.01 above the base's loss")
