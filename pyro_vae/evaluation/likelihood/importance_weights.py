"""Importance weights: their mean, its Monte Carlo error, its dependence on K, and Pareto k. Plain tensors in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.arviz_versions import smooth_by_psis

BANDS = ("good", "ok", "bad", "very bad")

LEAST = 25  #: samples below which no tail can be fitted


def log_mean_weight(log_weights: Tensor) -> Tensor:
    r"""The importance-weighted bound of each image, in nats.

    .. math:: \log \frac1K \sum_k w_k, \qquad \log w_k = \log p(x, z_k) - \log q(z_k|x)

    Args:
        log_weights: `(K, N)`, K samples of each of N images.

    Source: Burda et al., "Importance weighted autoencoders", 2016, https://arxiv.org/abs/1509.00519

    >>> log_mean_weight(torch.tensor([[0.0], [math.log(3.0)]])).item()  # log of the mean of 1 and 3
    0.69314...
    """
    log_weights = check_weights(log_weights)
    return log_weights.logsumexp(0) - math.log(len(log_weights))  # (eq. 11.1)


def log_mean_weight_mcse(log_weights: Tensor) -> Tensor:
    r"""Monte Carlo standard error of :func:`log_mean_weight`, nats, `(N,)`, by the delta method.

    .. math:: \mathrm{SE}\Bigl(\log \frac1K \sum_k w_k\Bigr) \approx \frac{\mathrm{sd}(w)}{\bar w \sqrt K}

    It is itself estimated from the weights: where a few dwarf all others (Pareto k above the threshold), the largest
    possible weights were probably not drawn, and both it and the estimate are too small.

    Args:
        log_weights: `(K, N)`, K of at least 2.

    >>> log_mean_weight_mcse(torch.tensor([[0.0], [math.log(3.0)]])).item()  # sd 1.414, mean 2, K = 2
    0.5000...
    """
    log_weights = check_weights(log_weights)
    if len(log_weights) < 2:
        raise checks.fail("log_weights", "1 sample", "at least 2, for a standard error")
    relative = (log_weights - log_weights.max(0).values).exp()
    return relative.std(0) / relative.mean(0) / len(relative) ** 0.5  # (eq. 11.6)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Kong's effective sample size `(N,)`, from 1 to K: :math:`(\sum_k w_k)^2 / \sum_k w_k^2`.

    Source: Kong, "A note on importance sampling using standardized weights", 1992.

    >>> effective_sample_size(torch.tensor([[0.0], [0.0], [-1000.0]])).item()
    2.0
    """
    log_weights = check_weights(log_weights)
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def log_mean_weight_by_k(log_weights: Tensor, halvings: int = 6) -> dict[int, Tensor]:
    """:func:`log_mean_weight` of K, K/2, K/4, ... samples, `(N,)` each, from the same K draws.

    At K / 2^j the draws are cut into 2^j blocks, and their estimates averaged: all draws are used, and by Jensen's
    inequality the values rise with K. A mean that still rises when K doubles is still below log p(x).

    Args:
        log_weights: `(K, N)`.
        halvings: at most this many; fewer where K is small.

    >>> curve = log_mean_weight_by_k(torch.tensor([[0.0], [math.log(3.0)]]))
    >>> {k: round(value.item(), 3) for k, value in curve.items()}  # log 2, and (log 1 + log 3) / 2
    {2: 0.693, 1: 0.549}
    """
    log_weights = check_weights(log_weights)
    curve = {}
    for j in range(min(halvings, int(math.log2(len(log_weights)))) + 1):
        blocks = log_weights.tensor_split(2**j)  # lengths differ by one at most
        curve[len(log_weights) // 2**j] = torch.stack([log_mean_weight(block) for block in blocks]).mean(0)
    return curve


@dataclass(frozen=True, eq=False)
class ParetoSmoothed:
    """Pareto-smoothed importance sampling of N images, each field `(N,)`.

    - `pareto_k`: shape of the tail of the weights; -inf where the weights have no tail (`exact` or `tied`).
    - `log_likelihood`: log of the mean smoothed weight, nats. A diagnostic: smoothing shrinks the largest weights, and
      so adds to the downward bias of the raw estimate where the tail is heavy.
    - `effective_samples`: 1 / sum of squared normalized smoothed weights.
    - `exact`: whether all weights are equal up to rounding: the guide is the exact posterior.
    - `tied`: whether the largest weights are, but not all: they are bounded, as far as was seen, so every moment is
      finite, and a tail without spread has no shape to fit.
    - `threshold`: min(1 - 1 / log10 K, 0.7): above it the estimate is not reliable at this K.
    """

    pareto_k: Tensor
    log_likelihood: Tensor
    effective_samples: Tensor
    exact: Tensor
    tied: Tensor
    threshold: float

    @property
    def trusted(self) -> Tensor:
        """Whether k is at most the threshold, `(N,)`."""
        return self.pareto_k <= self.threshold

    def shares(self) -> dict[str, float]:
        """The share of images in each band of k: good (to 0.5), ok (to the threshold), bad (to 1), very bad."""
        edges = torch.tensor([min(0.5, self.threshold), self.threshold, 1.0], dtype=torch.float64)
        band = torch.bucketize(self.pareto_k, edges)
        return {name: (band == index).double().mean().item() for index, name in enumerate(BANDS)}


def pareto_smooth(log_weights: Tensor, resolution_nats: float | Tensor | None = None) -> ParetoSmoothed:
    """Pareto-smoothed importance sampling by ArviZ, image by image.

    Adding a constant to the log-weights of an image changes no k: whether weights count as equal depends on their
    rounding error, not on their size.

    Args:
        log_weights: `(K, N)`; K of at least 25, finite.
        resolution_nats: log-weights that differ by no more count as equal, a number or `(N,)`. By default 4 units in
            the last place of the largest, in the type in which they are given; pass it where the log-weights are sums
            whose terms were rounded before (float32 terms added in float64).

    Source: Vehtari et al., "Pareto smoothed importance sampling", 2024, https://arxiv.org/abs/1507.02646; Yao et al.,
    "Yes, but did it work?", 2018, https://arxiv.org/abs/1802.02538

    >>> tail = 0.9 * torch.distributions.Exponential(1.0).sample((4000, 20))
    >>> 0.8 < pareto_smooth(tail).pareto_k.mean().item() < 1.0
    True
    """
    smoothed, pareto_k, exact, tied = smooth_log_weights(log_weights, resolution_nats)
    return ParetoSmoothed(
        pareto_k=pareto_k,
        log_likelihood=log_mean_weight(smoothed),
        effective_samples=effective_sample_size(smoothed),
        exact=exact,
        tied=tied,
        threshold=threshold_at(len(smoothed)),
    )


def smooth_log_weights(
    log_weights: Tensor, resolution_nats: float | Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smoothed log-weights `(K, N)`; Pareto k, and whether the weights are `exact` and `tied`, `(N,)` each."""
    as_passed = checks.tensor("log_weights", log_weights)
    log_weights = check_weights(as_passed)
    k, n = log_weights.shape
    if k < LEAST:
        raise checks.fail("log_weights", f"{k} samples", f"at least {LEAST}, for a tail to be seen")
    if resolution_nats is None:
        resolution = 4 * _epsilon(as_passed) * log_weights.abs().amax(0)
    else:
        resolution = _resolution(resolution_nats, n)
    exact, tied = _without_tail(log_weights, resolution)
    smoothed, pareto_k = log_weights.clone(), torch.full((n,), -math.inf, dtype=torch.float64)
    if bool((fit := ~(exact | tied)).any()):
        rows, shapes = smooth_by_psis(np.ascontiguousarray(log_weights[:, fit].T.numpy()))
        smoothed[:, fit], pareto_k[fit] = torch.from_numpy(rows).T, torch.from_numpy(shapes)
    return smoothed, pareto_k, exact, tied


def threshold_at(k: int) -> float:
    """The limit of Pareto k at K samples."""
    return min(1 - 1 / math.log10(k), 0.7)  # (eq. 11.4)


def check_weights(log_weights: Tensor) -> Tensor:
    """Finite log-weights `(K, N)`, in float64 on the CPU."""
    log_weights = checks.tensor("log_weights", log_weights)
    if log_weights.dim() != 2 or 0 in log_weights.shape:
        raise checks.fail(
            "log_weights", f"shape {tuple(log_weights.shape)}", "shape (K, N), K samples of each of N images"
        )
    values = log_weights.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise checks.fail("log_weights", "NaN or infinity", "finite numbers")
    return values


def _without_tail(log_weights: Tensor, resolution: Tensor) -> tuple[Tensor, Tensor]:
    """Whether all weights of an image are equal, and whether those of its tail are but not all, `(N,)` each.

    The tail is what ArviZ fits: the weights above the largest but M, M = ceil(min(K / 5, 3 sqrt K)). A few
    weights above a tied bulk are no tied tail: at least 5 must be equal, which is also the fewest that can be fitted.
    """
    k = len(log_weights)
    top = log_weights.sort(0, descending=True).values[: math.ceil(min(k / 5, 3 * k**0.5)) + 1]
    exact = top[0] - log_weights.amin(0) <= resolution
    largest_equal = (top >= top[0] - resolution).sum(0)
    above_cutoff = (top > top[-1] + resolution).sum(0)
    return exact, ~exact & (largest_equal >= 5) & (largest_equal >= above_cutoff)


def _epsilon(values: Tensor) -> float:
    """Relative spacing of the type of `values`; float64's for whole numbers."""
    return torch.finfo(values.dtype if values.is_floating_point() else torch.float64).eps


def _resolution(resolution_nats: float | Tensor, n: int) -> Tensor:
    values = checks.tensor("resolution_nats", resolution_nats).detach().cpu().double()
    if values.shape not in ((), (n,)) or not bool((values >= 0).all()) or not bool(values.isfinite().all()):
        raise checks.fail("resolution_nats", resolution_nats, f"nats of at least 0, one number or {n} of them")
    return values
