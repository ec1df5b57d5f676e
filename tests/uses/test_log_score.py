"""The log-score of hidden pixels against exact conditionals, and what holds for any model."""

import itertools
import math

import pytest
import torch
from linear_gaussian import linear_gaussian

from pyro_vae import Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.uses.code_posterior import Ascent
from pyro_vae.uses.log_score import _log_weights, log_score

SEEN = torch.tensor([[[True, False], [False, True]]])
S, H = [0, 3], [1, 2]


def exact(evidence, x):
    """log p(x_h|x_s) of rows of x, as a difference of normal log-densities."""
    mean, covariance = evidence.mean.double(), evidence.covariance_matrix.double()
    of_seen = torch.distributions.MultivariateNormal(mean[S], covariance[S][:, S])
    whole = torch.distributions.MultivariateNormal(mean, covariance)
    return whole.log_prob(x.double()) - of_seen.log_prob(x[:, S].double())


def test_of_a_linear_gaussian_model_it_is_the_conditional_density():
    vae, evidence = linear_gaussian()
    torch.manual_seed(0)
    x = evidence.sample((20,)).clamp(0, 1)
    score = log_score(vae, x.reshape(-1, 1, 2, 2), SEEN, codes=4000, ascent=Ascent(steps=100))
    error = score.nats - exact(evidence, x)
    assert error.abs().max() < 0.06
    assert (error.abs() < 4 * score.mcse_nats).all()


@pytest.mark.slow
def test_the_monte_carlo_error_is_that_of_repeated_estimates():
    """A little larger, as it takes no account of half of the codes being from each q."""
    vae, evidence = linear_gaussian()
    torch.manual_seed(0)
    x = evidence.sample((10,)).clamp(0, 1)
    options = {"codes": 200, "ascent": Ascent(steps=60)}
    scores = [log_score(vae, x.reshape(-1, 1, 2, 2), SEEN, seed=seed, **options) for seed in range(15)]
    in_errors = torch.stack([(score.nats - exact(evidence, x)) / score.mcse_nats for score in scores])
    assert 0.75 < in_errors.square().mean().sqrt() < 1.1
    assert in_errors.mean().abs() < 0.25


def test_an_odd_number_of_codes_has_weights_that_are_unbiased():
    """Two of three codes are from the q of the seen pixels: the average weight is p(x_s) only if q counts it twice."""
    vae, evidence = linear_gaussian()
    x = torch.tensor([0.1, 0.9, 0.7, 0.2]).expand(20_000, 4).reshape(-1, 1, 2, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        of_seen, _ = _log_weights(vae, x, SEEN.expand(x.shape), 3, Ascent(steps=60), 10**6)
    mean, covariance = evidence.mean[S].double(), evidence.covariance_matrix[S][:, S].double()
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x[0].flatten()[S].double()).exp()
    estimates = of_seen.exp().mean(0)
    mcse = estimates.std() / len(estimates) ** 0.5
    assert mcse < 0.01 * exact
    assert (estimates.mean() - exact).abs() < 3 * mcse


def test_probabilities_of_all_fillings_sum_to_1():
    torch.manual_seed(0)
    vae = build(Spec(latent_dim=2, hidden=(16,), image_shape=(1, 2, 2), dataset="x.npy"))
    with torch.no_grad():
        vae.decoder[-2].weight.mul_(20)  # so that pixels depend on z
    fillings = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    x = torch.ones(4, 4)
    x[:, H] = fillings
    score = log_score(vae, x.reshape(4, 1, 2, 2), SEEN, codes=4000, ascent=Ascent(steps=100))
    assert score.nats.exp().sum().item() == pytest.approx(1, abs=0.02)
    assert (score.nats <= 0).all()
    assert score.nats.exp().max() - score.nats.exp().min() > 0.05


def test_the_same_seed_gives_the_same_score_and_leaves_the_generator():
    vae, x = build(Spec(latent_dim=2, hidden=(16,))), torch.zeros(3, 1, 8, 8)
    seen, options = torch.eye(8) > 0, {"codes": 30, "ascent": Ascent(steps=3)}
    state = torch.get_rng_state()
    first, second, other = (log_score(vae, x, seen, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first.nats, second.nats)
    assert not torch.equal(first.nats, other.nats)
    assert torch.equal(torch.get_rng_state(), state)
    assert ((first.effective_samples >= 1) & (first.effective_samples <= 30)).all()


@pytest.mark.parametrize(
    ("spec", "images", "options", "message"),
    [
        ({}, torch.full((2, 1, 8, 8), math.nan), {}, "images: given 'NaN or infinity in seen pixels"),
        ({}, torch.where(torch.eye(8) > 0, 0, torch.full((2, 1, 8, 8), math.nan)), {}, "the score is of the hidden"),
        ({}, torch.full((2, 1, 8, 8), 2.0), {}, "images: given 'seen pixels from 2 to 2'"),
        (
            {},
            torch.where(torch.eye(8) > 0, 0, torch.full((2, 1, 8, 8), 2.0)),
            {},
            "given 'pixels from 0 to 2', expected floats in .0, 1.: the score is of the hidden",
        ),
        ({}, torch.zeros(2, 1, 8, 8), {"codes": 0}, "codes: given 0"),
        ({}, torch.zeros(2, 1, 8, 8), {"codes": 1}, "codes: given 1, expected a whole number of at least 2: one from"),
        ({"posterior": "planar"}, torch.zeros(2, 1, 8, 8), {}, "model: given 'a posterior that is a flow without an"),
        ({"model": "autoencoder"}, torch.zeros(2, 1, 8, 8), {}, "model: given 'Autoencoder'"),
    ],
)
def test_what_can_not_be_scored_is_an_error(spec, images, options, message):
    with pytest.raises(InputError, match=message):
        log_score(build(Spec(**{"latent_dim": 2} | spec)), images, torch.eye(8) > 0, **options)
