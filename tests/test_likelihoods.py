import math

import pytest
import torch
from torch.nn import functional

from pyro_vae import likelihoods
from pyro_vae.checks import InputError

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
        found = likelihoods.Bernoulli()(logits).log_prob(torch.full((1, 1, 1), x))
        exact = x * logit - max(logit, 0) - math.log1p(math.exp(-abs(logit)))
        assert found.item() == pytest.approx(exact, rel=1e-6, abs=1e-7)
        (gradient,) = torch.autograd.grad(found, logits)
        assert gradient.item() == pytest.approx(x - 1 / (1 + math.exp(-logit)), rel=1e-6, abs=1e-7)


def test_a_linear_gaussian_has_its_parameters_as_the_mean():
    p = likelihoods.Gaussian(0.3, linear=True)(LOGITS)
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


def test_continuous_bernoulli_has_finite_gradients_everywhere():
    logits = torch.tensor([-80.0, -0.01, 0.0, 0.01, 80.0]).reshape(5, 1, 1, 1).requires_grad_()
    p = likelihoods.ContinuousBernoulli()(logits)
    (p.log_prob(torch.full((5, 1, 1, 1), 0.5)).sum() + p.mean.sum()).backward()
    assert bool(logits.grad.isfinite().all())


def test_gaussian_with_variance_one_half_is_the_summed_squared_error():
    x = torch.rand(3, 1, 2, 2)
    p = likelihoods.Gaussian()(LOGITS)
    squared_error = (x - LOGITS.sigmoid()).square().sum((1, 2, 3))
    torch.testing.assert_close(p.log_prob(x), -squared_error - 4 / 2 * math.log(math.pi))
    assert not list(likelihoods.Gaussian().parameters())


def test_the_learned_variance_ends_at_the_mean_squared_error():
    likelihood = likelihoods.Gaussian(learned=True)
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
    assert likelihood.support in ("binary", "unit interval")
