"""q(z|x): modules whose `forward(parameters)` returns a Pyro distribution over codes of shape `(latent_dim,)`.

`parameters` is the output of an encoder, `(..., num_parameters)`; each posterior has its own `num_parameters`, the
numbers per image.
"""

from __future__ import annotations

import copy

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.priors import ClosedUniform

LEAST_HALF_LENGTH = 2**-14  # of a uniform posterior: 1,000 times the distance of neighbouring float32 numbers near 1


class DiagonalNormal(nn.Module):
    r"""The mean-field normal.

    .. math:: q(z|x) = \mathcal N(z; \mu(x), \mathrm{diag}\,\sigma^2(x)), \qquad
              (\mu, \log \sigma^2) = \text{parameters}

    Args:
        latent_dim: dimension d of z; `num_parameters` is 2 d.

    Source: Kingma and Welling, 2014, appendix C.2, https://arxiv.org/abs/1312.6114

    >>> DiagonalNormal(3)(torch.zeros(5, 6)).mean.shape
    torch.Size([5, 3])
    """

    kind = "normal"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        self.latent_dim = latent_dim
        self.num_parameters = 2 * latent_dim

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z|x), batch shape `(...)`, event shape `(d,)`."""
        loc, log_variance = parameters.chunk(2, dim=-1)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(1)


class Laplace(nn.Module):
    r"""The mean-field Laplace distribution.

    .. math:: q(z|x) = \prod_i \frac{1}{2 b_i(x)} e^{-|z_i - \mu_i(x)| / b_i(x)}, \qquad
              (\mu, \log b) = \text{parameters}

    Args:
        latent_dim: dimension d of z; `num_parameters` is 2 d.

    >>> Laplace(3)(torch.zeros(5, 6)).mean.shape
    torch.Size([5, 3])
    """

    kind = "laplace"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        self.latent_dim = latent_dim
        self.num_parameters = 2 * latent_dim

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z|x), batch shape `(...)`, event shape `(d,)`."""
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class Uniform(nn.Module):
    r"""A box within the cube of the uniform prior.

    .. math:: q(z|x) = \prod_i \frac{1}{2 h_i(x)} [\lvert z_i - c_i(x) \rvert \le h_i(x)], \qquad
              h = \varepsilon + (1 - \varepsilon)\, \mathrm{sigmoid}(b), \quad c = (1 - h) \tanh(a), \quad
              (a, b) = \text{parameters}

    with :math:`\varepsilon = 2^{-14}`, so that the two ends of the shortest box differ in float32. Its KL to
    :class:`pyro_vae.priors.Uniform` is :math:`-\sum_i \log h_i`: the log of how much smaller it is than the cube.

    Args:
        latent_dim: dimension d of z; `num_parameters` is 2 d.

    >>> Uniform(3)(torch.zeros(5, 6)).mean.shape
    torch.Size([5, 3])
    """

    kind = "uniform"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        checks.positive_integer("latent_dim", latent_dim)
        self.latent_dim = latent_dim
        self.num_parameters = 2 * latent_dim

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z|x), batch shape `(...)`, event shape `(d,)`."""
        a, b = parameters.chunk(2, dim=-1)
        half = LEAST_HALF_LENGTH + (1 - LEAST_HALF_LENGTH) * b.sigmoid()
        centre = (1 - half) * a.tanh()
        inside = 1 - 1e-6  # so that rounding puts no end outside of the cube
        return ClosedUniform(inside * (centre - half), inside * (centre + half)).to_event(1)


class Planar(nn.Module):
    r"""A diagonal normal transformed by L planar layers whose weights are shared by all images.

    .. math:: z_l = z_{l-1} + \hat u_l \tanh(w_l^\top z_{l-1} + b_l), \qquad
              \log q(z_L|x) = \log q_0(z_0|x) - \sum_l \log \lvert 1 + \hat u_l^\top \psi_l(z_{l-1}) \rvert

    with :math:`\psi_l(z) = (1 - \tanh^2(w_l^\top z + b_l))\, w_l`. A layer is invertible where :math:`w^\top \hat u >
    -1`; Pyro's transform projects u onto such a :math:`\hat u`. The inverse has no closed form, so only codes that were
    drawn from the distribution can be scored.

    Args:
        latent_dim: dimension d of z; `num_parameters` is 2 d.
        layers: how many layers, L.

    Source: Rezende and Mohamed, "Variational inference with normalizing flows", 2015, https://arxiv.org/abs/1505.05770

    >>> Planar(3, layers=4)(torch.zeros(5, 6)).rsample().shape
    torch.Size([5, 3])
    """

    kind = "planar"

    def __init__(self, latent_dim: int, layers: int = 4) -> None:
        super().__init__()
        checks.positive_integer("layers", layers)
        self.base = DiagonalNormal(latent_dim)
        self.latent_dim = latent_dim
        self.num_parameters = self.base.num_parameters
        self.layers = nn.ModuleList(transforms.Planar(latent_dim) for _ in range(layers))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z_L|x), batch shape `(...)`, event shape `(d,)`."""
        # q(z_L|x) (eq. 9.3)
        # A copy shares its layer's weights but has its own cache of codes, so that two distributions don't evict
        # each other's.
        return dist.TransformedDistribution(self.base(parameters), [copy.copy(layer) for layer in self.layers])


class ConditionalPlanar(nn.Module):
    r"""A diagonal normal transformed by L planar layers whose weights are outputs of the encoder for each image.

    The equations are those of :class:`Planar`, with :math:`u_l(x), w_l(x), b_l(x)`: the amortized flow that the paper
    describes.

    Args:
        latent_dim: dimension d of z; `num_parameters` is 2 d + L (2 d + 1).
        layers: how many layers, L.

    Source: Rezende and Mohamed, 2015, section 4.2, https://arxiv.org/abs/1505.05770

    >>> posterior = ConditionalPlanar(3, layers=4)
    >>> posterior(torch.zeros(5, posterior.num_parameters)).rsample().shape
    torch.Size([5, 3])
    """

    kind = "conditional-planar"

    def __init__(self, latent_dim: int, layers: int = 4) -> None:
        super().__init__()
        checks.positive_integer("layers", layers)
        self.base = DiagonalNormal(latent_dim)
        self.latent_dim = latent_dim
        self.num_layers = layers
        self.layer = transforms.ConditionalPlanar(_split_planar)
        self.num_parameters = self.base.num_parameters + layers * (2 * latent_dim + 1)
        # b, u and w of each layer at the start, as Pyro's Planar draws them: at w = 0 the layer's projection divides by
        # zero.
        start = torch.empty(layers, 2 * latent_dim + 1).uniform_(-1, 1) / latent_dim**0.5
        start[:, 0] = 0
        self.offset = nn.Parameter(start)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """q(z_L|x), batch shape `(...)`, event shape `(d,)`."""
        d = self.latent_dim
        base, rest = parameters.split([2 * d, self.num_layers * (2 * d + 1)], dim=-1)
        weights = rest.unflatten(-1, (self.num_layers, 2 * d + 1)) + self.offset
        layers = [self.layer.condition(layer_weights) for layer_weights in weights.unbind(-2)]
        return dist.TransformedDistribution(self.base(base), layers)


def _split_planar(weights: Tensor) -> tuple[Tensor, ...]:
    """b `(..., 1)`, u `(..., d)` and w `(..., d)` of one planar layer."""
    d = weights.shape[-1] // 2
    return weights.split([1, d, d], dim=-1)


def location(q: dist.TorchDistribution) -> Tensor:
    """One code for each image: the mean of q where it is known; for a flow, the base's mean through the layers.

    The latter is not the mean of the flow, which has no closed form, but a deterministic point in its bulk.
    """
    if isinstance(q, torch.distributions.TransformedDistribution):
        z = q.base_dist.mean
        for transform in q.transforms:
            z = transform(z)
        return z
    return q.mean
