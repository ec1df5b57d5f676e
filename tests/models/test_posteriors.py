import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae import posteriors, priors
from pyro_vae._utils.checks import InputError

D = 3
FLOWS = [posteriors.Planar, posteriors.ConditionalPlanar]


def flow_and_parameters(kind, layers=2, n=4):
    torch.manual_seed(1)
    posterior = kind(D, layers)
    return posterior, torch.randn(n, posterior.num_parameters)


def test_diagonal_normal_reads_mean_and_log_variance():
    loc, log_variance = torch.randn(2, 5, D)
    q = posteriors.DiagonalNormal(D)(torch.cat([loc, log_variance], -1))
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.variance, log_variance.exp())
    # Kingma and Welling's closed form; one document prints its negative.
    expected = 0.5 * (loc**2 + log_variance.exp() - 1 - log_variance).sum(-1)
    torch.testing.assert_close(kl_divergence(q, priors.StandardNormal(D)()), expected)
    assert bool((expected > 0).all())


def test_laplace_and_its_kl():
    """KL(Laplace(m, b) || Laplace(0, 1)) = |m| + b exp(-|m| / b) - 1 - log b."""
    loc, log_scale = torch.randn(2, 5, D)
    q = posteriors.Laplace(D)(torch.cat([loc, log_scale], -1))
    scale, distance = log_scale.exp(), loc.abs()
    expected = (distance + scale * (-distance / scale).exp() - 1 - log_scale).sum(-1)
    torch.testing.assert_close(kl_divergence(q, priors.Laplace(D)()), expected)
    z = q.rsample((100_000,))
    torch.testing.assert_close((q.log_prob(z) - priors.Laplace(D)().log_prob(z)).mean(0), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("a", [-40.0, -1.0, 0.0, 0.3, 40.0])
@pytest.mark.parametrize("b", [-200.0, -25.0, -17.0, -12.0, 0.0, 40.0])
def test_a_uniform_box_has_a_width_wherever_the_encoder_sends_it(a, b):
    parameters = torch.tensor([[a, b]], requires_grad=True)
    q, prior = posteriors.Uniform(1)(parameters), priors.Uniform(1)()
    z = q.rsample((1000,))
    assert bool(prior.log_prob(z).isfinite().all())
    loss = q.log_prob(z).mean() + torch.distributions.kl_divergence(q, prior).sum()
    half = 2**-14 + (1 - 2**-14) / (1 + math.exp(-b))
    assert loss.item() == pytest.approx(-math.log(2 * half) - math.log(half), abs=5e-3)
    loss.backward()
    assert bool(parameters.grad.isfinite().all())


def test_a_uniform_box_stays_in_the_cube_and_its_kl_is_what_it_leaves_out():
    """KL(U(c - h, c + h) || U(-1, 1)) = -log h, for narrow boxes, wide ones, and boxes at the wall."""
    wall = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0])
    a, b = torch.meshgrid(wall, torch.tensor([-6.0, 0.0, 3.0, 12.0]), indexing="ij")
    q = posteriors.Uniform(1)(torch.stack([a.flatten(), b.flatten()], -1))
    prior = priors.Uniform(1)()
    z = q.rsample((50_000,))
    assert z.abs().max() <= 1
    assert bool(q.log_prob(z).isfinite().all())
    assert bool(prior.log_prob(z).isfinite().all())
    expected = -(2**-14 + (1 - 2**-14) * b.flatten().sigmoid()).log()
    torch.testing.assert_close(kl_divergence(q, prior), expected, rtol=1e-3, atol=1e-5)
    assert prior.log_prob(torch.tensor([1.0])).exp().item() == pytest.approx(0.5)
    assert prior.log_prob(torch.ones(1) * -1).isfinite()


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("layers", [1, 4, 8])
def test_log_determinants_agree_with_autograd(kind, layers):
    posterior, parameters = flow_and_parameters(kind, layers, n=1)
    q = posterior(parameters)
    z0 = torch.randn(1, D)

    def carry(z):
        for transform in q.transforms:
            z = transform(z)
        return z

    jacobian = torch.autograd.functional.jacobian(carry, z0)[0, :, 0, :]
    z, total = z0, 0.0
    for transform in q.transforms:
        after = transform(z)
        total = total + transform.log_abs_det_jacobian(z, after)
        z = after
    torch.testing.assert_close(total[0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FLOWS)
def test_the_density_of_a_flow_integrates_to_one(kind):
    """E_q[p(z) / q(z)] = 1 for any normalized p: the density belongs to the last z, at every image."""
    posterior, parameters = flow_and_parameters(kind)
    q = posterior.double()(parameters.double() * 0.3)
    p = dist.Normal(torch.zeros(D), 0.7).to_event(1)
    z = q.rsample((100_000,))
    weights = (p.log_prob(z) - q.log_prob(z)).exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert bool(((weights.mean(0) - 1).abs() < 5 * error).all())


@pytest.mark.parametrize("kind", FLOWS)
def test_the_kl_of_a_flow_is_not_negative(kind):
    posterior, parameters = flow_and_parameters(kind, layers=8)
    q, p = posterior(parameters), priors.StandardNormal(D)()
    z = q.rsample((4000,))
    assert bool(((q.log_prob(z) - p.log_prob(z)).mean(0) > 0).all())


@pytest.mark.parametrize("kind", FLOWS)
def test_two_distributions_of_one_flow_keep_their_own_codes(kind):
    posterior, parameters = flow_and_parameters(kind)
    first, second = posterior(parameters), posterior(parameters + 1)
    z_first, z_second = first.rsample(), second.rsample()
    assert first.log_prob(z_first).shape == second.log_prob(z_second).shape == (4,)


def test_planar_weights_are_shared_and_conditional_ones_are_not():
    shared, parameters = flow_and_parameters(posteriors.Planar)
    assert shared.num_parameters == 2 * D
    assert shared(parameters).transforms[0](torch.ones(D)).shape == (D,)
    amortized, parameters = flow_and_parameters(posteriors.ConditionalPlanar)
    assert amortized.num_parameters == 2 * D + 2 * (2 * D + 1)
    carried = amortized(parameters).transforms[0](torch.ones(4, D))
    assert not torch.allclose(carried[0], carried[1])


def test_conditional_equals_planar_where_its_weights_do_not_depend_on_the_image():
    shared = posteriors.Planar(D, 2)
    amortized = posteriors.ConditionalPlanar(D, 2)
    weights = torch.stack([torch.cat([layer.bias, layer.u, layer.w]) for layer in shared.layers])
    amortized.offset.data.copy_(weights.detach())
    base = torch.randn(4, 2 * D)
    padded = torch.cat([base, torch.zeros(4, 2 * (2 * D + 1))], -1)
    torch.testing.assert_close(posteriors.location(shared(base)), posteriors.location(amortized(padded)))


def test_a_copied_flow_uses_its_own_weights():
    posterior, parameters = flow_and_parameters(posteriors.Planar)
    other = copy.deepcopy(posterior)
    with torch.no_grad():
        for layer in other.layers:
            layer.u.add_(1)
    assert not torch.allclose(posteriors.location(posterior(parameters)), posteriors.location(other(parameters)))


def test_location_is_the_mean_where_there_is_one():
    posterior, parameters = posteriors.DiagonalNormal(D), torch.randn(4, 2 * D)
    torch.testing.assert_close(posteriors.location(posterior(parameters)), parameters[:, :D])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.DiagonalNormal(0), "latent_dim: given 0"),
        (lambda: posteriors.Planar(2, 0), "layers: given 0"),
        (lambda: posteriors.ConditionalPlanar(-1), "latent_dim: given -1"),
        (lambda: priors.StandardNormal(1.5), "latent_dim: given 1.5"),
    ],
)
def test_bad_sizes_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
