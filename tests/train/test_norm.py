"""Batch-norm over fixed groups: what it equals, and what it leaves alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.testing import assert_close

from legw.train import norm
from legw.train.dist import World

CPU = World(torch.device("cpu"))


def pair(group_size: int) -> tuple[nn.Module, nn.Module]:
    """Return an ordinary model and its copy in groups."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    grouped = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    grouped.load_state_dict(plain.state_dict())
    assert norm.fix_groups(grouped, group_size) == group_size
    return plain, grouped


def test_one_group_is_ordinary_batch_norm() -> None:
    plain, grouped = pair(8)
    for _ in range(3):
        images = torch.randn(8, 3, 6, 6, dtype=torch.float64)
        assert_close(grouped(images), plain(images))
        norm.fold(grouped, CPU)
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
    norm.fold(grouped, CPU)
    assert_close(grouped[1].running_mean, 0.1 * means.mean(0))
    assert int(grouped[1].num_batches_tracked) == 1


def test_evaluation_uses_the_running_averages() -> None:
    plain, grouped = pair(4)
    images = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    assert_close(grouped.eval()(images), plain.eval()(images))


def test_parameters_stay_the_same_objects() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = list(model.parameters())
    norm.fix_groups(model, 4)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_model_without_batch_norm_has_no_groups() -> None:
    assert norm.fix_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 4) == 1
