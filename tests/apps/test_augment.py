"""Augmentation drawn from seeds: the hash, its evenness, and what is done to a batch."""

from __future__ import annotations

import pytest
import torch

from legw.apps.augment import below, crop_and_flip, shifted, splitmix64

MASK = 2**64 - 1


def reference(seed: int, draw: int) -> int:
    """Return the same in Python's own whole numbers (Steele et al. 2014, figure 16)."""
    bits = (seed + (draw + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def test_the_published_sequence() -> None:
    """The first five outputs for the seed 1234567, as listed for checking other ports."""
    found = [splitmix64(torch.tensor(1234567), draw).item() & MASK for draw in range(5)]
    assert found == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
        4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


@pytest.mark.parametrize("draw", [0, 1, 2, 17])
def test_int64_wraps_as_unsigned_numbers_do(draw: int) -> None:
    seeds = torch.tensor([0, 1, 2**62, 2**63 - 1, -1, -(2**63)])
    found = splitmix64(seeds, draw)
    assert [bits & MASK for bits in found.tolist()] == [
        reference(seed & MASK, draw) for seed in seeds.tolist()
    ]


@pytest.mark.parametrize("limit", [2, 9, 1000])
def test_numbers_are_in_range_and_even(limit: int) -> None:
    count = 200_000
    numbers = below(torch.arange(count), draw=1, limit=limit)
    assert numbers.min() == 0 and numbers.max() == limit - 1
    expected = count / limit
    squared = (torch.bincount(numbers, minlength=limit).double() - expected) ** 2 / expected
    assert abs(squared.sum() - (limit - 1)) < 5 * (2 * limit) ** 0.5  # chi squared


def test_draws_of_one_seed_are_unrelated() -> None:
    seeds = torch.arange(100_000)
    both = below(seeds, 0, 9) * 9 + below(seeds, 1, 9)
    counts = torch.bincount(both, minlength=81).double()
    assert (counts / (100_000 / 81) - 1).abs().max() < 0.15


def by_hand(image: torch.Tensor, seed: int, pad: int) -> torch.Tensor:
    """Return the crop of a padded image, one by one."""
    down, right, mirrored = (
        (reference(seed, draw) >> 32) * limit >> 32
        for draw, limit in enumerate((2 * pad + 1, 2 * pad + 1, 2))
    )
    channels_first = image.permute(2, 0, 1)[None].double()
    if pad:
        channels_first = torch.nn.functional.pad(channels_first, [pad] * 4, mode="reflect")
    height, width = image.shape[:2]
    crop = channels_first[0, :, down : down + height, right : right + width]
    return (crop.flip(2) if mirrored else crop).permute(1, 2, 0).to(image.dtype)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_each_image_is_cropped_and_flipped_by_its_own_seed(pad: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 8, 10, 3), generator=generator).byte()
    seeds = torch.randint(0, 2**63 - 1, (64,), generator=generator)
    found = crop_and_flip(images, seeds, pad)
    assert found.dtype is torch.uint8
    for index in range(64):
        assert torch.equal(found[index], by_hand(images[index], int(seeds[index]), pad))


def test_an_images_draw_does_not_depend_on_its_batch() -> None:
    images = torch.arange(20 * 6 * 6 * 3).byte().view(20, 6, 6, 3)
    seeds = torch.arange(20) * 7919
    whole = crop_and_flip(images, seeds, 2)
    pieces = [crop_and_flip(images[i : i + 3], seeds[i : i + 3], 2) for i in range(0, 20, 3)]
    assert torch.equal(whole, torch.cat(pieces))


def test_all_shifts_and_both_mirrors_occur() -> None:
    image = torch.arange(36).view(1, 6, 6, 1)
    found = crop_and_flip(image.expand(2000, 6, 6, 1), torch.arange(2000), 1)
    assert len(torch.unique(found, dim=0)) == 3 * 3 * 2


# Shifts -----------------------------------------------------------------------------------


def shifted_by_hand(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Return the image moved pixel by pixel; what comes in is 0."""
    height, width = image.shape
    moved = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            from_row, from_column = row + down, column + right
            if 0 <= from_row < height and 0 <= from_column < width:
                moved[row, column] = image[from_row, from_column]
    return moved


@pytest.mark.parametrize("most", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_each_image_is_shifted_by_its_own_seed(most: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (40, 6, 9), generator=generator).to(dtype)
    seeds = torch.randint(0, 2**63 - 1, (40,), generator=generator)
    found = shifted(images, seeds, most)
    assert found.dtype is dtype and found.shape == images.shape
    for index in range(40):
        down, right = (
            ((reference(int(seeds[index]), draw) >> 32) * (2 * most + 1) >> 32) - most
            for draw in (0, 1)
        )
        assert torch.equal(found[index], shifted_by_hand(images[index], down, right))


def test_zeros_come_in_and_nothing_else_is_lost() -> None:
    """Of a picture that is 1 everywhere a strip is 0 on each side that it left."""
    ones = torch.ones(500, 5, 7)
    found = shifted(ones, torch.arange(500), 2)
    rows, columns = found.amax(2).sum(1), found.amax(1).sum(1)
    assert set(rows.tolist()) == {3, 4, 5} and set(columns.tolist()) == {5, 6, 7}
    assert torch.equal(found.sum((1, 2)), rows * columns)
    assert not shifted(torch.zeros(3, 4, 4), torch.arange(3), 2).any()


@pytest.mark.parametrize("most", [1, 2])
def test_all_shifts_occur_about_equally_often(most: int) -> None:
    count, kinds = 50_000, (2 * most + 1) ** 2
    image = torch.zeros(11, 11)
    image[5, 5] = 1
    found = shifted(image.expand(count, 11, 11), torch.arange(count) * 7919, most)
    places = torch.bincount(found.flatten(1).argmax(1), minlength=121)
    seen = places[places > 0]
    assert len(seen) == kinds
    squared = ((seen.double() - count / kinds) ** 2 / (count / kinds)).sum()
    assert abs(squared - (kinds - 1)) < 5 * (2 * kinds) ** 0.5  # chi squared


def test_a_shift_does_not_depend_on_the_batch_it_is_in() -> None:
    images = torch.rand(20, 8, 8)
    seeds = torch.arange(20) * 104729
    whole = shifted(images, seeds, 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole[order], shifted(images[order], seeds[order], 3))
    pieces = [shifted(images[i : i + 3], seeds[i : i + 3], 3) for i in range(0, 20, 3)]
    assert torch.equal(whole, torch.cat(pieces))
