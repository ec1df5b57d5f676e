"""The ladder VAE: several stochastic layers, inferred from the top down, as a Pyro model/guide pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, batch_size_of, check_images, decode
from pyro_vae.models.hierarchical import ConditionalNormal, layer_sizes
from pyro_vae.models.vae import weighted
from pyro_vae.networks import activation_of, hidden_layers
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.spec import Spec


class Ladder(PyroPair):
    r"""The generative model of :class:`~pyro_vae.models.hierarchical.Hierarchical`, inferred from the top down.

    .. math:: q(z_1, \dots, z_L|x) = q(z_L|x) \prod_{l=1}^{L-1} q(z_l|z_{l+1}, x), \qquad
              q(z_l|z_{l+1}, x) \propto p(z_l|z_{l+1})\, \mathcal N(z_l; \hat\mu_l(x), \hat\sigma_l^2(x))

    A deterministic pass from the image upwards gives each layer an estimate with a precision. On the way down this is
    merged with what the generative model says of the layer, each weighted by its precision, so that a layer of which
    the image says nothing is left at its prior. Layers of a bottom-up posterior
    (:class:`~pyro_vae.models.hierarchical.Hierarchical`) see the image only through the draws below them, and the
    upper ones are mostly unused.

    The networks below z1 are the encoder and the decoder, so that a convolutional ladder has `network="conv"`. Train
    with a warm-up of beta (`beta_warmup`), or with free bits per layer (the objective `mean-field`).

    Args:
        encoder: images `(N, C, H, W)` -> features `(N, hidden[-1])`, which become d1.
        decoder: z1 `(N, d)` -> parameters of the likelihood, `(N, P C, H, W)`, P for each pixel and channel.
        likelihood: parameters -> p(x|z1).
        latent_dim: dimension of the layer next to the image, z1.
        hidden: the last is the number of features.
        upper: dimensions of the layers above it, z2 to zL; with none this is a VAE.
        upper_hidden: units of the hidden layers below each of these; where empty, eight for each dimension of it.
        activation: of these hidden layers and of the features: `tanh`, `relu`, `elu`, `silu`, `softplus` or
            `leaky-relu`.
        batch_norm: batch normalization in these hidden layers; that of encoder and decoder is an option of the network.

    Source: Sønderby et al., "Ladder variational autoencoders", 2016, https://arxiv.org/abs/1602.02282

    >>> from pyro_vae import build
    >>> pair = build(Spec(latent_dim=4, model={"kind": "ladder", "upper": (3, 2)}))
    >>> trace = pyro.poutine.trace(pair.guide).get_trace(torch.rand(6, 1, 8, 8))
    >>> [(name, tuple(trace.nodes[name]["value"].shape)) for name in ("z3", "z2", "z1")]
    [('z3', (6, 2)), ('z2', (6, 3)), ('z1', (6, 4))]
    """

    kind = "ladder"
    default_objective = "mean-field"  # in closed form, given the layers above
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        latent_dim: int,
        hidden: Sequence[int],
        upper: Sequence[int] = (10, 5),
        upper_hidden: Sequence[int] = (),
        activation: str = "leaky-relu",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        dims, units = layer_sizes(latent_dim, upper, upper_hidden)
        checks.boolean("batch_norm", batch_norm)
        layer, widths = activation_of(activation), (hidden[-1], *units)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.top_prior = StandardNormal(dims[-1])  # p(zL)
        self.downwards = nn.ModuleList(  # p(z_l | z_l+1)
            ConditionalNormal(above, width, below, activation, batch_norm)
            for (below, above), width in zip(itertools.pairwise(dims), units, strict=True)
        )
        self.upwards = nn.ModuleList(  # d1 of the features, d_l+1 of d_l
            [layer()]
            + [hidden_layers(below, (width, width), layer, batch_norm) for below, width in itertools.pairwise(widths)]
        )
        self.normals = nn.ModuleList(DiagonalNormal(dim) for dim in dims)
        self.estimates = nn.ModuleList(  # mean and log variance of N(z_l; d_l)
            nn.Linear(width, 2 * dim) for width, dim in zip(widths, dims, strict=True)
        )

    @staticmethod
    def encoder_outputs(spec: Spec) -> int:
        """How many features the encoder gives for each image."""
        if not spec.hidden:
            raise checks.fail("hidden", spec.hidden, "at least one layer, whose units are the features of the ladder")
        return spec.hidden[-1]

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> Tensor:
        """p(x, z1, ..., zL) from the top down (eq. 13.1); x is `(N, C, H, W)`, or None to draw `size` images."""
        self.register("downwards", "decoder", "likelihood")
        with pyro.plate("data", batch_size_of(x, size)):
            with weighted(beta):
                z = pyro.sample(f"z{len(self.downwards) + 1}", self.top_prior())
                for layer in reversed(range(len(self.downwards))):
                    z = pyro.sample(f"z{layer + 1}", self.downwards[layer](z))
            return pyro.sample("x", decode(self.decoder, self.likelihood, z), obs=x)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z1, ..., zL | x) from the top down, after a deterministic pass upwards (eq. 13.5)."""
        self.register("encoder", "upwards", "estimates", "downwards")
        *lower, top = self.estimate(x)
        with pyro.plate("data", x.shape[0]), weighted(beta):
            z = pyro.sample(f"z{len(lower) + 1}", top)
            for layer in reversed(range(len(lower))):
                z = pyro.sample(f"z{layer + 1}", merged(self.downwards[layer](z), lower[layer]))

    def estimate(self, x: Tensor) -> list[dist.TorchDistribution]:
        """What the image says of each layer, N(z_l; d_l), from z1 to zL (eq. 13.4)."""
        d, estimates = self.encoder(check_images(x)), list[dist.TorchDistribution]()
        for upwards, head, normal in zip(self.upwards, self.estimates, self.normals, strict=True):
            d = upwards(d)
            estimates.append(normal(head(d)))
        return estimates


def merged(p: dist.TorchDistribution, q: dist.TorchDistribution) -> dist.TorchDistribution:
    r"""The normalized product of two diagonal normals: their means weighted by their precisions (eq. 13.6).

    .. math:: \sigma^{-2} = \sigma_p^{-2} + \sigma_q^{-2}, \qquad
              \mu = \sigma^2 (\sigma_p^{-2} \mu_p + \sigma_q^{-2} \mu_q)

    >>> p, q = (dist.Normal(torch.tensor([loc]), 1.0).to_event(1) for loc in (0.0, 2.0))
    >>> merged(p, q).mean, merged(p, q).variance
    (tensor([1.]), tensor([0.5000]))
    """
    log_p, log_q = p.variance.log(), q.variance.log()
    loc = torch.lerp(p.mean, q.mean, (log_p - log_q).sigmoid())  # the share of q in the sum of the precisions
    return dist.Normal(loc, (-torch.logaddexp(-log_p, -log_q) / 2).exp()).to_event(1)
