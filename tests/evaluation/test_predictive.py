"""Predictive checks of a linear-Gaussian model of pixels, whose predictive distributions are normal."""

import math

import pytest
import torch
from scipy.stats import chi2, kstest
from torch import nn
from torch.distributions import Normal

from pyro_vae import VAE, Images, Spec, build, likelihoods, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import mean_intensity, pixels_on, predictive_check, total_variation
from pyro_vae.plots import predictive_panels

CPU = {"device": "cpu"}
C = 0.003
W = 0.1 * torch.tensor([[1.0, 0.5], [1.0, -0.5], [1.0, 0.5], [1.0, -0.5]])  # columns that are orthogonal
VARIANCE = C / (W.square().sum(0) + C)  # of the posterior
GAIN = (VARIANCE / C)[:, None] * W.T
MEAN_ONLY = {"mean": mean_intensity}


def linear(shift=0.0):
    """p(x|z) = N(W z + 1/2, C I) of 2 x 2 pixels with the exact posterior; nearly all pixels are in [0, 1]."""
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(-1, (1, 2, 2)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        decoder[0].weight.copy_(W)
        decoder[0].bias.fill_(0.5)
        encoder[1].weight.copy_(torch.cat([GAIN, torch.zeros(2, 4)]))
        encoder[1].bias.copy_(torch.cat([-GAIN @ torch.full((4,), 0.5) + shift, VARIANCE.log()]))
    parts = likelihoods.LinearGaussian(C), posteriors.DiagonalNormal(2)
    return VAE(encoder, decoder, priors.StandardNormal(2), *parts)


def simulated(n, seed=0, noise=0.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator) @ W.T + 0.5 + offset
    x = x + math.sqrt(C + noise**2) * torch.randn(n, 4, generator=generator)
    return Images((255 * x.clamp(0, 1)).round().to(torch.uint8).reshape(n, 1, 2, 2), name="simulated")


def test_posterior_p_values_are_those_of_the_normal_predictive():
    images = simulated(40)
    x = images.as_float().flatten(1)
    loc = (x - 0.5) @ GAIN.T @ W.T + 0.5
    covariance = W @ VARIANCE.diag() @ W.T + C * torch.eye(4)
    sd = covariance.sum().sqrt() / 4  # of the mean of four pixels
    expected = 1 - Normal(loc.mean(1), sd).cdf(x.mean(1))
    check = predictive_check(linear(), images, MEAN_ONLY, replicates=4000, **CPU).statistics["mean"]
    torch.testing.assert_close(check.p_per_image, expected.double(), atol=0.035, rtol=0)
    overall = 1 - Normal(loc.mean(), sd / 40**0.5).cdf(x.mean()).item()
    assert check.p_mean == pytest.approx(overall, abs=4 * check.p_mean_mcse)
    assert check.p_mean_mcse == pytest.approx(math.sqrt(overall * (1 - overall) / 4000), rel=0.1)


def test_prior_p_values_are_those_of_the_normal_and_the_chi_square():
    images = simulated(40)
    means = images.as_float().flatten(1).mean(1)
    variance = (W @ W.T + C * torch.eye(4)).sum().item() / 16
    check = predictive_check(linear(), images, MEAN_ONLY, kind="prior", replicates=4000, **CPU).statistics["mean"]
    expected = 1 - Normal(0.5, math.sqrt(variance / 40)).cdf(means.mean()).item()
    assert check.p_mean == pytest.approx(expected, abs=4 * check.p_mean_mcse)
    assert check.p_sd == pytest.approx(chi2.sf(39 * means.var().item() / variance, 39), abs=4 * check.p_sd_mcse)
    assert check.observed_mean == pytest.approx(means.mean().item())
    assert check.observed_sd == pytest.approx(means.std().item())
    assert check.replicated_means.std().item() == pytest.approx(math.sqrt(variance / 40), rel=0.05)
    assert check.p_per_image is None


def test_prior_p_values_of_the_models_own_data_are_uniform_and_posterior_ones_central():
    prior, posterior = [], []
    for seed in range(60):
        images, quick = simulated(20, seed), {"replicates": 99, "seed": seed, **CPU}
        prior.append(predictive_check(linear(), images, kind="prior", **quick).statistics["mean intensity"])
        posterior.append(predictive_check(linear(), images, **quick).statistics["mean intensity"])
    assert kstest([check.p_mean for check in prior], "uniform").pvalue > 0.01
    assert kstest([check.p_sd for check in prior], "uniform").pvalue > 0.01
    p = torch.tensor([check.p_mean for check in posterior])
    assert p.mean().item() == pytest.approx(0.5, abs=0.1)
    assert p.std().item() < 12**-0.5  # below that of a uniform: the data are used twice


@pytest.mark.parametrize(
    ("kind", "how", "name", "p"),
    [
        ("prior", {"offset": 0.15}, "mean intensity", 0.0),
        ("prior", {"noise": 0.1}, "total variation", 0.0),
        ("posterior", {"noise": 0.1}, "total variation", 0.0),
    ],
)
def test_other_data_give_extreme_p_values(kind, how, name, p):
    check = predictive_check(linear(), simulated(100, **how), kind=kind, **CPU).statistics[name]
    assert check.p_mean == pytest.approx(p, abs=0.01)


def test_a_wrong_guide_is_seen_in_the_posterior_check():
    check = predictive_check(linear(shift=2.0), simulated(100), **CPU).statistics["mean intensity"]
    assert check.p_mean > 0.99
    assert check.p_per_image.mean() > 0.9


def test_blocks_and_chunks_are_put_together():
    """250 images are three blocks; with a statistic without noise, whatever is decoded at once."""
    images = simulated(250)
    for at_once in (7, 300, 100_000):
        options = {"replicates": 30, "decoded_at_once": at_once, **CPU}
        result = predictive_check(linear(), images, {"one": lambda x: torch.ones(len(x))}, **options)
        check = result.statistics["one"]
        assert (result.n, result.replicates, result.kind) == (250, 30, "posterior")
        assert check.replicated_means.tolist() == [1.0] * 30
        assert check.replicated_sds.tolist() == [0.0] * 30
        assert check.p_mean == check.p_sd == 0.5  # all are ties
        assert check.p_per_image.tolist() == [0.5] * 250


def test_seeds_and_generators(tiny):
    model, before = build(Spec(latent_dim=2, hidden=(8,))).train(), torch.get_rng_state()

    def means(**options):
        result = predictive_check(model, tiny, binarization="threshold", replicates=20, **options, **CPU)
        return torch.stack([statistic.replicated_means for statistic in result.statistics.values()])

    assert torch.equal(means(), means())
    assert not torch.equal(means(), means(seed=1))
    assert not torch.equal(means(), means(kind="prior"))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_statistics_of_known_images():
    x = torch.zeros(2, 1, 3, 4)
    x[1, 0, 1, 1] = 1.0
    assert mean_intensity(x).tolist() == pytest.approx([0, 1 / 12])
    assert pixels_on(x).tolist() == [0, 1]
    assert total_variation(x).tolist() == [0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "posteriors"}, "kind: given 'posteriors', .*did you mean 'posterior'"),
        ({"replicates": 0}, "replicates: given 0"),
        ({"decoded_at_once": 0}, "decoded_at_once: given 0"),
        ({"seed": -1}, "seed: given -1"),
        ({"statistics": {}}, "statistics: given {}, expected functions"),
        ({"statistics": {"a": 1}}, "statistics: given {'a': 1}, expected functions"),
        ({"statistics": mean_intensity}, "statistics: given function, expected functions"),
        (
            {"statistics": {"a": lambda x: x}},
            r"a with \(12, 1, 8, 8\) of 12 images', expected one number each, \(12,\)",
        ),
        ({"statistics": {"a": lambda x: 1.0}}, "a with float of 12 images"),
        ({"statistics": {"a": lambda x: x.flatten(1).sum(1) / 0}}, "a with NaN or infinity"),
    ],
)
def test_bad_input_is_named(tiny, options, message):
    with pytest.raises(InputError, match=message):
        predictive_check(build(Spec(latent_dim=2)), tiny, binarization="threshold", **options, **CPU)


def test_other_models_and_values_are_refused(tiny):
    with pytest.raises(InputError, match="model: given"):
        predictive_check(build(Spec(model="autoencoder", latent_dim=2)), tiny, **CPU)
    with pytest.raises(InputError, match="check: given"):
        predictive_panels(tiny)


@pytest.mark.parametrize(("kind", "n", "panels"), [("posterior", 20, 9), ("prior", 20, 6), ("posterior", 1, 6)])
def test_its_figure(kind, n, panels):
    result = predictive_check(linear(), simulated(n), kind=kind, replicates=30, **CPU)
    figure = predictive_panels(result, title="a title")
    assert len(figure.axes) == panels
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert result.statistics["mean intensity"].observed_sd is None or n > 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_that_are_not_finite_are_named(tiny, part):
    model = build(Spec(latent_dim=2))
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(math.nan)
    with pytest.raises(InputError, match=f"model: given 'weights that are not finite, in {part}"):
        predictive_check(model, tiny, binarization="threshold", **CPU)
