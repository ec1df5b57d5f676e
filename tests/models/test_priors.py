"""Priors of shapes: what their draws and densities must be."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import Spec, build, evaluate, fit, priors
from pyro_vae._utils.checks import InputError


@pytest.mark.parametrize("learned", [False, True])
def test_the_density_of_a_mixture_is_that_of_its_components_and_integrates_to_1(learned):
    prior = priors.Mixture(2, components=3, radius=2.0, scale=0.6, learned=learned)
    axis = torch.linspace(-6, 6, 241)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = prior().log_prob(grid).exp()
    assert density.sum().item() * 0.05**2 == pytest.approx(1, abs=1e-3)
    centres = [2.0 * torch.tensor([math.cos(a), math.sin(a)]) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    expected = sum(dist.Normal(centre, 0.6).to_event(1).log_prob(grid).exp() for centre in centres) / 3
    torch.testing.assert_close(density, expected)
    assert len(list(prior.parameters())) == (3 if learned else 0)


def test_further_dimensions_of_a_mixture_are_centred():
    draws = priors.Mixture(5, scale=0.5)().sample((20_000,))
    torch.testing.assert_close(draws.mean(0), torch.zeros(5), atol=0.08, rtol=0)
    variances = torch.tensor([8.25, 8.25, 0.25, 0.25, 0.25])  # r^2 / 2 + s^2, and s^2
    torch.testing.assert_close(draws.var(0), variances, rtol=0.05, atol=0)


def test_a_vae_learns_its_mixture(digits):
    prior = {"kind": "mixture", "components": 4, "radius": 1.0, "learned": True}
    model = build(Spec(prior=prior, latent_dim=2, hidden=(16,), binarization="threshold", epochs=1))
    before = {name: value.clone() for name, value in model.prior.named_parameters()}
    fit(model, digits.train.draw(64), progress=False, device="cpu")
    assert all(not torch.equal(value, before[name]) for name, value in model.prior.named_parameters())
    metrics = evaluate(model, digits.test.draw(30), metrics=["bounds", "evidence"], k=20, device="cpu")
    assert metrics.kl_per_sample > 0
    assert math.isfinite(metrics.nll_nats)


def test_codes_lie_evenly_along_the_roll():
    draws = priors.SwissRoll(2, noise=0.0)().sample((20_000,))
    angle = draws.norm(dim=-1) * 5
    torch.testing.assert_close(
        draws, angle[:, None] / 5 * torch.stack([angle.cos(), angle.sin()], -1), atol=1e-4, rtol=0
    )
    assert (angle.min().item(), angle.max().item()) == (
        pytest.approx(1.5 * math.pi, abs=0.01),
        pytest.approx(4.5 * math.pi, abs=0.01),
    )
    # The length along a spiral is about angle^2 / 2.
    counts = torch.histc(angle.square(), 10)
    assert ((counts - 2000).abs() < 4 * 2000**0.5).all()
    noisy = priors.SwissRoll(2, noise=0.2)().sample((20_000,))
    excess = noisy.var(0) - draws.var(0)
    torch.testing.assert_close(excess, torch.full((2,), 0.04), atol=0.1, rtol=0)


def test_what_is_only_sampled_has_no_density():
    for prior in (priors.SwissRoll(2), priors.Generator(2)):
        p = prior()
        assert (p.batch_shape, p.event_shape) == ((), (2,))
        assert p.expand([3]).sample((4,)).shape == (4, 3, 2)
        with pytest.raises(InputError, match=f"^prior: given '{prior.kind}', expected one that has a density"):
            p.log_prob(torch.zeros(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: priors.Mixture(1), "latent_dim: given 1, expected at least 2"),
        (lambda: priors.Mixture(2, components=0), "components: given 0"),
        (lambda: priors.Mixture(2, scale=0.0), "scale: given 0.0"),
        (lambda: priors.Mixture(2, radius=-1.0), "radius: given -1.0"),
        (lambda: priors.Mixture(2, learned=3), "learned: given 3"),
        (lambda: priors.SwissRoll(3), "latent_dim: given 3, expected 2"),
        (lambda: priors.SwissRoll(2, noise=-1.0), "noise: given -1.0"),
        (lambda: priors.Generator(2, noise_dim=0), "noise_dim: given 0"),
        (lambda: priors.Generator(2, units=(0,)), "units: given 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=f"^{message}"):
        call()
