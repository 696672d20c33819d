"""Batch-norm over fixed groups: what it equals, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from legw.errors import RunError
from legw.train import Settings, batch_norm, fit
from legw.train.dist import World
from train.runs import recipe, weights
from train.tasks import Lines

CPU = World(torch.device("cpu"))


def pair(group_size: int) -> tuple[nn.Module, nn.Module]:
    """Return an ordinary model and its copy in groups."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    grouped = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    grouped.load_state_dict(plain.state_dict())
    assert batch_norm.fix_groups(grouped, group_size) == group_size
    return plain, grouped


def test_one_group_is_ordinary_batch_norm() -> None:
    plain, grouped = pair(8)
    for _ in range(3):
        images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
        assert_close(grouped(images), plain(images))
        batch_norm.fold(grouped, CPU)
    assert_close(grouped.state_dict(), plain.state_dict())


def test_each_group_has_its_own_statistics() -> None:
    plain, grouped = pair(4)
    images = torch.randn(12, 3, 6, 6, dtype=torch.float64)
    expected = torch.cat([plain(part) for part in torch.split(images, 4)])
    assert_close(grouped(images), expected)


def test_the_running_average_moves_once_an_update_by_the_mean_of_the_groups() -> None:
    _, grouped = pair(4)
    images = torch.randn(12, 3, 6, 6, dtype=torch.float64)
    features = grouped[0](images)
    means = torch.stack([part.mean((0, 2, 3)) for part in torch.split(features, 4)])
    for part in torch.split(images, 4):
        grouped(part)
    batch_norm.fold(grouped, CPU)
    assert_close(grouped[1].running_mean, 0.1 * means.mean(0))
    assert int(grouped[1].num_batches_tracked) == 1


def test_a_short_last_group_counts_as_one_group() -> None:
    _, grouped = pair(4)
    images = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    features = torch.split(grouped[0](images), 4)
    grouped(images)
    batch_norm.fold(grouped, CPU)
    expected = torch.stack([part.var((0, 2, 3)) for part in features]).mean(0)
    assert_close(grouped[1].running_var, 0.9 + 0.1 * expected)


def test_a_plain_average_is_kept_where_there_is_no_momentum() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None).double())
    batch_norm.fix_groups(model, 4)
    rows = torch.randn(12, 3, dtype=torch.float64)
    for part in torch.split(rows, 4):
        model(part)
        batch_norm.fold(model, CPU)
    assert_close(model[0].running_mean, rows.mean(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("examples", [4, 12, 10])
def test_gradients_are_those_of_each_group(layout: torch.memory_format, examples: int) -> None:
    plain, grouped = pair(4)
    images = torch.randn(examples, 3, 6, 6, dtype=torch.float64).to(memory_format=layout)
    gradients = torch.randn(examples, 4, 4, 4, dtype=torch.float64)
    expected = torch.cat([plain(part) for part in torch.split(images, 4)])
    found = grouped(images)
    assert found.is_contiguous(memory_format=layout)
    expected.backward(gradients)
    found.backward(gradients)
    for one, two in zip(grouped.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, two.grad)


def test_second_derivatives() -> None:
    _, grouped = pair(4)
    inputs = torch.randn(6, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grouped[1], inputs)
    assert torch.autograd.gradgradcheck(grouped[1], inputs)


@pytest.mark.parametrize("examples", [4, 10])
def test_layers_without_weights(examples: int) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False).double())
    plain = nn.BatchNorm1d(3, affine=False).double()
    batch_norm.fix_groups(model, 4)
    rows = torch.randn(examples, 3, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(examples, 3, dtype=torch.float64)
    expected = torch.cat([plain(part) for part in torch.split(rows, 4)])
    assert_close(model(rows), expected)
    (found,) = torch.autograd.grad(model(rows), rows, gradients)
    assert_close(found, torch.autograd.grad(expected, rows, gradients)[0])
    assert torch.autograd.gradgradcheck(model, rows)


def test_frozen_weights_have_second_derivatives_too() -> None:
    _, grouped = pair(4)
    grouped[1].weight.requires_grad_(False)
    inputs = torch.randn(6, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(grouped[1], inputs)


def test_half_precision_keeps_its_type_and_its_statistics_do_not() -> None:
    model = nn.Sequential(nn.BatchNorm2d(8))
    batch_norm.fix_groups(model, 16)
    images = 3 + torch.randn(32, 8, 4, 4)
    found = model(images.bfloat16())
    assert found.dtype is torch.bfloat16
    assert_close(found.float(), model(images), atol=0.05, rtol=0)
    batch_norm.fold(model, CPU)
    assert model[0].running_mean.dtype is torch.float32
    assert_close(model[0].running_mean, 0.1 * images.mean((0, 2, 3)), atol=1e-3, rtol=0)


def test_a_group_of_one_number_has_no_variance() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    batch_norm.fix_groups(model, 4)
    with pytest.raises(RunError) as error:
        model(torch.randn(9, 3))
    assert str(error.value) == (
        "batch-norm: a group of 1 example has no variance; choose a batch_size that is no "
        "multiple of norm_batch_size=4 plus 1"
    )


def test_evaluation_uses_the_running_averages() -> None:
    plain, grouped = pair(4)
    images = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    assert_close(grouped.eval()(images), plain.eval()(images))


def test_groups_of_one_example_move_the_averages_too(tmp_path: Path) -> None:
    """An image has many numbers a channel, and so a variance of its own."""

    class Waves(Lines):
        def model(self) -> nn.Module:
            return nn.Sequential(
                nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(),
                nn.Linear(8, 1),
            ).double()  # fmt: skip

    settings = Settings(device="cpu", micro_batch_size=64)
    fit(Waves(), recipe(norm_batch_size=1), out=tmp_path, settings=settings)
    found = weights(tmp_path)
    assert int(found["2.num_batches_tracked"]) == 4
    assert found["2.running_mean"].abs().max() > 0


def test_parameters_stay_the_same_objects() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = list(model.parameters())
    batch_norm.fix_groups(model, 4)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_model_without_batch_norm_has_no_groups() -> None:
    assert batch_norm.fix_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 4) == 1
