"""Draws of the guide for a batch of images, and their importance weights."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.evaluation.loop import Evaluation
from pyro_vae.path_gradient import is_delta
from pyro_vae.programs.densities import Densities
from pyro_vae.programs.traces import Traces


class WeightedDraws(NamedTuple):
    """z `(K, N, d)`, its log-weights `(K, N)`, and the rounding error of these, nats, `(N,)`; float64 but for z."""

    z: Tensor
    log_weights: Tensor
    resolution_nats: Tensor


def weighted_draws(
    densities: Densities, x: Tensor, k: int, decoded_at_once: int, q: TorchDistribution | None = None
) -> WeightedDraws:
    """k draws from q(z|x) of each image, and log p(x|z) + log p(z) - log q(z|x), on the CPU.

    At most `decoded_at_once` codes are decoded together. By default q is what the encoder says. Of a pair that is
    evaluated by its traces, z is the continuous latent sites beside each other.
    """
    if not densities.has_parts:
        return _traced_draws(densities.traces, x, k, decoded_at_once)
    q, p = densities.encode(x) if q is None else q, densities.prior()
    chunk = max(1, decoded_at_once // len(x))
    codes, rows, largest = [], [], torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, k, chunk):
        z = q.rsample((min(chunk, k - start),))
        codes.append(z)
        # Rounded to float32 term by term: their sum is small beside each.
        terms = torch.stack([densities.decode(z).log_prob(x), p.log_prob(z), -q.log_prob(z)]).cpu().double()
        rows.append(terms.sum(0))
        largest = torch.maximum(largest, terms.abs().sum(0).amax(0))
    # Each term is itself a rounded sum over pixels or dimensions. With exact posteriors, whose weights are all equal,
    # log-weights of 4 to 4,096 pixels spread over 1 to 3 units of this.
    return WeightedDraws(torch.cat(codes), torch.cat(rows), 8 * torch.finfo(x.dtype).eps * largest)


def _traced_draws(traces: Traces, x: Tensor, k: int, decoded_at_once: int) -> WeightedDraws:
    chunk = max(1, decoded_at_once // len(x))
    codes, rows, largest = [], [], torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, k, chunk):
        draws = traces.draws(x, min(chunk, k - start))
        values = draws.cases[0].values
        codes.append(
            torch.cat(
                [values[name].reshape(*values[name].shape[:2], -1).cpu() for name in draws.continuous]
                or [x.new_zeros(0)],
                -1,
            )
        )
        rows.append(draws.log_weights())
        largest = torch.maximum(largest, draws.magnitude().amax(0))
    return WeightedDraws(torch.cat(codes), torch.cat(rows), 8 * torch.finfo(x.dtype).eps * largest)


def check_density(evaluation: Evaluation) -> None:
    """Checks that the guide has a density, or draws codes with probabilities; else p(x, z) / q(z|x) is no weight."""
    x, densities = next(evaluation.batches(1))
    with seeded_rng(evaluation.device, 0), pyro.validation_enabled(False):
        if densities.has_parts:
            is_point = is_delta(densities.encode(x))
        else:
            draws = densities.traces.draws(x, 1)
            is_point = draws.is_certain or not draws.has_density
    if is_point:
        raise checks.fail(
            "model", f"{type(evaluation.model).__name__} with a point for q(z|x)", "a guide that has a density"
        )


def is_exact(evaluation: Evaluation) -> bool:
    """Whether the guide draws no latent site: all are summed out, or there are none, and each weight is p(x)."""
    x, densities = next(evaluation.batches(1))
    if densities.has_parts:
        return False
    with seeded_rng(evaluation.device, 0), pyro.validation_enabled(False):
        return not densities.traces.draws(x, 1).drawn
