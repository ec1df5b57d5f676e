"""Bits per dimension: of a probability, and of nothing else."""

import math

import pytest
import torch

from pyro_vae import Images, Spec, build, evaluate
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.evaluation import bits_per_dimension, compare, evidence


def test_a_fair_coin_for_each_pixel_is_one_bit():
    assert bits_per_dimension(784 * math.log(2), 784) == pytest.approx(1)


def test_uniform_noise_under_the_uniform_density_is_eight_bits():
    assert bits_per_dimension(0.0, 3072, levels_per_unit=256) == 8


@pytest.mark.parametrize(("dimensions", "levels"), [(0, 1), (1.5, 1), (784, 0), (784, None)])
def test_bad_numbers_are_named(dimensions, levels):
    with pytest.raises(InputError, match="dimensions: given|levels_per_unit: given"):
        bits_per_dimension(1.0, dimensions, levels)


def grey(tiny):
    assert int(((tiny.pixels > 0) & (tiny.pixels < 255)).sum()) > 0
    return tiny


@pytest.mark.parametrize("how", ["static", "dynamic", "threshold"])
def test_binary_pixels_have_bits(tiny, how):
    result = evidence(build(Spec(latent_dim=2)), grey(tiny), k=5, binarization=how)
    assert result.bits_per_dimension == pytest.approx(result.nll_nats / 64 / math.log(2))
    assert result.not_a_probability is None


def test_pixels_that_are_binary_already_have_bits(tiny):
    assert evidence(build(Spec(latent_dim=2)), binarize(tiny, "threshold"), k=5).bits_per_dimension is not None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"likelihood": "bernoulli"}, "cross-entropy of grey pixels"),
        ({"likelihood": "continuous-bernoulli"}, "density of pixels with 256 levels"),
        ({"likelihood": "gaussian"}, "density of pixels with 256 levels"),
        ({"likelihood": "gaussian-learned"}, "density of pixels with 256 levels"),
        ({"likelihood": "gaussian-linear"}, "density of pixels with 256 levels"),
    ],
)
@pytest.mark.filterwarnings("ignore:grey pixels", "ignore:pixels that are exactly 0 or 1")
def test_without_a_probability_bits_are_absent_and_the_reason_is_told(tiny, fields, reason):
    model = build(Spec(latent_dim=2, **fields))
    metrics = evaluate(model, grey(tiny), metrics=["evidence"], k=5)
    assert "bits_per_dimension" not in metrics.to_dict()
    assert reason in metrics.provenance["nll_nats"]["bits_per_dimension_absent"]
    (row,) = [meaning for label, _, meaning in metrics.rows() if label == "NLL"]
    assert reason in row


def test_a_likelihood_of_ones_own_that_does_not_say_what_it_is_of_has_no_bits(tiny):
    model = build(Spec(latent_dim=2))
    model.likelihood.data_range = None
    assert "data_range" in evidence(model, binarize(tiny, "threshold"), k=5).not_a_probability


@pytest.mark.parametrize("fields", [{"metrics": ["bounds"]}, {"metrics": ["evidence"], "k": 5}])
def test_a_density_without_bound_is_warned_of(fields):
    images = Images(torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 1, 8, 4))
    with pytest.warns(UserWarning, match="without bound.*--dequantize.*discretized-logistic"):
        evaluate(build(Spec(latent_dim=2, likelihood="continuous-bernoulli")), images, **fields)


def test_bits_have_the_error_of_the_nll_in_their_unit(tiny):
    metrics = evaluate(build(Spec(latent_dim=2)), grey(tiny), metrics=["evidence"], k=5, binarization="static")
    assert metrics.bits_per_dimension_se == pytest.approx(metrics.nll_se / 64 / math.log(2))
    (value,) = [value for label, value, _ in metrics.rows() if label == "bits per dimension"]
    assert value == f"{metrics.bits_per_dimension:.4f} ± {metrics.bits_per_dimension_se:.4f}"


def test_bits_compare_across_likelihoods_where_nats_do_not(tiny):
    """A probability of levels and the bound of a dequantized density, image by image."""
    options = {"metrics": ["evidence"], "k": 5}
    a = evaluate(build(Spec(latent_dim=2, likelihood="discretized-logistic")), grey(tiny), **options)
    b = evaluate(build(Spec(latent_dim=2, likelihood="continuous-bernoulli")), tiny, dequantize=True, **options)
    (difference,) = compare({"a": a, "b": b}, "bits_per_dimension")
    assert difference.difference == pytest.approx(b.bits_per_dimension - a.bits_per_dimension)
    assert 0 < difference.se < a.bits_per_dimension_se + b.bits_per_dimension_se
    with pytest.raises(InputError, match="likelihood of b"):
        compare({"a": a, "b": b}, "nll_nats")
    binary = evaluate(build(Spec(latent_dim=2)), tiny, binarization="static", **options)
    with pytest.raises(InputError, match="binarization of b: given 'static', expected 'none'"):
        compare({"a": a, "b": binary}, "bits_per_dimension")
