"""Cost of a batch size: the time model behind `legw plan`.

With W devices, D of them on each node, a batch of B examples, and micro-batches of m:

    update = compute(ceil(B / W)) + step + exposed synchronisation
    compute(b) = floor(b / m) * pass(m) + pass(b mod m)            pass: measured here
    compute(b) = floor(b / (n*m)) * round(n, m) + the rest         in n lanes, one process
    ring = 2*(W - 1) * latency + 2*(W - 1)/W * bytes / bandwidth
    tree = 2*ceil(log2(W)) * latency + 2*D * bytes / bandwidth
    exposed = max(0, min(ring, tree) - overlap * 2/3 * pass(last piece)) + numbers
    numbers = 2*ceil(log2(W)) * latency

The bandwidth is that of a node's link. A ring passes through the nodes one by one: at each step,
one message leaves a node and one arrives, each at the link's full rate. In the tree, all D devices
of a node may send at once and share the link; the model assumes this for every round. It takes
synchronisation within a node as free.

The all-reduce of the gradients overlaps with the backward pass of the last micro-batch, by the
share `overlap`. A backward pass takes two thirds of forward and backward. A second all-reduce, of a
few numbers, sums loss and weight; it overlaps with nothing. Beyond one machine this is a model, not
a measurement.

Reference of the two all-reduces: Thakur et al. 2005, "Optimization of
collective communication operations in MPICH", section 4.5.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from legw import rules, schedule
from legw.analysis.noise import NoiseScale, examples_against
from legw.errors import LegwError, RecipeError, check_count, check_range, given, one_line
from legw.recipe import Recipe
from legw.recipe.rule import Rule
from legw.runs.measurements import Speed

BACKWARD = 2 / 3
"""Share of a pass that goes backward: two matrix products for each one forward."""

NUMBERS_BYTES = 32
"""Bytes in the second all-reduce of an update: loss, weight, and flags."""

MIN_NOISE = 1e-9
"""Smallest noise scale, in examples, that is used as a divisor; smaller ones are raised to it."""

CLOSE_SHARE = 1.1
"""Of batches whose time is within this share of the shortest, the smallest is recommended."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Devices, and the network between their nodes."""

    devices: int = 1
    """W, at least 1: each has its own part of the batch."""
    devices_per_node: int = 1
    """D, a divisor of W: devices that share a node's link and are joined by something faster."""
    bandwidth: float = math.inf
    """Bytes per second and direction of a node's link to the others, above 0."""
    latency_seconds: float = 0.0
    """Time of the smallest message between nodes, in seconds; finite, at least 0."""
    overlap: float = 0.0
    """Share of the last backward pass that overlaps with synchronisation, in [0, 1]."""
    sync_seconds: float | None = None
    """Measured synchronisation of one update, in seconds; None takes the model's."""

    def __post_init__(self) -> None:
        check_count("network", "devices", self.devices)
        if self.devices_per_node < 1 or self.devices % self.devices_per_node:
            raise LegwError(
                f"network: devices_per_node={self.devices_per_node}: must divide "
                f"devices={self.devices}"
            )
        check_range("network", "bandwidth", self.bandwidth, 0, math.inf, above=True, closed=True)
        check_range("network", "latency_seconds", self.latency_seconds, 0)
        check_range("network", "overlap", self.overlap, 0, 1, closed=True)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One update of a batch size."""

    micro_batch_size: int
    """Micro-batch size that is fastest for a device's share."""
    compute_seconds: float
    """Passes of the device with the largest share."""
    lanes: int = 1
    """Micro-batches at once."""
    step_seconds: float
    """Clipping, optimizer step, book-keeping."""
    sync_seconds: float
    """Synchronisation that overlaps with no computation."""

    @property
    def seconds(self) -> float:
        """The whole update."""
        return self.compute_seconds + self.step_seconds + self.sync_seconds


@dataclass(frozen=True, kw_only=True)
class Option:
    """A batch size, and its predicted cost."""

    batch_size: int
    """Examples per update."""
    k: float
    """Target over base batch."""
    recipe: Recipe | None
    """The scaled recipe; None where the rule is undefined."""
    timing: Timing | None = None
    """One update; None where there is no recipe."""
    updates: int = 0
    """Updates of the recipe's own epochs."""
    seconds: float = 0.0
    """Time of the recipe's own epochs."""
    device_hours: float = 0.0
    """That time multiplied by the number of devices, in hours."""
    factor: float | None = None
    """Examples to the base's loss, over the base's own; None without a noise scale."""
    quality_seconds: float | None = None
    """Time to the base's loss, from the base's epochs; None without a noise scale."""
    quality_range: tuple[float, float] | None = None
    """`quality_seconds` at the ends of the noise scale's interval and of the measurements'
    spread."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """Warnings about the recipe, or the reason why there is none."""


def sync_seconds(gradient_bytes: float, network: Network) -> float:
    """Return the time of one all-reduce, by ring or by tree, whichever is shorter.

    Within one node it is 0.

    Args:
        gradient_bytes: size of each device's gradient, at least 0.
        network: devices, how many share a node's link, bandwidth and latency.

    >>> gigabit = Network(devices=2, bandwidth=125e6, latency_seconds=1e-4)
    >>> round(sync_seconds(1.25e6, gigabit), 6)
    0.0102
    >>> sync_seconds(1.25e6, Network())
    0.0
    """
    devices = network.devices
    if devices == network.devices_per_node:
        return 0.0
    transfer = gradient_bytes / network.bandwidth
    ring = 2 * (devices - 1) * (network.latency_seconds + transfer / devices)
    rounds = 2 * math.ceil(math.log2(devices))
    tree = rounds * network.latency_seconds + 2 * network.devices_per_node * transfer
    return min(ring, tree)


def read_rate(text: str) -> float:
    """Return a network's rate in bytes per second, as in 100Gbit, 1Gbit/s or 12.5GB/s.

    Raises:
        LegwError: it is not a rate above 0.

    >>> read_rate("100Gbit"), read_rate("12.5GB/s")
    (12500000000.0, 12500000000.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(bit|B)(?:/s|ps)?", text.strip())
    rate = 0.0
    if found is not None:
        prefix = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found.group(2)]
        rate = float(found.group(1)) * prefix / (8 if found.group(3) == "bit" else 1)
    if not 0 < rate < float("inf"):
        raise LegwError(
            f"{given('link', one_line(text))}: must be a rate above 0, for example 100Gbit"
        )
    return rate


def pass_seconds(passes: Mapping[int, float], examples: int) -> float:
    """Return the time of a micro-batch, between measured sizes along a straight line.

    Below the smallest size measured it takes as long as that one; above the largest it
    grows in proportion.

    Args:
        passes: examples -> seconds.
        examples: at least 0.

    >>> [pass_seconds({16: 1.0, 32: 3.0}, n) for n in (0, 8, 16, 24, 32, 64)]
    [0.0, 1.0, 1.0, 2.0, 3.0, 6.0]
    """
    if examples == 0:
        return 0.0
    sizes = sorted(passes)
    if examples <= sizes[0]:
        return passes[sizes[0]]
    if examples >= sizes[-1]:
        return passes[sizes[-1]] * examples / sizes[-1]
    above = bisect.bisect_left(sizes, examples)
    low, high = sizes[above - 1], sizes[above]
    share = (examples - low) / (high - low)
    return passes[low] * (1 - share) + passes[high] * share


def timing(speed: Speed, batch_size: int, network: Network) -> Timing:
    """Return the time of one update with the micro-batch that is fastest for it.

    Args:
        speed: of one device.
        batch_size: over all devices, at least one example for each.
        network: devices and what joins them.

    Raises:
        LegwError: there are more devices than examples.

    >>> speed = Speed(passes={16: 0.010, 64: 0.020}, step_seconds=0.001, gradient_bytes=0)
    >>> found = timing(speed, 128, Network())
    >>> found.micro_batch_size, round(found.seconds, 6)
    (64, 0.041)
    """
    if network.devices > batch_size:
        raise LegwError(
            f"batch_size={batch_size}: is smaller than the number of devices, "
            f"{network.devices}; take fewer devices or a larger batch"
        )
    share = -(-batch_size // network.devices)
    compute, micro, lanes = min(_options_of(speed, share, alone=network.devices == 1))
    sync = network.sync_seconds
    if sync is None:
        hidden = network.overlap * BACKWARD * pass_seconds(speed.passes, share % micro or micro)
        sync = max(sync_seconds(speed.gradient_bytes, network) - hidden, 0.0)
        sync += sync_seconds(NUMBERS_BYTES, network)
    return Timing(
        micro_batch_size=min(micro, share),
        lanes=lanes,
        compute_seconds=compute,
        step_seconds=speed.step_seconds,
        sync_seconds=sync,
    )


def _options_of(speed: Speed, share: int, *, alone: bool) -> Iterator[tuple[float, int, int]]:
    """Return (seconds, examples in a micro-batch, lanes) of every way to compute a share."""
    for micro in speed.passes:
        whole, rest = divmod(share, micro)
        yield whole * speed.passes[micro] + pass_seconds(speed.passes, rest), micro, 1
    for (micro, lanes), seconds in speed.rounds.items() if alone else ():
        whole, rest = divmod(share, micro * lanes)
        yield (whole + min(rest / micro, 1.0)) * seconds, micro, lanes


def options(
    base: Recipe,
    rule: Rule,
    batch_sizes: Sequence[int],
    *,
    speed: Speed,
    network: Network,
    num_examples: Mapping[int, int],
    noise: NoiseScale | None = None,
) -> list[Option]:
    """Return the predicted cost of each batch size.

    Args:
        base: the tuned recipe.
        rule: the rule that scales it.
        batch_sizes: examples per update, each at least 1.
        speed: of one device.
        network: devices and what joins them.
        num_examples: batch size -> examples in one epoch.
        noise: the measured noise scale; None predicts times of equal epochs only.
    """
    return [
        _option(
            base, rule, size, speed=speed, network=network, epoch=num_examples[size], noise=noise
        )
        for size in batch_sizes
    ]


def _option(
    base: Recipe,
    rule: Rule,
    batch_size: int,
    *,
    speed: Speed,
    network: Network,
    epoch: int,
    noise: NoiseScale | None,
) -> Option:
    k = batch_size / base.batch_size
    try:
        recipe = rules.apply(base, batch_size, rule)
        time = timing(speed, batch_size, network)
    except LegwError as error:
        return Option(batch_size=batch_size, k=k, recipe=None, notes=(str(error),))
    own = recipe.num_tokens is not None and recipe.batch_schedule is not None
    phases = schedule.phases(recipe, None if own else epoch)
    updates = phases[-1].first + phases[-1].updates
    seconds = _seconds(phases, time, speed, network)
    option = Option(
        batch_size=batch_size,
        k=k,
        recipe=recipe,
        timing=time,
        updates=updates,
        seconds=seconds,
        device_hours=seconds * network.devices / 3600,
        notes=tuple(rules.cautions(base, recipe, rule)),
    )
    if noise is None or noise.value is None:
        return option
    return _to_quality(option, base, speed, noise)


def _seconds(
    phases: Sequence[schedule.Phase], time: Timing, speed: Speed, network: Network
) -> float:
    """Return the time of all updates, each phase's with the timing of its own batch."""
    *smaller, last = phases
    there = (each.updates * timing(speed, each.batch_size, network).seconds for each in smaller)
    return sum(there) + last.updates * time.seconds


def _to_quality(option: Option, base: Recipe, speed: Speed, noise: NoiseScale) -> Option:
    """Add the time to the base's loss: the base's examples times the factor for the noise scale.

    The base's epochs count, also under a rule that makes the run longer.
    """
    assert noise.value is not None and option.recipe is not None
    before = base
    if option.recipe.unit != base.unit:  # of a batch that grows, whose steps have no fixed length
        before = schedule.in_unit(base, option.recipe.unit)
    stretched = option.recipe.length / before.length
    if before.unit == "steps":
        stretched *= option.batch_size / base.batch_size
    same_epochs = option.seconds / stretched
    factor = _factor(option, base, noise.value)
    ends = [noise.value if end is None else end for end in (noise.low, noise.high)]
    times = sorted(same_epochs * _factor(option, base, end) for end in ends)
    return replace(
        option,
        factor=factor,
        quality_seconds=same_epochs * factor,
        quality_range=(times[0] / (1 + speed.spread), times[1] * (1 + speed.spread)),
    )


def _factor(option: Option, base: Recipe, noise: float) -> float:
    """Return the examples to the base's loss over the base's own, at a noise scale from 0 on.

    Of a batch that grows it is the mean over the run's length.
    """
    assert option.recipe is not None
    plan, length = option.recipe.batch_schedule, option.recipe.length
    sizes = [option.batch_size] if plan is None else [*plan.sizes, option.batch_size]
    ends = [length] if plan is None else [*plan.until, length]
    total = 0.0
    for size, begin, end in zip(sizes, [0.0, *ends[:-1]], ends, strict=True):
        factor = examples_against(size, base.batch_size, max(noise, MIN_NOISE))
        assert factor is not None
        total += factor if plan is None else factor * (end - begin) / length
    return total


def recommend(found: Sequence[Option]) -> Option:
    """Return the recommended batch: of those close to the shortest time, the smallest.

    The time is that to the base's loss where a noise scale is known, else that of the
    recipe's epochs.

    Raises:
        RecipeError: no batch size is possible.
    """
    possible = [one for one in found if one.recipe is not None]
    if not possible:
        raise RecipeError(f"plan: no batch size is possible: {found[0].notes[0]}")
    least = min(map(time_of, possible))
    return min(
        (one for one in possible if time_of(one) <= CLOSE_SHARE * least),
        key=lambda one: one.batch_size,
    )


def time_of(option: Option) -> float:
    """Return the time by which options are compared, in seconds."""
    return option.seconds if option.quality_seconds is None else option.quality_seconds
