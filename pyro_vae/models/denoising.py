"""A VAE whose encoder is given noisy images, and whose decoder has to explain the clean ones."""

from __future__ import annotations

from torch import Tensor, nn

from pyro_vae.models.vae import VAE
from pyro_vae.noise import noise_of


class Denoising(VAE):
    r"""A VAE whose encoder sees images through noise, drawn anew for each image and step.

    .. math:: \mathcal L(x) = \mathbb E_{p(y|x)}\, \mathbb E_{q(z|y)}[\log p(x|z) + \log p(z) - \log q(z|y)]
              \le \log p(x)

    It is a bound, as each q(z|y) gives one. Over all q it is largest at the normalized geometric mean of p(z|x) over
    the clean images that y may come from:

    .. math:: q(z|y) \propto \exp \mathbb E_{p(x|y)}[\log p(z|x)], \qquad p(z|y) = \mathbb E_{p(x|y)}[p(z|x)]

    The posterior p(z|y) is the arithmetic mean, which is wider: of a linear-Gaussian model, q(z|y) has the mean of
    p(z|y), but only the covariance of p(z|x), and where y may come from several modes, q may lie between them. So its
    codes need no fit, but weights: :func:`pyro_vae.uses.denoise.denoise` with the method `encoder` gives them.

    `encode` and `reconstruct` take noisy images. Noise is drawn in training only: validation and evaluation encode the
    images that they are given, clean ones, which such an encoder has hardly seen. Their bounds are valid, and may be
    loose.

    Args:
        encoder, decoder, prior, likelihood, posterior: as of a :class:`VAE`.
        noise: p(y|x), `gaussian:0.3`, `salt-and-pepper:0.2` or `blur:1.0` (:mod:`pyro_vae.noise`).

    Source: Im et al., "Denoising criterion for variational auto-encoding framework", 2017,
    https://arxiv.org/abs/1511.06406

    >>> import torch
    >>> from pyro_vae import Spec, build
    >>> model = build(Spec(model={"kind": "denoising", "noise": "gaussian:0.5"}, latent_dim=2))
    >>> model.reconstruct(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 1, 8, 8])
    """

    kind = "denoising"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        noise: str = "gaussian:0.3",
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood, posterior)
        self.noise = noise_of(noise)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z|y), weighted by `beta`; in training y is drawn from p(y|x), else it is x as it is given."""
        super().guide(self.noise.corrupt(x) if self.training else x, beta)
