"""p(x|z): modules whose `forward(parameters)` returns a Pyro distribution over images of shape `(C, H, W)`.

`parameters` is the output of a decoder, `(..., P * C, H, W)` with P real numbers for each pixel and channel, which is
`parameters_per_pixel`, mostly 1. `data_range` says what p(x|z) is a distribution of: `"binary"` pixels, pixels of `"256
levels"`, or, as a density, the `"unit interval"`.
"""

from __future__ import annotations

import math
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._utils import checks
from pyro_vae.pixel_distributions import (
    BernoulliOfGrey,
    ContinuousBernoulliOfLogits,
    LogisticLevels,
    NormalLevels,
)

DataRange = Literal["binary", "256 levels", "unit interval"]

_LEAST_LOG_SCALE = -10.0  # a hundredth of a level, where all mass is in one bin


class Bernoulli(nn.Module):
    r"""Independent Bernoulli pixels.

    .. math:: \log p(x|z) = \sum_i x_i \log \pi_i + (1 - x_i) \log(1 - \pi_i),
              \qquad \pi = \mathrm{sigmoid}(\text{parameters})

    For x in {0, 1} this is a log-probability. For grey x in between it is minus the cross-entropy: useful as a loss and
    common in papers, but not a log-likelihood of the data (:class:`DiscretizedLogistic` gives one).

    Source: Kingma and Welling, 2014, appendix C.1, https://arxiv.org/abs/1312.6114

    >>> Bernoulli()(torch.zeros(1, 2, 2)).log_prob(torch.ones(1, 2, 2)).item()  # 4 log(1/2)
    -2.7725...
    """

    kind = "bernoulli"
    data_range: DataRange = "binary"
    parameters_per_pixel = 1

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits."""
        return BernoulliOfGrey(logits=parameters).to_event(3)


class ContinuousBernoulli(nn.Module):
    r"""The Bernoulli cross-entropy with the normalizer that makes it a density on [0, 1].

    .. math:: p(x_i|z) = C(\pi_i)\, \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}, \qquad
              C(\pi) = \frac{2\,\mathrm{artanh}(1 - 2\pi)}{1 - 2\pi}, \quad C(1/2) = 2

    Its mean is not :math:`\pi`: reconstructions use the mean of the distribution. At x = 0 and x = 1 the density has no
    bound (it is about \|l\| at a large logit l): the log-likelihood of pixels that are exactly black or white can rise
    without end. Dequantize the pixels, or take a likelihood of 256 levels.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli", 2019, https://arxiv.org/abs/1907.06845

    >>> ContinuousBernoulli()(torch.zeros(1, 2, 2)).log_prob(torch.full((1, 2, 2), 0.3)).abs().item() < 1e-5  # uniform
    True
    """

    kind = "continuous-bernoulli"
    data_range: DataRange = "unit interval"
    parameters_per_pixel = 1

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits."""
        return ContinuousBernoulliOfLogits(logits=parameters).to_event(3)


class Gaussian(nn.Module):
    r"""Independent normal pixels with a common variance c, around a mean in [0, 1].

    .. math:: \log p(x|z) = -\frac{1}{2c} \lVert x - f(z) \rVert^2 - \frac{D}{2} \log(2 \pi c),
              \qquad f(z) = \mathrm{sigmoid}(\text{parameters})

    With the default c = 1/2 the loss is the summed squared error (plus a constant), so that beta-VAEs of the squared
    error are this likelihood.

    Args:
        variance: c.

    Source: Rybkin et al., "Simple and effective VAE training with calibrated decoders", 2021,
    https://arxiv.org/abs/2006.13202

    >>> Gaussian()(torch.zeros(1, 1, 1)).log_prob(torch.tensor([[[0.5]]])).item()  # -1/2 log(pi)
    -0.57236...
    """

    kind = "gaussian"
    data_range: DataRange = "unit interval"
    parameters_per_pixel = 1
    log_variance: Tensor

    def __init__(self, variance: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("log_variance", torch.tensor(math.log(checks.positive("variance", variance))))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits of the mean."""
        return dist.Normal(parameters.sigmoid(), (self.log_variance / 2).exp()).to_event(3)  # (eq. 8.4)


class LearnedGaussian(Gaussian):
    r"""A :class:`Gaussian` whose log c is a parameter; its maximum-likelihood value is the mean squared error.

    .. math:: \log p(x|z) = -\frac{1}{2c} \lVert x - f(z) \rVert^2 - \frac{D}{2} \log(2 \pi c),
              \qquad f(z) = \mathrm{sigmoid}(\text{parameters})

    Args:
        variance: where c starts.

    Source: Rybkin et al., "Simple and effective VAE training with calibrated decoders", 2021,
    https://arxiv.org/abs/2006.13202

    >>> [name for name, _ in LearnedGaussian(0.05).named_parameters()]
    ['log_variance']
    """

    kind = "gaussian-learned"

    def __init__(self, variance: float = 0.5) -> None:
        super().__init__(variance)
        start = self.log_variance
        del self.log_variance  # the buffer
        self.log_variance = nn.Parameter(start)


class LinearGaussian(Gaussian):
    r"""A :class:`Gaussian` with no sigmoid: linear networks then make a linear model, as PCA is.

    .. math:: \log p(x|z) = -\frac{1}{2c} \lVert x - \text{parameters} \rVert^2 - \frac{D}{2} \log(2 \pi c)

    Args:
        variance: c.

    Source: Tipping and Bishop, "Probabilistic principal component analysis", 1999,
    https://doi.org/10.1111/1467-9868.00196

    >>> LinearGaussian()(torch.full((1, 1, 1), -3.0)).mean.item()
    -3.0
    """

    kind = "gaussian-linear"

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """p(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the mean."""
        return dist.Normal(parameters, (self.log_variance / 2).exp()).to_event(3)  # (eq. 8.4)


class DiscretizedLogistic(nn.Module):
    r"""Probabilities of 256 grey levels: a logistic distribution, or a mixture of M, whose mass falls into 256 bins.

    .. math:: P(x = \tfrac{k}{255} | z) = \sum_{m=1}^M w_m \left[
              F\Big(\frac{(k + \frac12) / 255 - \mu_m}{s_m}\Big) - F\Big(\frac{(k - \frac12) / 255 - \mu_m}{s_m}\Big)
              \right], \qquad F(t) = \frac{1}{1 + e^{-t}}

    The outer bins are open: level 0 has all mass below its upper edge, and level 255 all above its lower one. So the
    masses of the 256 levels sum to 1, and log P is a log-probability, never above 0. Binary pixels are the levels 0 and
    255, and are allowed.

    One component has its mean in [0, 1] from the decoder, and one scale s for all pixels, which is a parameter of the
    likelihood. Of several, weights, means and scales are all from the decoder: 3 M numbers for each pixel and channel,
    the M logits of the weights first, then those of the means, then log s.

    Args:
        components: M.
        scale: where s starts, as a fraction of the range of pixels.

    Source: Salimans et al., "PixelCNN++", 2017, section 2.1, https://arxiv.org/abs/1701.05517; one component: Kingma
    et al., "Improved variational inference with inverse autoregressive flow", 2016, https://arxiv.org/abs/1606.04934

    >>> likelihood = DiscretizedLogistic(components=5)
    >>> levels = torch.arange(256.0).reshape(256, 1, 1, 1) / 255
    >>> round(likelihood(torch.randn(15, 1, 1)).log_prob(levels).exp().sum().item(), 4)
    1.0
    """

    kind = "discretized-logistic"
    data_range: DataRange = "256 levels"

    def __init__(self, components: int = 1, scale: float = 0.1) -> None:
        super().__init__()
        self.components = checks.positive_integer("components", components)
        start = math.log(checks.positive("scale", scale))
        self.parameters_per_pixel = 1 if components == 1 else 3 * components
        if components == 1:
            self.log_scale = nn.Parameter(torch.tensor(start))
        else:
            self.register_buffer("log_scale", torch.tensor(start))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """P(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` has the logits of the mean, or the 3 M."""
        if self.components == 1:
            return LogisticLevels(parameters.sigmoid(), _scale(self.log_scale)).to_event(3)  # (eq. 8.8)
        # (..., 3 M C, H, W) -> 3 times (..., C, H, W, M)
        weights, means, log_scales = parameters.unflatten(-3, (3, self.components, -1)).movedim(-4, -1).unbind(-5)
        levels = LogisticLevels(means.sigmoid(), _scale(log_scales + self.log_scale))
        return dist.MixtureSameFamily(dist.Categorical(logits=weights), levels).to_event(3)  # (eq. 8.9)


class DiscretizedGaussian(nn.Module):
    r"""Probabilities of 256 grey levels: a normal distribution whose mass falls into 256 bins.

    .. math:: P(x = \tfrac{k}{255} | z) = \Phi\Big(\frac{(k + \frac12) / 255 - f(z)}{s}\Big) -
              \Phi\Big(\frac{(k - \frac12) / 255 - f(z)}{s}\Big), \qquad f(z) = \mathrm{sigmoid}(\text{parameters})

    with open outer bins, as of :class:`DiscretizedLogistic`; :math:`\Phi` is the normal distribution function. There is
    one scale s for all pixels, a parameter of the likelihood.

    Args:
        scale: where s starts, as a fraction of the range of pixels.

    Source: Ho et al., "Denoising diffusion probabilistic models", 2020, equation 13, https://arxiv.org/abs/2006.11239

    >>> levels = torch.arange(256.0).reshape(256, 1, 1, 1) / 255
    >>> round(DiscretizedGaussian()(torch.zeros(1, 1, 1)).log_prob(levels).exp().sum().item(), 4)
    1.0
    """

    kind = "discretized-gaussian"
    data_range: DataRange = "256 levels"
    parameters_per_pixel = 1

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(checks.positive("scale", scale))))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """P(x|z), batch shape `(...)`, event shape `(C, H, W)`; `parameters` are the logits of the mean."""
        return NormalLevels(parameters.sigmoid(), _scale(self.log_scale)).to_event(3)  # (eq. 8.8)


def _scale(log_scale: Tensor) -> Tensor:
    """exp(log_scale), which runs smoothly into a least scale, so that no bin is infinitely many scales away."""
    return (functional.softplus(log_scale - _LEAST_LOG_SCALE, beta=4) + _LEAST_LOG_SCALE).exp()
