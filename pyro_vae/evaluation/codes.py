"""What codes are like: active units, the aggregate posterior, probes. Plain tensors in, frozen results out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.evaluation.generation import check_features


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """`count` of latent dimensions whose `variances` `(d,)` exceed `threshold`."""

    count: int
    variances: Tensor
    threshold: float


def active_units(means: Tensor, threshold: float = 0.01) -> ActiveUnits:
    r"""The latent dimensions that tell images apart: :math:`\mathrm{Var}_x\, \mathbb E_{q(z|x)} z_i > 0.01` (ddof = 0).

    Args:
        means: posterior means, `(N, d)`.
        threshold: what counts as active.

    Source: Burda et al., 2016, https://arxiv.org/abs/1509.00519

    >>> active_units(torch.tensor([[0.0, 0.0], [1.0, 0.001]])).count
    1
    """
    checks.positive("threshold", threshold)
    variances = check_features("means", means, least=2).var(0, correction=0)
    return ActiveUnits(int((variances > threshold).sum()), variances, threshold)


def kl_per_dimension(q: dist.TorchDistribution, p: dist.TorchDistribution) -> Tensor:
    """KL(q || p) of each latent dimension, averaged over q's batch, nats, `(d,)`; for q and p that factorize.

    >>> q = dist.Normal(torch.tensor([[0.0, 1.0]]), 1.0).to_event(1)
    >>> kl_per_dimension(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    if not all(isinstance(one, torch.distributions.Independent) for one in (q, p)):
        raise checks.fail(
            "q", type(q).__name__, "a distribution whose dimensions are independent, such as a diagonal normal"
        )
    values = torch.distributions.kl_divergence(q.base_dist, p.base_dist).detach().double()
    return values.reshape(-1, values.shape[-1]).mean(0)


@dataclass(frozen=True, eq=False)
class AggregatePosterior:
    """The mean of q(z|x) over images: its moments, and the split of the average KL, in nats with standard errors.

    `average_kl_nats = mutual_information_nats + marginal_kl_nats`. The mutual information of index and code is at most
    log N.
    """

    mean: Tensor
    covariance: Tensor
    average_kl_nats: float
    mutual_information_nats: float
    mutual_information_se: float
    marginal_kl_nats: float
    marginal_kl_se: float
    n: int


def aggregate_posterior(
    q: dist.TorchDistribution, p: dist.TorchDistribution, *, seed: int = 0, chunk: int = 256
) -> AggregatePosterior:
    r"""How the codes of a whole set lie under the prior.

    .. math:: \frac1N \sum_n \mathrm{KL}(q(z|x_n) \| p(z)) = I_q(n; z) + \mathrm{KL}(q(z) \| p(z))

    with :math:`q(z) = \frac1N \sum_n q(z|x_n)` exactly and the expectations by one sample an image, so the cost is N
    squared. The moments are exact.

    Args:
        q: q(z|x) of N images, a diagonal normal with batch shape `(N,)`.
        p: the prior.
        seed: of the samples.
        chunk: samples at a time.

    Source: Hoffman and Johnson, "ELBO surgery", 2016, http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    """
    if not isinstance(q, torch.distributions.Independent) or len(q.batch_shape) != 1:
        raise checks.fail(
            "q",
            type(q).__name__,
            "a diagonal normal over N images; codes of a flow can be scored under their own image only",
        )
    n = q.batch_shape[0]
    means, variances = q.mean.detach().double(), q.variance.detach().double()
    centred = means - means.mean(0)
    covariance = centred.T @ centred / n + variances.mean(0).diag()
    noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        means.device
    )
    z = means + variances.sqrt() * noise
    wide = dist.Normal(means, variances.sqrt()).to_event(1)
    own = wide.log_prob(z)
    marginal = torch.cat([wide.log_prob(part[:, None]).logsumexp(1) for part in z.split(chunk)]) - math.log(n)
    prior = p.log_prob(z.to(q.mean.dtype)).detach().double()
    information, marginal_kl = own - marginal, marginal - prior
    return AggregatePosterior(
        mean=means.mean(0).cpu(),
        covariance=covariance.cpu(),
        average_kl_nats=(own - prior).mean().item(),
        mutual_information_nats=information.mean().item(),
        mutual_information_se=information.std().item() / n**0.5,
        marginal_kl_nats=marginal_kl.mean().item(),
        marginal_kl_se=marginal_kl.std().item() / n**0.5,
        n=n,
    )


@dataclass(frozen=True)
class Probes:
    """Share of test codes whose class is found, by logistic regression and by the k nearest training codes."""

    linear: float
    nearest: float
    k: int


def probe_accuracy(codes: Tensor, labels: Tensor, test_codes: Tensor, test_labels: Tensor, k: int = 10) -> Probes:
    """How well the class can be read off codes `(N, d)`, standardized, by scikit-learn's simplest classifiers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    checks.positive_integer("k", k)
    x, x_test = (
        check_features("codes", codes, least=max(2, k)).numpy(),
        check_features("test_codes", test_codes, least=1).numpy(),
    )
    for name, values, wanted in (("labels", labels, x), ("test_labels", test_labels, x_test)):
        if values.shape != (len(wanted),):
            raise checks.fail(name, tuple(values.shape), f"one label a code, shape ({len(wanted)},)")
    accuracy = []
    for classifier in (LogisticRegression(max_iter=1000), KNeighborsClassifier(k)):
        pipeline = make_pipeline(StandardScaler(), classifier).fit(x, labels.numpy())
        accuracy.append(float(pipeline.score(x_test, test_labels.numpy())))
    return Probes(linear=accuracy[0], nearest=accuracy[1], k=k)
