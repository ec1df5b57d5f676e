"""Free bits: a KL term that rewards no KL below a threshold."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.infer.util import check_fully_reparametrized, is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vae._utils import checks


def elbo_with_free_bits(model_trace: Any, guide_trace: Any, free_bits: float, per: str = "dimension") -> Any:
    r"""The ELBO, summed over images, in which each latent dimension, or each latent site, has free bits.

    .. math:: \tilde{\mathcal L} = \sum_{i=1}^B \mathbb E\big[\log p(x_i|z)\big] - \beta B \sum_{j=1}^d
              \max\Big(\lambda, \frac1B \sum_{i=1}^B \mathrm{KL}\big(q(z_j|x_i) \,\|\, p(z_j)\big)\Big)

    where the densities of a site are those given the sites before it in both traces. Factors of the guide are
    subtracted.

    Args:
        model_trace, guide_trace: traces of Pyro's, with log densities computed.
        free_bits: :math:`\lambda`, nats per latent dimension, or per site.
        per: what a threshold is for, `dimension` or `site`; j then counts sites.

    Raises:
        InputError: the dimensions of a latent site have no KL in closed form.
    """
    elbo: Any = 0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            elbo = elbo + site["log_prob_sum"]  # log p(x|z)
        else:
            elbo = elbo - _kl(guide_trace.nodes[name], site, free_bits, per)
    for name, site in guide_trace.nodes.items():  # factors and auxiliary sites, as TraceMeanField_ELBO has them
        if site["type"] == "sample" and name not in model_trace.nodes:
            if is_validation_enabled():
                check_fully_reparametrized(site)
            elbo = elbo - site["score_parts"].entropy_term.sum()
    return elbo


def _kl(guide_site: Any, model_site: Any, free_bits: float, per: str) -> Tensor:
    """beta B sum_j max(lambda, mean KL_j), where beta is the scale of the site."""
    kl = kl_per_dimension(guide_site["fn"], model_site["fn"])
    kl = kl.reshape(-1, kl.shape[-1])
    means = kl.mean(0).sum() if per == "site" else kl.mean(0)  # (eq. 13.8)
    total = means.clamp(min=free_bits).sum() * len(kl)
    for value in (guide_site["scale"], guide_site["mask"]):
        if isinstance(value, Tensor) and value.numel() > 1:
            raise checks.fail("free_bits", free_bits, "0 where images have scales or masks of their own")
    return scale_and_mask(total, guide_site["scale"], guide_site["mask"])


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) of each dimension in closed form, nats, `(..., d)`.

    >>> q = torch.distributions.Independent(torch.distributions.Normal(torch.tensor([[0.0, 1.0]]), 1.0), 1)
    >>> kl_per_dimension(q, torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1))
    tensor([[0.0000, 0.5000]])
    """
    try:
        if isinstance(q, Independent) and isinstance(p, Independent):
            return kl_divergence(q.base_dist, p.base_dist).flatten(-q.reinterpreted_batch_ndims)
        if not q.event_shape and not p.event_shape:
            return kl_divergence(q, p)[..., None]
    except NotImplementedError:
        pass
    names = f"{type(getattr(q, 'base_dist', q)).__name__} to {type(getattr(p, 'base_dist', p)).__name__}"
    raise checks.fail("free_bits", f"the KL of {names}", "a KL in closed form for each dimension; 0 trains without")
