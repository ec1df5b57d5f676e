"""p(z): modules whose `forward()` returns a Pyro distribution over codes of shape `(latent_dim,)`."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks


class StandardNormal(nn.Module):
    r"""The isotropic normal of almost every VAE.

    .. math:: p(z) = \mathcal N(z; 0, I)

    Args:
        latent_dim: dimension of z.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, https://arxiv.org/abs/1312.6114

    >>> StandardNormal(3)().log_prob(torch.zeros(3)).item()  # -3/2 log(2 pi)
    -2.75681...
    """

    kind = "standard-normal"
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        # Not learned and not saved: buffers only so that they follow the module to its device and dtype.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(nn.Module):
    r"""Independent Laplace codes: heavier tails than the normal's, and more mass near the axes.

    .. math:: p(z) = \prod_i \tfrac12 e^{-|z_i|}

    Args:
        latent_dim: dimension of z.

    >>> Laplace(3)().log_prob(torch.zeros(3)).item()  # 3 log(1/2)
    -2.0794...
    """

    kind = "laplace"
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class ClosedUniform(dist.Uniform):
    """A uniform distribution on the closed interval: torch's excludes the upper end, to which a draw can round."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        inside = (value >= self.low) & (value <= self.high)
        return inside.type_as(self.low).log() - (self.high - self.low).log()


class Uniform(nn.Module):
    r"""Codes spread evenly over a cube.

    .. math:: p(z) = \prod_i \tfrac12 [\lvert z_i \rvert \le 1]

    A posterior must stay within the cube, as :class:`pyro_vae.posteriors.Uniform` does; else its KL is infinite.

    Args:
        latent_dim: dimension of z.

    >>> Uniform(3)().log_prob(torch.zeros(3)).item()  # 3 log(1/2)
    -2.0794...
    """

    kind = "uniform"
    low: Tensor
    high: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        self.register_buffer("low", -torch.ones(latent_dim), persistent=False)
        self.register_buffer("high", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        return ClosedUniform(self.low, self.high).to_event(1)
