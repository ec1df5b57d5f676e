"""`PathGradientELBO`: Pyro's `Trace_ELBO`, whose gradient takes only the path through the draws."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, constraints

from pyro_vae import checks


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

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        for site in guide_trace.nodes.values():
            if site["type"] == "sample" and _has_score(site["fn"]):
                entropy = _along_the_path(site["fn"], site["value"], site["unscaled_log_prob"])
                entropy = scale_and_mask(entropy, site["scale"], site["mask"])
                site["score_parts"] = site["score_parts"]._replace(entropy_term=entropy)
        return super()._differentiable_loss_particle(model_trace, guide_trace)


def _has_score(q: Any) -> bool:
    """Whether q is a reparameterized density, whose score can be left out."""
    return q.has_rsample and not isinstance(q, Unit) and not is_delta(q)


def is_delta(q: Any) -> bool:
    """Whether q is a single point, also under other names, as after `to_event`."""
    while not isinstance(q, Delta) and hasattr(q, "base_dist"):
        q = q.base_dist
    return isinstance(q, Delta)


def _along_the_path(q: Any, z: Tensor, log_q: Tensor) -> Tensor:
    """log q(z), whose only derivative is that through z."""
    if _support_moves(q):
        kind = type(getattr(q, "base_dist", q)).__name__
        raise checks.fail("objective", "path-gradient", f"elbo for a {kind}, whose support moves with its parameters")
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
