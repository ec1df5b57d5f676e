"""Codes of images that are seen in part, or through noise: importance sampling of p(z|y) around an optimised q."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    rough: LogLikelihood | None = None,
    draws: int,
    ascent: Ascent,
    decoded_at_once: int,
) -> WeightedCodes:
    r"""`draws` codes of each image, from a q that Adam has fitted to p(z|y), and their importance weights.

    .. math:: \max_q \mathbb E_{q(z)}[\log p(y|z) + \log p(z) - \log q(z)], \qquad
              w_k = \frac{p(y|z_k)\, p(z_k)}{q(z_k)}, \quad z_k \sim q

    q is in the family of the model's posterior, with parameters of its own for each image; it starts where the encoder
    puts that of the `starts` at which the objective is larger. All images of a batch are optimised together. A `rough`
    likelihood may stand for the exact one while q is optimised: the weights are of the exact one, so it costs only
    effective samples.

    Args:
        model: with `encode`, `decode` and `prior`, on its device, within `evaluating_on(..., gradients=True)`.
        starts: images `(N, C, H, W)` for the encoder, such as what is seen with the rest filled in.
        log_likelihood: of what is seen.
        rough: the same, or nearly, with cheaper gradients.
        draws: K.
        ascent: how q is optimised.
        decoded_at_once: codes in one pass of the decoder.
    """
    rough = log_likelihood if rough is None else rough
    family, parameters = _starts(model, starts)
    p = model.prior()

    def log_weights(q: dist.TorchDistribution, z: Tensor, likelihood: LogLikelihood, log_q: Tensor) -> Tensor:
        return likelihood(model.decode(z)) + p.log_prob(z) - log_q

    def objective(parameters: Tensor) -> Tensor:
        q = family(parameters)
        z = q.rsample((ascent.particles,))
        log_q = q.log_prob(z)
        if takes_path_gradient(q) and torch.is_grad_enabled():
            log_q = along_the_path(q, z, log_q)
        return log_weights(q, z, rough, log_q).mean(0)

    with torch.no_grad():
        best = torch.stack([objective(start) for start in parameters]).nan_to_num(-torch.inf).argmax(0)
    chosen = torch.stack(parameters)[best, torch.arange(len(best), device=best.device)]
    q = family(_ascended(chosen, objective, ascent))
    with torch.no_grad():
        chunk = max(1, decoded_at_once // len(best))
        z = [q.rsample((min(chunk, draws - start),)) for start in range(0, draws, chunk)]
        rows = [log_weights(q, part, log_likelihood, q.log_prob(part)).cpu().double() for part in z]
    return WeightedCodes(torch.cat(z), torch.cat(rows))


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


def _starts(model: Model, starts: Sequence[Tensor]) -> tuple[Callable[[Tensor], dist.TorchDistribution], list[Tensor]]:
    """The family of q as a function of its parameters, and the encoder's parameters for each start, `(N, P)`."""
    with torch.no_grad():
        posteriors = [model.encode(x) for x in starts]
        if is_delta(posteriors[0]):
            raise checks.fail("model", f"{type(model).__name__} with a point for q(z|x)", "a guide that has a density")
        if isinstance(model, VAE):
            return lambda parameters: model.posterior(parameters), [model.encoder(x) for x in starts]
        return _normal, [torch.cat([location(q), q.stddev.log()], -1) for q in posteriors]


def _normal(parameters: Tensor) -> dist.TorchDistribution:
    loc, log_scale = parameters.chunk(2, -1)
    return dist.Normal(loc, log_scale.exp()).to_event(1)
