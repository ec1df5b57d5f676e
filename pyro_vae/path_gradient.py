"""Objectives of Pyro whose gradient takes only the path through the draws: `PathGradientELBO`, and `DReGIWAE`."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.util import get_dependent_plate_dims, torch_item
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, constraints

from pyro_vae._utils import checks


class PathGradientELBO(Trace_ELBO):
    r"""`Trace_ELBO` without the score of q in its gradient; the loss is the same number.

    For a reparameterized draw :math:`z = t_\phi(\epsilon)` the gradient of the sampled entropy term has two parts,

    .. math:: \nabla_\phi \log q_\phi(z) = \Big(\frac{\partial t_\phi}{\partial \phi}\Big)^{\!\top}
              \nabla_z \log q_\phi(z) + \frac{\partial \log q_\phi(z)}{\partial \phi}\Big|_z

    of which the second, the score, has mean 0 and is left out. What remains is unbiased, and without noise in the
    encoder's part where q is the posterior. Of several latent sites each loses its score given those before it, which
    leaves the gradient unbiased, but not without noise at the posterior.

    Every reparameterized density that can be evaluated at any point is taken, other flows by their inverse, and planar
    flows without one (see :func:`slope`). Sites of the guide that are not reparameterized stay as in `Trace_ELBO`, and
    so do those of a `Delta`, as Pyro's autoguides have them: its `log_density` is the Jacobian of a map of other draws,
    not a density whose score has mean 0, and all of its gradient is kept.

    Raises:
        InputError: the support of a guide's density depends on its parameters, as that of a uniform does: the mean of
            its score is not 0; or the density has no derivative by its value.

    Source: Roeder, Wu and Duvenaud, "Sticking the landing", 2017, https://arxiv.org/abs/1703.09194; of flows: Vaitl et
    al., "Gradients should stay on path", 2022, https://arxiv.org/abs/2207.08219

    >>> import pyro
    >>> import pyro.distributions as dist
    >>> def model():
    ...     pyro.sample("z", dist.Normal(1.0, 2.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(1.0)), pyro.param("scale", torch.tensor(2.0))))
    >>> pyro.clear_param_store()
    >>> loss = PathGradientELBO().loss_and_grads(model, guide)
    >>> pyro.param("loc").grad.item(), pyro.param("scale").grad.item()  # q is the posterior
    (0.0, 0.0)
    """

    capturable = True  # by `CompiledSVI`

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and _has_score(site["fn"]):
                entropy = along_the_path(site["fn"], site["value"], site["unscaled_log_prob"])
                entropy = scale_and_mask(entropy, site["scale"], site["mask"])
                site["score_parts"] = site["score_parts"]._replace(entropy_term=entropy)
        return super()._differentiable_loss_particle(model_trace, guide_trace)


class DReGIWAE(RenyiELBO):
    r"""The importance-weighted bound of `RenyiELBO` at alpha = 0, with the doubly reparameterized gradient of q.

    .. math:: \log \frac1K \sum_k w_k, \qquad w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k|x)}, \qquad
              \tilde w_k = \frac{w_k}{\sum_j w_j}

    The gradient of the model is that of `RenyiELBO`, :math:`\sum_k \tilde w_k \nabla_\theta \log w_k`. That of the
    guide leaves the score of q out; its mean is not 0 under the weights, but by a second reparameterization it is again
    a path, and both together are

    .. math:: \sum_k \tilde w_k^2\, \Big(\frac{\partial z_k}{\partial \phi}\Big)^{\!\top} \nabla_{z_k} \log w_k

    Unbiased, and without noise where q is the posterior; with one particle it is the path gradient. Where the guide's
    density has an exponent s (beta, or the scale of a plate), :math:`\tilde w_k^2` is
    :math:`\tilde w_k (1 - s + s\, \tilde w_k)`.

    Raises:
        InputError: the guide has another number of latent sites than one, or one that takes no path gradient (see
            :class:`PathGradientELBO`).

    Source: Tucker et al., "Doubly reparameterized gradient estimators for Monte Carlo objectives", 2019,
    https://arxiv.org/abs/1810.04152

    >>> import pyro
    >>> import pyro.distributions as dist
    >>> def model():
    ...     pyro.sample("z", dist.Normal(1.0, 2.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(1.0)), 2.0))
    >>> pyro.clear_param_store()
    >>> loss = DReGIWAE(num_particles=5).loss_and_grads(model, guide)
    >>> pyro.param("loc").grad.item()  # q is the posterior
    0.0
    """

    capturable = True  # by `CompiledSVI`

    def __init__(self, num_particles: int = 1, max_plate_nesting: float = math.inf, **options: Any) -> None:
        super().__init__(alpha=0, num_particles=num_particles, max_plate_nesting=max_plate_nesting, **options)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, as of `RenyiELBO`; adds its gradient to that of each parameter."""
        log_weights, surrogates, latents = [], [], []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            site = _only_latent(guide_trace)
            sites = [one for one in model_trace.nodes.values() if one["type"] == "sample"]
            dims = get_dependent_plate_dims(sites)
            log_p = sum(_summed(one["log_prob"], dims) for one in sites)
            log_q = along_the_path(site["fn"], site["value"], site["unscaled_log_prob"], "iwae-dreg", "iwae")
            log_q = _summed(scale_and_mask(log_q, site["scale"], site["mask"]), dims)
            log_weights.append((log_p - log_q).detach())
            surrogates.append(log_p - log_q)
            latents.append(site)
        in_one_trace = self.vectorize_particles and self.num_particles > 1
        log_weight = log_weights[0] if in_one_trace else torch.stack(log_weights)
        surrogate = surrogates[0] if in_one_trace else torch.stack(surrogates)
        normalized = log_weight.softmax(0)
        for site, weight in zip(latents, [normalized] if in_one_trace else normalized, strict=True):
            _scale_gradient_of_draw(site, weight)
        if surrogate.requires_grad:
            (-(normalized * surrogate).sum()).backward()
        return -torch_item((log_weight.logsumexp(0) - math.log(self.num_particles)).sum())


def _only_latent(guide_trace: Any) -> Any:
    """The one latent site of a guide, which is reparameterized."""
    sites = [site for site in guide_trace.nodes.values() if site["type"] == "sample"]
    if len(sites) != 1 or not _has_score(sites[0]["fn"]):
        names = ", ".join(site["name"] for site in sites if _has_score(site["fn"]))
        others = ", ".join(site["name"] for site in sites if not _has_score(site["fn"]))
        given = f"iwae-dreg with the sites {names or 'none'} (reparameterized) and {others or 'none'} (not)"
        raise checks.fail("objective", given, "iwae for other guides than those of one reparameterized latent site")
    return sites[0]


def _summed(log_prob: Tensor, dims: list[int]) -> Tensor:
    """Over those of `dims` that are there, which stay with length 1."""
    own = [dim for dim in dims if dim >= -log_prob.dim()]
    return log_prob.sum(own, keepdim=True) if own else log_prob


def _scale_gradient_of_draw(site: Any, weight: Tensor) -> None:
    """All gradient through z, which is weighted by w~ already, times 1 - s + s w~."""
    if not site["value"].requires_grad:
        return
    exponent = scale_and_mask(torch.ones_like(site["unscaled_log_prob"]), site["scale"], site["mask"])
    factor = (1 - exponent + exponent * weight)[(..., *[None] * site["fn"].event_dim)]
    site["value"].register_hook(lambda gradient: gradient * factor)


def _has_score(q: Any) -> bool:
    """Whether q is a reparameterized density, whose score can be left out."""
    return q.has_rsample and not isinstance(q, Unit) and not is_delta(q)


def is_delta(q: Any) -> bool:
    """Whether q is a single point, also under other names, as after `to_event`."""
    while not isinstance(q, Delta) and hasattr(q, "base_dist"):
        q = q.base_dist
    return isinstance(q, Delta)


def along_the_path(q: Any, z: Tensor, log_q: Tensor, objective: str = "path-gradient", instead: str = "elbo") -> Tensor:
    """log q(z), whose only derivative is that through z; else the error of `objective` says what to take `instead`."""
    if _support_moves(q):
        kind = type(getattr(q, "base_dist", q)).__name__
        raise checks.fail("objective", objective, f"{instead} for a {kind}, whose support moves with its parameters")
    return log_q.detach() + sum_rightmost(slope(q, z) * (z - z.detach()), q.event_dim)


def slope(q: Distribution, z: Tensor) -> Tensor:
    r""":math:`\nabla_z \log q(z)` at fixed parameters of q, of the shape of z, cut off from autograd's graph.

    A planar flow is followed from its base's draw :math:`z_0` on, layer by layer, with :math:`J_l` the Jacobian of
    layer l at :math:`z_{l-1}`,

    .. math:: \nabla \log q_l(z_l) = J_l^{-\top} \big( \nabla \log q_{l-1}(z_{l-1})
              - \nabla_{z_{l-1}} \log \lvert \det J_l \rvert \big), \qquad
              J^{-\top} v = v - \frac{J^\top v - v}{\det J}

    where the last is the formula of Sherman and Morrison, because a planar :math:`J - I` has rank one.

    Args:
        q: of a flow, the distribution that z was drawn from.
        z: values, shape `(*batch, *event)`.

    >>> slope(torch.distributions.Normal(1.0, 2.0), torch.tensor([1.0, 3.0]))
    tensor([-0.0000, -0.5000])
    """
    if isinstance(q, TransformedDistribution) and any(isinstance(one, ConditionedPlanar) for one in q.transforms):
        return _slope_of_planar(q, z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_q = q.log_prob(z).sum()
        if not log_q.requires_grad:
            return torch.zeros_like(z)  # of a uniform
        (found,) = torch.autograd.grad(log_q, z, allow_unused=True)
    if found is None:
        reason = f"elbo for a {type(q).__name__}, whose log_prob has no derivative by the value"
        raise checks.fail("objective", "path-gradient", reason)
    return found


def takes_path_gradient(q: Any) -> bool:
    """Whether q is reparameterized, its score has mean 0, and its :func:`slope` needs no inverse of a flow.

    >>> loc = torch.zeros(2, requires_grad=True)
    >>> takes_path_gradient(torch.distributions.Normal(loc, 1.0))
    True
    >>> takes_path_gradient(torch.distributions.Uniform(loc, loc + 1))
    False
    """
    if not _has_score(q) or _support_moves(q):
        return False
    while isinstance(q, Independent):
        q = q.base_dist
    layers = q.transforms if isinstance(q, TransformedDistribution) else ()
    return all(isinstance(layer, ConditionedPlanar) for layer in layers)


def _slope_of_planar(q: TransformedDistribution, z: Tensor) -> Tensor:
    befores = []
    for layer in reversed(q.transforms):
        if not isinstance(layer, ConditionedPlanar):
            raise checks.fail("objective", "path-gradient", "elbo for a flow that mixes planar layers with others")
        z = layer.inv(z)  # a layer remembers what it has just carried over
        befores.append(z)
    found = slope(q.base_dist, z)
    for layer, before in zip(q.transforms, reversed(befores), strict=True):
        found = _carried(layer, before, found)
    return found


def _carried(layer: Any, before: Tensor, found: Tensor) -> Tensor:
    """The slope of the log-density after a layer, from that before it."""
    layer = copy.copy(layer)  # with a memory of its own
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        after = layer(before)
        log_det = layer.log_abs_det_jacobian(before, after)
        (of_log_det,) = torch.autograd.grad(log_det.sum(), before, retain_graph=True)
        v = found - of_log_det
        (transposed,) = torch.autograd.grad(after, before, v)  # J^T v
    return v - (transposed - v) / log_det.detach().exp().unsqueeze(-1)


def _support_moves(q: Any) -> bool:
    support = q.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds)
