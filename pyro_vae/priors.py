"""p(z): modules whose `forward()` returns a Pyro distribution over codes of shape `(latent_dim,)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

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


class Mixture(nn.Module):
    r"""A mixture of normals, by default a fixed ring of them in the first two dimensions: codes in clusters.

    .. math:: p(z) = \sum_{k=1}^K \pi_k\, \mathcal N(z; \mu_k, \mathrm{diag}\, \sigma_k^2), \qquad
              \pi_k = \tfrac1K, \quad \mu_k = r\, (\cos \tfrac{2 \pi k}K, \sin \tfrac{2 \pi k}K, 0, \dots), \quad
              \sigma_k = s

    Args:
        latent_dim: dimension of z, at least 2.
        components: K.
        radius: r.
        scale: s.
        learned: whether weights, means and variances are parameters, which start from these values.

    Source: of the ring, Makhzani et al., "Adversarial autoencoders", 2015, https://arxiv.org/abs/1511.05644

    >>> Mixture(2, components=3, radius=5.0)().sample((1000,)).norm(dim=-1).mean().item()
    5.0...
    """

    kind = "mixture"
    logits: Tensor
    loc: Tensor
    log_scale: Tensor

    def __init__(
        self, latent_dim: int, components: int = 10, radius: float = 4.0, scale: float = 0.5, learned: bool = False
    ) -> None:
        super().__init__()
        _at_least_two("latent_dim", latent_dim)
        components = checks.positive_integer("components", components)
        radius, scale = checks.non_negative("radius", radius), checks.positive("scale", scale)
        angles = 2 * math.pi * torch.arange(components) / components
        loc = torch.zeros(components, latent_dim)
        loc[:, :2] = radius * torch.stack([angles.cos(), angles.sin()], 1)
        starts = {"logits": torch.zeros(components), "loc": loc, "log_scale": torch.full_like(loc, math.log(scale))}
        for name, start in starts.items():
            if checks.boolean("learned", learned):
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start, persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class Implicit(dist.TorchDistribution):
    """A distribution of codes that is only sampled, by a function of the shape of a sample: it has no density here."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (as torch declares it)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, name: str, latent_dim: int, draw: Callable[[torch.Size], Tensor]) -> None:
        super().__init__(torch.Size(), torch.Size([latent_dim]), validate_args=False)
        self.name, self.draw = name, draw

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes `(*sample_shape, d)`."""
        return self.draw(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """There is none.

        Raises:
            InputError: always.
        """
        expected = "one that has a density; this is only sampled, which suffices for the model `adversarial` alone"
        raise checks.fail("prior", self.name, expected)


class SwissRoll(nn.Module):
    r"""Codes along a spiral in the plane: a shape that no family of densities has at hand. It is only sampled.

    .. math:: z = \tfrac15\, t\, (\cos t, \sin t) + s\, \epsilon, \qquad t^2 \sim \mathcal U(a^2, b^2), \quad
              a = \tfrac32 \pi, \; b = \tfrac92 \pi, \qquad \epsilon \sim \mathcal N(0, I)

    so that the codes lie evenly along its length. Only the model `adversarial` takes a prior without a density.

    Args:
        latent_dim: dimension of z, which must be 2.
        noise: s.

    Source: Makhzani et al., "Adversarial autoencoders", 2015, figure 2, https://arxiv.org/abs/1511.05644

    >>> SwissRoll(2)().sample((5,)).shape
    torch.Size([5, 2])
    """

    kind = "swiss-roll"
    low: Tensor
    high: Tensor

    def __init__(self, latent_dim: int, noise: float = 0.1) -> None:
        super().__init__()
        if latent_dim != 2:
            raise checks.fail("latent_dim", latent_dim, "2: a swiss roll lies in the plane")
        self.noise = checks.non_negative("noise", noise)
        self.register_buffer("low", torch.tensor((1.5 * math.pi) ** 2), persistent=False)
        self.register_buffer("high", torch.tensor((4.5 * math.pi) ** 2), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(2,)`."""
        return Implicit(self.kind, 2, self._draw)

    def _draw(self, shape: torch.Size) -> Tensor:
        angle = dist.Uniform(self.low, self.high).rsample(shape).sqrt()
        on_roll = angle[..., None] / 5 * torch.stack([angle.cos(), angle.sin()], -1)
        return dist.Normal(on_roll, self.noise).rsample() if self.noise else on_roll


class Generator(nn.Module):
    r"""A learned prior: noise through a network. It is only sampled.

    .. math:: z = g(\epsilon), \qquad \epsilon \sim \mathcal N(0, I)

    Only the model `adversarial` takes a prior without a density.

    Args:
        latent_dim: dimension of z.
        noise_dim: that of the noise.
        units: of the hidden layers.

    Source: Zhao et al., "Adversarially regularized autoencoders", 2018, https://arxiv.org/abs/1706.04223

    >>> Generator(3)().sample((5,)).shape
    torch.Size([5, 3])
    """

    kind = "generator"
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, noise_dim: int = 32, units: Sequence[int] = (64, 100)) -> None:
        super().__init__()
        self.latent_dim = checks.positive_integer("latent_dim", latent_dim)
        sizes = (checks.positive_integer("noise_dim", noise_dim), *checks.sizes("units", units))
        layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], latent_dim))
        self.register_buffer("loc", torch.zeros(noise_dim), persistent=False)
        self.register_buffer("scale", torch.ones(noise_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(z), event shape `(latent_dim,)`."""
        return Implicit(
            self.kind, self.latent_dim, lambda shape: self.body(dist.Normal(self.loc, self.scale).rsample(shape))
        )


def _at_least_two(name: str, value: int) -> None:
    if checks.positive_integer(name, value) < 2:
        raise checks.fail(name, value, "at least 2, for a ring")
