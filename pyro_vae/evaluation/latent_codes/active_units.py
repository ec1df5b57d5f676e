"""Active units: the latent dimensions that tell images apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True, eq=False)
class ActiveUnits:
    """`count` of latent dimensions whose `variances` `(d,)` exceed `threshold`; `count_se` is the error over images.

    The standard error is the deviation of the count over 100 bootstrap resamples of the images.
    """

    count: int
    count_se: float
    variances: Tensor
    threshold: float


def active_units(means: Tensor, threshold: float = 0.01, others: Tensor | None = None) -> ActiveUnits:
    r"""The latent dimensions that tell images apart: :math:`\mathrm{Var}_x\, \mathbb E_{q(z|x)} z_i > 0.01` (ddof = 0).

    Args:
        means: posterior means, `(N, d)`.
        threshold: what counts as active.
        others: where the means are estimated from draws: estimates from other draws, `(N, d)`. The covariance of
            the two over images is then the variance of the means, without that of the draws.

    Source: Burda et al., 2016, https://arxiv.org/abs/1509.00519

    >>> active_units(torch.tensor([[0.0, 0.0], [1.0, 0.001]])).count
    1
    """
    checks.positive("threshold", threshold)
    a = check_features("means", means, least=2)
    b = a if others is None else check_features("others", others, least=2)
    if b.shape != a.shape:
        raise checks.fail("others", f"shape {tuple(b.shape)}", f"that of means, {tuple(a.shape)}")
    variances = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
    return ActiveUnits(int((variances > threshold).sum()), _count_se(a, b, threshold), variances, threshold)


def _count_se(a: Tensor, b: Tensor, threshold: float, resamples: int = 100) -> float:
    """The deviation over bootstrap resamples, each by the weights of the images: how often they are drawn."""
    generator = torch.Generator().manual_seed(0)
    products, counts = a * b, []
    for _ in range(resamples):
        drawn = torch.randint(len(a), (len(a),), generator=generator)
        weights = torch.bincount(drawn, minlength=len(a)).double() / len(a)
        covariances = weights @ products - (weights @ a) * (weights @ b)
        counts.append((covariances > threshold).sum().double())
    return torch.stack(counts).std().item()
