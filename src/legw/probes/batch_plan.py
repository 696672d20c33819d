"""Batch-size plan: the cost of each batch size, here or on many devices, and a choice.

task --speed.measure--> Speed --analysis.cost.options--> [Option] --recommend--> Option
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from legw import rules
from legw.analysis import cost
from legw.analysis.cost import Network, Option
from legw.analysis.keep_quality import Contract, Kept, of_options
from legw.analysis.noise import NoiseScale, stated
from legw.errors import LegwError, RecipeError, setting
from legw.probes import speed
from legw.recipe import Recipe, to_dict
from legw.recipe.rule import Rule
from legw.runs.measurements import Speed
from legw.train import Task
from legw.train.dist import World, joined
from legw.train.precision import Precision

MAX_RUNGS = 12
"""Most batch sizes of a default ladder."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Predicted cost of each batch size, and the recommended one."""

    base: Recipe
    """The tuned recipe, with the noise scale where one is known."""
    rule: Rule
    """The rule that scales it."""
    speed: Speed
    """Measured speed of one device."""
    network: Network
    """Devices and network; with measured synchronisation where several processes measured."""
    noise: NoiseScale | None
    """The noise scale behind the times to the base's loss; None where none is known."""
    options: list[Option]
    """One for each batch size, in ascending order."""
    best: Option
    """The recommended one."""
    contract: Contract | None = None
    """Both ways to keep the base's loss; None where it was not asked for."""

    def rule_of(self, option: Option) -> Rule:
        """Return the rule that makes an option's recipe."""
        return self.rule if self.contract is None else self.contract.kept.rule(option.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, which JSON knows."""
        assert self.best.recipe is not None, "what is recommended is possible"
        passes = {str(size): seconds for size, seconds in self.speed.passes.items()}
        rounds = {f"{n} x {size}": seconds for (size, n), seconds in self.speed.rounds.items()}
        bandwidth = None if self.network.bandwidth == float("inf") else self.network.bandwidth
        return {
            "rule": self.rule.name,
            "base": to_dict(self.base),
            "speed": asdict(self.speed) | {"passes": passes, "rounds": rounds},
            "network": asdict(self.network) | {"bandwidth": bandwidth},
            "noise_scale": None if self.noise is None else asdict(self.noise),
            "options": [_plain(one) for one in self.options],
            "recommended": self.best.batch_size,
            "recipe": to_dict(self.best.recipe),
            **({} if self.contract is None else {"keep_quality": self.contract.to_dict()}),
        }


def _plain(one: Option) -> dict[str, Any]:
    plain = {name: value for name, value in vars(one).items() if name not in ("recipe", "timing")}
    timing = None if one.timing is None else asdict(one.timing) | {"seconds": one.timing.seconds}
    lr = None if one.recipe is None else one.recipe.lr
    return plain | {"lr": lr, "timing": timing, "notes": list(one.notes)}


def plan_batch_size(
    task: Task,
    base: Recipe,
    *,
    batch_sizes: Sequence[int] | None = None,
    rule: Rule | str = "legw",
    network: Network | None = None,
    noise: NoiseScale | float | None = None,
    kept: Kept | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
) -> BatchPlan | None:
    """Measure this device and predict what each batch size costs; `legw plan` as a call.

    Under torchrun every process calls it: each measures its own device, and the time that
    synchronisation takes is measured in place of the network's model.

    Args:
        task: the task to train.
        base: the tuned recipe.
        batch_sizes: in examples; None is doublings from the base's to the largest that the
            rule allows, or an epoch's examples.
        rule: the rule that scales the base: a `Rule`, or the name of one.
        network: devices and what joins them; None is the one that is measured.
        noise: gradient noise scale in examples, above 0, or as measured; None takes the
            recipe's own, if it has one.
        kept: bound and stretch that keep the base's loss (`legw.analysis.keep_quality.kept`): a
            batch past the bound has a longer run. None gives all batches the rule's recipe.
        device: cpu, cuda, cuda:1, ...; auto is a GPU where there is one.
        precision: fp32, or bf16 (autocast).

    Returns:
        The plan; None on all processes but the first.

    Raises:
        LegwError: both a noise scale and what is kept are given.
        RecipeError: no batch size is possible.
        RunError: not even the smallest micro-batch fits into memory.
    """
    rule = rules.find(rule) if isinstance(rule, str) else rule
    if kept is not None:
        if noise is not None:
            raise LegwError(
                f"plan: {setting('noise')} predicts the time to the base's loss, and with "
                f"{setting('keep_quality')} every recipe keeps it; give one of the two"
            )
        base = kept.base
    elif noise is None:
        noise = base.noise_scale
    rule_of: Callable[[int], Rule] = (lambda size: rule) if kept is None else kept.rule
    if isinstance(noise, int | float):
        noise = stated(noise)
    if noise is not None:
        base = replace(base, noise_scale=noise.value)
    sizes = rungs(base, task, rule_of) if batch_sizes is None else sorted(batch_sizes)
    with joined(device) as world:
        found, network = measured(
            task, base, world=world, largest=max(sizes), network=network or Network(),
            precision=precision, lanes=not rule.steers,
        )  # fmt: skip
        if not world.first:
            return None
    options = [
        priced(task, base, size, rule_of(size), found, network, noise=noise) for size in sizes
    ]
    contract = None if kept is None else of_options(kept, options)
    best = cost.recommend(options)
    if contract is not None:
        size = contract.best.recipe.batch_size
        best = next(one for one in options if one.batch_size == size)
    return BatchPlan(
        base=base,
        rule=rule,
        speed=found,
        network=network,
        noise=noise,
        options=options,
        best=best,
        contract=contract,
    )


def measured(
    task: Task,
    base: Recipe,
    *,
    world: World,
    largest: int,
    network: Network,
    precision: Precision = "fp32",
    lanes: bool = True,
) -> tuple[Speed, Network]:
    """Return this device's speed, and the network with measured synchronisation, if there is any.

    Args:
        task: the task to train.
        base: the tuned recipe.
        world: this process; all of them call it.
        largest: the largest batch of the plan, in examples.
        network: devices and what joins them, where one process measures.
        precision: fp32, or bf16 (autocast).
        lanes: True times lanes too, where the planned runs may use them.
    """
    found = speed.measure(
        task,
        base,
        world=world,
        largest=-(-largest // max(network.devices, world.size)),
        precision=precision,
        lanes=network.devices == 1 and lanes,
    )
    if world.size > 1:  # what joins these processes is measured, not modelled
        sync = sum(
            speed.all_reduce_seconds(world, size)
            for size in (found.gradient_bytes, cost.NUMBERS_BYTES)
        )
        network = Network(devices=world.size, sync_seconds=sync)
    return found, network


def priced(  # noqa: PLR0917 (all that a cost is made of)
    task: Task,
    base: Recipe,
    batch_size: int,
    rule: Rule,
    found: Speed,
    network: Network,
    *,
    noise: NoiseScale | None = None,
) -> Option:
    """Return the predicted cost of one batch size under a rule; see `legw.analysis.cost`."""
    epoch = {batch_size: task.num_examples(batch_size)}
    (option,) = cost.options(
        base, rule, [batch_size], speed=found, network=network, num_examples=epoch, noise=noise
    )
    return option


def rungs(base: Recipe, task: Task, rule_of: Callable[[int], Rule]) -> list[int]:
    """Return the base's batch size and its doublings, up to the limit of the rule and the data."""
    sizes, size = [base.batch_size], base.batch_size * 2
    while len(sizes) < MAX_RUNGS and size <= task.num_examples(base.batch_size):
        try:
            rules.apply(base, size, rule_of(size))
        except RecipeError:
            break
        sizes.append(size)
        size *= 2
    return sizes
