"""The deterministic autoencoder, as a Pyro model without latent variables."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, check_images, decode
from pyro_vae.spec import Spec


class Autoencoder(PyroPair):
    r"""A deterministic autoencoder, trained by maximum likelihood.

    .. math:: \log p(x) = \log p(x | z = f(x))

    The same networks and likelihood as a :class:`~pyro_vae.models.vae.VAE`, without its noise and without its KL term:
    the baseline. It has no prior, so it cannot be sampled from; the equation is a loss, not the evidence of a
    generative model.

    Args:
        encoder: images `(N, C, H, W)` -> codes `(N, d)`.
        decoder: codes `(N, d)` -> parameters of the likelihood, `(N, P C, H, W)`, P for each pixel and channel.
        likelihood: parameters -> p(x|z).

    >>> from pyro_vae import likelihoods, networks
    >>> encoder, decoder = networks.mlp_encoder((1, 8, 8), 2), networks.mlp_decoder(2, (1, 8, 8))
    >>> autoencoder = Autoencoder(encoder, decoder, likelihoods.Bernoulli())
    >>> autoencoder.reconstruct(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 1, 8, 8])
    """

    kind = "autoencoder"
    lacks = ("evidence", "samples")
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> None:
        """log p(x|f(x)); `beta` has no effect, and is there so that all models are called alike.

        Raises:
            InputError: no images, only a `size` to draw: there is no prior to draw codes from.
        """
        if x is None:
            raise checks.fail("x", None, "images: an autoencoder has no prior, from which codes could be drawn")
        self.register("encoder", "decoder", "likelihood")
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", self.decode(self.encoder(check_images(x))), obs=x)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """Empty: there is no latent variable to infer."""

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """The point mass at f(x): batch shape `(N,)`, event shape `(d,)`."""
        return dist.Delta(self.encoder(check_images(x)), event_dim=1)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x|z) for codes `(..., d)`: batch shape `(...)`, event shape `(C, H, W)`."""
        return decode(self.decoder, self.likelihood, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|f(x)), `(N, C, H, W)`."""
        return self.decode(self.encoder(check_images(x))).mean
