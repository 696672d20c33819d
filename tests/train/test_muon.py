"""Muon against its formula, torch's own Muon and AdamW; and which tensors it takes.

The formula is written out for one matrix at a time, in double precision.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from legw import optimizers
from legw.apps.row_lstm import RowLSTM
from legw.errors import LegwWarning, RecipeError
from legw.recipe import Recipe
from legw.train import RecipeLR, muon
from legw.train.lanes import Lanes
from legw.train.muon import Muon
from legw.train.muon_groups import described, muon_choices, muon_groups
from legw.train.optim import build
from legw.train.orthogonal import fast_dtype, orthogonal
from threads import threads

STEPS = 12


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine are faster so."""
    with threads(1):
        yield


def literal_orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Five products a step, as published, for one matrix."""
    a, b, c = optimizers.NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / max(x.norm().item(), 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def literal_step(w, g, state, *, lr, momentum, nesterov, weight_decay, ns_steps, split):
    """The formula of Muon for one weight, gate by gate."""
    m = state["m"] = momentum * state.get("m", torch.zeros_like(g)) + (1 - momentum) * g
    u = (1 - momentum) * g + momentum * m if nesterov else m
    rows = w.shape[0] // split
    gates = []
    for gate in range(split):
        part = u[gate * rows : (gate + 1) * rows].reshape(rows, -1)
        length = 0.2 * math.sqrt(max(part.shape))
        gates.append(length * literal_orthogonal(part, ns_steps))
    return w - lr * weight_decay * w - lr * torch.cat(gates).reshape(w.shape)


def weights_of(shapes, dtype=torch.float64, seed=0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for shape in shapes
    ]


def gradients(weights, step) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    made = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    return [g.to(w.dtype) for g, w in zip(made, weights, strict=True)]


def run(optimizer, weights, steps=range(STEPS)) -> list[Tensor]:
    for step in steps:
        for weight, gradient in zip(weights, gradients(weights, step), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def both_parts(dtype=torch.float32) -> tuple[list[Parameter], list[dict[str, Any]]]:
    """Weights for Muon, of which two are stacks of four, and weights for AdamW."""
    weights = weights_of([(8, 5), (8, 5), (6, 6), (7, 3), (4,)], dtype)
    return weights, [
        {"params": weights[:2], "split": 4},
        {"params": weights[2:3]},
        {"params": weights[3:], "use_muon": False, "lr": 0.05},
    ]


def assert_close(actual, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(list(actual), list(expected), **tolerance)


def assert_same(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0)


# The laws ---------------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("foreach", [None, False])
def test_every_step_follows_the_formula_while_lr_moves(nesterov, weight_decay, split, foreach):
    settings = {"momentum": 0.8, "nesterov": nesterov, "weight_decay": weight_decay, "ns_steps": 4}
    weights = weights_of([(8, 5), (4, 9), (12, 3), (8, 2, 3)])
    expected = [weight.detach().clone() for weight in weights]
    states: list[dict[str, Tensor]] = [{} for _ in weights]
    optimizer = Muon([{"params": weights, "split": split}], lr=1.0, foreach=foreach, **settings)
    for step in range(STEPS):
        lr = optimizer.param_groups[0]["lr"] = 0.3 * (1 + math.sin(step))
        expected = [
            literal_step(w, g, state, lr=lr, split=split, **settings)
            for w, g, state in zip(expected, gradients(weights, step), states, strict=True)
        ]
        run(optimizer, weights, [step])
        assert_close(weights, expected)


def test_a_gate_does_not_hear_of_the_others():
    """A gate's step is the same whatever the gradients of the other gates are."""
    (one,), (two,) = weights_of([(8, 4)]), weights_of([(8, 4)])
    one.grad = gradients([one], 0)[0]
    two.grad = one.grad.clone()
    two.grad[2:] *= 100
    for weight in (one, two):
        Muon([{"params": [weight], "split": 4}], lr=0.1).step()
    assert_same([one[:2]], [two[:2]])
    stacked = weights_of([(8, 4)])[0]
    stacked.grad = two.grad.clone()
    Muon([stacked], lr=0.1).step()
    assert not torch.allclose(stacked[:2], two[:2])


@pytest.mark.parametrize("nesterov", [True, False])
def test_unsplit_matrices_step_as_in_torch(nesterov, monkeypatch):
    monkeypatch.setattr("legw.train.orthogonal.CPU_BF16_SIDE", 0)  # torch always iterates in bf16
    shapes = [(30, 20), (20, 30), (16, 16)]
    ours, theirs = weights_of(shapes, torch.float32), weights_of(shapes, torch.float32)
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    our = Muon(ours, **settings)
    their = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(STEPS):
        assert_close(run(our, ours, [step]), run(their, theirs, [step]), rtol=0, atol=2e-3)
    if fast_dtype(torch.device("cpu")) is torch.bfloat16:
        assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_other_part_steps_as_torch_adamw():
    ours, theirs = weights_of([(7, 3), (4,)], torch.float32), weights_of([(7, 3), (4,)])
    theirs = [Parameter(weight.float()) for weight in theirs]
    settings = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    our = Muon([{"params": ours, "use_muon": False}], **settings)
    their = torch.optim.AdamW(theirs, fused=True, **settings)
    assert_same(run(our, ours), run(their, theirs))


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 9, 4), (1, 4, 9)])
def test_singular_values_end_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = orthogonal(matrices * torch.tensor([1e-3, 1.0, 1e5][: shape[0]])[:, None, None])
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (
        (turned * (left @ right)).sum((1, 2))
        / turned.norm(dim=(1, 2))
        / (left @ right).norm(dim=(1, 2))
    )
    assert cosine.min() > 0.95


def test_zeros_stay_zeros_and_bf16_is_near():
    assert_same([orthogonal(torch.zeros(2, 3, 3))], [torch.zeros(2, 3, 3)])
    matrices = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(1))
    low, high = (
        orthogonal(matrices, dtype=torch.bfloat16),
        orthogonal(matrices, dtype=torch.float32),
    )
    assert low.dtype == high.dtype == torch.float32
    assert (low - high).norm() < 0.03 * high.norm()


def test_small_matrices_are_turned_in_fp32_on_a_cpu():
    """There bf16 has no time to pay for its beginning; the shape alone decides, not the stack."""
    for shape in [(8, 32, 32), (1, 200, 64), (64, 95, 300)]:
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        assert_same([orthogonal(matrices)], [orthogonal(matrices, dtype=torch.float32)])


def test_channels_last_weights_step_as_others():
    values, grads = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        weight = Parameter(values.clone().contiguous(memory_format=order))
        optimizer = Muon([weight], 0.1)
        for _ in range(3):
            weight.grad = grads.clone().contiguous(memory_format=order)
            optimizer.step()
        results.append(weight.detach().contiguous())
    assert_close(results[:1], results[1:], rtol=1e-5, atol=1e-6)


# What torch does with an optimizer (with every one: test_every_optimizer.py) -----------


def test_resuming_is_bitwise_the_same(tmp_path):
    weights, groups = both_parts()
    optimizer = Muon(groups, 0.1)
    run(optimizer, weights, range(5))
    torch.save(([w.detach() for w in weights], optimizer.state_dict()), tmp_path / "state.pt")
    straight = run(optimizer, weights, range(5, 10))
    values, state = torch.load(tmp_path / "state.pt")
    again, groups = both_parts()
    for weight, value in zip(again, values, strict=True):
        weight.data.copy_(value)
    resumed = Muon(groups, 0.7)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [0.1, 0.1, 0.05]
    assert [group["split"] for group in resumed.param_groups] == [4, 1, 1]
    assert_same(run(resumed, again, range(5, 10)), straight)


def test_a_schedule_keeps_the_ratio_of_the_two_parts():
    recipe = Recipe(
        batch_size=10, lr=0.4, epochs=2, warmup_epochs=1, num_examples=100,
        optimizer=optimizers.Muon(adamw_lr_ratio=0.25),
    )  # fmt: skip
    model = RowLSTM(4, 4, 3)
    optimizer = build(recipe.optimizer, model, recipe.lr)
    schedule = RecipeLR(optimizer, recipe)
    seen = []
    for _ in range(20):
        rates = [group["lr"] for group in optimizer.param_groups]
        kinds = [group["use_muon"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rates[0] if muon else rates[0] / 4 for muon in kinds])
        seen.append(rates[0])
        optimizer.step()
        schedule.step()
    assert seen[0] == pytest.approx(0.04) and seen[10] == pytest.approx(0.4)


def test_stacks_of_equal_matrices_are_made_at_once(monkeypatch):
    """Eight gates of two weights and one more matrix of their shape: one product of nine."""
    seen = []
    monkeypatch.setattr(
        muon, "orthogonal", lambda x, steps: seen.append(tuple(x.shape)) or orthogonal(x, steps)
    )
    weights = weights_of([(8, 5), (8, 5), (2, 5), (3, 3)], torch.float32)
    optimizer = Muon([{"params": weights[:2], "split": 4}, {"params": weights[2:]}], 0.1)
    run(optimizer, weights, [0])
    assert seen == [(9, 2, 5), (1, 3, 3)]


def test_groups_of_adamw_that_agree_step_at_once(monkeypatch):
    """In one call, as one fused optimizer would; settings that differ keep their own."""
    seen = []
    monkeypatch.setattr(muon, "adamw", lambda weights, *_, **__: seen.append(len(weights)))
    weights = weights_of([(3, 2), (2,), (4,), (5,)], torch.float32)
    same = {"use_muon": False, "weight_decay": 0.0}
    groups = [{"params": weights[:1], **same}, {"params": weights[1:3], **same}]
    groups += [{"params": weights[3:], "use_muon": False, "weight_decay": 0.1}]
    run(Muon(groups, 0.1), weights, [0])
    assert seen == [3, 1]


# Several processes ------------------------------------------------------------------


class Process:
    """One of several threads that stand for processes, as far as Muon sees them."""

    def __init__(self, number: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.number, self.board, self.barrier = number, board, barrier

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return len(self.board)


def gather(everything: list[Tensor], own: Tensor, group: Process) -> None:
    """Do what `torch.distributed.all_gather` does."""
    group.board[group.number] = own
    group.barrier.wait()
    for place, sent in zip(everything, group.board, strict=True):
        place.copy_(sent)
    group.barrier.wait()


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_share_the_work_and_agree(size, monkeypatch):
    counted: list[int] = []
    monkeypatch.setattr(muon.distributed, "all_gather", gather)
    monkeypatch.setattr(
        muon, "orthogonal", lambda x, steps: counted.append(len(x)) or orthogonal(x, steps)
    )
    alone, groups = both_parts(torch.float64)
    expected = run(Muon(groups, 0.1), alone, range(3))
    all_matrices, counted[:] = sum(counted), []
    board, barrier = [None] * size, threading.Barrier(size, timeout=20)
    results: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        weights, groups = both_parts(torch.float64)
        optimizer = Muon(groups, 0.1, process_group=Process(number, board, barrier))
        results[number] = run(optimizer, weights, range(3))

    workers = [threading.Thread(target=work, args=[number]) for number in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(counted) == all_matrices
    for number in range(size):
        assert_same(results[number], results[0])
        assert_close(results[number], expected)


@pytest.mark.parametrize("shapes", [[(8, 5), (8, 5), (3, 3)], [(8, 5)], [(8, 6), (2, 2), (2, 2)]])
@pytest.mark.parametrize("count", [2, 3])
def test_lanes_share_the_work_to_the_same_end(shapes, count, monkeypatch):
    monkeypatch.setattr(muon, "LANES_COST", 0)
    seen: set[int] = set()

    def turned(x: Tensor, steps: int) -> Tensor:
        seen.add(threading.get_ident())
        return orthogonal(x, steps)

    monkeypatch.setattr(muon, "orthogonal", turned)
    ends = []
    for lanes in (None, Lanes(count)):
        weights = weights_of(shapes)
        optimizer = Muon([{"params": weights[:1], "split": 2}, {"params": weights[1:]}], 0.1)
        optimizer.lanes = lanes
        ends.append(run(optimizer, weights, range(3)))
        if lanes:
            lanes.close()
    assert len(seen) > 1
    assert_close(ends[1], ends[0])


def test_small_work_stays_in_one_lane():
    weights = weights_of([(8, 5)])
    optimizer = Muon(weights, 0.1)
    optimizer.lanes = Lanes(2)
    optimizer.lanes.run = pytest.fail
    run(optimizer, weights, [0])
    optimizer.lanes.close()


# Which tensors ----------------------------------------------------------------------


class Everything(nn.Module):
    """One module of each kind, the output layer not last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(4, 6, proj_size=4)
        self.gru = nn.GRU(4, 4)
        self.cell = nn.LSTMCell(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.position = Parameter(torch.zeros(5, 4))
        self.qkv = nn.Linear(4, 12)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 9)
        self.tied.weight = self.embed.weight


def chosen(**options: Any) -> dict[str, int]:
    """Return the number of matrices of each tensor that Muon takes."""
    choices = muon_choices(Everything(), **options)
    return {choice.name: choice.split for choice in choices if choice.use_muon}


def test_hidden_matrices_are_taken_and_nothing_else():
    assert chosen(output="head") == {
        "conv.weight": 1,
        "lstm.weight_ih_l0": 4,
        "lstm.weight_hh_l0": 4,
        "lstm.weight_hr_l0": 1,
        "gru.weight_ih_l0": 3,
        "gru.weight_hh_l0": 3,
        "cell.weight_ih": 4,
        "cell.weight_hh": 4,
        "attention.in_proj_weight": 3,
        "attention.out_proj.weight": 1,
        "qkv.weight": 1,
    }
    whys = {choice.name: choice.why for choice in muon_choices(Everything(), output="head")}
    assert whys["embed.weight"] == "embedding"  # tied weights are embeddings too
    assert whys["head.weight"] == "output layer"
    assert whys["position"] == "unknown (Everything)"
    assert whys["norm.weight"] == whys["conv.bias"] == "bias or norm"
    assert "frozen.weight" not in whys


def test_names_exclude_and_split():
    found = chosen(output="head", exclude=["lstm", "gru.weight_ih*"], split={"qkv.weight": 3})
    assert found["qkv.weight"] == 3
    assert not any(name.startswith("lstm") for name in found)
    assert "gru.weight_ih_l0" not in found and "gru.weight_hh_l0" in found


def test_a_matrix_of_a_module_that_is_not_known_is_told():
    line = (
        "muon: AdamW takes matrices of modules that are not known (position: unknown "
        "(Everything)); name them in split of muon_groups ({name: 1}) for Muon, or in exclude for "
        "AdamW"
    )
    with pytest.warns(LegwWarning) as caught:
        muon_groups(Everything(), output="head")
    assert [str(each.message) for each in caught] == [line]
    for said in ({"exclude": ["position"]}, {"split": {"position": 1}}):
        muon_groups(Everything(), output="head", **said)  # a warning would be an error here
    assert chosen(output="head", split={"position": 5})["position"] == 5
    assert "embed.weight" not in chosen(split={"*.weight": 1})


def test_the_output_layer_is_the_last_linear_layer_unless_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Conv2d(1, 1, 1))
    taken = [[c.name for c in muon_choices(model, output=o) if c.use_muon] for o in (None, "", "0")]
    assert taken == [
        ["0.weight", "2.weight"],
        ["0.weight", "1.weight", "2.weight"],
        ["1.weight", "2.weight"],
    ]


def test_groups_say_what_is_in_them():
    data = optimizers.Muon(adamw_lr_ratio=0.5, adamw_weight_decay=0.25, weight_decay=0.5)
    optimizer = build(data, RowLSTM(4, 4, 3), 0.1)
    assert [
        (g["use_muon"], g["split"], g["lr"], g["weight_decay"], g["param_names"])
        for g in optimizer.param_groups
    ] == [
        (True, 1, 0.1, 0.5, ["project.weight"]),
        (True, 4, 0.1, 0.5, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
        (False, 1, 0.05, 0.25, ["classify.weight"]),
        (
            False, 1, 0.05, 0.0,
            ["project.bias", "lstm.bias_ih_l0", "lstm.bias_hh_l0", "classify.bias"],
        ),
    ]  # fmt: skip
    assert described(muon_groups(RowLSTM(4, 4, 3))) == [
        "Muon: project.weight",
        "Muon (each as 4 matrices): lstm.weight_ih_l0, lstm.weight_hh_l0",
        "AdamW: classify.weight",
        "AdamW: project.bias, lstm.bias_ih_l0, lstm.bias_hh_l0, classify.bias",
    ]


def test_gates_may_stay_stacked():
    optimizer = build(optimizers.Muon(split_gates=False), RowLSTM(4, 4, 3), 0.1)
    assert [group["split"] for group in optimizer.param_groups] == [1, 1, 1]


# Messages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "haed"}, "muon: output layer 'haed' is unknown; did you mean 'head'?"),
        ({"exclude": ["gruu"]}, "muon: exclude: name 'gruu' is unknown"),
        ({"split": {"qkv": 3}}, "muon: split: name 'qkv' is unknown"),
    ],
)
def test_names_that_fit_nothing_are_refused(options, message):
    with pytest.raises(RecipeError) as caught:
        muon_groups(Everything(), **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"shape": (4,)}, "muon: tensor of shape (4,): must be a real matrix; "
                          "put it into a group with use_muon=False"),
        ({"shape": (6, 2), "split": 4}, "muon: tensor of shape (6, 2): split=4: must divide its "
                                        "first dimension"),
        ({"shape": (4, 6), "split": 4, "transposed": True},
         "muon: tensor of shape (4, 6): split=4: must divide its second dimension"),
        ({"shape": (4, 6, 1), "transposed": True},
         "muon: tensor of shape (4, 6, 1): transposed=True: must be a matrix"),
        ({"split": 0}, "muon: split=0: must be a whole number, at least 1"),
        ({"ns_steps": 0}, "muon: ns_steps=0: must be a whole number, at least 1"),
        ({"use_muon": 1}, "muon: use_muon=1: must be True or False"),
        ({"momentum": 1.0}, "muon: momentum=1.0: must be a number, at least 0 and below 1"),
        ({"lr": -1.0}, "muon: lr=-1.0: must be a number, at least 0 and finite"),
    ],
)  # fmt: skip
def test_bad_groups_are_refused(group, message):
    weight = Parameter(torch.ones(group.pop("shape", (4, 4))))
    with pytest.raises(RecipeError) as caught:
        Muon([{"params": [weight], **group}], lr=0.1)
    assert str(caught.value) == message
