"""Divergences between two Pyro distributions, side by side: Kullback-Leibler both ways and Jensen-Shannon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._utils import checks
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.pixel_distributions import ContinuousBernoulliOfLogits


@dataclass(frozen=True)
class Divergences:
    """In nats; infinite where one support exceeds the other.

    A standard error of 0 means that the value is a sum over the support or in closed form, in float64.
    """

    kl_pq: float
    kl_pq_se: float
    kl_qp: float
    kl_qp_se: float
    jensen_shannon: float
    jensen_shannon_se: float
    samples: int


def divergences(
    p: dist.TorchDistribution, q: dist.TorchDistribution, *, samples: int = 10_000, seed: int = 0
) -> Divergences:
    r"""KL(p || q), KL(q || p) and the Jensen-Shannon divergence, which is symmetric and at most log 2.

    .. math:: \mathrm{JS}(p, q) = \tfrac12 \mathrm{KL}(p \| m) + \tfrac12 \mathrm{KL}(q \| m), \ m = \tfrac12 (p + q)

    A sum over the support where it can be counted; KL in closed form where torch has one; else Monte Carlo with
    `samples` draws from each side. In float64, from log-probabilities; a distribution with transforms in its own type.
    Monte Carlo does not see that a KL is infinite where q's support is large enough but its tails are not, as of a
    Cauchy against a normal distribution.

    Args:
        p: a distribution without batch shape.
        q: another over the same events, with probabilities or with a density, as p has.
        samples: draws from each.
        seed: of the draws. The global generators are as before afterwards.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991, https://doi.org/10.1109/18.61115

    >>> result = divergences(dist.Normal(0.0, 1.0), dist.Normal(40.0, 1.0))
    >>> round(result.jensen_shannon / math.log(2), 4)
    1.0
    """
    samples, seed = checks.positive_integer("samples", samples), checks.seed("seed", seed)
    if samples < 2:
        raise checks.fail("samples", samples, "at least 2, for a standard error")
    for name, distribution in (("p", p), ("q", q)):
        if not isinstance(distribution, torch.distributions.Distribution):
            raise checks.fail(name, distribution, "a distribution")
        if distribution.batch_shape:
            raise checks.fail(
                name, f"batch shape {tuple(distribution.batch_shape)}", "one distribution, without batch shape"
            )
    if p.event_shape != q.event_shape:
        raise checks.fail("q", f"event shape {tuple(q.event_shape)}", f"that of p, {tuple(p.event_shape)}")
    if _has_masses(p) != _has_masses(q):
        expected = "probabilities, as p has" if _has_masses(p) else "a density, as p has"
        raise checks.fail("q", type(q).__name__, expected)
    p, q = _in_double(p), _in_double(q)
    if p.has_enumerate_support and q.has_enumerate_support:
        return _by_enumeration(p, q)
    with seeded_rng(torch.device("cpu"), seed), torch.no_grad():
        from_p, from_q = p.sample((samples,)), q.sample((samples,))
        ratio_p = _log_prob(p, from_p) - _log_prob(q, from_p)
        ratio_q = _log_prob(q, from_q) - _log_prob(p, from_q)
        # log p/m = log 2 - log(1 + q/p)
        js_p, js_q = (math.log(2) - torch.nn.functional.softplus(-ratio) for ratio in (ratio_p, ratio_q))
    kl_pq, kl_pq_se = _kl(p, q, ratio_p)
    kl_qp, kl_qp_se = _kl(q, p, ratio_q)
    error = math.hypot(_standard_error(js_p), _standard_error(js_q)) / 2
    return Divergences(kl_pq, kl_pq_se, kl_qp, kl_qp_se, (js_p.mean() + js_q.mean()).item() / 2, error, samples)


def _by_enumeration(p: dist.TorchDistribution, q: dist.TorchDistribution) -> Divergences:
    with torch.no_grad():
        log_p, log_q = _log_masses(p, q)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        pq, qp, pm, qm = (
            _sum_over_support(a, b) for a, b in ((log_p, log_q), (log_q, log_p), (log_p, log_m), (log_q, log_m))
        )
    return Divergences(pq, 0.0, qp, 0.0, (pm + qm) / 2, 0.0, len(log_p))


def _log_masses(p: dist.TorchDistribution, q: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """log p and log q of each point of the support that they share, `(points, *batch)`."""
    support = p.enumerate_support()
    if support.shape != q.enumerate_support().shape or not bool((support == q.enumerate_support()).all()):
        raise checks.fail("q", "another support", "the support of p")
    return _log_mass(p, support), _log_mass(q, support)


def _sum_over_support(log_p: Tensor, log_q: Tensor) -> float:
    """The sum of p (log p - log q), in which 0 log 0 = 0."""
    return torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0).sum().item()


def _log_mass(p: dist.TorchDistribution, support: Tensor) -> Tensor:
    """log p of each point of its support, float64, `(points, *batch)`.

    From the probabilities that the distribution was made from, where it was: torch's own `log_prob` clamps them an
    epsilon away from 0 and 1, so that no event is impossible, nor less probable than 1e-7.
    """
    if isinstance(p, torch.distributions.OneHotCategorical):
        return _log_mass(p._categorical, support.argmax(-1))
    # `_param` is what was given; the other of `probs` and `logits` is derived when it is asked for.
    if vars(p).get("probs") is None or vars(p)["probs"] is not vars(p).get("_param"):
        return p.log_prob(support)
    if isinstance(p, torch.distributions.Categorical):
        return p.probs.log().movedim(-1, 0)
    if isinstance(p, torch.distributions.Bernoulli | torch.distributions.Binomial):
        n = getattr(p, "total_count", torch.ones((), dtype=torch.float64))
        ways = torch.lgamma(n + 1) - torch.lgamma(support + 1) - torch.lgamma(n - support + 1)
        return ways + torch.xlogy(support, p.probs) + torch.special.xlog1py(n - support, -p.probs)
    return p.log_prob(support)


def _in_double(p: dist.TorchDistribution) -> dist.TorchDistribution:
    """The same distribution with float64 parameters, on the CPU; one with transforms stays as it is."""
    if isinstance(p, torch.distributions.TransformedDistribution):
        return p
    if isinstance(p, torch.distributions.ContinuousBernoulli):  # torch's has a mean of clamped logits, and so a KL
        param = p._param.detach().cpu().double()
        logits = param if vars(p).get("logits") is p._param else param.logit()
        return ContinuousBernoulliOfLogits(logits, validate_args=False)
    copy = object.__new__(type(p))
    param = vars(p).get("_param")
    for name, value in vars(p).items():
        if isinstance(value, Tensor):
            if name in ("probs", "logits") and param is not None and value is not param:
                continue  # derived in float32, clamped; derived anew in float64
            value = value.detach().cpu()
            value = value.double() if value.is_floating_point() else value
        elif isinstance(value, torch.distributions.Distribution):
            value = _in_double(value)  # type: ignore[arg-type]
        copy.__dict__[name] = value
    for name in ("probs", "logits"):
        if param is not None and vars(p).get(name) is param:
            copy.__dict__[name] = copy.__dict__["_param"]
    return copy


def _has_masses(p: dist.TorchDistribution) -> bool:
    return isinstance(p, dist.Delta) or bool(p.support.is_discrete)  # type: ignore[union-attr]


def _log_prob(p: dist.TorchDistribution, x: Tensor) -> Tensor:
    """log p(x), which is -inf outside the support."""
    inside = p.support.check(x)  # type: ignore[union-attr]
    wide = inside.reshape(*inside.shape, *(1 for _ in range(x.dim() - inside.dim())))
    value = p.log_prob(torch.where(wide, x, p.sample().expand_as(x))).cpu().double()
    return torch.where(inside.cpu(), value, -math.inf)


def _kl(p: dist.TorchDistribution, q: dist.TorchDistribution, ratio: Tensor) -> tuple[float, float]:
    if all(
        isinstance(part, torch.distributions.Independent) and part.base_dist.has_enumerate_support for part in (p, q)
    ):
        return _sum_over_support(*_log_masses(p.base_dist, q.base_dist)), 0.0  # the KL of each element adds up
    try:
        return kl_divergence(p, q).item(), 0.0
    except NotImplementedError:
        estimate = ratio.mean().item()
        return (estimate, _standard_error(ratio)) if math.isfinite(estimate) else (math.inf, 0.0)


def _standard_error(values: Tensor) -> float:
    return values.std().item() / len(values) ** 0.5
