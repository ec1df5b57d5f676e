"""One draw of each image: of the image itself and a seed, wherever it stands; and the noise behind it."""

import math

import pytest
import torch

from pyro_vae import Images
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.data.noise import image_keys, uniform_noise


@pytest.fixture(scope="module")
def noise():
    """Of 2,000 images that differ in a few pixels, in float64 around 0: the hardest case for a hash."""
    pixels = torch.zeros(2000, 1, 16, 16, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(2000) % 250
    pixels[:, 0, 15, 15] = torch.arange(2000) // 250
    return uniform_noise(pixels).flatten(1).double() - 0.5


def test_permutation(tiny):
    order = torch.randperm(len(tiny), generator=torch.Generator().manual_seed(1))
    assert torch.equal(binarize(tiny.take(order), "static").pixels, binarize(tiny, "static").pixels[order])


def test_subset(digits):
    whole = binarize(digits.test, "static").pixels
    assert torch.equal(binarize(digits.test.take(slice(7, 40)), "static").pixels, whole[7:40])
    assert torch.equal(binarize(digits.test.take(slice(100, 101)), "static").pixels, whole[100:101])


def test_two_splits_share_the_draws_of_their_common_images(digits):
    first, second = (digits.train.split(0.2, seed)[0] for seed in (0, 1))
    keys = [image_keys(part.pixels).tolist() for part in (first, second)]
    pixels = [binarize(part, "static").pixels for part in (first, second)]
    drawn = [dict(zip(*pairs, strict=True)) for pairs in zip(keys, pixels, strict=True)]
    common = set(drawn[0]) & set(drawn[1])
    assert len(common) > 800
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in common)


def test_more_images_than_a_chunk_and_any_layout(digits):
    many = digits.train.take(torch.arange(2500) % len(digits.train))
    drawn = binarize(many, "static").pixels
    assert torch.equal(drawn[len(digits.train) :], drawn[: 2500 - len(digits.train)])
    turned = Images(digits.test.pixels.transpose(2, 3))  # not contiguous
    assert torch.equal(binarize(turned, "static").pixels, binarize(Images(turned.pixels.contiguous()), "static").pixels)


@pytest.mark.parametrize("level", [0, 1, 64, 128, 254, 255])
def test_a_grey_level_is_white_with_its_probability(level):
    n, width = 4000, 28
    pixels = torch.full((n, 1, 1, width), level, dtype=torch.uint8)
    pixels[:, 0, 0, :2] = torch.stack([torch.arange(n) % 256, torch.arange(n) // 256], 1).to(torch.uint8)
    white = (binarize(Images(pixels), "static").pixels[..., 2:] == 255).double()
    p = level / 255
    assert white.mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / white.numel()))


def test_noise_is_uniform(noise):
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=4 / math.sqrt(12 * n))
    assert noise.var().item() == pytest.approx(1 / 12, abs=4 / math.sqrt(180 * n))  # fourth moment 1/80
    counts = torch.histc(noise + 0.5, 256, 0, 1)
    chi_square = ((counts - n / 256).square() / (n / 256)).sum().item()
    assert chi_square == pytest.approx(255, abs=4 * math.sqrt(2 * 255))
    for column in (noise[:, 0], noise[:, -1], noise[0], noise[-1]):  # of single pixels and single images
        assert column.mean().item() == pytest.approx(0, abs=4 / math.sqrt(12 * len(column)))


@pytest.mark.parametrize("shift", [(0, 1), (0, 8), (0, 16), (1, 0), (250, 0), (1, 1)])
def test_noise_is_uncorrelated_between_pixels_and_images(noise, shift):
    rows, columns = shift
    a, b = noise[rows:, columns:], noise[: len(noise) - rows, : noise.shape[1] - columns]
    assert 12 * (a * b).sum().item() / math.sqrt(a.numel()) == pytest.approx(0, abs=4)


def test_noise_of_two_seeds_is_independent(digits):
    a, b = (uniform_noise(digits.train.pixels, seed).double() - 0.5 for seed in (0, 1))
    assert 12 * (a * b).sum().item() / math.sqrt(a.numel()) == pytest.approx(0, abs=4)


def test_keys_tell_images_apart():
    one_pixel = torch.zeros(16 * 256, 1, 4, 4, dtype=torch.uint8)
    one_pixel.view(-1, 16)[torch.arange(16 * 256), torch.arange(16).repeat_interleave(256)] = (
        torch.arange(256).repeat(16).to(torch.uint8)
    )
    assert len(image_keys(one_pixel).unique()) == 16 * 255 + 1  # the black image is there 16 times
    assert image_keys(torch.zeros(1, 9, dtype=torch.uint8)) != image_keys(torch.zeros(1, 8, dtype=torch.uint8))


@pytest.mark.parametrize("pixels", [torch.zeros(2, 1, 4, 4), torch.zeros(4, dtype=torch.uint8)])
def test_noise_of_other_things_is_refused(pixels):
    with pytest.raises(InputError, match="pixels: given"):
        uniform_noise(pixels)


def test_seed_is_checked(tiny):
    with pytest.raises(InputError, match="seed: given -1"):
        uniform_noise(tiny.pixels, -1)
