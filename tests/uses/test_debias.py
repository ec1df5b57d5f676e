"""Weights by the density of codes: histograms counted by hand, invariances, and clusters of known share."""

import math

import numpy as np
import pytest
import torch

from pyro_vae import Images, Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.latent import codes
from pyro_vae.uses.debias import LatentDensity, density_weights, group_means


def drawn(n=500, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(values, bins, smoothing, combine):
    """The same by NumPy's histograms, dimension by dimension."""
    n, total = len(values), 0.0 if combine == "max" else 1.0
    for column in values.numpy().T:
        counts, edges = np.histogram(column, bins=bins)
        place = np.clip(np.digitize(column, edges[1:-1]), 0, bins - 1)
        w = 1 / (counts[place] / n + smoothing)
        w /= w.sum()
        with_this = np.maximum(total, w) if combine == "max" else total * w
        total = with_this / with_this.sum() if combine == "product" else with_this
    return torch.from_numpy(total / total.sum())


@pytest.mark.parametrize("combine", ["max", "product"])
@pytest.mark.parametrize(("bins", "smoothing"), [(10, 1e-3), (3, 0.0), (25, 0.2)])
def test_weights_are_those_of_histograms_by_hand(combine, bins, smoothing):
    values = drawn()
    weights = density_weights(values, bins, smoothing, combine)
    torch.testing.assert_close(weights, by_hand(values, bins, smoothing, combine), rtol=1e-10, atol=0)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert weights.dtype == torch.float64


def test_weights_of_a_known_histogram():
    """Shares 0.6, 0.3 and 0.1 in three bins: 1 / (share + 0.1) is 10/7, 10/4 and 10/2."""
    values = torch.tensor([0.0] * 6 + [1.5] * 3 + [3.0])[:, None]
    weights = density_weights(values, bins=3, smoothing=0.1)
    rarity = torch.tensor([1 / 0.7] * 6 + [1 / 0.4] * 3 + [1 / 0.2], dtype=torch.float64)
    torch.testing.assert_close(weights, rarity / rarity.sum())


@pytest.mark.parametrize("combine", ["max", "product"])
def test_evenly_spread_codes_have_equal_weights(combine):
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
    torch.testing.assert_close(density_weights(grid, combine=combine), torch.full((100,), 0.01).double())


def test_large_smoothing_makes_all_weights_equal():
    values = drawn(200)
    spread = [density_weights(values, smoothing=alpha).std().item() for alpha in (0.0, 0.1, 10.0, 1e9)]
    assert spread == sorted(spread, reverse=True)
    torch.testing.assert_close(density_weights(values, smoothing=1e9), torch.full((200,), 1 / 200).double())


@pytest.mark.parametrize("combine", ["max", "product"])
def test_shift_and_scale_of_a_dimension_and_order_of_images_do_not_matter(combine):
    values = drawn()
    weights = density_weights(values, combine=combine)
    # 1024 and 4096 are powers of 2, so that no value crosses the edge of its bin by rounding
    moved = values * torch.tensor([-4096.0, 4096.0, 1024.0]).double()
    flipped = torch.cat([-values[:, :1], values[:, 1:]], 1)
    torch.testing.assert_close(density_weights(moved, combine=combine), density_weights(flipped, combine=combine))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(density_weights(values[order], combine=combine), weights[order])
    torch.testing.assert_close(density_weights(values.flip(1), combine=combine), weights)


@pytest.mark.parametrize("n", [3, 7, 10])
def test_a_dimension_that_is_the_same_for_all_images_is_left_out(n):
    """Though by rounding its variance may be above 0."""
    constant = torch.full((n, 1), 0.1, dtype=torch.float64)
    torch.testing.assert_close(density_weights(constant, min_variance=0), torch.full((n,), 1 / n).double())
    values = drawn(n, 1)
    with_constant = density_weights(torch.cat([constant, values], 1), combine="product", min_variance=0)
    torch.testing.assert_close(with_constant, density_weights(values, combine="product", min_variance=0))


def clusters(share, n=4000):
    """Codes around 0, and a share of them around 10 in the first dimension; whether each is of the second cluster."""
    values = 0.1 * drawn(n, 2)
    rare = torch.arange(n) < round(share * n)
    values[rare, 0] += 10.0
    return values, rare


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_a_rare_cluster_gets_the_share_that_the_bins_say(share):
    """Two bins, one for each cluster. By the first dimension alone each is drawn with the same probability,
    without smoothing; with it, in proportion to share / (share + alpha)."""
    values, rare = clusters(share)
    assert density_weights(values[:, :1], 2, 0.0)[rare].sum().item() == pytest.approx(0.5, abs=1e-12)
    drawn_of = [s / (s + 0.05) for s in (share, 1 - share)]
    weights = density_weights(values[:, :1], 2, 0.05)
    assert weights[rare].sum().item() == pytest.approx(drawn_of[0] / sum(drawn_of), abs=1e-12)


def test_a_rare_cluster_is_drawn_as_often_as_its_weights_say():
    values, rare = clusters(0.02)
    weights = density_weights(values)
    share = weights[rare].sum().item()
    assert share > 0.1  # of 0.02 of the images
    sampler = torch.utils.data.WeightedRandomSampler(
        weights.tolist(), 20_000, generator=torch.Generator().manual_seed(0)
    )
    found = rare[list(sampler)].double().mean().item()
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))


def test_the_product_leaves_the_weight_to_a_few_images():
    values = drawn(2000, 20)
    effective = [1 / density_weights(values, combine=name).square().sum().item() for name in ("max", "product")]
    assert effective[0] > 400
    assert effective[1] < 40


def test_dimensions_that_have_collapsed_do_not_count():
    values, noise = drawn(d=2), 0.01 * drawn(d=1, seed=1)  # of variance 0.0001
    with_noise = torch.cat([values, noise], 1)
    assert torch.equal(density_weights(with_noise), density_weights(values))
    assert not torch.allclose(density_weights(with_noise, min_variance=0.0), density_weights(values))
    for collapsed in (noise, torch.ones(500, 3), torch.full((1, 3), 2.0)):
        n = len(collapsed)
        assert torch.equal(density_weights(collapsed), torch.full((n,), 1 / n, dtype=torch.float64))
    for value in (1.0, 0.1):
        constant = torch.full((1000, 2), value, dtype=torch.float64)
        expected = torch.full((1000,), 1 / 1000, dtype=torch.float64)
        assert torch.equal(density_weights(constant, min_variance=0.0), expected)


def test_latent_density_weighs_the_codes_of_a_model(digits):
    model = build(Spec(latent_dim=3, hidden=(16,)))
    model.encoder[-1].weight.data.mul_(20)  # spreads the codes of a model that is not trained
    images = digits.train.take(slice(0, 200))
    state = torch.get_rng_state()
    weights = LatentDensity(bins=4, smoothing=0.01, combine="product")(model, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert weights.std() > 0
    assert torch.equal(weights, density_weights(codes(model, images, device="cpu"), 4, 0.01, "product"))


def test_means_of_groups():
    result = group_means(torch.tensor([1.0, 0.0, 1.0, 5.0]), torch.tensor([2, 2, 2, -1]))
    assert list(result) == [-1, 2]
    assert (result[-1].n, result[-1].mean, result[-1].se) == (1, 5.0, None)
    assert (result[2].n, result[2].mean) == (3, pytest.approx(2 / 3))
    assert result[2].se == pytest.approx((1 / 3) ** 0.5 / 3**0.5)


IMAGES = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
BAD = {
    "codes: given .*matrix": lambda: density_weights(torch.zeros(3)),
    "codes: given 'NaN": lambda: density_weights(torch.tensor([[0.0], [torch.nan]])),
    "codes: given 'NaN or infinity": lambda: density_weights(torch.tensor([[0.0], [torch.inf]])),
    "bins: given 0": lambda: density_weights(drawn(), bins=0),
    "bins: given 2.5": lambda: density_weights(drawn(), bins=2.5),
    "smoothing: given -1": lambda: density_weights(drawn(), smoothing=-1),
    "smoothing: given nan": lambda: density_weights(drawn(), smoothing=math.nan),
    "combine: given 'mean', expected one of max, product": lambda: density_weights(drawn(), combine="mean"),
    "min_variance: given -1": lambda: density_weights(drawn(), min_variance=-1),
    "bins: given True": lambda: LatentDensity(bins=True),
    "smoothing: given '1'": lambda: LatentDensity(smoothing="1"),
    "combine: given 'sum'": lambda: LatentDensity(combine="sum"),
    "images: given": lambda: LatentDensity()(build(Spec(latent_dim=2)), torch.zeros(3, 1, 8, 8)),
    "images: given .*shape": lambda: LatentDensity()(
        build(Spec(latent_dim=2)), Images(torch.zeros(3, 1, 9, 9, dtype=torch.uint8))
    ),
    "model: given 'VectorQuantized'": lambda: LatentDensity()(
        build(Spec(model={"kind": "vector-quantized", "codes": 4}, latent_dim=2)), IMAGES
    ),
    "values: given": lambda: group_means(torch.zeros(2, 2), torch.zeros(2)),
    "values: given .*finite": lambda: group_means(torch.tensor([torch.nan]), torch.tensor([0])),
    "groups: given .*whole numbers": lambda: group_means(torch.zeros(2), torch.zeros(2)),
    "groups: given .*each of 2 images": lambda: group_means(torch.zeros(2), torch.zeros(3).long()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
