"""p(x|z): modules whose `forward(parameters)` returns a Pyro distribution over images of shape `(C, H, W)`.

`parameters` is what a decoder puts out, one real number per pixel, `(..., C, H, W)`. `data_range` says what data p(x|z)
is of: `"binary"` pixels, or densities on the `"unit interval"`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae import checks

DataRange = Literal["binary", "unit interval"]


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

    data_range: DataRange = "binary"

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits."""
        return _BernoulliOfGrey(logits=parameters).to_event(3)


class _ContinuousBernoulliOfLogits(dist.TorchDistribution):
    r"""p(x) = l exp(l x) / (exp(l) - 1) on [0, 1], all of it from the logits l, at any size and either sign of l.

    torch's own works with probabilities that are clamped at \|l\| = 16.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (as torch's distributions have it)
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> _ContinuousBernoulliOfLogits:
        return type(self)(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value - 0.5) * self.logits - self._log_norm()  # (eq. 8.3)

    def _log_norm(self) -> Tensor:
        # log of sinh(l / 2) / (l / 2), whose limit at 0 is 0.
        size = self.logits.abs()
        small = size < 0.1
        safe = torch.where(small, 1.0, size)
        square = self.logits.square()
        series = square * (1 / 24 - square * (1 / 2880 - square / 181440))
        return torch.where(small, series, safe / 2 + (-torch.expm1(-safe) / safe).log())

    @property
    def mean(self) -> Tensor:
        # 1 / (1 - exp(-l)) - 1 / l
        small, safe = self._small()
        size = safe.abs()
        from_mode = 1 / size - (-size).exp() / -torch.expm1(-size)
        series = 0.5 + self.logits * _series(self.logits, [c for _, c in _BERNOULLI])
        return torch.where(small, series, torch.where(safe > 0, 1 - from_mode, from_mode))

    @property
    def variance(self) -> Tensor:
        # 1 / l^2 - 1 / (4 sinh(l / 2)^2)
        small, safe = self._small()
        size = safe.abs()
        direct = size.square().reciprocal() - (-size).exp() / torch.expm1(-size).square()
        return torch.where(small, _series(self.logits, [(n - 1) * c for n, c in _BERNOULLI]), direct)

    def entropy(self) -> Tensor:
        # log((exp(l) - 1) / l) - l mean
        small, safe = self._small()
        size = safe.abs()
        rest = -torch.expm1(-size)
        direct = 1 - (size / rest).log() - size * (-size).exp() / rest
        series = self.logits.square() * _series(self.logits, [(1 / n - 1) * c for n, c in _BERNOULLI])
        return torch.where(small, series, direct)

    def cdf(self, value: Tensor) -> Tensor:
        # (exp(l x) - 1) / (exp(l) - 1)
        if self._validate_args:
            self._validate_sample(value)
        small, safe = self._small(_reach(self.logits))
        size = safe.abs()
        rising = (size * (value - 1)).exp() * torch.expm1(-size * value)
        direct = torch.where(safe > 0, rising, torch.expm1(-size * value)) / torch.expm1(-size)
        logits, v, m = self.logits, value * (1 - value), 1 - 2 * value
        series = value - logits * v * (1 / 2 - logits * (m / 12 + logits * (v / 24 - logits * m * (3 * v + 1) / 720)))
        return torch.where(small, series, direct)

    def icdf(self, value: Tensor) -> Tensor:
        # log(1 + u (exp(l) - 1)) / l
        small, safe = self._small(_reach(self.logits))
        size = safe.abs()
        below, above = value.log(), torch.log1p(-value)  # of the masses below and above x
        beyond, between = torch.where(safe > 0, below, above), torch.where(safe > 0, above, below)
        from_mode = -torch.logaddexp(beyond, between - size) / size  # the mode is at 1 or at 0
        direct = torch.where(safe > 0, 1 - from_mode, from_mode)
        # Its Taylor series has the cumulants of a Bernoulli variable of probability u.
        logits, v, m = self.logits, value * (1 - value), 1 - 2 * value
        cumulants = logits / 6 * (m + logits / 4 * (1 - 6 * v + logits / 5 * m * (1 - 12 * v)))
        return torch.where(small, value + logits * v * (0.5 + cumulants), direct).clamp(0, 1)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def _small(self, limit: float = 1.0) -> tuple[Tensor, Tensor]:
        """Where differences would cancel and a series takes over, and logits that are safe to divide by elsewhere."""
        small = self.logits.abs() < limit
        return small, torch.where(small, 1.0, self.logits)


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The sum of c_k x^(2 k)."""
    square, total = x.square(), torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total


def _reach(x: Tensor) -> float:
    """To where a series of degree 4 is the better one: its error l^5 grows, that of derivatives, eps / l, falls."""
    return float(torch.finfo(x.dtype).eps ** (1 / 7))


# n and B_n / n!, with the Bernoulli numbers B_n: the mean less 1/2 is the sum of B_n / n! l^(n - 1), for |l| < 2 pi.
_BERNOULLI = [
    (n, b / math.factorial(n))
    for n, b in zip(
        range(2, 22, 2),
        (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330),
        strict=True,
    )
]


class ContinuousBernoulli(nn.Module):
    r"""The exponential family on [0, 1] that the Bernoulli cross-entropy lacks its normalizer for.

    .. math:: p(x_i|z) = C(\pi_i)\, \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
              C(\pi) = \frac{2\,\mathrm{artanh}(1 - 2\pi)}{1 - 2\pi}, \quad C(1/2) = 2

    Its mean is not :math:`\pi`: reconstructions use the mean of the distribution.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli", 2019, https://arxiv.org/abs/1907.06845

    >>> ContinuousBernoulli()(torch.zeros(1, 2, 2)).log_prob(torch.full((1, 2, 2), 0.3)).abs().item() < 1e-5  # uniform
    True
    """

    data_range: DataRange = "unit interval"

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

    data_range: DataRange = "unit interval"
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
