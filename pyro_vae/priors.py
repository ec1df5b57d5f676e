"""p(z): modules whose `forward()` returns a Pyro distribution over codes of shape `(latent_dim,)`."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import checks


class StandardNormal(nn.Module):
    r"""The isotropic normal of almost every VAE.

    .. math:: p(z) = \mathcal N(z; 0, I)

    Args:
        latent_dim: dimension of z.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, https://arxiv.org/abs/1312.6114

    >>> StandardNormal(3)().log_prob(torch.zeros(3)).item()  # -3/2 log(2 pi)
    -2.75681...
    """

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
