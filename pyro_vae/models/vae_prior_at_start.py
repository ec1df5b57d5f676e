"""A flow VAE with a mistake: the prior stays at z_0. Kept to reproduce the negative "KL" that some reports print."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.models.vae import VAE, weighted


class PriorAtStart(VAE):
    r"""A VAE trained on an objective that is not a bound; build a :class:`VAE` unless you want to see what goes wrong.

    .. math:: \mathbb E_{q}[\log p(x|z_L)] - \beta \Big( \mathrm{KL}(q_0(z_0|x) \,\|\, p(z_0))
              - \mathbb E \sum_l \log \lvert \det J_l \rvert \Big)

    The term in brackets is not a KL: the log-determinants stretch space as much as they like, because nothing holds
    :math:`z_L` near the prior. It falls below zero, and the codes leave the region that samples are drawn from. The KL
    has the prior at :math:`z_L`, as in Rezende and Mohamed, 2015, equation 15, https://arxiv.org/abs/1505.05770

    Everything but the training is that of a VAE, so that an evaluation measures the true KL.

    >>> from pyro_vae import Spec, build
    >>> build(Spec(model="vae-prior-at-start", posterior="planar", latent_dim=2)).sample(3).shape
    torch.Size([3, 1, 8, 8])
    """

    kind = "vae-prior-at-start"

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood, posterior)
        q = posterior(torch.zeros(1, int(posterior.num_parameters)))  # type: ignore[arg-type]
        if not hasattr(q, "transforms"):
            name = getattr(posterior, "kind", type(posterior).__name__)
            raise checks.fail("posterior", name, "a flow, as planar or conditional-planar, for this model")

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z|x) as in a VAE, and a term that puts log p(z_0) in the place of log p(z_L)."""
        self.register("encoder", "posterior")
        with pyro.plate("data", x.shape[0]), weighted(beta):
            q = self.encode(x)
            z = start = pyro.sample("z", q)
            for transform in reversed(q.transforms):
                start = transform.inv(start)  # a layer remembers what it has just carried over
            prior = self.prior()
            pyro.factor("misplaced_prior", prior.log_prob(z) - prior.log_prob(start), has_rsample=True)
