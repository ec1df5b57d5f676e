"""The vector-quantized VAE: a grid of discrete codes, as a Pyro model/guide pair."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, batch_size_of, check_images
from pyro_vae.models.codes.code_priors import AutoregressiveCodes, UniformCodes
from pyro_vae.models.codes.quantizers import FiniteScalarQuantizer, VectorQuantizer
from pyro_vae.models.vae import weighted
from pyro_vae.networks import grid_decoder, grid_encoder, grid_shape
from pyro_vae.spec import Spec


class VectorQuantized(PyroPair):
    r"""A VAE whose latent variable is a grid of codes, whole numbers k below K, each of which stands for a vector.

    .. math:: p(x, k) = p(k)\, p(x \mid e_k), \qquad q(k|x) = \mathbb 1[k = k(x)]
    .. math:: \log p(x) \ge \log p(x \mid e_{k(x)}) + \log p(k(x))

    The guide is a point mass at the codes k(x) of the encoder's output, so log q = 0, and the ELBO is the joint
    log-probability of the image and its codes. The `model` has two latent sites: `codes`, and `embedding`, the vectors
    of the codes, which they determine. Gradients pass from the decoder to the encoder through `embedding`, as the
    quantizer defines them.

    In training mode the guide adds the quantizer's penalty to the loss, and the codebook learns. In evaluation mode
    model and guide are p and q alone. Under a discretized likelihood the ELBO is a bound in nats of a probability.

    The prior is uniform, or a network that is trained with the rest (`code_prior="autoregressive"`), or, as in the
    paper, on the codes of the trained model: :func:`pyro_vae.training.code_prior.fit_code_prior`.

    Networks are convolutions, :func:`~pyro_vae.networks.grid_encoder` and its mirror; the spec's `network` and `hidden`
    have no effect, and its `latent_dim` is the dimension of the codes' vectors.

    Args:
        quantizer: `vector`, a codebook of vectors (:class:`~pyro_vae.models.codes.quantizers.VectorQuantizer`), or
            `finite-scalar`, which rounds (:class:`~pyro_vae.models.codes.quantizers.FiniteScalarQuantizer`).
        codes: K, size of the codebook.
        codebook: how it is learned: `ema`, as moving averages, or `gradient`.
        commitment: weight of the squared distance of the encoder's output to the codebook.
        decay: of the moving averages.
        restart_below: codes of less use than this share of equal use are restarted; 0 restarts none.
        gradient: `straight-through`, or `rotation`.
        levels: of the finite scalar quantizer; K is their product.
        channels: of the convolutions, each of which halves height and width.
        blocks: residual blocks on the grid, in the encoder and in the decoder.
        code_prior: `uniform` or `autoregressive`.
        prior_width: units of the autoregressive prior's layers, a multiple of 4.
        prior_layers: its number of layers.

    Source: van den Oord et al., "Neural discrete representation learning", 2017, https://arxiv.org/abs/1711.00937

    >>> from pyro_vae import Spec, build
    >>> model = build(Spec(model={"kind": "vector-quantized", "codes": 32}, latent_dim=8))
    >>> codes = model.codes(torch.rand(5, 1, 8, 8))
    >>> codes.shape, model.decode_codes(codes).mean.shape
    (torch.Size([5, 2, 2]), torch.Size([5, 1, 8, 8]))
    """

    kind = "vector-quantized"
    lacks = ("evidence",)  # the guide is a point, whose weight is the ELBO
    default_objective = "elbo"  # a point mass has no KL in closed form, and no path gradient
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        likelihood: nn.Module,
        quantizer: str = "vector",
        codes: int = 512,
        codebook: str = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        restart_below: float = 0.1,
        gradient: str = "straight-through",
        levels: Sequence[int] = (8, 8, 8),
        channels: Sequence[int] = (32, 64),
        blocks: int = 2,
        code_prior: str = "uniform",
        prior_width: int = 64,
        prior_layers: int = 2,
    ) -> None:
        super().__init__()
        if quantizer == "finite-scalar":
            options = {"codes": codes, "codebook": codebook, "commitment": commitment, "decay": decay}
            self._refuse(options | {"restart_below": restart_below, "gradient": gradient}, "quantizer", quantizer)
        if quantizer == "vector":
            self._refuse({"levels": levels}, "quantizer", quantizer)
        if code_prior == "uniform":
            self._refuse({"prior_width": prior_width, "prior_layers": prior_layers}, "code_prior", code_prior)
        channels = checks.sizes("channels", channels)
        blocks = checks.non_negative_integer("blocks", blocks)
        self.quantizer: VectorQuantizer | FiniteScalarQuantizer
        if checks.one_of("quantizer", quantizer, ("vector", "finite-scalar")) == "vector":
            self.quantizer = VectorQuantizer(
                codes,
                latent_dim,
                codebook=codebook,
                commitment=commitment,
                decay=decay,
                restart_below=restart_below,
                gradient=gradient,
            )
        else:
            self.quantizer = FiniteScalarQuantizer(levels)
        grid = grid_shape(image_shape, channels)
        per_pixel = getattr(likelihood, "parameters_per_pixel", 1)
        self.encoder = grid_encoder(image_shape, self.quantizer.dim, channels, blocks)
        self.decoder = grid_decoder(
            self.quantizer.dim, (per_pixel * image_shape[0], *image_shape[1:]), channels, blocks
        )
        self.likelihood = likelihood
        self.code_prior: UniformCodes | AutoregressiveCodes
        if checks.one_of("code_prior", code_prior, ("uniform", "autoregressive")) == "uniform":
            self.code_prior = UniformCodes(self.num_codes, grid)
        else:
            self.code_prior = AutoregressiveCodes(self.num_codes, grid, prior_width, prior_layers)

    def _refuse(self, options: dict[str, Any], argument: str, value: str) -> None:
        """Refuses options that this value of another argument leaves without effect."""
        defaults = inspect.signature(VectorQuantized).parameters
        for name, option in options.items():
            default = defaults[name].default
            if (tuple(option) if isinstance(option, list) else option) != default:
                raise checks.fail(name, option, f"its default, {default}: {argument} {value} does not use it")

    @property
    def num_codes(self) -> int:
        """K, the number of different codes."""
        return self.quantizer.num_codes

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> Tensor:
        """p(x, k), with log p(k) weighted by `beta`; x is `(N, C, H, W)`, or None to draw `size` images."""
        self.register("quantizer", "decoder", "likelihood", "code_prior")
        with pyro.plate("data", batch_size_of(x, size)):
            with weighted(beta):
                codes = pyro.sample("codes", self.code_prior())  # log p(k) (eq. 14.2)
                embedding = pyro.sample("embedding", dist.Delta(self.quantizer.embed(codes), event_dim=3))
            return pyro.sample("x", self._decode(embedding), obs=x)  # log p(x|e_k) (eq. 14.2)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """The point mass at k(x); in training mode the quantizer's penalty is added to the loss."""
        self.register("encoder", "quantizer")
        with pyro.plate("data", x.shape[0]):
            quantized = self.quantizer(self.encoder(check_images(x)))
            with weighted(beta):
                pyro.sample("codes", dist.Delta(quantized.codes, event_dim=2))  # log q = 0
                pyro.sample("embedding", dist.Delta(quantized.embedding, event_dim=3))
            if self.training:
                pyro.factor("penalty", quantized.penalty, has_rsample=True)  # added, as it is in the guide (eq. 14.5)

    def codes(self, x: Tensor) -> Tensor:
        """k(x), whole numbers `(N, H', W')`, for images `(N, C, H, W)`."""
        return self.quantizer.codes(self.encoder(check_images(x)))

    def decode_codes(self, codes: Tensor) -> dist.TorchDistribution:
        """p(x|e_k) for codes `(..., H', W')`: batch shape `(...)`, event shape `(C, H, W)`.

        Raises:
            InputError: codes that are no grid of whole numbers from 0 to K - 1.
        """
        self._check_codes(codes)
        return self._decode(self.quantizer.embed(codes))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|e_k) at the codes of x, `(N, C, H, W)`."""
        return self.decode_codes(self.codes(x)).mean

    def sample(self, n: int) -> Tensor:
        """The means of p(x|e_k) for n draws of codes from the prior, `(n, C, H, W)`."""
        checks.positive_integer("n", n)
        return self.decode_codes(self.code_prior().sample((n,))).mean

    def _check_codes(self, codes: Tensor) -> None:
        expected = f"whole numbers from 0 to {self.num_codes - 1}"
        if not isinstance(codes, Tensor) or codes.is_floating_point() or codes.dim() < 2:
            raise checks.fail("codes", codes, f"{expected} of shape (..., H', W')")
        outside = codes[(codes < 0) | (codes >= self.num_codes)]
        if len(outside):
            raise checks.fail("codes", outside[0].item(), expected)

    def _decode(self, embedding: Tensor) -> dist.TorchDistribution:
        """p(x|e) for vectors with any number of leading dimensions, flattened to the one that convolutions take."""
        parameters = self.decoder(embedding.reshape(-1, *embedding.shape[-3:]))
        p: dist.TorchDistribution = self.likelihood(parameters.reshape(*embedding.shape[:-3], *parameters.shape[1:]))
        return p
