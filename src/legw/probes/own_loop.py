"""Critical batch size and gradient noise scale in a loop of your own, without a task.

    noise = NoiseScale()                       for micro in batch:
                                                   loss(micro).backward()
                                                   noise.observe(model.parameters(), examples)
                                               noise.step()

    for branch in Branches(model, optimizer, batch_size=B, examples=N):
        for batch in the same N examples, cut into branch.batch_size:
            forward, backward, branch.step(loss), optimizer.step()

`NoiseScale` needs the squared norms of two gradients of each update: one of few examples, one of
many. With P the sum of the gradients of m examples, in any unit,

    E|P/m|**2 = |G|**2 + S / m

so that two m give S and ``|G|**2``; their means over updates give ``S / |G|**2``.

Reference: McCandlish et al. 2018, arXiv 1812.06162, appendix A.1; Merrill et al. 2025, arXiv
2505.23971.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from legw.analysis import critical, noise
from legw.analysis.critical import TOLERANCE, CriticalBatch, Rung
from legw.analysis.noise import NoiseScale as Estimate
from legw.analysis.noise_batch import NoiseBatch, Window, noise_batch
from legw.errors import LegwError, check_count, check_range, number, setting
from legw.probes.branch_plan import WARMUP_UPDATES
from legw.recipe.branch_rate import COOLDOWN, MAX_COOLDOWN, share_of_rate
from legw.runs.measurements import Noise

MAX_SAMPLES = 2000
"""Default number of last updates that count for a noise scale, as it grows during training."""


class NoiseScale:
    """The gradient noise scale, from the micro-batches or ranks that a loop has anyway.

    Each `observe` costs one norm and no memory. Gradients are observed before they are clipped.

    Args:
        samples: number of last updates that count, at least 5.

    >>> noise = NoiseScale()
    >>> for _ in range(8):
    ...     noise.observe(3.0, examples=1)  # |G|**2 + S, with |G|**2 = 1 and S = 2
    ...     noise.observe(1.5 * 4**2, examples=4)  # the sum of four: 4**2 * (1 + 2 / 4)
    ...     noise.step()
    >>> noise.result().value, noise.result().low
    (2.0, 2.0)
    """

    def __init__(self, samples: int = MAX_SAMPLES) -> None:
        check_count("noise", "samples", samples, noise.MIN_SAMPLES, error=LegwError)
        self._pairs: deque[tuple[Any, Any]] = deque(maxlen=samples)
        self._seen: dict[int, list[Any]] = {}
        self._steps = 0

    def observe(
        self,
        gradient: Iterable[nn.Parameter | Tensor] | Tensor | float,
        examples: int,
        *,
        times: float = 1.0,
    ) -> None:
        """Take a gradient: the sum so far of an update's micro-batches, or that of one rank.

        All gradients of an update have to be in one unit, such as sums of the examples' gradients:
        after ``loss / n`` and ``backward``, what lies in ``p.grad`` is. Several of as many examples
        count as their mean.

        Args:
            gradient: parameters, of which ``p.grad`` is taken, or the gradient's tensors; or its
                squared norm, at least 0.
            examples: examples that it is the sum of, at least 1.
            times: factor of a gradient in another unit, above 0: the number of ranks where it is
                their mean and the others are sums of one rank.

        Raises:
            LegwError: no parameter has a gradient.
        """
        check_count("noise", "examples", examples, error=LegwError)
        check_range("noise", "times", times, 0, above=True, error=LegwError)
        self._seen.setdefault(examples, []).append(_squared_norm(gradient) * times**2)

    def step(self) -> None:
        """End an update, of whose gradients those of the fewest and the most examples count.

        Raises:
            LegwError: gradients of fewer than two numbers of examples were observed.
        """
        few, many = min(self._seen, default=0), max(self._seen, default=0)
        if few == many:
            raise LegwError(
                f"noise: examples={few}: an update's gradients are all of as many; observe one of "
                "fewer examples too, such as that of its first micro-batch"
            )
        small, large = (sum(self._seen[m]) / len(self._seen[m]) / m**2 for m in (few, many))
        trace = (small - large) / (1 / few - 1 / many)
        self._pairs.append((trace, large - trace / many))
        self._seen.clear()
        self._steps += 1

    def result(self) -> Estimate:
        """Return the noise scale in examples, with its interval; positions count updates.

        Raises:
            LegwError: no update was observed.
        """
        if not self._pairs:
            raise LegwError("noise: no update was observed; call observe, and step once an update")
        first, rows = self._steps - len(self._pairs), []
        for place, pair in enumerate(self._numbers()):
            trace, squared = pair if all(map(math.isfinite, pair)) else (None, None)
            rows.append(
                Noise(update=first + place, epoch=first + place, trace=trace,
                      squared_norm=squared, examples=0)
            )  # fmt: skip
        return noise.noise_scale(rows)

    def advice(self, batch_size: int) -> str:
        """Return one line: the noise scale, and its meaning for a batch size in examples."""
        found = self.result()
        if found.value is None or found.low is None or found.high is None:
            return f"noise scale not known after {found.n} updates: observe more of them"
        factor = noise.examples_factor(batch_size, found.value) if found.value else math.inf
        return (
            f"noise scale {number(found.value, 3)} examples (95 % interval "
            f"{number(found.low, 3)} to {number(found.high, 3)}): batch {batch_size} needs about "
            f"{number(factor, 3)} times the examples of a small batch to the same loss"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint; an update that is not ended is left out."""
        return {"pairs": [list(pair) for pair in self._numbers()], "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the values of `state_dict`."""
        self._pairs.clear()
        self._pairs.extend(tuple(pair) for pair in state["pairs"])
        self._steps = state["steps"]
        self._seen.clear()

    def _numbers(self) -> list[tuple[float, float]]:
        """Return the samples as numbers, read from the device at once."""
        if any(isinstance(trace, Tensor) for trace, _ in self._pairs):
            flat = [torch.as_tensor(each).cpu() if not isinstance(each, Tensor) else each
                    for pair in self._pairs for each in pair]  # fmt: skip
            device = next(each.device for pair in self._pairs for each in pair
                          if isinstance(each, Tensor))  # fmt: skip
            values = torch.stack([each.to(device, torch.float64) for each in flat]).tolist()
            pairs = list(zip(values[::2], values[1::2], strict=True))
            self._pairs.clear()
            self._pairs.extend(pairs)
        return [(float(a), float(b)) for a, b in self._pairs]


def _squared_norm(gradient: Iterable[nn.Parameter | Tensor] | Tensor | float) -> Any:
    if isinstance(gradient, int | float):
        return float(gradient)
    if isinstance(gradient, Tensor) and gradient.dim() == 0:
        return gradient.detach().double()
    each = [gradient] if isinstance(gradient, Tensor) else list(gradient)
    found = [one.grad if isinstance(one, nn.Parameter) else one for one in each]
    tensors = [one.detach() for one in found if one is not None]
    if not tensors:
        raise LegwError("noise: no parameter has a gradient; observe after backward")
    return torch.nn.utils.get_total_norm(tensors).double() ** 2


class Branches:
    """Branches of a loop of your own: the same examples at 1, 2, 4, ... times its batch.

    Iterating gives a `OneBranch` each. Model, optimizer and torch's random numbers are put back to
    their state at the start before each and after the last, so that the loop goes on as if nothing
    had been. The state is copied once: weights, buffers and the optimizer's state. While it is put
    back there is a second copy of the optimizer's.

    Args:
        model: the model of the loop.
        optimizer: its optimizer, at the rate of the moment.
        batch_size: the loop's global batch, in examples, at least 1.
        examples: examples that each branch trains on: at least 60 batches.
        tolerance: share of the loss of batch 1 by which a branch's may be higher, in (0, 1).
        absolute: True takes the tolerance in the loss's unit.
        power: of k by which the rate grows, in [0, 1]: 0.5 is the square root.
        branch_warmup: updates in which a branch's rate rises again, at least 0.
        cooldown: share of each branch over which its rate falls to 0, in [0, 0.9]: what only the
            noise of a rate adds to the loss is no progress. 0 leaves it out.
        device: of the copy; None is that of the weights.

    Raises:
        LegwError: a value cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        examples: int,
        tolerance: float = TOLERANCE,
        absolute: bool = False,
        power: float = 0.5,
        branch_warmup: int = WARMUP_UPDATES,
        cooldown: float = COOLDOWN,
        device: torch.device | str | None = "cpu",
    ) -> None:
        check_count("critical", "batch_size", batch_size, error=LegwError)
        check_count("critical", "branch_warmup", branch_warmup, 0, error=LegwError)
        check_range("critical", "power", power, 0, 1, closed=True, error=LegwError)
        check_range("critical", "cooldown", cooldown, 0, MAX_COOLDOWN, closed=True, error=LegwError)
        critical.check_tolerance(tolerance, absolute=absolute)
        least = 2 * batch_size * (branch_warmup + critical.MIN_BRANCH_UPDATES)
        check_count("critical", "examples", examples, least, error=LegwError)
        self.model, self.optimizer = model, optimizer
        self.batch_size, self.examples, self.power = batch_size, examples, power
        self.tolerance, self.absolute = tolerance, absolute
        self.branch_warmup, self.cooldown = branch_warmup, cooldown
        self.rungs: list[Rung] = []
        """Branches that were made, by ascending batch size."""
        self._device = device
        self._base: list[float] = []
        self._losses: list[tuple[float, list[float]]] = []

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copy that is kept while the branches are made."""
        tensors = [*_tensors(self.model.state_dict()), *_tensors(self.optimizer.state_dict())]
        return sum(each.numel() * each.element_size() for each in tensors)

    def __iter__(self) -> Iterator[OneBranch]:
        """Give the branches, until one is surely above the tolerance or has too few updates."""
        state = _copied((self.model.state_dict(), self.optimizer.state_dict()), self._device)
        draws = self._draws()
        modes = [(module, module.training) for module in self.model.modules()]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rungs, self._losses, k = [], [], 1
        try:
            while self.examples // (k * self.batch_size) >= self._needed:
                branch = OneBranch(self, k, rates)
                yield branch
                self._end(branch)
                self._restore(state, modes, draws)
                if self.rungs and critical.passed(self.rungs[-1], self.tolerance):
                    return
                k *= 2
        finally:
            self._restore(state, modes, draws)

    @property
    def _needed(self) -> int:
        return self.branch_warmup + critical.MIN_BRANCH_UPDATES

    def _end(self, branch: OneBranch) -> None:
        losses = branch.numbers()
        wanted = self.examples // branch.batch_size
        if len(losses) < wanted and all(map(math.isfinite, losses)):
            raise LegwError(
                f"critical: batch_size={branch.batch_size}: the branch made {len(losses)} updates, "
                f"and {self.examples} examples are {wanted}; call its step once an update"
            )
        losses = [loss if math.isfinite(loss) else math.inf for loss in losses[:wanted]]
        if branch.k == 1:
            self._base = losses
            return
        self._losses.append((branch.k, losses))
        run = (self._base, losses)
        self.rungs.append(
            critical.rung(
                branch.k, branch.batch_size, [run], absolute=self.absolute, cooldown=self.cooldown
            )
        )

    def _draws(self) -> tuple[Tensor, Tensor | None]:
        """Return the state of torch's generators, of the CPU and of the model's device."""
        device = next(self.model.parameters()).device
        on_gpu = device.type == "cuda"
        return torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None

    def _restore(
        self,
        state: tuple[Any, Any],
        modes: list[tuple[nn.Module, bool]],
        draws: tuple[Tensor, Tensor | None],
    ) -> None:
        model, optimizer = state
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(copy.deepcopy(optimizer))
        for parameter in self.model.parameters():
            parameter.grad = None
        for module, training in modes:
            module.training = training
        torch.set_rng_state(draws[0])
        if draws[1] is not None:
            torch.cuda.set_rng_state(draws[1], next(self.model.parameters()).device)

    def result(self) -> CriticalBatch:
        """Return the critical batch size, with its interval.

        Raises:
            LegwError: no branch was made.
        """
        self._check_made()
        return critical.critical_batch(self.rungs, self.batch_size, self.tolerance)

    def noise_batch(self) -> NoiseBatch:
        """Return the noise batch that is fitted to all branches, with its interval.

        As `noise_batch` of a recipe it says how much longer the rule `stretch` makes a run.

        Raises:
            LegwError: no branch was made.
        """
        self._check_made()
        steady = len(self._base) - round(self.cooldown * len(self._base))
        line = self._base[:steady] if self.cooldown else ()
        window = Window(self._base, self._losses, self.cooldown, line)
        return noise_batch([window], self.batch_size, self.branch_warmup)

    def _check_made(self) -> None:
        if not self.rungs:
            raise LegwError("critical: no branch was made; iterate to the end first")

    def advice(self) -> str:
        """Return one line: the critical batch size with its interval, and what to do."""
        found = self.result()
        between = critical.interval({"low": found.low, "high": found.high})
        if found.value is None:
            more = f"give more {setting('examples')} to look further"
            return f"critical batch size at least {found.largest} examples ({between}): {more}"
        return (
            f"critical batch size {number(found.value, 3)} examples ({between}): batch "
            f"{found.largest} is within the tolerance here"
        )


class OneBranch:
    """One branch: its batch size, and the loss of each of its updates."""

    def __init__(self, branches: Branches, k: int, rates: list[float]) -> None:
        self.k = k
        """Batch size over the loop's."""
        self.batch_size = k * branches.batch_size
        """In examples."""
        self._branches, self._rates = branches, rates
        self._losses: list[Any] = []

    def step(self, loss: Tensor | float) -> None:
        """Note an update's mean loss, and set the branch's rate; call before the optimizer's step.

        A scheduler of the loop is not stepped in a branch, whose rate follows this alone.
        """
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else float(loss))
        branches = self._branches
        updates = branches.examples // self.batch_size
        share = share_of_rate(
            min(len(self._losses), updates) - 1,
            updates,
            warmup_updates=0 if self.k == 1 else branches.branch_warmup,
            cooldown=branches.cooldown,
        )
        for group, rate in zip(branches.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.k**branches.power * share

    def numbers(self) -> list[float]:
        """Return the losses as numbers."""
        return [float(loss) for loss in self._losses]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Return all tensors in nested tables and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _copied(value: Any, device: torch.device | str | None) -> Any:
    """Return nested tables and lists with copies of their tensors."""
    if isinstance(value, Tensor):
        return value.detach().to(device or value.device, copy=True)
    if isinstance(value, dict):
        return type(value)((name, _copied(each, device)) for name, each in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_copied(each, device) for each in value)
    return copy.deepcopy(value)
