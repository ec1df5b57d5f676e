"""Codes of images that are seen in part, or through noise: importance sampling of p(z|y) around an optimised q."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.models import VAE, Model, require_prior
from pyro_vae.models.base import check_finite_weights, check_unconditional
from pyro_vae.path_gradient import along_the_path, is_delta, takes_path_gradient
from pyro_vae.posteriors import location
from pyro_vae.programs.densities import has_parts

LogLikelihood = Callable[[dist.TorchDistribution], Tensor]  #: log p(y|z) from p(x|z), of the batch shape of p(x|z)


@dataclass(frozen=True)
class Ascent:
    """How q is optimised: `steps` of Adam, whose learning rate falls from `lr` to 0, with `particles` draws of z each.

    >>> Ascent(steps=100).lr
    0.05
    """

    steps: int = 300
    lr: float = 0.05
    particles: int = 4

    def __post_init__(self) -> None:
        checks.positive_integer("steps", self.steps)
        checks.positive("lr", self.lr)
        checks.positive_integer("particles", self.particles)


class WeightedCodes(NamedTuple):
    """z `(K, N, d)`, and log p(y|z) + log p(z) - log q(z), float64 on the CPU, `(K, N)`."""

    z: Tensor
    log_weights: Tensor

    def normalized(self) -> Tensor:
        """Weights whose sum is 1 for each image, `(K, N)`."""
        return self.log_weights.softmax(0)


def check_codes(model: Model, use: str) -> VAE:
    """The model, if it has one latent site with a prior, and draws images from it alone."""
    if not has_parts(model):
        expected = "a model with one latent site, and with `encode`, `decode` and `prior`, such as a VAE"
        raise checks.fail("model", type(model).__name__, expected)
    vae = require_prior(model)
    check_unconditional(model, use)
    check_finite_weights(model)
    return vae


def weighted_codes(
    model: VAE,
    starts: Sequence[Tensor],
    log_likelihood: LogLikelihood,
    *,
    draws: int,
    ascent: Ascent,
    decoded_at_once: int,
) -> WeightedCodes:
    r"""`draws` codes of each image, from a q that Adam has fitted to p(z|y), and their importance weights.

    .. math:: \max_q \mathbb E_{q(z)}[\log p(y|z) + \log p(z) - \log q(z)], \qquad
              w_k = \frac{p(y|z_k)\, p(z_k)}{q(z_k)}, \quad z_k \sim q

    q is in the family of the model's posterior, with parameters of its own for each image; it starts where the encoder
    puts that of the `starts` at which the objective is larger. All images of a batch are optimised together.

    Args:
        model: with `encode`, `decode` and `prior`, on its device, within `evaluating_on(..., gradients=True)`.
        starts: images `(N, C, H, W)` for the encoder, such as what is seen with the rest filled in.
        log_likelihood: of what is seen.
        draws: K.
        ascent: how q is optimised.
        decoded_at_once: codes in one pass of the decoder.
    """
    return drawn_codes(model, fitted(model, starts, log_likelihood, ascent), log_likelihood, draws, decoded_at_once)


def drawn_codes(
    model: VAE, q: dist.TorchDistribution, log_likelihood: LogLikelihood, draws: int, decoded_at_once: int
) -> WeightedCodes:
    """`draws` codes from q, batch shape `(N,)`, and their importance weights."""
    with torch.no_grad():
        chunk = max(1, decoded_at_once // q.batch_shape[0])
        parts = []
        for start in range(0, draws, chunk):
            z = q.rsample((min(chunk, draws - start),))
            log_q = q.log_prob(z)  # now: a flow without an inverse knows its last draws alone
            log_weights = log_likelihood(model.decode(z)) + model.prior().log_prob(z) - log_q
            parts.append((z, log_weights.cpu().double()))
    return WeightedCodes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def fitted(
    model: VAE, starts: Sequence[Tensor], log_likelihood: LogLikelihood, ascent: Ascent
) -> dist.TorchDistribution:
    """q that Adam has fitted to p(z|y), batch shape `(N,)`, as :func:`weighted_codes` says.

    The likelihood may be a rough one with cheaper gradients: if the weights are of the exact one, that costs no more
    than effective samples.
    """
    family, parameters = family_of(model, starts[0]), [parameters_of(model, x) for x in starts]
    p = model.prior()

    def objective(parameters: Tensor) -> Tensor:
        q = family(parameters)
        z = q.rsample((ascent.particles,))
        log_q = q.log_prob(z)
        if takes_path_gradient(q) and torch.is_grad_enabled():
            log_q = along_the_path(q, z, log_q)
        return (log_likelihood(model.decode(z)) + p.log_prob(z) - log_q).mean(0)

    with torch.no_grad():
        best = torch.stack([objective(start) for start in parameters]).nan_to_num(-torch.inf).argmax(0)
    chosen = torch.stack(parameters)[best, torch.arange(len(best), device=best.device)]
    return family(_ascended(chosen, objective, ascent))


def _ascended(start: Tensor, objective: Callable[[Tensor], Tensor], ascent: Ascent) -> Tensor:
    """The parameters of q of each image, `(N, P)`, after the ascent; nothing else gets a gradient."""
    parameters = start.clone().requires_grad_()
    adam = torch.optim.Adam([parameters])
    for step in range(ascent.steps):
        adam.param_groups[0]["lr"] = ascent.lr * (1 - step / ascent.steps)
        with torch.enable_grad():
            (parameters.grad,) = torch.autograd.grad(-objective(parameters).sum(), parameters)
        adam.step()
    return parameters.detach()


def family_of(model: Model, x: Tensor) -> Callable[[Tensor], dist.TorchDistribution]:
    """q(z|x) as a function of its parameters, `(N, P)`; any images x tell whether it has a density."""
    if is_delta(model.encode(x[:1])):
        raise checks.fail("model", f"{type(model).__name__} with a point for q(z|x)", "a guide that has a density")
    return model.posterior if isinstance(model, VAE) else _normal


def parameters_of(model: Model, x: Tensor) -> Tensor:
    """The parameters of q(z|x) that the encoder gives for images `(N, C, H, W)`, `(N, P)`."""
    with torch.no_grad():
        if isinstance(model, VAE):
            return model.encoder(x)
        q = model.encode(x)
        return torch.cat([location(q), q.stddev.log()], -1)


def check_anywhere(q: Any, z: Tensor) -> None:
    """Checks that log q is known of codes z that are no draws of q; a flow without an inverse knows its draws alone."""
    try:
        q.log_prob(z)
    except (KeyError, NotImplementedError) as error:
        expected = "one whose density is known at any code, as the normal and the flows with an inverse have"
        raise checks.fail("model", "a posterior that is a flow without an inverse", expected) from error


def _normal(parameters: Tensor) -> dist.TorchDistribution:
    loc, log_scale = parameters.chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)
