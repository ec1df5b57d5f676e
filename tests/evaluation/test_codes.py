import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import active_units, aggregate_posterior, kl_per_dimension, kl_per_image, probe_accuracy


def normal(loc, scale=1.0):
    return dist.Normal(loc, torch.as_tensor(scale).expand(loc.shape)).to_event(1)


def laplace():
    return dist.Laplace(torch.zeros(5, 2), 1.0).to_event(1)


def test_active_units_use_the_population_variance():
    means = torch.tensor([[0.0, 0.0, 5.0], [0.19, 0.21, 5.0]])  # variances 0.009025, 0.011025, 0
    units = active_units(means)
    assert units.count == 1
    torch.testing.assert_close(
        units.variances, torch.tensor([0.009025, 0.011025, 0], dtype=torch.float64), rtol=1e-5, atol=1e-9
    )


def test_estimated_means_do_not_count_the_noise_of_their_draws():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 3, generator=generator) * torch.tensor([0.0, 0.5, 0.05])
    first, other = (truth + 0.2 * torch.randn(4000, 3, generator=generator) for _ in range(2))
    assert active_units(first).count == 3  # the noise alone has the variance 0.04
    units = active_units(first, others=other)
    assert units.count == 1
    torch.testing.assert_close(
        units.variances, torch.tensor([0.0, 0.25, 0.0025], dtype=torch.float64), atol=0.01, rtol=0.1
    )


def test_kl_per_dimension_adds_up():
    q, p = normal(torch.randn(20, 4), 0.3), normal(torch.zeros(4))
    assert kl_per_dimension(q, p).sum().item() == pytest.approx(kl_per_image(q, p, None)[0].mean().item(), rel=1e-5)


def test_aggregate_moments_are_those_of_the_mixture():
    means = torch.randn(5000, 3) @ torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 0.1]])
    aggregate = aggregate_posterior(normal(means[:200], 0.5), normal(torch.zeros(3)))
    z = (means[:200, None] + 0.5 * torch.randn(200, 2000, 3)).reshape(-1, 3)
    torch.testing.assert_close(aggregate.mean.float(), z.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(aggregate.covariance.float(), z.T.cov(), atol=0.03, rtol=0)


def test_identical_codes_carry_no_information():
    aggregate = aggregate_posterior(normal(torch.ones(100, 2), 1.0), normal(torch.zeros(2)))
    assert aggregate.mutual_information_nats == pytest.approx(0, abs=1e-9)
    assert aggregate.marginal_kl_nats == pytest.approx(1.0, abs=1e-6)


def test_codes_far_apart_carry_at_least_log_n():
    aggregate = aggregate_posterior(normal(torch.arange(50.0)[:, None] * 100), normal(torch.zeros(1)))
    assert aggregate.mutual_information_nats == pytest.approx(math.log(50), rel=1e-6)
    assert aggregate.saturated
    assert aggregate.marginal_kl_nats is None


def channel(d, s, n, seed=1):
    """q(z|x) = N(mu, s^2 I), mu ~ N(0, (1 - s^2) I): the aggregate is the prior, and the information -d log s."""
    generator = torch.Generator().manual_seed(seed)
    means = (1 - s**2) ** 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return aggregate_posterior(normal(means, s), normal(torch.zeros(d, dtype=torch.float64)), samples=2)


def test_an_aggregate_that_is_the_prior_is_not_said_to_be_far_from_it():
    """The average KL is 28.5 nats, all of it information, of which 1,000 images show log 1,000."""
    aggregate = channel(20, 0.24, 1000)
    assert aggregate.average_kl_nats == pytest.approx(28.5, abs=0.5)
    assert aggregate.mutual_information_nats == pytest.approx(math.log(1000), abs=1e-3)
    assert aggregate.mutual_information_upper_nats > -20 * math.log(0.24)
    assert aggregate.saturated
    assert aggregate.marginal_kl_nats is None


@pytest.mark.parametrize(("d", "s"), [(2, 0.4), (5, 0.5), (10, 0.7), (20, 0.9)])
def test_the_information_lies_between_its_bounds(d, s):
    aggregate = channel(d, s, 1000)
    assert not aggregate.saturated
    sampling = 0.15  # of the average KL of 1,000 images
    assert (
        aggregate.mutual_information_nats - sampling
        < -d * math.log(s)
        < aggregate.mutual_information_upper_nats + sampling
    )
    assert aggregate.marginal_kl_nats == pytest.approx(0, abs=0.2)


def test_a_large_kl_without_information_is_not_saturated():
    """The average KL is far above log n, and all of it is between aggregate and prior."""
    aggregate = aggregate_posterior(normal(torch.full((20, 4), 5.0)), normal(torch.zeros(4)))
    assert aggregate.average_kl_nats == pytest.approx(50)
    assert not aggregate.saturated
    assert aggregate.marginal_kl_nats == pytest.approx(50)
    assert aggregate.mutual_information_upper_nats == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_marginal_kl_of_the_distribution_lies_between_the_two(shift):
    """Codes N(m, I) in 20 dimensions, of means spread by 0.64: that of 1,000 images is further off."""
    means = shift + 0.64 * torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    aggregate = aggregate_posterior(normal(means, (1 - 0.64**2) ** 0.5), normal(torch.zeros(20)))
    exact = 20 * shift**2 / 2
    assert not aggregate.saturated
    assert aggregate.marginal_kl_nats > exact + 10 * aggregate.monte_carlo_se
    assert max(0, exact - 0.6) <= aggregate.marginal_kl_lower_nats <= exact


def test_the_decomposition_adds_up_to_the_exact_average_kl():
    torch.manual_seed(0)
    q, p = normal(torch.randn(300, 2), 0.4), normal(torch.zeros(2))
    aggregate = aggregate_posterior(q, p)
    assert aggregate.average_kl_nats == pytest.approx(aggregate.mutual_information_nats + aggregate.marginal_kl_nats)
    assert aggregate.average_kl_nats == pytest.approx(kl_per_image(q, p, None)[0].mean().item(), rel=1e-6)


def test_the_monte_carlo_error_is_that_of_repetition():
    torch.manual_seed(0)
    q, p = normal(3 * torch.randn(200, 2), 0.4), normal(torch.zeros(2))
    results = [aggregate_posterior(q, p, seed=seed) for seed in range(60)]
    claimed = sum(result.monte_carlo_se for result in results) / 60
    for name in ("mutual_information_nats", "marginal_kl_nats"):
        assert torch.tensor([getattr(result, name) for result in results]).std().item() == pytest.approx(
            claimed, rel=0.35
        )


def test_probes_read_what_is_there_and_nothing_else():
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    codes = torch.nn.functional.one_hot(labels, 4).float() * 50 + torch.randn(400, 4)
    probes = probe_accuracy(codes[:300], labels[:300], codes[300:], labels[300:])
    assert (probes.linear, probes.nearest) == (1.0, 1.0)
    noise = probe_accuracy(torch.randn(300, 4), labels[:300], torch.randn(100, 4), labels[300:])
    assert max(noise.linear, noise.nearest) < 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: active_units(torch.zeros(1, 3)), "means: given .*at least 2"),
        (lambda: active_units(torch.zeros(4, 3), threshold=0), "threshold: given 0"),
        (lambda: active_units(torch.zeros(4, 3), others=torch.zeros(5, 3)), "others: given .*that of means"),
        (
            lambda: kl_per_dimension(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), normal(torch.zeros(2))),
            "q: given",
        ),
        (
            lambda: aggregate_posterior(normal(torch.zeros(2)), normal(torch.zeros(2))),
            "q: given .batch shape",
        ),
        (lambda: aggregate_posterior(normal(torch.zeros(1, 2)), normal(torch.zeros(2))), "q: given .*at least 2"),
        (
            lambda: probe_accuracy(torch.zeros(20, 2), torch.zeros(3), torch.zeros(2, 2), torch.zeros(2)),
            "labels: given",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_standard_error_of_active_units_is_their_spread_over_images():
    """Ten dimensions have the threshold as their variance: about half are counted. The others are far from it."""
    scales = torch.cat([torch.full((10,), 0.1), torch.full((5,), 1.0), torch.full((5,), 1e-3)])

    def units_of(seed, n=200):
        return active_units(torch.randn(n, 20, generator=torch.Generator().manual_seed(seed)) * scales)

    many = [units_of(seed) for seed in range(100)]
    spread = torch.tensor([float(units.count) for units in many]).std().item()
    stated = torch.tensor([units.count_se for units in many[:30]]).mean().item()
    assert spread / 1.5 < stated < 1.5 * spread
    assert active_units(torch.randn(200, 3)).count_se == 0  # far from the threshold
