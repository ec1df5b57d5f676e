"""Several stochastic layers, inferred from the image upwards, as a Pyro model/guide pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, batch_size_of, check_images, decode
from pyro_vae.models.vae import weighted
from pyro_vae.networks import activation_of, hidden_layers
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.spec import Spec


class Hierarchical(PyroPair):
    r"""L stochastic layers; each layer of the posterior is inferred from a draw of the layer below.

    .. math:: p(x, z_1, \dots, z_L) = p(z_L) \prod_{l=1}^{L-1} p(z_l|z_{l+1})\; p(x|z_1), \qquad
              q(z_1, \dots, z_L|x) = q(z_1|x) \prod_{l=1}^{L-1} q(z_{l+1}|z_l)

    The prior of the top layer is the standard normal. Each conditional distribution between layers is a diagonal normal
    whose mean and variance come from two hidden layers.

    Args:
        encoder: images `(N, C, H, W)` -> parameters of q(z1|x), `(N, posterior.num_parameters)`.
        decoder: z1 `(N, d1)` -> parameters of the likelihood, `(N, P C, H, W)`, P for each pixel and channel.
        likelihood: parameters -> p(x|z1).
        posterior: parameters -> q(z1|x).
        latent_dim: d1, dimension of the layer next to the image, z1.
        upper: dimensions of the layers above it, z2 to zL.
        upper_hidden: units of the hidden layers below each of these; where empty, eight for each dimension of it.
        activation: of these hidden layers: `tanh`, `relu`, `elu`, `silu`, `softplus` or `leaky-relu`.
        batch_norm: batch normalization in these hidden layers; that of encoder and decoder is an option of the network.

    Source: Burda et al., "Importance weighted autoencoders", 2016, section 6, https://arxiv.org/abs/1509.00519

    >>> from pyro_vae import build
    >>> pair = build(Spec(latent_dim=4, model={"kind": "hierarchical", "upper": (3, 2)}))
    >>> draws = pyro.infer.Predictive(pair.model, num_samples=5)(size=6)
    >>> [tuple(draws[name].shape) for name in ("z3", "z2", "z1", "x")]
    [(5, 6, 2), (5, 6, 3), (5, 6, 4), (5, 6, 1, 8, 8)]
    """

    kind = "hierarchical"
    default_objective = "elbo"  # a KL in closed form needs the layers of q in the order of p
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        latent_dim: int,
        upper: Sequence[int] = (10,),
        upper_hidden: Sequence[int] = (),
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        dims, units = layer_sizes(latent_dim, upper, upper_hidden)
        checks.boolean("batch_norm", batch_norm)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.posterior = posterior
        self.top_prior = StandardNormal(dims[-1])  # p(zL)
        between = list(zip(itertools.pairwise(dims), units, strict=True))
        self.downwards = nn.ModuleList(  # p(z_l | z_l+1)
            ConditionalNormal(above, width, below, activation, batch_norm) for (below, above), width in between
        )
        self.upwards = nn.ModuleList(  # q(z_l+1 | z_l)
            ConditionalNormal(below, width, above, activation, batch_norm) for (below, above), width in between
        )

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
        """q(z1, ..., zL | x) from the image upwards (eq. 13.2)."""
        self.register("encoder", "posterior", "upwards")
        with pyro.plate("data", x.shape[0]), weighted(beta):
            z = pyro.sample("z1", self.posterior(self.encoder(check_images(x))))
            for layer, above in enumerate(self.upwards):
                z = pyro.sample(f"z{layer + 2}", above(z))


class ConditionalNormal(nn.Module):
    r"""A diagonal normal given a vector, by two hidden layers.

    .. math:: p(z|h) = \mathcal N\big(z; \mu(h), \mathrm{diag}\,\sigma^2(h)\big)

    Args:
        inputs: dimension of h.
        width: units of each hidden layer.
        outputs: dimension of z.
        activation: of the hidden layers, by name.
        batch_norm: whether they have batch normalization.

    >>> ConditionalNormal(4, 16, 2, "tanh", batch_norm=False)(torch.zeros(7, 5, 4)).mean.shape
    torch.Size([7, 5, 2])
    """

    def __init__(self, inputs: int, width: int, outputs: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        self.normal = DiagonalNormal(outputs)
        self.body = nn.Sequential(
            hidden_layers(inputs, (width, width), activation_of(activation), batch_norm),
            nn.Linear(width, self.normal.num_parameters),
        )

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """p(z|h) for h `(..., inputs)`: batch shape `(...)`, event shape `(outputs,)`."""
        parameters = self.body(h.reshape(-1, h.shape[-1]))  # batch normalization takes one dimension before the last
        return self.normal(parameters.reshape(*h.shape[:-1], -1))


def layer_sizes(
    latent_dim: int, upper: Sequence[int], upper_hidden: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions of z1 to zL, and the units of the hidden layers below each but the first; both checked.

    >>> layer_sizes(8, (4, 2), ())
    ((8, 4, 2), (32, 16))
    """
    dims = checks.sizes("upper", upper)
    units = checks.sizes("upper_hidden", upper_hidden) or tuple(8 * dim for dim in dims)  # as Sønderby et al.
    if len(units) != len(dims):
        raise checks.fail("upper_hidden", units, f"{len(dims)} whole numbers, one for each layer of upper, or none")
    return (latent_dim, *dims), units
