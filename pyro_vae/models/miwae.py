"""A VAE that is trained on images with holes: pixels that are hidden, in each image others."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae._utils.rng import stream_seed
from pyro_vae.data import Images
from pyro_vae.data.noise import uniform_noise
from pyro_vae.models.base import batch_size_of, check_images
from pyro_vae.models.vae import VAE, weighted

SEEN = "seen"  # the covariate of the images


class MIWAE(VAE):
    r"""A VAE whose encoder and likelihood are given the pixels :math:`x_s` that are seen, and nothing of the others.

    .. math:: p(x_s, z) = p(z) \prod_{i \in s} p(x_i|z), \qquad q(z|\iota(x_s))
    .. math:: \mathcal L_K(x_s) = \mathbb E_{z_1 \dots z_K \sim q} \log \frac1K \sum_k
              \frac{p(x_s|z_k)\, p(z_k)}{q(z_k|\iota(x_s))} \le \log p(x_s)

    :math:`\iota` makes hidden pixels black, 0. The bound with K particles is the objective `iwae`; `elbo`, which is
    K = 1, can be trained as well. Pixels are seen where the images' covariate `seen` is true, `(N, 1, H, W)` or
    `(N, C, H, W)`; images without one are given holes for the training, and no others for anything else. All of this
    supposes that which pixels are hidden says nothing about what is there. Metrics of images with the covariate are of
    the seen pixels alone, and there are no bits per dimension.

    Args:
        encoder, decoder, prior, likelihood, posterior: as of a :class:`VAE`; the pixels of p(x|z) are independent.
        missing: probability with which each pixel is hidden in training, in all channels. The holes of an image depend
            on the image alone: they are the same in each epoch, after a resume, and for each seed.

    Source: Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", 2019,
    https://arxiv.org/abs/1812.02633

    >>> from pyro_vae import Spec, build, load_data
    >>> model, digits = build(Spec(model="miwae", latent_dim=2)), load_data("digits").train.draw(100)
    >>> round(model.training_images(digits).covariates["seen"].float().mean().item(), 1)
    0.5
    >>> seen = torch.rand(3, 1, 8, 8) < 0.5
    >>> model.encode(torch.rand(3, 1, 8, 8), seen).mean.shape
    torch.Size([3, 2])
    """

    kind = "miwae"
    scored = SEEN  # what says which pixels log p(x|z) is of, and so all metrics

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        missing: float = 0.5,
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood, posterior)
        self.missing = checks.positive("missing", missing)
        if self.missing >= 1:
            raise checks.fail("missing", missing, "a probability above 0 and below 1")

    def model(
        self,
        x: Tensor | None = None,
        beta: float | Tensor = 1.0,
        seen: Tensor | None = None,
        *,
        size: int | None = None,
    ) -> Tensor:
        """p(x_s, z), with log p(z) weighted by `beta`; all pixels are seen where `seen` is None."""
        self.register("prior", "decoder", "likelihood")
        with pyro.plate("data", batch_size_of(x, size)):
            with weighted(beta):
                z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, seen), obs=x)  # log p(x_s|z)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0, seen: Tensor | None = None) -> None:
        """q(z|x_s), weighted by `beta`."""
        self.register("encoder", "posterior")
        with pyro.plate("data", x.shape[0]), weighted(beta):
            pyro.sample("z", self.encode(x, seen))

    def encode(self, x: Tensor, seen: Tensor | None = None) -> dist.TorchDistribution:
        """q(z|x_s) for images `(N, C, H, W)`: batch shape `(N,)`, event shape `(d,)`."""
        return super().encode(x if seen is None else torch.where(seen.bool(), check_images(x), 0))

    def decode(self, z: Tensor, seen: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|z) for codes `(..., d)`; with `seen`, its `log_prob` is that of the seen pixels, log p(x_s|z)."""
        p = super().decode(z)
        return p if seen is None else p.base_dist.mask(seen.bool()).to_event(3)

    def training_images(self, images: Images) -> Images:
        """What :func:`~pyro_vae.fit` trains on: the images with holes, unless they have some already."""
        if SEEN in images.covariates:
            return images
        # A stream of its own: `static` binarization draws from the stream of seed 0.
        noise = uniform_noise(images.pixels, stream_seed(0, "holes"))[:, :1]
        return replace(images, covariates={**images.covariates, SEEN: noise.to(images.pixels.device) >= self.missing})

    validation_images = training_images
