"""Semi-supervised classification of the codes of a trained VAE."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.base import batch_size_of, check_images
from pyro_vae.models.semi_supervised import EncoderGivenClass, SemiSupervised, check_labels
from pyro_vae.models.vae import VAE, weighted
from pyro_vae.networks import mlp_decoder, mlp_encoder
from pyro_vae.posteriors import DiagonalNormal, location
from pyro_vae.priors import StandardNormal


class StackedSemiSupervised(SemiSupervised):
    r"""A semi-supervised VAE on top of another VAE, which is trained before and stays as it is: "M1+M2".

    .. math:: p(x, f, y, z) = p(y)\, p(z)\, p(f|y, z)\, p(x|f), \qquad q(f, y, z|x) = q(f|x)\, q(y|f)\, q(z|f, y)

    p(x|f) and q(f|x) are those of the first VAE, "M1", whose codes f are the site `features`; all else is that of
    :class:`~pyro_vae.models.semi_supervised.SemiSupervised` on these codes, "M2", with dense networks. Each step draws
    f anew, so that the few images with a label do not look the same twice.

    A spec has no place for M1, so a file of weights has none: `load(file, model=...)` needs a model that is made as the
    saved one was, with any weights.

    Args:
        m1: a trained VAE, with `encode`, `decode` and `prior`; of which this is a copy that no training changes.
        latent_dim: dimension of z.
        hidden: units of the hidden layers of each network.
        classes, labels, share, alpha: as of `SemiSupervised`.
        seed: of the drawing of the labels that are known.

    Raises:
        InputError: another model than a VAE, or an option out of range.

    Source: Kingma et al., "Semi-supervised learning with deep generative models", 2014, section 2.1,
    https://arxiv.org/abs/1406.5298

    >>> from pyro_vae import Spec, build
    >>> model = StackedSemiSupervised(build(Spec(latent_dim=5)), latent_dim=2, labels=100)
    >>> model.classify(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        m1: VAE,
        latent_dim: int = 50,
        hidden: Sequence[int] = (500,),
        classes: int = 10,
        labels: int = 0,
        share: float = 0.1,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        super(SemiSupervised, self).__init__()
        self._set(classes, labels, share, alpha, seed)
        if not all(callable(getattr(m1, name, None)) for name in ("encode", "decode", "prior", "likelihood")):
            raise checks.fail("m1", m1, "a VAE, with `encode`, `decode` and `prior`")
        (size,) = m1.prior().event_shape
        posterior, hidden = DiagonalNormal(latent_dim), checks.sizes("hidden", hidden)
        units = hidden[-1] if hidden else classes
        features = mlp_encoder((size,), units, hidden, nn.ReLU)
        self.m1 = copy.deepcopy(m1).requires_grad_(False).eval()
        self.classifier = mlp_encoder((size,), classes, hidden, nn.ReLU)
        self.encoder = EncoderGivenClass(features, units, classes, posterior.num_parameters)
        self.decoder = mlp_decoder(latent_dim + classes, (2 * size,), hidden[::-1], nn.ReLU)
        self.prior_of_z = StandardNormal(latent_dim)
        self.likelihood = self.m1.likelihood
        self.posterior = posterior
        self.features = DiagonalNormal(size)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but M1, whose batch statistics and dropout stay those of evaluation."""
        super().train(mode)
        self.m1.eval()
        return self

    def model(
        self,
        x: Tensor | None = None,
        beta: float | Tensor = 1.0,
        labels: Tensor | None = None,
        *,
        size: int | None = None,
    ) -> Tensor:
        """p(x, f, y, z), with all but log p(x|f) weighted by `beta`; draws as `SemiSupervised.model` does."""
        self.register("prior_of_z", "decoder")
        asked = self.asked_for(x, labels)
        with pyro.plate("data", batch_size_of(x, size, asked)):
            with weighted(beta):
                y = pyro.sample("y", self.prior_of_y(), obs=asked)
                z = pyro.sample("z", self.prior_of_z())
                features = pyro.sample("features", self.features_of(y, z))  # log p(f|y, z) (eq. 16.8)
            return pyro.sample("x", self.m1.decode(features), obs=x)  # log p(x|f)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0, labels: Tensor | None = None) -> None:
        """q(f|x) q(y|f) q(z|f, y), weighted by `beta`; labels `(N,)`, -1 where unknown, hold q(y|f) at the label."""
        self.register("classifier", "encoder")
        check_labels(x, labels)
        with pyro.plate("data", x.shape[0]):
            with weighted(beta):
                features = pyro.sample("features", self.m1.encode(x))  # log q(f|x) (eq. 16.8)
            self.infer(features, beta, labels)

    def features_of(self, y: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(f|y, z) for classes `(...)` and codes `(..., d)`, which broadcast."""
        return self.features(self.decoder(self.with_class(y, z)))

    def classify(self, x: Tensor) -> Tensor:
        """q(y|f) at the location of q(f|x), the probability of each class, `(N, classes)`."""
        return self.q_of_y(location(self.m1.encode(check_images(x)))).probs
