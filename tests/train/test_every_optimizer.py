"""Every optimizer that a recipe can name: one table of them, and what each has to do.

A new optimizer is one line in `EVERY`; its own formula is tested in a file of its own, as in
`test_optim.py` (LARS, LAMB) and `test_muon.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from legw import optimizers
from legw.errors import RecipeError
from legw.train.muon import Muon
from legw.train.optim import LAMB, LARS, build, parameter_groups
from threads import threads

ANY = "must be a number, at least 0 and finite"
LR = 0.1
BETAS = {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}


def muon_by_hand(model: nn.Module) -> list[dict[str, Any]]:
    """Return the groups of `small_model`: a hidden matrix, the output layer, everything else."""
    (hidden, output), others = (
        [weight for weight in model.parameters() if (weight.ndim == 2) == matrix]
        for matrix in (True, False)
    )
    adamw = {"use_muon": False, "lr": LR / 2}
    return [
        {"params": [hidden]},
        {"params": [output], "weight_decay": 0.2, **adamw},
        {"params": others, "weight_decay": 0.0, **adamw},
    ]


@dataclass(frozen=True)
class Case:
    """An optimizer as data, and the torch optimizer that it stands for."""

    data: optimizers.Optimizer
    """With settings that are not its defaults."""
    kind: Callable[..., Any]
    """The torch class."""
    settings: dict[str, Any]
    """The data's settings under torch's names."""
    groups: Callable[[nn.Module], Iterable[Any]] = field(default=nn.Module.parameters)
    """The parameters as the class takes them."""

    @property
    def ours(self) -> bool:
        """Whether it is no class of torch's."""
        return not self.kind.__module__.startswith("torch.")


ADAM = {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3, "weight_decay": 0.1}
LARS_SETTINGS = {"momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.02}
MUON = {"momentum": 0.8, "nesterov": False, "weight_decay": 0.1, "ns_steps": 4}
ADAMW_OF_MUON = {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3, "adamw_lr_ratio": 0.5,
                 "adamw_weight_decay": 0.2}  # fmt: skip
SGD = {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}
EVERY = [
    Case(optimizers.SGD(**SGD), torch.optim.SGD, SGD),
    Case(optimizers.Adam(**ADAM), torch.optim.Adam, BETAS),
    Case(optimizers.AdamW(**ADAM), torch.optim.AdamW, BETAS),
    Case(optimizers.LARS(epsilon=1e-3, **LARS_SETTINGS), LARS, {"eps": 1e-3, **LARS_SETTINGS},
         parameter_groups),
    Case(optimizers.LAMB(**ADAM), LAMB, BETAS, parameter_groups),
    Case(optimizers.Muon(**MUON, **ADAMW_OF_MUON), Muon, BETAS | MUON, muon_by_hand),
]  # fmt: skip

every = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.data.kind)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine are faster so."""
    with threads(1):
        yield


def small_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a net with weights, biases, a norm and an output layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).to(dtype)


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for weight in model.parameters():
        made = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.grad = made.to(weight.dtype)


def run(optimizer: Any, model: nn.Module, steps: Iterable[int] = range(6)) -> list[Tensor]:
    for step in steps:
        set_gradients(model, step)
        optimizer.step()
    return [weight.detach().clone() for weight in model.parameters()]


def assert_close(actual: Iterable[Tensor], expected: Iterable[Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(list(actual), list(expected), **tolerance)


def assert_same(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    assert_close(actual, expected, rtol=0, atol=0)


def shipped(kind: type = optimizers.Optimizer) -> list[type[optimizers.Optimizer]]:
    """Return every optimizer that legw ships as data; tests may have made more."""
    below = [each for sub in kind.__subclasses__() for each in (sub, *shipped(sub))]
    return [each for each in below if each.__module__ == optimizers.__name__]


def test_the_table_has_every_optimizer_once() -> None:
    assert sorted(type(case.data).__name__ for case in EVERY) == sorted(
        kind.__name__ for kind in shipped()
    )


@every
def test_the_table_changes_every_setting(case: Case) -> None:
    """Else `test_build_carries_every_setting_over` would not notice one that is dropped.

    The gates of an LSTM, which `small_model` has not, are tested with Muon's other groups.
    """
    for name, usual in vars(type(case.data)()).items():
        assert name == "split_gates" or getattr(case.data, name) != usual, name


# build ------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_defaults_can_be_built_and_move_every_weight(case: Case, dtype: torch.dtype) -> None:
    model = small_model(dtype)
    before = copy.deepcopy(model.state_dict())
    optimizer = build(type(case.data)(), model, lr=0.1)
    assert type(optimizer).__name__ == type(case.data).__name__
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@every
@pytest.mark.parametrize("foreach", [None, True, False])
def test_build_carries_every_setting_over(case: Case, foreach: bool | None) -> None:
    model, twin = small_model(), small_model()
    built = build(case.data, model, lr=LR, foreach=foreach)
    assert type(built) is case.kind
    by_hand = case.kind(case.groups(twin), lr=LR, foreach=False, **case.settings)
    steps = range(24)
    assert_close(run(built, model, steps), run(by_hand, twin, steps), rtol=1e-10, atol=1e-12)


@every
def test_frozen_and_doubled_parameters_are_left_out(case: Case) -> None:
    model = nn.Module()
    model.embedding, model.frozen = nn.Embedding(11, 6), nn.Linear(6, 6).requires_grad_(False)
    model.hidden, model.output = nn.Linear(6, 6), nn.Linear(6, 11)
    model.output.weight = model.embedding.weight
    groups = build(case.data, model, 0.1).param_groups
    trainable = sum(p.requires_grad for p in model.parameters())
    assert sum(len(group["params"]) for group in groups) == trainable == 4


@every
def test_a_negative_rate_is_refused(case: Case) -> None:
    with pytest.raises(RecipeError) as caught:
        build(case.data, small_model(), lr=-1)
    assert str(caught.value) == f"{case.data.kind}: lr=-1: {ANY}"


# The manners of a torch optimizer ---------------------------------------------------


@every
def test_a_closure_computes_gradients_and_its_loss_comes_back(case: Case) -> None:
    model = small_model()
    optimizer = build(case.data, model, lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([weight.square().sum() for weight in model.parameters()]).sum()
        loss.backward()
        return loss

    first = closure().item()
    assert optimizer.step(closure).item() == first
    assert closure().item() < first
    assert optimizer.step() is None


@every
def test_resuming_is_bitwise_the_same(case: Case, tmp_path: Path) -> None:
    model = small_model(torch.float32)
    optimizer = build(case.data, model, 0.1)
    run(optimizer, model, range(10))
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    straight = run(optimizer, model, range(10, 20))

    weights, state = torch.load(tmp_path / "state.pt")
    again = small_model(torch.float32)
    again.load_state_dict(weights)
    resumed = build(case.data, again, 0.7)
    resumed.load_state_dict(state)
    rates = [[group["lr"] for group in each.param_groups] for each in (resumed, optimizer)]
    assert rates[0] == rates[1]
    assert_same(run(resumed, again, range(10, 20)), straight)


@every
def test_a_copy_goes_on_like_the_original(case: Case) -> None:
    model = small_model()
    optimizer = case.kind(case.groups(model), lr=LR, **case.settings)
    run(optimizer, model, range(5))
    twin, of_twin = copy.deepcopy((model, optimizer))
    assert_same(run(of_twin, twin, range(5, 9)), run(optimizer, model, range(5, 9)))


@every
def test_lr_may_be_a_tensor(case: Case) -> None:
    by_float, by_tensor = small_model(), small_model()
    lr = torch.tensor(0.1, dtype=torch.float64)
    groups = [
        list(case.groups(model)) if not case.ours else
        [{k: v for k, v in group.items() if k != "lr"} for group in case.groups(model)]
        for model in (by_float, by_tensor)
    ]  # fmt: skip
    more = {} if case.ours else {"foreach": False}
    one = case.kind(groups[0], lr=LR, **case.settings, **more)
    two = case.kind(groups[1], lr=lr, **case.settings, **more)
    for step in range(24):
        rate = 0.3 * (1 + math.sin(step))
        for group in one.param_groups:
            group["lr"] = rate
        lr.fill_(rate)
        expected = run(one, by_float, [step])
        assert_close(run(two, by_tensor, [step]), expected, rtol=1e-12, atol=1e-13)


@every
def test_torch_schedulers_steer_every_group(case: Case) -> None:
    first, second = (list(case.groups(small_model())) for _ in range(2))
    optimizer = case.kind(first, lr=2.0, **case.settings)
    for group in second if case.ours else [{"params": second}]:
        optimizer.add_param_group({**group, "lr": 4.0})
    begin = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [lr / 2 for lr in begin]
    assert begin[-1] == 4.0


@every
def test_weights_without_gradient_stay_and_count_no_update(case: Case) -> None:
    model = small_model()
    optimizer = build(case.data, model, 0.1)
    optimizer.step()
    assert not optimizer.state
    for late in range(len(list(model.parameters()))):
        model, twin = small_model(), small_model()
        optimizer, fresh = build(case.data, model, 0.1), build(case.data, twin, 0.1)
        weights, others = list(model.parameters()), list(twin.parameters())
        set_gradients(model, 1)
        weights[late].grad = None
        before = weights[late].detach().clone()
        optimizer.step()
        assert_same([weights[late]], [before])
        assert weights[late] not in optimizer.state
        # Its first update is then a first update: the bias correction is its own.
        for weight, other in zip(weights, others, strict=True):
            weight.grad = other.grad = None
        weights[late].grad, others[late].grad = torch.ones_like(before), torch.ones_like(before)
        optimizer.step()
        fresh.step()
        assert_same([weights[late]], [others[late]])


@every
def test_gradients_and_state_lie_in_the_weights_memory_order(case: Case) -> None:
    """Torch's fused kernels need it; the others must not be disturbed by it."""

    def convolution(memory_format: torch.memory_format) -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 5, bias=False).to(memory_format=memory_format)

    def step(model: nn.Module, optimizer: Any, seed: int) -> None:
        gradient = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        model.weight.grad = gradient  # type: ignore[assignment]
        optimizer.step()

    plain, last = convolution(torch.contiguous_format), convolution(torch.channels_last)
    one, two = build(case.data, plain, 0.1), build(case.data, last, 0.1)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if case.kind is Muon else {"rtol": 1e-6, "atol": 1e-7}
    for seed in (1, 2):
        step(plain, one, seed)
        step(last, two, seed)
        assert_close(last.parameters(), plain.parameters(), **tolerance)
        two.load_state_dict(copy.deepcopy(one.state_dict()))


@pytest.mark.parametrize(
    "case", [case for case in EVERY if case.ours], ids=lambda case: case.data.kind
)
def test_sparse_gradients_are_refused_before_anything_moves(case: Case) -> None:
    """Torch's own have lines of their own about it."""
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 4), nn.Linear(4, 2))
    model(torch.tensor([1, 2])).sum().backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError) as caught:
        build(case.data, model, lr=0.1).step()
    assert str(caught.value) == (
        f"{case.data.kind}: gradient of shape (5, 3): layout=torch.sparse_coo: must be dense; "
        "build the embedding with sparse=False"
    )
    assert_same(model.state_dict().values(), before.values())
