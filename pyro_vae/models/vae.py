"""The variational autoencoder as a Pyro model/guide pair."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, batch_size_of, check_images, decode
from pyro_vae.posteriors import location
from pyro_vae.spec import Spec


class VAE(PyroPair):
    r"""A VAE, composed of five modules.

    .. math:: p(x, z) = p(z)\, p(x|z), \qquad q(z|x)
    .. math:: \mathcal L_\beta(x) = \mathbb E_{q(z|x)}[\log p(x|z)] - \beta\, \mathrm{KL}(q(z|x) \,\|\, p(z))

    `model` and `guide` are ordinary Pyro programs: use them with `pyro.infer.SVI`, `Predictive` or handlers of your
    own. Their parameters are registered by `pyro.module` under the model's own `prefix`, so several VAEs share a param
    store. Two in one trace need names of their sites, too: `pyro.contrib.autoname.scope` gives them.

    Args:
        encoder: images `(N, C, H, W)` -> parameters of q, `(N, posterior.num_parameters)`.
        decoder: codes `(N, d)` -> parameters of the likelihood, `(N, P C, H, W)`, P for each pixel and channel.
        prior: `()` -> p(z).
        likelihood: parameters -> p(x|z).
        posterior: parameters -> q(z|x).

    Source: Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114; beta: Higgins et al., 2017,
    https://openreview.net/forum?id=Sy2fzU9gl

    >>> from pyro_vae import likelihoods, networks, posteriors, priors
    >>> q = posteriors.DiagonalNormal(2)
    >>> vae = VAE(
    ...     encoder=networks.mlp_encoder((1, 8, 8), q.num_parameters),
    ...     decoder=networks.mlp_decoder(2, (1, 8, 8)),
    ...     prior=priors.StandardNormal(2),
    ...     likelihood=likelihoods.Bernoulli(),
    ...     posterior=q,
    ... )
    >>> vae.sample(3).shape
    torch.Size([3, 1, 8, 8])

    Prior predictive draws, by Pyro's own `Predictive`:

    >>> draws = pyro.infer.Predictive(vae.model, num_samples=4)(size=3)
    >>> draws["z"].shape, draws["x"].shape
    (torch.Size([4, 3, 2]), torch.Size([4, 3, 1, 8, 8]))
    """

    kind = "vae"
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> Tensor:
        """p(x, z), with log p(z) weighted by `beta`; x is `(N, C, H, W)`, or None to draw `size` images."""
        self.register("prior", "decoder", "likelihood")
        with pyro.plate("data", batch_size_of(x, size)):
            with weighted(beta):  # beta log p(z) (eq. 7.1)
                z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z), obs=x)  # log p(x|z) (eq. 4.2)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z|x), with log q(z|x) weighted by `beta`, and so the whole KL term."""
        self.register("encoder", "posterior")
        with pyro.plate("data", x.shape[0]), weighted(beta):
            pyro.sample("z", self.encode(x))  # beta log q(z|x) (eq. 7.1)

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) for images `(N, C, H, W)`: batch shape `(N,)`, event shape `(d,)`."""
        return self.posterior(self.encoder(check_images(x)))

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x|z) for codes `(..., d)`: batch shape `(...)`, event shape `(C, H, W)`."""
        return decode(self.decoder, self.likelihood, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at the posterior's :func:`~pyro_vae.posteriors.location`, `(N, C, H, W)`."""
        return self.decode(location(self.encode(x))).mean

    def sample(self, n: int) -> Tensor:
        """The means of p(x|z) for n draws from the prior, `(n, C, H, W)`."""
        checks.positive_integer("n", n)
        return self.decode(self.prior().sample((n,))).mean


def weighted(beta: float | Tensor) -> AbstractContextManager:
    """`poutine.scale`, which refuses 0; there `poutine.mask` drops the terms instead."""
    if not isinstance(beta, Tensor) and beta == 0:
        return poutine.mask(mask=False)
    return poutine.scale(scale=beta)
