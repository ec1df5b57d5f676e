import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import divergences


def test_counted_supports_are_exact():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    m = (p + q) / 2
    expected = 0.5 * (math.log(0.5 / 0.375) + 0.5 * math.log(0.25 / 0.375) + 0.5 * math.log(0.5 / 0.25))
    result = divergences(dist.Categorical(p), dist.Categorical(q))
    assert result.jensen_shannon == pytest.approx(expected, rel=1e-5)
    assert result.kl_pq == pytest.approx(math.log(2), rel=1e-5)
    assert result.kl_qp == math.inf  # p leaves out what q does
    assert (result.kl_pq_se, result.jensen_shannon_se) == (0, 0)
    assert m.sum() == 1


def test_normals_by_quadrature():
    p, q = dist.Normal(0.0, 1.0), dist.Normal(1.5, 0.5)
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log_p, log_q = p.log_prob(grid), q.log_prob(grid)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    halves = [
        torch.trapezoid(log_density.exp() * (log_density - log_m), grid).item() / 2 for log_density in (log_p, log_q)
    ]
    result = divergences(p, q, samples=100_000)
    assert result.jensen_shannon == pytest.approx(sum(halves), abs=4 * result.jensen_shannon_se)
    assert result.kl_pq == pytest.approx(kl_divergence(p, q).item())
    assert result.kl_pq_se == 0
    assert result.kl_pq != pytest.approx(result.kl_qp)


def test_where_there_is_no_closed_form_the_error_is_told():
    p = dist.TransformedDistribution(dist.Normal(torch.zeros(1), 1.0).to_event(1), [dist.transforms.Planar(1)])
    q = dist.Normal(torch.zeros(1), 2.0).to_event(1)
    result = divergences(
        q, dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, 1), 1.0).to_event(1))
    )
    assert result.kl_pq_se > 0
    # A mixture of two equal normals is that normal.
    assert result.kl_pq == pytest.approx(
        kl_divergence(dist.Normal(0.0, 2.0), dist.Normal(0.0, 1.0)).item(), abs=4 * result.kl_pq_se
    )
    assert p.event_shape == (1,)


def test_supports_that_differ():
    """The case that Jensen-Shannon is for: the other two are infinite."""
    result = divergences(dist.Uniform(0.0, 1.0), dist.Uniform(0.5, 1.5), samples=40_000)
    assert (result.kl_pq, result.kl_qp) == (math.inf, math.inf)
    assert result.jensen_shannon == pytest.approx(math.log(2) / 2, abs=4 * result.jensen_shannon_se)
    result = divergences(dist.Exponential(1.0), dist.Normal(0.0, 1.0))
    assert result.kl_pq < math.inf
    assert result.kl_qp == math.inf


def test_symmetric_bounded_and_zero_for_equals():
    p, q = dist.Normal(0.0, 1.0), dist.Normal(40.0, 1.0)
    assert divergences(p, q).jensen_shannon == pytest.approx(math.log(2), rel=1e-6)
    assert divergences(p, p).jensen_shannon == 0
    forward, other = divergences(p, dist.Normal(1.0, 1.0)), divergences(dist.Normal(1.0, 1.0), p)
    assert forward.jensen_shannon == pytest.approx(other.jensen_shannon, abs=4 * forward.jensen_shannon_se)
    assert (forward.kl_pq, forward.kl_qp) == pytest.approx((other.kl_qp, other.kl_pq))


def test_the_standard_error_is_that_of_repetition():
    p, q = dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0)
    results = [divergences(p, q, samples=500, seed=seed) for seed in range(60)]
    scatter = torch.tensor([result.jensen_shannon for result in results]).std().item()
    assert scatter == pytest.approx(sum(result.jensen_shannon_se for result in results) / 60, rel=0.35)


def test_the_generators_stay_as_they_were():
    state = torch.get_rng_state()
    divergences(dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (dist.Normal(torch.zeros(2), 1.0), dist.Normal(0.0, 1.0), "p: given 'batch shape"),
        (dist.Normal(0.0, 1.0), dist.Normal(torch.zeros(2), 1.0).to_event(1), "q: given 'event shape"),
        (dist.Categorical(torch.ones(2)), dist.Categorical(torch.ones(3)), "q: given 'another support'"),
        (dist.Delta(torch.tensor(0.0)), dist.Normal(0.0, 1.0), "q: given 'Normal', expected probabilities"),
        (dist.Normal(0.0, 1.0), dist.Poisson(1.0), "q: given 'Poisson', expected a density"),
    ],
)
def test_bad_input_is_named(p, q, message):
    with pytest.raises(InputError, match=message):
        divergences(p, q)


def test_rare_events_are_not_impossible_ones():
    """Masses below float32's epsilon count; closed forms of both families."""
    p, q = dist.Binomial(50, torch.tensor(0.5)), dist.Binomial(50, torch.tensor(0.9))
    result = divergences(p, q)
    assert (result.kl_pq, result.kl_qp) == pytest.approx((25.541, 18.403), abs=5e-4)
    result = divergences(dist.Categorical(torch.tensor([0.5, 0.5])), dist.Categorical(torch.tensor([1 - 1e-7, 1e-7])))
    assert result.kl_pq == pytest.approx(7.366, abs=5e-4)
    assert result.kl_qp == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (dist.Categorical(logits=torch.tensor([0.0, -90.0])), dist.Categorical(logits=torch.tensor([-90.0, 0.0]))),
        (dist.Bernoulli(logits=torch.tensor(-90.0)), dist.Bernoulli(logits=torch.tensor(90.0))),
        (dist.Bernoulli(torch.tensor(1e-39)).to_event(0), dist.Bernoulli(logits=torch.tensor(90.0))),
        (
            dist.OneHotCategorical(logits=torch.tensor([0.0, -90.0])),
            dist.OneHotCategorical(logits=torch.tensor([-90.0, 0.0])),
        ),
        (
            dist.Bernoulli(logits=torch.tensor([-90.0])).to_event(1),
            dist.Bernoulli(logits=torch.tensor([90.0])).to_event(1),
        ),
    ],
)
def test_far_apart_is_far_but_finite(p, q):
    assert divergences(p, q, samples=100).kl_pq == pytest.approx(90, rel=1e-2)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (dist.Bernoulli(torch.tensor(0.5)), dist.Bernoulli(torch.tensor(0.0))),
        (dist.Binomial(3, torch.tensor(0.5)), dist.Binomial(3, torch.tensor(1.0))),
        (dist.OneHotCategorical(torch.tensor([0.5, 0.5])), dist.OneHotCategorical(torch.tensor([1.0, 0.0]))),
    ],
)
def test_impossible_events_are_infinite(p, q):
    result = divergences(p, q)
    assert result.kl_pq == math.inf
    assert 0 < result.kl_qp < math.inf
    assert 0 < result.jensen_shannon < math.log(2)


def test_the_arguments_stay_as_they_were():
    p = dist.Normal(torch.zeros((), requires_grad=True), 1.0)
    divergences(p, dist.Laplace(torch.zeros(()), 1.0))
    assert p.loc.dtype == torch.float32
    assert p.loc.requires_grad


@pytest.mark.parametrize("event_dim", [0, 1])
def test_continuous_bernoullis_of_large_logits(event_dim):
    """By torch the first is -13.5 nats, as its mean is that of a logit of 16."""
    x = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1e6
    log_p, log_q = (logit * (x - 1) + math.log(logit / -math.expm1(-logit)) for logit in (30.0, 50.0))
    p, q = (
        dist.ContinuousBernoulli(logits=torch.full((1,) * event_dim, logit)).to_event(event_dim)
        for logit in (30.0, 50.0)
    )
    result = divergences(p, q)
    assert result.kl_pq == pytest.approx((log_p.exp() * (log_p - log_q)).mean().item(), rel=1e-6)
    assert result.kl_qp == pytest.approx((log_q.exp() * (log_q - log_p)).mean().item(), rel=1e-6)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    expected = sum((log_density.exp() * (log_density - log_m)).mean().item() / 2 for log_density in (log_p, log_q))
    assert result.jensen_shannon == pytest.approx(expected, abs=4 * result.jensen_shannon_se)
    assert (result.kl_pq_se, result.kl_qp_se) == (0, 0)
