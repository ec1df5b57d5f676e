"""The terms of an ELBO with discrete sites that Pyro enumerates, each in expectation over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_enumerated(*traces: Any) -> bool:
    """Whether a site of these traces has all its values, along a dimension of its own."""
    return any(_dim_of(site) is not None for trace in traces for site in _sites(trace).values())


def enumerated_terms(model_trace: Any, guide_trace: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    r"""log p(x|.), log q and log p of the latent sites, in expectation over the enumerated ones, summed over images.

    A site y that the guide enumerates has the weights q(y|x). A site that the model alone enumerates has those of its
    exact conditional, given all else in the trace,

    .. math:: r(y) = \frac{p(x, y, z)}{\sum_{y'} p(x, y', z)}, \qquad
              \log \sum_y p(x, y, z) = \sum_y r(y) \big(\log p(x, y, z) - \log r(y)\big)

    and :math:`\log r` counts as its log q, so that the three terms add up to the enumerated ELBO.

    Args:
        model_trace, guide_trace: traces of `TraceEnum_ELBO`, with unscaled log densities computed.

    Returns:
        Terms of log p(x|.), of log q, and of log p of the latent sites.
    """
    of_model, of_guide = _sites(model_trace), _sites(guide_trace)
    latent = {name: unscaled_log_prob(site) for name, site in of_model.items() if not site["is_observed"]}
    observed = [unscaled_log_prob(site) for site in of_model.values() if site["is_observed"]]
    log_q = [unscaled_log_prob(of_guide[name]) for name in latent if name in of_guide]
    enumerated = [name for name in latent if name in of_guide and _dim_of(of_guide[name]) is not None]
    dims = {dim for name in enumerated if (dim := _dim_of(of_guide[name])) is not None}
    log_weights: Any = sum(of_guide[name]["unscaled_log_prob"] for name in enumerated)
    own_dims = sorted({dim for site in of_model.values() if (dim := _dim_of(site)) is not None} - dims)
    if own_dims:
        joint: Any = sum(values for values in (*latent.values(), *observed) if _varies(values, own_dims))
        conditional = joint - joint.logsumexp(own_dims, keepdim=True)  # log r (eq. 17.4)
        log_q.append(conditional)
        log_weights = log_weights + conditional
    weights = log_weights.exp()

    def expected(values: Tensor) -> Tensor:
        if not _varies(values, (*dims, *own_dims)):
            return values.sum()
        return torch.where(weights > 0, weights * values, 0.0).sum()  # 0 log 0 = 0

    return [*map(expected, observed)], [*map(expected, log_q)], [*map(expected, latent.values())]


def unscaled_log_prob(site: Any) -> Tensor:
    """The log-probabilities of a site without its scale, and 0 where a mask leaves an element out.

    A mask that is no tensor leaves all out: that of a beta of 0, which is no reason to leave out a KL that is reported.
    """
    mask, values = site["mask"], site["unscaled_log_prob"]
    return torch.where(mask, values, 0.0) if isinstance(mask, Tensor) else values


def _sites(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _dim_of(site: Any) -> int | None:
    dim: int | None = site["infer"].get("_enumerate_dim")
    return dim


def _varies(values: Tensor, dims: Any) -> bool:
    """Whether these log densities depend on a site that is enumerated along one of `dims`, which are negative."""
    return any(-dim <= values.dim() and values.shape[dim] > 1 for dim in dims)
