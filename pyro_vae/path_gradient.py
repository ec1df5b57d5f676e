"""Pyro objectives whose gradient goes only along the path through the draws: `PathGradientELBO` and `DReGIWAE`."""

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
    r"""`Trace_ELBO` without the score of q in its gradient; the loss has the same value.

    For a reparameterized draw :math:`z = t_\phi(\epsilon)` the gradient of the sampled entropy term has two parts,

    .. math:: \nabla_\phi \log q_\phi(z) = \Big(\frac{\partial t_\phi}{\partial \phi}\Big)^{\!\top}
              \nabla_z \log q_\phi(z) + \frac{\partial \log q_\phi(z)}{\partial \phi}\Big|_z

    of which the second, the score, has mean 0 and is left out. The remaining estimator is unbiased, and its gradient of
    the encoder has zero variance where q is the posterior. With several latent sites, the score of each given the
    earlier ones is left out; the gradient stays unbiased, but has some variance at the posterior.

    Works for every reparameterized density that can be evaluated at any point, for flows by their inverse, and for
    planar flows without one (see :func:`slope`). Sites of the guide that are not reparameterized are treated as in
    `Trace_ELBO`, and so are sites of a `Delta`, as in Pyro's autoguides: its `log_density` is the Jacobian of a map of
    other draws, not a density whose score has mean 0, so all of its gradient stays.

    Raises:
        InputError: the support of a guide's density depends on its parameters, as that of a uniform does, so that its
            score has not mean 0; or the density has no derivative with respect to its value.

    Source: Roeder, Wu and Duvenaud, "Sticking the landing", 2017, https://arxiv.org/abs/1703.09194; for flows: Vaitl et
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

    kind = "path-gradient"

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

    The gradient of the model is that of `RenyiELBO`, :math:`\sum_k \tilde w_k \nabla_\theta \log w_k`. In the gradient
    of the guide, the score of q has not mean 0 under the weights; a second reparameterization turns it into a path
    gradient, and the two terms together are

    .. math:: \sum_k \tilde w_k^2\, \Big(\frac{\partial z_k}{\partial \phi}\Big)^{\!\top} \nabla_{z_k} \log w_k

    This is unbiased, and has zero variance where q is the posterior; with one particle it is the path gradient. Where
    the guide's density has an exponent s (beta, or the scale of a plate), :math:`\tilde w_k^2` is replaced by
    :math:`\tilde w_k (1 - s + s\, \tilde w_k)`.

    Raises:
        InputError: the guide has not exactly one latent site, or that site has no path gradient (see
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

    kind = "iwae-dreg"
    with_one_particle = "path-gradient"

    def __init__(
        self, num_particles: int = 1, vectorize_particles: bool = False, max_plate_nesting: float = math.inf
    ) -> None:
        super().__init__(0, num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, as of `RenyiELBO`; adds its gradient to that of each parameter."""
        log_weights, surrogates, latents = [], [], []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            latent = only_latent(guide_trace)
            sites = [site for site in model_trace.nodes.values() if site["type"] == "sample"]
            dims = get_dependent_plate_dims(sites)
            log_p = sum(_summed(site["log_prob"], dims) for site in sites)
            log_q = along_the_path(latent["fn"], latent["value"], latent["unscaled_log_prob"], "iwae-dreg", "iwae")
            log_q = _summed(scale_and_mask(log_q, latent["scale"], latent["mask"]), dims)
            log_weights.append((log_p - log_q).detach())
            surrogates.append(log_p - log_q)
            latents.append(latent)
        in_one_trace = self.vectorize_particles and self.num_particles > 1
        log_weight = log_weights[0] if in_one_trace else torch.stack(log_weights)
        surrogate = surrogates[0] if in_one_trace else torch.stack(surrogates)
        normalized = log_weight.softmax(0)
        for latent, weight in zip(latents, [normalized] if in_one_trace else normalized, strict=True):
            _scale_gradient_of_draw(latent, weight)
        if surrogate.requires_grad:
            (-(normalized * surrogate).sum()).backward()
        return -torch_item((log_weight.logsumexp(0) - math.log(self.num_particles)).sum())


def only_latent(guide_trace: Any) -> Any:
    """The guide's only latent site, which must be reparameterized."""
    sites = [site for site in guide_trace.nodes.values() if site["type"] == "sample"]
    if len(sites) != 1 or not _has_score(sites[0]["fn"]):
        names = ", ".join(site["name"] for site in sites if _has_score(site["fn"]))
        others = ", ".join(site["name"] for site in sites if not _has_score(site["fn"]))
        latents = f"iwae-dreg with the sites {names or 'none'} (reparameterized) and {others or 'none'} (not)"
        raise checks.fail("objective", latents, "iwae, unless the guide has exactly one latent site, reparameterized")
    return sites[0]


def _summed(log_prob: Tensor, dims: list[int]) -> Tensor:
    """Summed over those of `dims` that the tensor has, which are kept with length 1."""
    own = [dim for dim in dims if dim >= -log_prob.dim()]
    return log_prob.sum(own, keepdim=True) if own else log_prob


def _scale_gradient_of_draw(site: Any, weight: Tensor) -> None:
    """Multiplies the gradient through z, which is already weighted by w~, by 1 - s + s w~."""
    if not site["value"].requires_grad:
        return
    exponent = scale_and_mask(torch.ones_like(site["unscaled_log_prob"]), site["scale"], site["mask"])
    factor = (1 - exponent + exponent * weight)[(..., *[None] * site["fn"].event_dim)]
    site["value"].register_hook(lambda gradient: gradient * factor)


def _has_score(q: Any) -> bool:
    """Whether q is a reparameterized density, so that its score can be left out."""
    return q.has_rsample and not isinstance(q, Unit) and not is_delta(q)


def is_delta(q: Any) -> bool:
    """Whether q is a single point, also when wrapped, as by `to_event`."""
    while not isinstance(q, Delta) and hasattr(q, "base_dist"):
        q = q.base_dist
    return isinstance(q, Delta)


def along_the_path(q: Any, z: Tensor, log_q: Tensor, objective: str = "path-gradient", instead: str = "elbo") -> Tensor:
    """log q(z), differentiable only through z; else an error that names `instead` in place of `objective`."""
    if support_moves(q):
        kind = type(getattr(q, "base_dist", q)).__name__
        raise checks.fail("objective", objective, f"{instead} for a {kind}, whose support moves with its parameters")
    return log_q.detach() + sum_rightmost(slope(q, z) * (z - z.detach()), q.event_dim)


def slope(q: Distribution, z: Tensor) -> Tensor:
    r""":math:`\nabla_z \log q(z)` at fixed parameters of q, of the shape of z, detached from autograd's graph.

    For a planar flow it is computed layer by layer, starting at the draw :math:`z_0` of the base distribution, with
    :math:`J_l` the Jacobian of layer l at :math:`z_{l-1}`,

    .. math:: \nabla \log q_l(z_l) = J_l^{-\top} \big( \nabla \log q_{l-1}(z_{l-1})
              - \nabla_{z_{l-1}} \log \lvert \det J_l \rvert \big), \qquad
              J^{-\top} v = v - \frac{J^\top v - v}{\det J}

    where the last equation is the Sherman-Morrison formula, because :math:`J - I` of a planar layer has rank one.

    Args:
        q: the distribution; of a flow, the very object that z was drawn from.
        z: values, shape `(*batch, *event)`.

    >>> slope(torch.distributions.Normal(1.0, 2.0), torch.tensor([1.0, 3.0]))
    tensor([-0.0000, -0.5000])
    """
    if isinstance(q, TransformedDistribution) and any(
        isinstance(transform, ConditionedPlanar) for transform in q.transforms
    ):
        return _slope_of_planar(q, z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_q = q.log_prob(z).sum()
        if not log_q.requires_grad:
            return torch.zeros_like(z)  # as for a uniform
        (gradient,) = torch.autograd.grad(log_q, z, allow_unused=True)
    if gradient is None:
        reason = f"elbo for a {type(q).__name__}, whose log_prob has no derivative with respect to the value"
        raise checks.fail("objective", "path-gradient", reason)
    return gradient


def takes_path_gradient(q: Any) -> bool:
    """Whether q is reparameterized, has a score of mean 0, and a :func:`slope` that needs no inverse of a flow.

    >>> loc = torch.zeros(2, requires_grad=True)
    >>> takes_path_gradient(torch.distributions.Normal(loc, 1.0))
    True
    >>> takes_path_gradient(torch.distributions.Uniform(loc, loc + 1))
    False
    """
    if not _has_score(q) or support_moves(q):
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
        z = layer.inv(z)  # from the layer's cache of its last input and output
        befores.append(z)
    gradient = slope(q.base_dist, z)
    for layer, before in zip(q.transforms, reversed(befores), strict=True):
        gradient = _slope_after(layer, before, gradient)
    return gradient


def _slope_after(layer: Any, before: Tensor, gradient: Tensor) -> Tensor:
    """The slope of the log-density after a layer, from the slope before it."""
    layer = copy.copy(layer)  # with its own cache
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        after = layer(before)
        log_det = layer.log_abs_det_jacobian(before, after)
        (of_log_det,) = torch.autograd.grad(log_det.sum(), before, retain_graph=True)
        v = gradient - of_log_det
        (transposed,) = torch.autograd.grad(after, before, v)  # J^T v
    return v - (transposed - v) / log_det.detach().exp().unsqueeze(-1)


def support_moves(q: Any) -> bool:
    support = q.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds)
