"""LARS and LAMB against their formulas, and how `build` calls torch's own optimizers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from legw import optimizers
from legw.errors import RecipeError
from legw.train.multi_tensor import CPU_BATCH_NUMEL
from legw.train.optim import LAMB, LARS, build, parameter_groups
from threads import threads

STEPS = 24


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine are faster so."""
    with threads(1):
        yield


def lars_step(w, g, state, *, lr, momentum, weight_decay, trust_coefficient, eps, adapt=True):
    """The formula of LARS for one tensor, letter by letter."""
    w_norm, g_norm = w.norm().item(), g.norm().item()
    ratio = 1.0
    if adapt and w_norm > 0 and g_norm > 0:
        ratio = trust_coefficient * w_norm / (g_norm + weight_decay * w_norm + eps)
    m = state.get("m", torch.zeros_like(w))
    state["m"] = momentum * m + lr * ratio * (g + weight_decay * w)
    return w - state["m"]


def lamb_step(w, g, state, *, lr, betas, weight_decay, eps, adapt=True):
    """The formula of LAMB for one tensor, letter by letter."""
    beta1, beta2 = betas
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", torch.zeros_like(w)) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", torch.zeros_like(w)) + (1 - beta2) * g**2
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    u = m_hat / (v_hat.sqrt() + eps) + weight_decay * w
    w_norm, u_norm = w.norm().item(), u.norm().item()
    ratio = w_norm / u_norm if adapt and w_norm > 0 and u_norm > 0 else 1.0
    return w - lr * ratio * u


LAWS = {LARS: lars_step, LAMB: lamb_step}
SETTINGS = {
    LARS: {"momentum": 0.9, "weight_decay": 0.05, "trust_coefficient": 0.02, "eps": 1e-3},
    LAMB: {"betas": (0.8, 0.97), "weight_decay": 0.05, "eps": 1e-3},
}
both = pytest.mark.parametrize("kind", [LARS, LAMB])


def start(shapes=((4, 3), (2, 3, 2), (5,), (3, 4)), dtype=torch.float64, seed=0) -> list[Parameter]:
    """Weights, the last of them all zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights[-1].zero_()
    return [Parameter(weight.to(dtype)) for weight in weights]


def gradients(weights, step, seed=1) -> list[Tensor]:
    """Gradients of one step: normal, but all zero for the first weight every third step."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    made = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    if step % 3 == 0:
        made[0].zero_()
    return [g.to(w.dtype) for g, w in zip(made, weights, strict=True)]


def set_gradients(weights, step, seed=1) -> None:
    for weight, gradient in zip(weights, gradients(weights, step, seed), strict=True):
        weight.grad = gradient


def run(optimizer, weights, steps=range(STEPS)) -> list[Tensor]:
    for step in steps:
        set_gradients(weights, step)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def moving_lr(step: int) -> float:
    return 0.3 * (1 + math.sin(step))


def assert_close(actual, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(list(actual), list(expected), **tolerance)


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0)


# The laws


@both
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_every_step_follows_the_formula_while_lr_moves(kind, foreach, adapt, weight_decay):
    settings = SETTINGS[kind] | {"weight_decay": weight_decay if adapt else 0.0}
    weights = start()
    expected = [weight.detach().clone() for weight in weights]
    states = [{} for _ in weights]
    group = {"params": weights, "adapt": adapt}
    optimizer = kind([group], lr=1.0, foreach=foreach, **settings)
    for step in range(STEPS):
        lr = optimizer.param_groups[0]["lr"] = moving_lr(step)
        expected = [
            LAWS[kind](w, g, state, lr=lr, adapt=adapt, **settings)
            for w, g, state in zip(expected, gradients(weights, step), states, strict=True)
        ]
        run(optimizer, weights, [step])
        assert_close(weights, expected)


@both
def test_zero_weight_and_zero_gradient_take_the_plain_step(kind):
    # Ratio 1 for a zero weight: without decay the step is momentum SGD's, or Adam's.
    plain = {LARS: torch.optim.SGD, LAMB: torch.optim.Adam}[kind]
    settings = {LARS: {"momentum": 0.9}, LAMB: {"eps": 1e-6}}[kind]
    weight, other = Parameter(torch.zeros(3)), Parameter(torch.zeros(3))
    gradient = torch.tensor([1.0, -2.0, 3.0])
    weight.grad, other.grad = gradient, gradient.clone()
    kind([weight], lr=0.1, weight_decay=0.0, **settings).step()
    plain([other], lr=0.1, **settings).step()
    assert_close([weight], [other], rtol=1e-6, atol=0)


@both
def test_zero_gradient_without_decay_leaves_the_weight(kind):
    weight = Parameter(torch.ones(3))
    weight.grad = torch.zeros(3)
    kind([weight], lr=0.1, weight_decay=0.0).step()
    assert_same([weight], [torch.ones(3)])


def test_lars_without_momentum_is_a_step_of_the_weights_length():
    weight = Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    weight.grad = torch.tensor([0.0, 7.0], dtype=torch.float64)
    LARS([weight], lr=2.0, momentum=0.0, trust_coefficient=0.01, eps=0.0).step()
    assert_close([weight], [torch.tensor([3.0, 4.0 - 2.0 * 0.01 * 5.0], dtype=torch.float64)])


def test_lamb_moves_by_lr_times_the_weights_length():
    (weight,) = start([(6, 6)], seed=3)
    weight.data.normal_()
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    LAMB([weight], lr=0.125).step()
    assert (weight - before).norm().item() == pytest.approx(0.125 * before.norm().item())


# Against timm, which differs from LARS only once lr moves


def test_lars_equals_timm_at_a_constant_lr_and_not_beyond():
    timm = pytest.importorskip("timm.optim")
    settings = {"momentum": 0.9, "weight_decay": 0.05, "eps": 1e-3}
    ours, theirs = start(), start()
    our = LARS(ours, 0.5, trust_coefficient=0.02, **settings)
    their = timm.Lars(theirs, 0.5, trust_coeff=0.02, **settings)
    assert_close(run(our, ours), run(their, theirs))
    our.param_groups[0]["lr"] = their.param_groups[0]["lr"] = 0.05
    assert not torch.allclose(run(our, ours, [99])[0], run(their, theirs, [99])[0], rtol=1e-6)


def test_lamb_equals_timm():
    timm = pytest.importorskip("timm.optim")
    ours, theirs = start(), start()
    our = LAMB(ours, 0.1, **SETTINGS[LAMB])
    their = timm.Lamb(theirs, 0.1, max_grad_norm=None, **SETTINGS[LAMB])
    assert_close(run(our, ours), run(their, theirs))


# Batches of tensors


@both
def test_one_at_a_time_and_many_at_once_are_the_same(kind):
    shapes = [(300, 300), (7,), (4, 3), (CPU_BATCH_NUMEL + 1,), (2, 2), (3, 3)]
    results = []
    for foreach in (False, True, None):
        weights = start(shapes, dtype=torch.float32)
        results.append(run(kind(weights, 0.1, foreach=foreach), weights, range(3)))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@both
def test_dtypes_mix_and_keep_their_state(kind):
    dtypes = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float64: 1e-12}
    weights = [weight for dtype in dtypes for weight in start([(4, 3), (1,)], dtype)[:1]]
    optimizer = kind(weights, 0.1)
    (exact,) = start([(4, 3), (1,)])[:1]
    expected = kind([exact], 0.1)
    for step in range(1, 6):
        for weight in (*weights, exact):
            set_gradients([weight], step)
        optimizer.step()
        expected.step()
    for weight, digits in zip(weights, dtypes.values(), strict=True):
        assert (weight.double() - exact).norm() < digits * exact.norm()
        for name, value in optimizer.state[weight].items():
            assert value.dtype == (torch.float32 if name == "step" else weight.dtype)


@both
def test_half_precision_norms_do_not_overflow(kind):
    weight = Parameter(torch.full((1000,), 3000.0, dtype=torch.float16))
    weight.grad = torch.full((1000,), 3000.0, dtype=torch.float16)
    kind([weight], lr=0.1, weight_decay=0.0).step()
    # Both move 0.1 (LARS: of a thousandth) of the weights' length.
    expected = 3000.0 * (1 - {LARS: 1e-4, LAMB: 0.1}[kind])
    assert_close([weight], [torch.full_like(weight, expected)], rtol=1e-3, atol=0)


@both
@pytest.mark.parametrize("layout", ["transposed", "channels_last", "gaps"])
def test_memory_order_does_not_matter(kind, layout):
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(4, 5, 6, 7, generator=generator)
    steps = [torch.randn(4, 5, 6, 7, generator=generator) for _ in range(3)]

    def strange(values):
        if layout == "transposed":
            return values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
        if layout == "channels_last":
            return values.contiguous(memory_format=torch.channels_last)
        return torch.stack([values, values], dim=-1)[..., 0]

    def trained(weight, lay):
        optimizer = kind([weight], lr=0.1)
        for gradient in steps:
            weight.grad = lay(gradient.clone())
            optimizer.step()
        return weight

    expected = trained(Parameter(values.clone()), lambda gradient: gradient)
    for weight, lay in [
        (Parameter(strange(values)), lambda gradient: gradient),
        (Parameter(values.clone()), strange),
    ]:
        assert_close([trained(weight, lay)], [expected], rtol=1e-5, atol=1e-6)


# Groups


def test_groups_have_their_own_settings():
    one, two = start()[:2], start()[:2]
    optimizer = LAMB([{"params": one, "lr": 0.3, "weight_decay": 0.0}, {"params": two}], lr=0.1)
    alone, beside = start()[:2], start()[:2]
    results = run(optimizer, one + two, range(0))
    for step in range(5):
        for weights in (one, two, alone, beside):
            set_gradients(weights, step)
        optimizer.step()
    expected_one = run(LAMB(alone, 0.3, weight_decay=0.0), alone, range(5))
    expected_two = run(LAMB(beside, 0.1), beside, range(5))
    assert len(results) == 4
    assert_same(one, expected_one)
    assert_same(two, expected_two)


@both
def test_an_excluded_group_is_not_decayed_even_if_the_others_are(kind):
    optimizer = kind([{"params": start(), "adapt": False}], lr=0.1, weight_decay=0.3)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert optimizer.defaults["weight_decay"] == 0.3


class Tied(torch.nn.Module):
    """An LSTM language model whose output layer shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6)
        self.lstm = torch.nn.LSTM(6, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.output = torch.nn.Linear(6, 11)
        self.output.weight = self.embedding.weight


def test_parameter_groups_split_weights_from_biases_and_norms():
    model = Tied()
    weights, others = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in weights.pop("params")] == [
        "embedding.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    ]
    assert sorted(names[id(p)] for p in others.pop("params")) == [
        "lstm.bias_hh_l0",
        "lstm.bias_ih_l0",
        "norm.bias",
        "norm.weight",
        "output.bias",
        "scale",
    ]
    assert weights == {"adapt": True}
    assert others == {"adapt": False, "weight_decay": 0.0}


def test_parameter_groups_leave_out_an_empty_group():
    (only,) = parameter_groups(torch.nn.Linear(2, 2, bias=False))
    assert only["adapt"] is True
    (only,) = parameter_groups(torch.nn.LayerNorm(3))
    assert only["adapt"] is False
    assert parameter_groups(torch.nn.ReLU()) == []


# What torch does with an optimizer; what it does with every one is in test_every_optimizer.py


def test_lamb_loads_its_counts_as_the_fused_kernel_needs_them():
    weight = start()[0]
    optimizer = LAMB([weight], 0.1)
    run(optimizer, [weight], range(3))
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["step"] = state["state"][0]["step"].double()
    optimizer.load_state_dict(state)
    assert optimizer.state[weight]["step"].dtype is torch.float32
    assert optimizer.state[weight]["step"].item() == 3


@pytest.mark.ci
@both
def test_compiled_steps_are_the_same(kind):
    shapes = [(4, 3), (5,)]
    plain, compiled = start(shapes), start(shapes)
    one, two = (
        kind([{"params": a}, {"params": [b], "adapt": False}], torch.tensor(0.1))
        for *a, b in (plain, compiled)
    )
    # LARS is one graph; LAMB breaks it to call torch's fused Adam.
    step = torch.compile(two.step, backend="eager", fullgraph=kind is LARS)
    for number in range(2):
        run(one, plain, [number])
        set_gradients(compiled, number)
        step()
    assert_same(compiled, plain)


# Messages


ANY = "must be a number, at least 0 and finite"
SHARE = "must be a number, at least 0 and below 1"


@pytest.mark.parametrize(
    ("kind", "settings", "line"),
    [
        (LARS, {"lr": -0.1}, f"lars: lr=-0.1: {ANY}"),
        (LAMB, {"lr": math.nan}, f"lamb: lr=nan: {ANY}"),
        (LAMB, {"lr": math.inf}, f"lamb: lr=inf: {ANY}"),
        (LARS, {"lr": "0.1"}, f"lars: lr='0.1': {ANY}"),
        (LARS, {"lr": torch.tensor(-2.0)}, f"lars: lr=-2.0: {ANY}"),
        (
            LAMB,
            {"lr": torch.tensor([2.0])},
            f"lamb: lr=tensor([2.]): {ANY}; give Python's own number, by int() or float()",
        ),
        (LARS, {"momentum": 1.0}, f"lars: momentum=1.0: {SHARE}"),
        (LARS, {"weight_decay": -1}, f"lars: weight_decay=-1: {ANY}"),
        (LAMB, {"weight_decay": True}, f"lamb: weight_decay=True: {ANY}"),
        (LARS, {"eps": -1e-8}, f"lars: eps=-1e-08: {ANY}"),
        (LAMB, {"eps": None}, f"lamb: eps=None: {ANY}"),
        (LAMB, {"betas": (0.9, 1.5)}, f"lamb: betas=1.5: {SHARE}"),
        (LAMB, {"betas": (-0.9, 0.9)}, f"lamb: betas=-0.9: {SHARE}"),
        (
            LARS,
            {"trust_coefficient": 0},
            "lars: trust_coefficient=0: must be a number, at least 1e-300 and finite",
        ),
    ],
)
def test_a_bad_argument_is_one_clear_line(kind, settings, line):
    with pytest.raises(RecipeError) as caught:
        kind(start(), **({"lr": 0.1} | settings))
    assert str(caught.value) == line


@both
def test_a_bad_group_is_refused_and_not_added(kind):
    optimizer = kind(start(), lr=0.1)
    for settings, line in [
        ({"lr": -1}, f"lr=-1: {ANY}"),
        ({"adapt": 1}, "adapt=1: must be True or False"),
        (
            {"adapt": False, "weight_decay": 0.1},
            "weight_decay=0.1 (adapt=False): must be 0 for what is left out of the ratio; "
            "leave it out",
        ),
    ]:
        with pytest.raises(RecipeError) as caught:
            optimizer.add_param_group({"params": start(), **settings})
        assert str(caught.value) == f"{kind.kind}: {line}"
    assert len(optimizer.param_groups) == 1


# build


def small_model(dtype=torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2)
    ).to(dtype)


def test_build_fuses_torchs_own_where_it_can():
    assert build(optimizers.SGD(), small_model(), 0.1).defaults["fused"] is True
    assert build(optimizers.Adam(), small_model(), 0.1).defaults["fused"] is True
    assert build(optimizers.AdamW(), small_model(), 0.1, foreach=True).defaults["fused"] is False
    gaps = torch.nn.Linear(4, 3)
    gaps.weight = Parameter(torch.randn(3, 8)[:, ::2])
    assert build(optimizers.Adam(), gaps, 0.1).defaults["fused"] is False


def test_build_leaves_sparse_gradients_to_torch():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = build(optimizers.SGD(), embedding, 0.1, foreach=False)
    before = embedding.weight.detach().clone()
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert_close([embedding.weight[1]], [before[1] - 0.1], rtol=1e-6, atol=0)
    assert_same([embedding.weight[2]], [before[2]])


def test_build_refuses_what_it_does_not_know():
    with pytest.raises(RecipeError) as caught:
        build(optimizers.Optimizer(), small_model(), lr=0.1)
    assert str(caught.value) == (
        "optimizer 'Optimizer' is unknown (known: SGD, Adam, AdamW, LARS, LAMB, Muon)"
    )
