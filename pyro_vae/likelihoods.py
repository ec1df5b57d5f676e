"""p(x|z): modules whose `forward(parameters)` returns a Pyro distribution over images of shape `(C, H, W)`.

`parameters` is what a decoder puts out, one real number a pixel, `(..., C, H, W)`. `support` says what data the
density is of: `"binary"` pixels, or the `"unit interval"`.
"""

from __future__ import annotations

import math
from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae import checks

Support = Literal["binary", "unit interval"]


class _BernoulliOfGrey(dist.Bernoulli):
    """A Bernoulli that also scores grey levels, by the cross-entropy; values outside [0, 1] stay errors."""

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # (eq. 8.1)
        # x l - log(1 + exp(l)) = (x - 1/2) l - |l|/2 + log sigmoid|l|: smooth at 0, exact at both ends, and without
        # log1p, whose CPU kernel takes ten times as long as log's.
        logits = self.logits
        size = logits.abs()
        return torch.addcmul(size.sigmoid().log().sub_(size, alpha=0.5), value - 0.5, logits)


class Bernoulli(nn.Module):
    r"""Independent Bernoulli pixels.

    .. math:: \log p(x|z) = \sum_i x_i \log \pi_i + (1 - x_i) \log(1 - \pi_i),
              \qquad \pi = \mathrm{sigmoid}(\text{parameters})

    For x in {0, 1} this is a log-probability. For grey x in between it is minus the cross-entropy: useful as a loss and
    common in papers, but not a log-likelihood of the data (see :class:`ContinuousBernoulli`).

    Source: Kingma and Welling, 2014, appendix C.1, https://arxiv.org/abs/1312.6114

    >>> Bernoulli()(torch.zeros(1, 2, 2)).log_prob(torch.ones(1, 2, 2)).item()  # 4 log(1/2)
    -2.7725...
    """

    support: Support = "binary"

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits."""
        return _BernoulliOfGrey(logits=parameters).to_event(3)


class _ContinuousBernoulliOfLogits(dist.ContinuousBernoulli):
    """Normalizer and mean from the logits l; torch's own, from clamped probabilities, stop at |l| = 16."""

    def _cont_bern_log_norm(self) -> Tensor:
        # log C (eq. 8.3) = log(l / tanh(l / 2)), whose limit at 0 is log 2.
        logits = self.logits.abs()
        small = logits < 1e-2
        safe = torch.where(small, 1.0, logits)
        return torch.where(small, math.log(2) + logits.square() / 12, (safe / (safe / 2).tanh()).log())

    @property
    def mean(self) -> Tensor:
        # 1 / (1 - exp(-l)) - 1 / l, whose limit at 0 is 1/2; the differences cancel, so a series takes over there.
        logits = self.logits
        small = logits.abs() < 0.5
        safe = torch.where(small, 1.0, logits)
        return torch.where(small, 0.5 + logits / 12 - logits**3 / 720, -1 / torch.expm1(-safe) - 1 / safe)


class ContinuousBernoulli(nn.Module):
    r"""The exponential family on [0, 1] that the Bernoulli cross-entropy lacks its normalizer for.

    .. math:: p(x_i|z) = C(\pi_i)\, \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
              C(\pi) = \frac{2\,\mathrm{artanh}(1 - 2\pi)}{1 - 2\pi}, \quad C(1/2) = 2

    Its mean is not :math:`\pi`: reconstructions use the mean of the distribution.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli", 2019, https://arxiv.org/abs/1907.06845

    >>> ContinuousBernoulli()(torch.zeros(1, 2, 2)).log_prob(torch.full((1, 2, 2), 0.3)).abs().item() < 1e-5  # uniform
    True
    """

    support: Support = "unit interval"

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits."""
        return _ContinuousBernoulliOfLogits(logits=parameters).to_event(3)


class Gaussian(nn.Module):
    r"""Independent normal pixels of one variance c, around a mean in [0, 1].

    .. math:: \log p(x|z) = -\frac{1}{2c} \lVert x - f(z) \rVert^2 - \frac{D}{2} \log(2 \pi c),
              \qquad f(z) = \mathrm{sigmoid}(\text{parameters})

    With the default c = 1/2 the loss is the summed squared error (plus a constant), so that beta-VAEs of the squared
    error are this likelihood. `learned=True` makes log c a parameter; its maximum-likelihood value is the mean squared
    error.

    Args:
        variance: c, or where c starts when it is learned.
        learned: whether c is trained.
        linear: f(z) is `parameters` as they are, with no sigmoid: linear networks then make a linear model, as PCA is.

    Source: Rybkin et al., "Simple and effective VAE training with calibrated decoders", 2021,
    https://arxiv.org/abs/2006.13202

    >>> Gaussian()(torch.zeros(1, 1, 1)).log_prob(torch.tensor([[[0.5]]])).item()  # -1/2 log(pi)
    -0.57236...
    """

    support: Support = "unit interval"
    log_variance: Tensor

    def __init__(self, variance: float = 0.5, learned: bool = False, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        checks.positive("variance", variance)
        log_variance = torch.tensor(math.log(variance))
        if learned:
            self.log_variance = nn.Parameter(log_variance)
        else:
            self.register_buffer("log_variance", log_variance)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the mean, or its logits."""
        scale = (self.log_variance / 2).exp()
        return dist.Normal(parameters if self.linear else parameters.sigmoid(), scale).to_event(3)  # (eq. 8.4)
