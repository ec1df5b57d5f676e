"""Annealed importance sampling: a tighter, dearer estimate of log p(x) that does not lean on the guide."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.generators import own_generators
from pyro_vae.models import VAE, Model, with_prior
from pyro_vae.models.images import check_images, dtype_of, evaluating, move
from pyro_vae.progress import track


@dataclass(frozen=True, eq=False)
class Annealed:
    """`log_likelihood` of each image, nats, `(N,)`: a lower bound in expectation; `acceptance` is that of all moves."""

    log_likelihood: Tensor
    acceptance: float
    chains: int
    temperatures: int


@dataclass(frozen=True)
class TwoSided:
    """In expectation the mean log p(x) of simulated images lies between; the `gap` is how far off AIS may be."""

    lower: float
    upper: float
    gap: float
    gap_se: float | None
    n: int


def annealed_log_likelihood(
    model: Model,
    x: Tensor,
    *,
    temperatures: int = 1000,
    chains: int = 16,
    leapfrog_steps: int = 10,
    step_size: float = 0.05,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Annealed:
    r"""AIS from the prior to the posterior of each image, by Hamiltonian Monte Carlo.

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x|z_{t-1}), \qquad
              z_t \sim T_t(\cdot | z_{t-1}) \text{ leaving } p(z)\, p(x|z)^{\beta_t} \text{ invariant}

    along a sigmoid schedule of `temperatures` steps. The step size follows the acceptance rate of all chains, towards
    0.65, as in the source; so the moves depend a little on the past, and the bound holds up to that.

    Args:
        model: a `VAE`.
        x: floats `(N, C, H, W)`, one batch.
        temperatures: steps from prior to posterior.
        chains: independent chains an image, averaged as weights.
        leapfrog_steps: steps of each Hamiltonian trajectory.
        step_size: of the first trajectory.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Source: Wu et al., "On the quantitative analysis of decoder-based generative models", 2017,
    https://arxiv.org/abs/1611.04273
    """
    _check(temperatures, chains, leapfrog_steps, step_size, seed)
    vae = with_prior(model)
    target = move(model, device)
    x = check_images(x).to(target, dtype_of(model))
    check_programs(vae, x[:2])
    with own_generators(target, seed), evaluating(vae, gradients=True):
        z = vae.prior().sample((chains, len(x)))
        log_weights, acceptance = _anneal(vae, x, z, _schedule(temperatures), leapfrog_steps, step_size, progress)
    if not bool(log_weights.isfinite().all()):
        raise checks.fail(
            "model", "weights that are not finite", "a model whose densities are finite at its prior's samples"
        )
    return Annealed(log_weights.logsumexp(0) - math.log(chains), acceptance, chains, temperatures)


def two_sided_log_likelihood(
    model: Model,
    n: int,
    *,
    temperatures: int = 1000,
    chains: int = 16,
    leapfrog_steps: int = 10,
    step_size: float = 0.05,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> TwoSided:
    """Bidirectional Monte Carlo, on n images simulated from the model, so that an exact posterior draw is known.

    AIS run forwards bounds their mean log p(x) from below; run backwards from that draw, from above. Arguments as in
    :func:`annealed_log_likelihood`.

    Source: Grosse et al., "Sandwiching the marginal likelihood using bidirectional Monte Carlo", 2015,
    https://arxiv.org/abs/1511.02543
    """
    n = checks.positive_integer("n", n)
    _check(temperatures, chains, leapfrog_steps, step_size, seed)
    vae = with_prior(model)
    target = move(model, device)
    schedule = _schedule(temperatures)
    with own_generators(target, seed), evaluating(vae, gradients=True):
        with torch.no_grad():
            exact = vae.prior().sample((n,))
            x = vae.decode(exact).sample()
        check_programs(vae, x[:2])
        start = vae.prior().sample((chains, n))
        forward, _ = _anneal(vae, x, start, schedule, leapfrog_steps, step_size, progress)
        start = exact.expand(chains, *exact.shape)
        backward, _ = _anneal(vae, x, start, schedule.flip(0), leapfrog_steps, step_size, progress)
    lower = forward.logsumexp(0) - math.log(chains)
    upper = math.log(chains) - backward.logsumexp(0)
    gap = upper - lower
    error = gap.std().item() / n**0.5 if n > 1 else None
    return TwoSided(lower.mean().item(), upper.mean().item(), gap.mean().item(), error, n)


def _schedule(temperatures: int) -> Tensor:
    """From 0 to 1, densest at both ends: a sigmoid between -4 and 4, rescaled (float64)."""
    curve = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def _anneal(
    model: VAE, x: Tensor, z: Tensor, schedule: Tensor, leapfrog_steps: int, step_size: float, progress: bool
) -> tuple[Tensor, float]:
    """log w `(chains, N)` along the schedule, in whichever direction it runs, and the mean acceptance."""
    log_weights = torch.zeros(z.shape[:-1], dtype=torch.float64)
    accepted = []
    pairs = itertools.pairwise(schedule)
    for before, after in track(pairs, len(schedule) - 1, "step", "AIS", shown=progress):
        with torch.no_grad():
            log_weights += float(after - before) * model.decode(z).log_prob(x).cpu().double()
        z, rate = _hmc(model, x, z, float(after), leapfrog_steps, step_size)
        accepted.append(rate)
        step_size *= 1.02 if rate > 0.65 else 0.98
    return log_weights, sum(accepted) / len(accepted)


def _hmc(model: VAE, x: Tensor, z: Tensor, beta: float, steps: int, step_size: float) -> tuple[Tensor, float]:
    """One Hamiltonian move that leaves p(z) p(x|z)^beta invariant, and the share of chains that took it."""

    def potential(position: Tensor) -> tuple[Tensor, Tensor]:
        position = position.detach().requires_grad_()
        energy = -(model.prior().log_prob(position) + beta * model.decode(position).log_prob(x))
        (gradient,) = torch.autograd.grad(energy.sum(), position)
        return energy.detach(), gradient

    momentum = torch.randn_like(z)
    energy, gradient = potential(z)
    start = energy + momentum.square().sum(-1) / 2
    position = z
    for _ in range(steps):
        momentum = momentum - step_size / 2 * gradient
        position = position + step_size * momentum
        energy, gradient = potential(position)
        momentum = momentum - step_size / 2 * gradient
    end = energy + momentum.square().sum(-1) / 2
    take = torch.rand_like(start).log() < start - end  # false where the trajectory diverged to NaN
    return torch.where(take[..., None], position, z).detach(), take.float().mean().item()


def _check(temperatures: int, chains: int, leapfrog_steps: int, step_size: float, seed: int) -> None:
    checks.positive_integer("temperatures", temperatures)
    checks.positive_integer("chains", chains)
    checks.positive_integer("leapfrog_steps", leapfrog_steps)
    checks.positive("step_size", step_size)
    checks.seed("seed", seed)
