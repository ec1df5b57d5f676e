"""The aggregate posterior: its moments, and the average KL as mutual information + marginal KL."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae._utils import checks


@dataclass(frozen=True, eq=False)
class AggregatePosterior:
    """The mean of q(z|x) over n images: its moments, and the split of the average KL, in nats.

    - `average_kl_nats`: exact.
    - `mutual_information_nats`, `mutual_information_upper_nats`: of image and code, between which it lies, in
      expectation, for the distribution that the images come from. The first, of the mixture of these n images, is at
      most log n, however much the codes tell; the second takes each code's own image out of the mixture.
    - `saturated`: whether on average more than half of the mixture's density at a code is its own image's. n is then
      too small for the information, which may be anything above the first value (at a share of a half, log 2 above).
    - `marginal_kl_nats`: `average_kl_nats - mutual_information_nats`, KL(q(z) || p(z)) of the mixture of these images,
      an upper bound on that of the whole distribution; None where `saturated`, as the bound then says nothing (it is
      large even where the whole aggregate is the prior).
    - `marginal_kl_lower_nats`: `average_kl_nats - mutual_information_upper_nats`, at least 0: a lower bound on that of
      the whole distribution, in expectation. It lies between the two, and not within errors of the upper one.
    - `monte_carlo_se`: of the mutual information (the lower value) and so of the marginal KL, given the images.
    """

    mean: Tensor
    covariance: Tensor
    average_kl_nats: float
    mutual_information_nats: float
    mutual_information_upper_nats: float
    saturated: bool
    marginal_kl_nats: float | None
    marginal_kl_lower_nats: float
    monte_carlo_se: float
    n: int


def aggregate_posterior(
    q: dist.TorchDistribution, p: dist.TorchDistribution, *, samples: int = 4, seed: int = 0
) -> AggregatePosterior:
    r"""How the codes of a whole set lie under the prior.

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I_q(n; z) + \mathrm{KL}(q(z) \| p(z)),
              \qquad q(z) = \frac1N \sum_n q(z|x_n)

    The information is by `samples` codes of each image under the whole mixture, so the cost is `samples` N squared; the
    moments and the left side are exact.

    It is estimated from the N images, with the code's own one in the mixture (a lower bound, at most log N) and without
    (an upper bound):

    .. math:: \mathbb E \log \frac{q(z|x_n)}{\frac1N \sum_m q(z|x_m)} \;\le\; I \;\le\;
              \mathbb E \log \frac{q(z|x_n)}{\frac1{N-1} \sum_{m \ne n} q(z|x_m)}

    Args:
        q: q(z|x) of N images, at least 2, a diagonal normal with batch shape `(N,)`.
        p: the prior, a diagonal normal.
        samples: codes of each image, at least 2.
        seed: of the samples.

    Source: Hoffman and Johnson, "ELBO surgery", 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
    the bounds: Poole et al., "On variational bounds of mutual information", 2019, https://arxiv.org/abs/1905.06922

    >>> means = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> q = dist.Normal(0.6 * means, 0.8).to_event(1)  # of standard normal means: the aggregate is the prior
    >>> aggregate = aggregate_posterior(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    >>> aggregate.saturated, abs(aggregate.marginal_kl_nats) < 0.05
    (False, True)
    """
    for name, distribution in (("q", q), ("p", p)):
        base = getattr(distribution, "base_dist", None)
        if not isinstance(distribution, torch.distributions.Independent) or not isinstance(
            base, torch.distributions.Normal
        ):
            raise checks.fail(
                name, type(base or distribution).__name__, "a diagonal normal; a flow scores only codes of its own"
            )
    if len(q.batch_shape) != 1 or len(q.event_shape) != 1 or len(q.mean) < 2:
        raise checks.fail("q", f"batch shape {tuple(q.batch_shape)}", "that of N images, (N,), at least 2")
    samples, seed = checks.positive_integer("samples", samples), checks.seed("seed", seed)
    if samples < 2:
        raise checks.fail("samples", samples, "a whole number of at least 2, for a standard error")
    n, d = q.batch_shape[0], q.event_shape[0]
    means, deviations = q.mean.detach().cpu().double(), q.stddev.detach().cpu().double()
    centred = means - means.mean(0)
    covariance = centred.T @ centred / n + deviations.square().mean(0).diag()
    wide = dist.Normal(means, deviations).to_event(1)
    generator = torch.Generator().manual_seed(seed)
    draws, without_own = [], []
    for _ in range(samples):
        z = means + deviations * torch.randn(n, d, generator=generator, dtype=torch.float64)
        for rows in torch.arange(n).split(max(1, 4_000_000 // (n * d))):
            log_q = wide.log_prob(z[rows, None])  # of each code under each image's posterior
            own = log_q[torch.arange(len(rows)), rows]
            draws.append(own - log_q.logsumexp(1) + math.log(n))
            log_q[torch.arange(len(rows)), rows] = -math.inf
            without_own.append(own - log_q.logsumexp(1) + math.log(n - 1))
    information = torch.cat(draws).reshape(samples, n)
    lower, upper = information.mean().item(), torch.cat(without_own).mean().item()
    average_kl = torch.distributions.kl_divergence(q, p).detach().cpu().double().mean().item()
    saturated = (information - math.log(n)).exp().mean().item() > 0.5
    return AggregatePosterior(
        mean=means.mean(0),
        covariance=covariance,
        average_kl_nats=average_kl,
        mutual_information_nats=lower,
        mutual_information_upper_nats=upper,
        saturated=saturated,
        marginal_kl_nats=None if saturated else average_kl - lower,
        marginal_kl_lower_nats=max(0.0, average_kl - upper),
        monte_carlo_se=(information.var(0).sum() / samples).sqrt().item() / n,
        n=n,
    )
