"""Markov chains of a code and a filling of the hidden pixels of each image."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae.models import VAE
from pyro_vae.uses.code_posterior import check_anywhere, family_of, parameters_of
from pyro_vae.uses.masks import log_likelihood_of_seen

CHAINS = ("metropolis", "collapsed-metropolis", "pseudo-gibbs")
PSEUDO = 0.1  # of the steps of a Metropolis chain that accept all, to reach the posterior from a bad start
FILLINGS = 100  # of each chain of collapsed Metropolis that are kept, evenly spaced over its steps
PRIOR_SHARE = 0.05  # of the proposals of collapsed Metropolis that are draws of p(z)


def run_chains(
    model: VAE, x: Tensor, seen: Tensor, *, method: str, draws: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`draws` chains for each image; :func:`~pyro_vae.uses.inpaint.inpaint` has their equations.

    Memory does not grow with the steps: all chains are decoded at once, and collapsed Metropolis keeps the encoder's
    parameters of at most `FILLINGS` fillings of each.

    Args:
        model: on its device, in evaluation mode.
        x: `(N, C, H, W)`; hidden pixels have no effect.
        seen: bool, of the same shape.
        method: one of `CHAINS`.
        draws: M.
        steps: of each chain.

    Returns:
        On the CPU, the last filling of each chain, `(M, N, C, H, W)`; and of the second half of all chains the means of
        the hidden pixels, `(N, C, H, W)`, and the share of proposals that were accepted, `(N,)`.
    """
    images, mask = x.repeat(draws, 1, 1, 1), seen.repeat(draws, 1, 1, 1)
    every = torch.ones_like(mask)
    black = torch.where(mask, images, 0)
    prior, family, past = model.prior(), family_of(model, black), _Fillings(steps)
    z = model.encode(black).sample()
    state = torch.where(mask, images, model.decode(z).sample())
    total, accepted, averaged = torch.zeros_like(x), torch.zeros(len(z), device=x.device), 0
    for step in range(steps):
        if method == "collapsed-metropolis" and step % past.every == 0:
            past.add(parameters_of(model, state))
        if method == "pseudo-gibbs" or step < PSEUDO * steps:
            z, accept = model.encode(state).sample(), every[:, 0, 0, 0]
        elif method == "metropolis":
            z, accept = _metropolis(model, z, model.encode(state), state, every)
        else:
            q = _MixedWithPrior(family(past.drawn_earlier()), prior)
            z, accept = _metropolis(model, z, q, state, mask)
        past.moved(accept)
        p = model.decode(z)
        state = torch.where(mask, images, p.sample())
        if step >= steps // 2:
            total, averaged = total + p.mean.unflatten(0, (draws, -1)).mean(0), averaged + 1
            accepted += accept
    share = accepted.unflatten(0, (draws, -1)).mean(0) / averaged
    return state.unflatten(0, (draws, -1)).cpu(), torch.where(seen, x, total / averaged).cpu(), share.cpu().double()


def _metropolis(
    model: VAE, z: Tensor, q: TorchDistribution | _MixedWithPrior, images: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor]:
    """The next code of each chain, whose target is p(z | the pixels `counted`), and whether it is the proposed one."""
    check_anywhere(q, z)
    proposed = q.sample()

    def log_weight(code: Tensor) -> Tensor:
        log_p = log_likelihood_of_seen(model.decode(code), images, counted) + model.prior().log_prob(code)
        return log_p - q.log_prob(code)

    log_ratio = log_weight(proposed) - log_weight(z)
    accept = torch.rand_like(log_ratio).log() < log_ratio
    return torch.where(accept[:, None], proposed, z), accept


class _MixedWithPrior:
    """(1 - e) q(z|x') + e p(z), with e the `PRIOR_SHARE`."""

    def __init__(self, q: TorchDistribution, p: TorchDistribution) -> None:
        self.q, self.p = q, p

    def sample(self) -> Tensor:
        z, of_prior = self.q.sample(), self.p.sample(self.q.batch_shape)
        return torch.where(torch.rand_like(z[..., :1]) < PRIOR_SHARE, of_prior, z)

    def log_prob(self, z: Tensor) -> Tensor:
        of_q, of_prior = math.log1p(-PRIOR_SHARE) + self.q.log_prob(z), math.log(PRIOR_SHARE) + self.p.log_prob(z)
        return torch.logaddexp(of_q, of_prior)


class _Fillings:
    """The encoder's parameters of earlier fillings of each chain: at most `FILLINGS`, those of each `every`-th step.

    A proposal must not depend on the present code, or the chain would have another limit. So those fillings alone
    count as earlier that were there when the present code was accepted: it drew all later ones. Which steps are kept
    is fixed beforehand, and so has nothing to do with the codes either.
    """

    def __init__(self, steps: int) -> None:
        self.every = math.ceil(steps / FILLINGS)
        self.size = math.ceil(steps / self.every)
        self.count = 0
        self.parameters, self.earlier = torch.empty(0), torch.empty(0)

    def add(self, parameters: Tensor) -> None:
        if not self.count:
            self.parameters = parameters.new_empty(self.size, *parameters.shape)
            self.earlier = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)
        self.parameters[self.count] = parameters
        self.count += 1

    def moved(self, accept: Tensor) -> None:
        """These chains have accepted a new code."""
        if self.count:
            self.earlier[accept] = self.count

    def drawn_earlier(self) -> Tensor:
        """Those of one earlier filling of each chain, chosen at random, `(chains, P)`."""
        index = (torch.rand(len(self.earlier), device=self.earlier.device) * self.earlier).long()
        return self.parameters[index, torch.arange(len(index), device=index.device)]
