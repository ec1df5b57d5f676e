"""Annealed importance sampling of models whose evidence is known, and what it says of its own error."""

import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import nn

from pyro_vae import VAE, Images, Spec, build, networks, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.evaluation import annealed_log_likelihood, bidirectional_monte_carlo, to_inference_data

CPU = {"device": "cpu"}


def random_x(n, seed=0):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def uniform_gaussian():
    """p(z) uniform on [-1, 1]^2, p(x|z) = N(Wz + b, 0.1 I)."""
    linear, _ = linear_gaussian()
    q = posteriors.Uniform(2)
    encoder = networks.mlp_encoder((1, 2, 2), q.num_parameters)
    return VAE(encoder, linear.decoder, priors.Uniform(2), linear.likelihood, q)


def by_quadrature(vae, x):
    """log p(x) by Gauss-Legendre: 60 points on each side of the square."""
    points, weights = (torch.from_numpy(values).float() for values in np.polynomial.legendre.leggauss(60))
    z = torch.cartesian_prod(points, points)[:, None]
    with torch.no_grad():
        log_p = vae.prior().log_prob(z) + vae.decode(z).log_prob(x)
    return (torch.cartesian_prod(weights, weights).prod(-1).log()[:, None] + log_p).double().logsumexp(0)


def test_a_uniform_prior_is_annealed_within_its_cube():
    vae = uniform_gaussian()
    x = random_x(8)
    x[4:] += 1.5  # whose posterior is pressed against the sides
    expected = by_quadrature(vae, x)
    annealed = annealed_log_likelihood(vae, x, temperatures=300, chains=16, **CPU)
    error = (annealed.log_likelihood - expected).abs()
    assert bool((error < 4 * annealed.log_likelihood_mcse + 0.02).all()), error
    assert 0.3 < annealed.acceptance < 1


def test_two_sided_bounds_of_a_uniform_prior():
    sandwich = bidirectional_monte_carlo(uniform_gaussian(), 20, temperatures=200, chains=4, **CPU)
    assert sandwich.lower <= sandwich.upper
    assert sandwich.gap < 0.1


def test_the_spread_of_the_chains_says_how_far_off_they_are():
    vae, truth = linear_gaussian()
    x = random_x(60)
    coarse, fine = (annealed_log_likelihood(vae, x, temperatures=t, chains=8, **CPU) for t in (20, 200))
    for annealed in (coarse, fine):
        assert annealed.effective_samples.shape == annealed.chain_sd_nats.shape == (60,)
        assert bool(((annealed.effective_samples >= 1) & (annealed.effective_samples <= 8)).all())
    assert fine.chain_sd_nats.mean() < coarse.chain_sd_nats.mean()
    assert fine.effective_samples.mean() > coarse.effective_samples.mean()
    error = fine.log_likelihood - truth.log_prob(x.flatten(1)).double()
    standardized = error / fine.log_likelihood_mcse
    assert standardized.square().mean().sqrt().item() == pytest.approx(1, abs=0.5)


def test_one_chain_has_no_error():
    vae, _ = linear_gaussian()
    annealed = annealed_log_likelihood(vae, random_x(2), temperatures=3, chains=1, **CPU)
    assert annealed.log_likelihood_mcse is None
    assert annealed.chain_sd_nats is None
    assert annealed.effective_samples.tolist() == [1.0, 1.0]


def test_a_discrete_prior_is_named():
    class Coins(nn.Module):
        def forward(self):
            return dist.Bernoulli(torch.full((2,), 0.5)).to_event(1)

    vae = uniform_gaussian()
    vae.prior = Coins()
    with pytest.raises(InputError, match="model: given .*continuous prior"):
        annealed_log_likelihood(vae, random_x(2), temperatures=3, chains=2, **CPU)


def grey():
    return Images(torch.full((3, 1, 8, 8), 128, dtype=torch.uint8), name="grey")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: annealed_log_likelihood(model, grey().as_float(), temperatures=2, chains=2, **CPU),
        lambda model: to_inference_data(model, grey(), draws=2, k=30, **CPU),
    ],
    ids=["annealing", "inference data"],
)
def test_grey_pixels_under_a_bernoulli_are_told(call):
    model = build(Spec(latent_dim=2))
    with pytest.warns(UserWarning, match="grey pixels under a Bernoulli"):
        call(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        annealed_log_likelihood(model, grey().as_float().round(), temperatures=2, chains=2, **CPU)
        to_inference_data(model, grey(), draws=2, k=30, binarization="threshold", **CPU)


def test_annealing_finds_the_evidence_without_the_guide():
    vae, truth = linear_gaussian()
    with torch.no_grad():
        vae.encoder[1].bias += 5  # a guide that is far off
    x = random_x(10)
    annealed = annealed_log_likelihood(vae, x, temperatures=200, chains=16, **CPU)
    torch.testing.assert_close(annealed.log_likelihood, truth.log_prob(x.flatten(1)).double(), atol=0.3, rtol=0)
    assert 0.3 < annealed.acceptance < 1


def test_two_sided_bounds_hold_the_truth_between_them():
    vae, truth = linear_gaussian()
    coarse = bidirectional_monte_carlo(vae, 40, temperatures=10, chains=2, **CPU)
    fine = bidirectional_monte_carlo(vae, 40, temperatures=500, chains=8, **CPU)
    # The images simulated by the same seed, whose evidence is known.
    with seeded_rng(torch.device("cpu"), 0), torch.no_grad():
        x = vae.decode(vae.prior().sample((40,))).sample()
    expected = truth.log_prob(x.flatten(1)).mean().item()
    assert fine.lower == pytest.approx(expected, abs=0.05)
    assert fine.upper == pytest.approx(expected, abs=0.05)
    assert coarse.lower < expected < coarse.upper
    assert fine.gap < coarse.gap
    assert fine.gap_se > 0


def test_annealing_leaves_the_model_and_the_generators_as_they_were():
    vae, _ = linear_gaussian()
    state = torch.get_rng_state()
    annealed_log_likelihood(vae, random_x(2), temperatures=5, **CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    assert all(parameter.grad is None for parameter in vae.parameters())
