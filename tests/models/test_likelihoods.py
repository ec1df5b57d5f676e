import math

import mpmath
import pytest
import torch
from torch import nn
from torch.nn import functional

from pyro_vae import VAE, likelihoods, networks, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import bidirectional_monte_carlo

LOGITS = torch.linspace(-3, 3, 12).reshape(3, 1, 2, 2)


def test_bernoulli_is_minus_the_cross_entropy_summed_over_pixels():
    for x in (torch.ones(3, 1, 2, 2), torch.rand(3, 1, 2, 2)):
        expected = -functional.binary_cross_entropy_with_logits(LOGITS, x, reduction="none").sum((1, 2, 3))
        torch.testing.assert_close(likelihoods.Bernoulli()(LOGITS).log_prob(x), expected)


@pytest.mark.parametrize("logit", [-100.0, -20.0, -1e-3, 0.0, 0.7, 20.0, 100.0])
def test_bernoulli_and_its_gradient_at_every_logit(logit):
    """d/dl log p(x) = x - sigmoid(l), at the kink of |l| too."""
    for x in (0.0, 0.3, 1.0):
        logits = torch.tensor(logit).reshape(1, 1, 1).requires_grad_()
        log_prob = likelihoods.Bernoulli()(logits).log_prob(torch.full((1, 1, 1), x))
        exact = x * logit - max(logit, 0) - math.log1p(math.exp(-abs(logit)))
        assert log_prob.item() == pytest.approx(exact, rel=1e-6, abs=1e-7)
        (gradient,) = torch.autograd.grad(log_prob, logits)
        assert gradient.item() == pytest.approx(x - 1 / (1 + math.exp(-logit)), rel=1e-6, abs=1e-7)


def test_a_linear_gaussian_has_its_parameters_as_the_mean():
    p = likelihoods.LinearGaussian(0.3)(LOGITS)
    assert torch.equal(p.mean, LOGITS)
    torch.testing.assert_close(p.variance, torch.full_like(LOGITS, 0.3))


def test_bernoulli_refuses_values_outside_the_unit_interval():
    with pytest.raises(ValueError, match="within the support"):
        likelihoods.Bernoulli()(LOGITS).log_prob(torch.full((3, 1, 2, 2), 2.0))


def test_bernoulli_draws_binary_pixels():
    assert set(likelihoods.Bernoulli()(LOGITS).sample((50,)).unique().tolist()) == {0.0, 1.0}


def test_continuous_bernoulli_is_a_density_with_its_own_mean():
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for logit in (-4.0, -0.5, 0.0, 2.0):
        p = likelihoods.ContinuousBernoulli()(torch.tensor(logit, dtype=torch.float64).reshape(1, 1, 1))
        density = p.log_prob(grid.reshape(-1, 1, 1, 1)).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-5)
        assert torch.trapezoid(density * grid, grid).item() == pytest.approx(p.mean.item(), abs=1e-5)


@pytest.mark.parametrize("logit", [-80.0, -20.0, -0.6, -0.4, 0.0, 1e-3, 0.009, 0.011, 3.0, 40.0])
def test_continuous_bernoulli_at_every_logit(logit):
    """Also where torch's own is clamped: log C = log(l / tanh(l / 2)), mean = 1 / (1 - exp(-l)) - 1 / l."""
    p = likelihoods.ContinuousBernoulli()(torch.tensor(logit).reshape(1, 1, 1))
    norm = math.log(2) if logit == 0 else math.log(logit / math.tanh(logit / 2))
    mean = 0.5 if logit == 0 else -1 / math.expm1(-logit) - 1 / logit
    for x in (0.0, 0.3, 1.0):
        expected = x * logit - max(logit, 0) - math.log1p(math.exp(-abs(logit))) + norm
        assert p.log_prob(torch.tensor([[[x]]])).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert p.mean.item() == pytest.approx(mean, abs=1e-5)


SIZES = [0.0, 1e-4, 0.005, 0.09, 0.11, 0.5, 0.99, 1.01, 5.0, 16.0, 60.0, 300.0]
VALUES = [0.0, 1e-6, 0.1, 0.5, 0.75, 0.9999, 1.0]


def exact_continuous_bernoulli(logit, value):
    """Mean, variance, entropy, and at `value` log density, cdf, icdf and the derivative of the icdf by the logit."""
    u = mpmath.mpf(value)
    if logit == 0:
        return 0.5, mpmath.mpf(1) / 12, 0, 0, u, u, u * (1 - u) / 2
    with mpmath.workdps(300):
        odds = mpmath.exp(logit)
        log_z = mpmath.log((odds - 1) / logit)
        mean = 1 / (1 - 1 / odds) - 1 / mpmath.mpf(logit)
        variance = 1 / mpmath.mpf(logit) ** 2 - 1 / (4 * mpmath.sinh(mpmath.mpf(logit) / 2) ** 2)
        inside = 1 + u * (odds - 1)
        icdf = mpmath.log(inside) / logit
        slope = u * odds / (inside * logit) - icdf / logit
        cdf = (mpmath.exp(u * logit) - 1) / (odds - 1)
        return mean, variance, log_z - logit * mean, u * logit - log_z, cdf, icdf, slope


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_of_the_continuous_bernoulli_at_every_logit(dtype, size, sign):
    logit = torch.tensor(sign * size, dtype=dtype, requires_grad=True)
    p = likelihoods.ContinuousBernoulli()(logit.reshape(1, 1, 1)).base_dist
    close = {"rel": 1e-6, "abs": 1e-6} if dtype == torch.float32 else {"rel": 1e-11, "abs": 1e-12}
    for value in VALUES:
        x = torch.tensor(value, dtype=dtype)
        mean, variance, entropy, log_density, cdf, icdf, slope = map(
            float, exact_continuous_bernoulli(logit.item(), x.item())
        )
        assert p.mean.item() == pytest.approx(mean, **close)
        assert p.variance.item() == pytest.approx(variance, rel=close["rel"])
        assert p.stddev.item() == pytest.approx(variance**0.5, rel=close["rel"])
        assert p.entropy().item() == pytest.approx(entropy, **close)
        assert p.log_prob(x).item() == pytest.approx(log_density, rel=close["rel"], abs=100 * close["abs"])
        assert p.cdf(x).item() == pytest.approx(cdf, **close)
        assert p.icdf(x).item() == pytest.approx(icdf, **close)
        (gradient,) = torch.autograd.grad(p.icdf(x).sum(), logit)
        assert gradient.item() == pytest.approx(slope, rel=1e-5, abs=10 * close["abs"])


@pytest.mark.parametrize("logit", [0.0, 0.005, -5.0, 60.0, -300.0])
def test_draws_of_the_continuous_bernoulli_have_its_moments(logit):
    torch.manual_seed(0)
    logits = torch.full((20_000, 1, 1, 1), logit, requires_grad=True)
    p = likelihoods.ContinuousBernoulli()(logits)
    x = p.rsample()
    assert bool(((x >= 0) & (x <= 1)).all())
    mean, variance, *_ = map(float, exact_continuous_bernoulli(logit, 0.5))
    assert x.mean().item() == pytest.approx(mean, abs=4 * (variance / 20_000) ** 0.5)
    assert x.var().item() == pytest.approx(variance, rel=0.07)
    (gradient,) = torch.autograd.grad(x.sum(), logits)  # its mean is d mean / d logit, which is the variance
    assert gradient.mean().item() == pytest.approx(variance, rel=0.07)
    assert p.sample((3,)).shape == (3, 20_000, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_has_finite_gradients_everywhere(dtype):
    sizes = [*SIZES, 1e4, 1e6, 1e10]  # of which powers overflow, which a series has
    logits = torch.tensor([sign * size for size in sizes for sign in (1, -1)], dtype=dtype).requires_grad_()
    p = likelihoods.ContinuousBernoulli()(logits.reshape(-1, 1, 1, 1)).base_dist
    for x in (0.0, 0.5, 1.0):
        value = torch.tensor(x, dtype=dtype)
        for output in (p.log_prob(value), p.mean, p.variance, p.entropy(), p.cdf(value), p.icdf(value)):
            (gradient,) = torch.autograd.grad(output.sum(), logits)
            assert bool(gradient.isfinite().all())
    at_zero = logits.detach() == 0
    (gradient,) = torch.autograd.grad(p.log_prob(torch.tensor(0.75, dtype=dtype)).sum(), logits)
    assert gradient[at_zero].tolist() == pytest.approx([0.25] * int(at_zero.sum()))  # x - mean


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_continuous_bernoulli_refuses_values_outside_the_unit_interval(value):
    with pytest.raises(ValueError, match="within the support"):
        likelihoods.ContinuousBernoulli()(LOGITS).log_prob(torch.full((3, 1, 2, 2), value))


class SteepLogits(nn.Module):
    """42 pixels of logit 30 + 5 z."""

    def forward(self, z):
        return (30 + 5 * z).reshape(-1, 1, 1, 1).expand(-1, 1, 6, 7)


def test_both_sides_of_annealing_hold_the_truth_where_logits_are_steep():
    """The images are simulated from the likelihood, so it must draw what it scores, also beyond |logit| = 16."""
    likelihood = likelihoods.ContinuousBernoulli()
    encoder = networks.mlp_encoder((1, 6, 7), 2, (4,))
    model = VAE(encoder, SteepLogits(), priors.StandardNormal(1), likelihood, posteriors.DiagonalNormal(1))
    n = 200
    sandwich = bidirectional_monte_carlo(model, n, temperatures=5, device="cpu")
    torch.manual_seed(0)
    z = torch.randn(500, 1, dtype=torch.float64)
    x = likelihood(SteepLogits()(z)).sample()
    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    joint = likelihood(SteepLogits()(grid)).log_prob(x[:, None]) - grid.square() / 2 - math.log(2 * math.pi) / 2
    exact = joint.logsumexp(1) + (grid[1] - grid[0]).log()  # log p(x) by quadrature
    error = exact.std().item() * (1 / n + 1 / len(exact)) ** 0.5
    assert sandwich.gap > -3 * sandwich.gap_se
    assert sandwich.lower - 3 * error < exact.mean().item() < sandwich.upper + 3 * error


def test_gaussian_with_variance_one_half_is_the_summed_squared_error():
    x = torch.rand(3, 1, 2, 2)
    p = likelihoods.Gaussian()(LOGITS)
    squared_error = (x - LOGITS.sigmoid()).square().sum((1, 2, 3))
    torch.testing.assert_close(p.log_prob(x), -squared_error - 4 / 2 * math.log(math.pi))
    assert not list(likelihoods.Gaussian().parameters())


def test_the_learned_variance_ends_at_the_mean_squared_error():
    likelihood = likelihoods.LearnedGaussian()
    x = torch.rand(50, 1, 2, 2)
    logits = torch.zeros(50, 1, 2, 2)
    optimizer = torch.optim.LBFGS(likelihood.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -likelihood(logits).log_prob(x).mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert likelihood.log_variance.exp().item() == pytest.approx((x - 0.5).square().mean().item(), rel=1e-3)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), "1"])
def test_bad_variances_are_named(variance):
    with pytest.raises(InputError, match="variance: given"):
        likelihoods.Gaussian(variance)


@pytest.mark.parametrize(
    "likelihood", [likelihoods.Bernoulli(), likelihoods.ContinuousBernoulli(), likelihoods.Gaussian()]
)
def test_leading_dimensions_are_batch_dimensions(likelihood):
    p = likelihood(torch.zeros(5, 4, 1, 2, 2))
    assert (p.batch_shape, p.event_shape) == ((5, 4), (1, 2, 2))
    assert p.log_prob(torch.rand(4, 1, 2, 2).round()).shape == (5, 4)
    assert likelihood.data_range in ("binary", "unit interval")
