"""The adversarial autoencoder, as a Pyro model/guide pair: a discriminator of codes in the place of the KL term."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from pyro_vae._utils import checks
from pyro_vae.models.base import batch_size_of
from pyro_vae.models.vae import VAE, weighted
from pyro_vae.posteriors import location


class Adversarial(VAE):
    r"""An autoencoder whose codes, those of all images together, are drawn to a prior that need only be sampled.

    .. math:: \mathcal L = \mathbb E_{x,\, q(z|x)}[-\log p(x|z)] + \beta \lambda\, \mathrm{KL}(q(z) \,\|\, p(z)),
              \qquad q(z) = \mathbb E_x\, q(z|x)

    Where a VAE has the KL of each image's codes, this has that of the aggregate, so that q(z|x) may be a point. The KL
    is estimated by a discriminator T, which learns to tell codes of images from draws of the prior, and is then the
    logarithm of the ratio of their densities:

    .. math:: \min_T\; \mathbb E_{q(z)} \log(1 + e^{-T(z)}) + \mathbb E_{p(z)} \log(1 + e^{T(z)}), \qquad
              T^* = \log \frac{q(z)}{p(z)}

    Both players step at once, by one optimizer: the encoder sees the discriminator with its weights held fixed, and the
    discriminator sees codes that it does not move. A penalty on the slope of T makes their game converge.

    With `prior="generator"` the prior is learned as well, and drawn to the codes: the adversarially regularised
    autoencoder. The programs have no density of z: neither ELBO nor evidence.

    Args:
        encoder: images `(N, C, H, W)` -> parameters of q, `(N, posterior.num_parameters)`.
        decoder: codes `(N, d)` -> parameters of the likelihood, `(N, P C, H, W)`, P for each pixel and channel.
        prior: `()` -> p(z), of which draws alone are used.
        likelihood: parameters -> p(x|z).
        posterior: parameters -> q(z|x).
        latent_dim: dimension d of z.
        stochastic: whether codes are drawn from `posterior`, or are its location.
        discriminator: units of its hidden layers.
        discriminator_rate: its learning rate, as a multiple of the optimizer's: its weights are stored divided by this,
            so that a step of Adam, whose size does not depend on that of the gradient, moves them so much further.
        weight: :math:`\lambda`.
        gradient_penalty: :math:`\gamma`; the discriminator's loss has :math:`\frac\gamma2 \|\nabla_z T\|^2` added, at
            the codes and at the draws of the prior.

    Raises:
        InputError: a prior with parameters that its draws have no gradient of.

    Source: Makhzani et al., "Adversarial autoencoders", 2015, https://arxiv.org/abs/1511.05644; the learned prior: Zhao
    et al., "Adversarially regularized autoencoders", 2018, https://arxiv.org/abs/1706.04223; the KL by a discriminator:
    Mescheder et al., "Adversarial variational Bayes", 2017, https://arxiv.org/abs/1701.04722; the penalty: Mescheder et
    al., "Which training methods for GANs do actually converge?", 2018, https://arxiv.org/abs/1801.04406; two learning
    rates: Heusel et al., 2017, https://arxiv.org/abs/1706.08500

    >>> from pyro_vae import Spec, build
    >>> model = build(Spec(model="adversarial", prior="swiss-roll", latent_dim=2))
    >>> model.model(size=3).shape
    torch.Size([3, 1, 8, 8])
    """

    kind = "adversarial"
    lacks = ("evidence",)
    only_objective = "elbo"  # others take the players' losses, or the densities left out, for parts of a bound
    samples_prior = True  #: p(z) is sampled, and needs no density

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        latent_dim: int,
        stochastic: bool = False,
        discriminator: Sequence[int] = (400, 400),
        discriminator_rate: float = 1.0,
        weight: float = 10.0,
        gradient_penalty: float = 0.1,
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood, posterior)
        self.stochastic = checks.boolean("stochastic", stochastic)
        self.discriminator = _discriminator((latent_dim, *checks.sizes("discriminator", discriminator)))
        self.discriminator_rate = checks.positive("discriminator_rate", discriminator_rate)
        with torch.no_grad():
            for parameter in self.discriminator.parameters():
                parameter.div_(self.discriminator_rate)
        self.weight = checks.positive("weight", weight)
        self.gradient_penalty = checks.non_negative("gradient_penalty", gradient_penalty)
        if any(True for _ in prior.parameters()) and not prior().has_rsample:
            expected = "one without parameters, or `generator`: the gradient of a learned prior comes through its draws"
            raise checks.fail("prior", getattr(prior, "kind", type(prior).__name__), expected)

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> Tensor:
        """p(z) p(x|z), where the density of z is left out; x is `(N, C, H, W)`, or None to draw `size` images."""
        self.register("prior", "decoder", "likelihood")
        with pyro.plate("data", batch_size_of(x, size)):
            z = pyro.sample("z", self.prior().mask(False))
            return pyro.sample("x", self.decode(z), obs=x)  # log p(x|z) (eq. 15.2)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z|x), and the losses of the players, as factors; `beta` weighs that of the encoder."""
        self.register("encoder", "posterior", "prior", "discriminator")
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.encode(x).mask(False))
            draws = self._draws(z.shape[:-1])
            with weighted(beta):
                pyro.factor("encoder_loss", self.weight * self._fixed(z), has_rsample=True)  # lambda T(z) (eq. 15.4)
            if torch.is_grad_enabled():  # these have a gradient alone
                pyro.factor("discriminator_loss", _without_value(self._discriminator_loss(z, draws)), has_rsample=True)
                if draws.requires_grad:
                    pyro.factor("prior_loss", _without_value(-self._fixed(draws)), has_rsample=True)  # (eq. 15.6)

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x), or the point mass at its location: batch shape `(N,)`, event shape `(d,)`."""
        q = super().encode(x)
        return q if self.stochastic else dist.Delta(location(q), event_dim=1)

    def log_ratio(self, z: Tensor) -> Tensor:
        """The discriminator's log q(z) / p(z), nats, for codes `(..., d)`: shape `(...)`."""
        return self._ratio(z, dict(self.discriminator.named_parameters()))

    def _fixed(self, z: Tensor) -> Tensor:
        """:meth:`log_ratio`, with a gradient of z alone, and none of the discriminator's weights."""
        return self._ratio(z, {name: weight.detach() for name, weight in self.discriminator.named_parameters()})

    def _ratio(self, z: Tensor, stored: dict[str, Tensor]) -> Tensor:
        weights = {name: self.discriminator_rate * weight for name, weight in stored.items()}
        ratio: Tensor = functional_call(self.discriminator, weights, z).squeeze(-1)
        return ratio

    def _draws(self, shape: torch.Size) -> Tensor:
        prior = self.prior()
        draws: Tensor = prior.rsample(shape) if prior.has_rsample else prior.sample(shape)
        return draws

    def _discriminator_loss(self, codes: Tensor, draws: Tensor) -> Tensor:
        """The cross-entropy of telling them apart (eq. 15.3), with the penalty on the slope (eq. 15.5)."""
        codes, draws = (z.detach().requires_grad_() for z in (codes, draws))
        of_codes, of_draws = self.log_ratio(codes), self.log_ratio(draws)
        slopes = torch.autograd.grad(of_codes.sum() + of_draws.sum(), (codes, draws), create_graph=True)
        squared_norm = sum(slope.square().sum(-1) for slope in slopes)
        return softplus(-of_codes) + softplus(of_draws) + self.gradient_penalty / 2 * squared_norm


def _discriminator(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers from codes `(..., d)` to one number, `(..., 1)`."""
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def _without_value(loss: Tensor) -> Tensor:
    """0, with the gradient of `loss`: what another player minimises is no part of the loss that is reported."""
    return loss - loss.detach()
