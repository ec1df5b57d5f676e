"""Divergences between two Pyro distributions, side by side: Kullback-Leibler both ways and Jensen-Shannon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae import checks
from pyro_vae.generators import own_generators


@dataclass(frozen=True)
class Divergences:
    """In nats; infinite where one support exceeds the other. A standard error of 0 means that the value is exact."""

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

    Exact where the support can be counted; KL in closed form where torch has one; else Monte Carlo with `samples` draws
    from each side.

    Args:
        p: a distribution without batch shape.
        q: another over the same events.
        samples: draws from each.
        seed: of the draws. The global generators are as before afterwards.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991, https://doi.org/10.1109/18.61115

    >>> found = divergences(dist.Normal(0.0, 1.0), dist.Normal(40.0, 1.0))
    >>> round(found.jensen_shannon / math.log(2), 4)
    1.0
    """
    samples, seed = checks.positive_integer("samples", samples), checks.seed("seed", seed)
    if samples < 2:
        raise checks.fail("samples", samples, "at least 2, for a standard error")
    for name, one in (("p", p), ("q", q)):
        if not isinstance(one, torch.distributions.Distribution):
            raise checks.fail(name, one, "a distribution")
        if one.batch_shape:
            raise checks.fail(name, f"batch shape {tuple(one.batch_shape)}", "one distribution, without batch shape")
    if p.event_shape != q.event_shape:
        raise checks.fail("q", f"event shape {tuple(q.event_shape)}", f"that of p, {tuple(p.event_shape)}")
    if p.has_enumerate_support and q.has_enumerate_support:
        return _by_enumeration(p, q)
    with own_generators(torch.device("cpu"), seed), torch.no_grad():
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
        support = p.enumerate_support()
        if support.shape != q.enumerate_support().shape or not bool((support == q.enumerate_support()).all()):
            raise checks.fail("q", "another support", "the support of p")
        mass_p, mass_q = (_mass(one, support) for one in (p, q))
        mean = (mass_p + mass_q) / 2
        pq, qp, pm, qm = (
            torch.where(a > 0, a * (a / b).log(), 0.0).sum().item()
            for a, b in ((mass_p, mass_q), (mass_q, mass_p), (mass_p, mean), (mass_q, mean))
        )
    return Divergences(pq, 0.0, qp, 0.0, (pm + qm) / 2, 0.0, len(support))


def _mass(p: dist.TorchDistribution, support: Tensor) -> Tensor:
    """Probabilities; torch keeps its own an epsilon away from 0, which is taken back here."""
    mass = p.log_prob(support).exp()
    return torch.where(mass <= 2 * torch.finfo(mass.dtype).eps, 0.0, mass).cpu().double()


def _log_prob(p: dist.TorchDistribution, x: Tensor) -> Tensor:
    """log p(x), which is -inf outside the support."""
    inside = p.support.check(x)  # type: ignore[union-attr]
    wide = inside.reshape(*inside.shape, *(1 for _ in range(x.dim() - inside.dim())))
    value = p.log_prob(torch.where(wide, x, p.sample().expand_as(x))).cpu().double()
    return torch.where(inside.cpu(), value, -math.inf)


def _kl(p: dist.TorchDistribution, q: dist.TorchDistribution, ratio: Tensor) -> tuple[float, float]:
    try:
        return kl_divergence(p, q).item(), 0.0
    except NotImplementedError:
        found = ratio.mean().item()
        return (found, _standard_error(ratio)) if math.isfinite(found) else (math.inf, 0.0)


def _standard_error(values: Tensor) -> float:
    return values.std().item() / len(values) ** 0.5
