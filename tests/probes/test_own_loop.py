"""Probes in a loop of one's own: noise against brute force, branches, and the examples."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adapters.test_examples import finish, need, start
from expect import error_line
from legw import errors
from legw.errors import LegwError
from legw.probes import Branches, NoiseScale
from train.launch import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


class Examples:
    """A classifier with the exact noise scale of its gradient: that of each example by itself."""

    def __init__(self, count: int = 512) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        self.y = (self.x[:, :3].sum(1) > 0).long()
        torch.manual_seed(1)
        self.model = nn.Linear(6, 2).double()

    def gradient(self, ids: Tensor) -> list[Tensor]:
        """Return the summed gradient of some examples."""
        loss = cross_entropy(self.model(self.x[ids]), self.y[ids], reduction="sum")
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def answer(self) -> float:
        """Return S / |G|**2 over all examples, one gradient each."""
        each = torch.stack([
            torch.cat([g.flatten() for g in self.gradient(torch.tensor([i]))])
            for i in range(len(self.x))
        ])  # fmt: skip
        return float(each.var(0).sum() / (each.mean(0) ** 2).sum())


@pytest.mark.ci
def test_the_noise_scale_is_that_of_brute_force() -> None:
    """Both ways: sums over an update's micro-batches, and the gradient of each rank by itself."""
    examples, generator = Examples(), torch.Generator().manual_seed(2)
    sums, ranks = NoiseScale(), NoiseScale()
    for _ in range(1500):
        ids = torch.randint(0, 512, (64,), generator=generator)
        for parameter in examples.model.parameters():
            parameter.grad = None
        for number, part in enumerate(ids.split(16), 1):
            own = examples.gradient(part)
            for parameter, gradient in zip(examples.model.parameters(), own, strict=True):
                before = 0 if parameter.grad is None else parameter.grad
                parameter.grad = before + gradient / 64  # as loss / n and backward leave it
            sums.observe(examples.model.parameters(), examples=16 * number)
            ranks.observe(own, examples=16)
        mean = [parameter.grad for parameter in examples.model.parameters()]
        ranks.observe([each * 16 for each in mean], examples=64, times=4)  # averaged over 4 ranks
        sums.step()
        ranks.step()
    for noise in (sums, ranks):
        found = noise.result()
        assert found.n == 1500 and found.low is not None and found.high is not None
        assert found.low <= examples.answer() <= found.high
        assert found.value == pytest.approx(examples.answer(), rel=0.15)
    assert ranks.result().high - ranks.result().low < sums.result().high - sums.result().low
    assert sums.advice(64).startswith("noise scale ") and "times the examples" in sums.advice(64)


def test_squared_norms_are_taken_too_and_a_state_is_kept() -> None:
    noise = NoiseScale(samples=6)
    for _ in range(9):
        noise.observe(3.0, examples=1)
        noise.observe(torch.tensor(24.0), examples=4)
        noise.step()
    assert noise.result().value == pytest.approx(2.0) and noise.result().n == 6
    state = json.loads(json.dumps(noise.state_dict()))
    other = NoiseScale(samples=6)
    other.load_state_dict(state)
    assert other.result() == noise.result()


def test_what_is_no_noise() -> None:
    noise = NoiseScale()
    error_line(noise.result, kind=LegwError)
    noise.observe(3.0, examples=4)
    error_line(noise.step, kind=LegwError)
    error_line(noise.observe, nn.Linear(2, 2).parameters(), examples=4, kind=LegwError)
    error_line(noise.observe, 3.0, examples=0, kind=LegwError)
    error_line(noise.observe, 3.0, examples=4, times=0, kind=LegwError)
    error_line(NoiseScale, samples=2, kind=LegwError)
    noise.observe(9.0, examples=8)
    noise.step()
    assert noise.advice(8) == "noise scale not known after 1 updates: observe more of them"


# Branches ----------------------------------------------------------------------------


def loop(optimizer: type[torch.optim.Optimizer], examples: int = 60, **more: Any) -> Any:
    """Return a model, its optimizer after some updates, and branches of it."""
    data = Examples()
    made = optimizer(data.model.parameters(), lr=0.05)
    train(data, made, torch.arange(80).split(8))
    return data, made, Branches(data.model, made, batch_size=8, examples=8 * examples, **more)


def train(data: Examples, optimizer: Any, batches: Any, branch: Any = None) -> list[float]:
    rates = []
    for ids in batches:
        loss = cross_entropy(data.model(data.x[ids]), data.y[ids])
        optimizer.zero_grad()
        loss.backward()
        if branch is not None:
            branch.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return rates


def plain(value: Any) -> Any:
    """Return nested values with lists in place of tensors, which compare."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("cooldown", [0.0, 0.5])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_loop_goes_on_as_if_nothing_had_been(kind: Any, cooldown: float) -> None:
    data, optimizer, branches = loop(kind, tolerance=0.5, cooldown=cooldown)
    data.model.eval()
    before = copy.deepcopy((plain(data.model.state_dict()), plain(optimizer.state_dict())))
    draw = torch.get_rng_state()
    rates = {}
    for branch in branches:
        assert plain(data.model.state_dict()) == before[0]  # each from the same state
        rates[branch.k] = train(data, optimizer, torch.arange(480).split(branch.batch_size), branch)
        torch.rand(3)
    assert (plain(data.model.state_dict()), plain(optimizer.state_dict())) == before
    assert torch.equal(torch.get_rng_state(), draw) and not data.model.training
    assert set(rates) == {1, 2}
    for k, found in rates.items():
        count = 60 // k
        falling = [
            min((count - u) / (cooldown * count), 1) if cooldown else 1 for u in range(count)
        ]
        ramp = [min((u + 1) / 10, 1) if k > 1 else 1 for u in range(count)]
        wanted = [0.05 * k**0.5 * a * b for a, b in zip(ramp, falling, strict=True)]
        assert found == pytest.approx(wanted)
    result, advice = branches.result(), branches.advice()
    assert result.largest in (8, 16)
    size = "at least 16" if result.value is None else errors.number(result.value, 3)
    assert advice.startswith(f"critical batch size {size} examples (95 % interval ")
    found = branches.noise_batch()
    assert found.low >= 0 and (found.value is None or found.value >= found.low)


def test_a_loop_that_is_left_early_is_put_back() -> None:
    data, optimizer, branches = loop(torch.optim.SGD)
    before = plain(data.model.state_dict())
    for branch in branches:
        train(data, optimizer, torch.arange(80).split(8), branch)
        break
    del branch
    iterator = iter(branches)
    train(data, optimizer, torch.arange(80).split(8), next(iterator))
    iterator.close()
    assert plain(data.model.state_dict()) == before


def test_a_diverged_branch_ends_the_ladder() -> None:
    data, _, branches = loop(torch.optim.SGD, examples=240)
    for branch in branches:
        for ids in torch.arange(512).repeat(4)[:1920].split(branch.batch_size):
            loss = cross_entropy(data.model(data.x[ids]), data.y[ids])
            branch.step(loss if branch.k == 1 else float("nan"))
    assert [one.k for one in branches.rungs] == [2]
    assert branches.result().largest == 8


@pytest.mark.parametrize("cooldown", [0.0, 0.5])
def test_the_noise_batch_is_that_of_the_losses(cooldown: float) -> None:
    """A loop whose branches are behind as the law says, of batch 8 and noise batch 80."""
    _, _, branches = loop(
        torch.optim.SGD, examples=240, branch_warmup=0, tolerance=0.9, cooldown=cooldown
    )
    for branch in branches:
        behind, seen = (1 + 0.1) / (1 + 0.1 * branch.k), 0.0
        count = branches.examples // branch.batch_size
        for update in range(count):
            branch.step(3.0 - seen * behind / 240)
            left = (count - update) / count
            seen += branch.k * (min(left / cooldown, 1) if cooldown else 1)
    assert branches.noise_batch().value == pytest.approx(80, rel=0.03 if cooldown else 1e-6)


def test_what_can_be_no_branches() -> None:
    data, optimizer, branches = loop(torch.optim.SGD)
    error_line(branches.result, kind=LegwError)
    error_line(branches.noise_batch, kind=LegwError)

    def unfinished() -> None:
        for branch in branches:
            branch.step(1.0)

    error_line(unfinished, kind=LegwError)
    made = {"batch_size": 8, "examples": 480}
    for wrong in (
        {"examples": 479}, {"batch_size": 0}, {"power": 2.0}, {"tolerance": 0.0},
        {"branch_warmup": -1}, {"cooldown": 1.0},
    ):  # fmt: skip
        error_line(Branches, data.model, optimizer, **(made | wrong), kind=LegwError)


# A child's ru_maxrss begins at its parent's memory, which would hide what the child adds.
MEMORY = """
import sys, torch
from torch import nn
from legw.probes import Branches
from legw.train.hardware import peak_memory
model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(12)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
x = torch.randn(64, 1024)
def train(batches, branch=None):
    for part in batches:
        loss = model(part).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if branch:
            branch.step(loss)
        optimizer.step()
train(x.split(1)[:3])
before = int(peak_memory(torch.device("cpu")))
branches = Branches(model, optimizer, batch_size=1, examples=64, branch_warmup=10, tolerance=0.9)
if sys.argv[1] == "branches":
    for branch in branches:
        train(x.split(branch.batch_size), branch)
else:
    train(x.split(1))
after = int(peak_memory(torch.device("cpu")))
print(after - before, branches.copied_bytes, sum(p.numel() * 4 for p in model.parameters()))
"""


@pytest.mark.ci
def test_the_peak_memory_is_that_of_two_copies_at_most() -> None:
    """Weights and optimizer state once; the optimizer's once more while it is put back."""
    grown = {}
    for name in ("branches", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True
        )
        grown[name], copied, weights = map(int, done.stdout.split())
    extra = grown["branches"] - grown["plain"]
    assert copied == pytest.approx(3 * weights, rel=1e-3)  # AdamW: weights and two moments
    assert 0.8 * copied < extra < copied + 3 * weights


# The examples -------------------------------------------------------------------------


def check(out: str) -> None:
    noise = re.findall(r"^noise scale ([\d.]+) examples \(95 % interval", out, re.MULTILINE)
    batch = re.findall(
        r"^critical batch size (?:above )?([\d.]+) examples \(95 %", out, re.MULTILINE
    )
    assert len(noise) == len(batch) == 1, out
    assert 5 < float(noise[0]) < 1000 and 16 <= float(batch[0]) <= 1024


@pytest.mark.ci
def test_the_example_of_a_plain_loop_runs() -> None:
    check(finish(start(["examples/critical_loop.py"])))


@pytest.mark.ci
@pytest.mark.parametrize("library", ["accelerate", "lightning"])
def test_the_examples_of_other_loops_run(library: str) -> None:
    need(library)
    check(finish(start([f"examples/critical_{library}.py"])))


@pytest.mark.ci
def test_two_ranks_of_accelerate_agree() -> None:
    need("accelerate")
    port, words = free_port(), ["examples/critical_accelerate.py"]
    ranks = [
        start(words, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1",
              MASTER_PORT=port, ACCELERATE_USE_CPU="true")
        for rank in (0, 1)
    ]  # fmt: skip
    outs = [finish(rank) for rank in ranks]
    check(outs[0])


@pytest.mark.parametrize("name", ["loop", "accelerate", "lightning"])
def test_an_example_can_be_read_at_one_go(name: str) -> None:
    path = EXAMPLES / f"critical_{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 65
