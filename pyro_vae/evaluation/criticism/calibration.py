"""Simulation-based calibration: whether q(z|x) has the right location and width, on simulated images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.stats import binom, chi2
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import track
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.models import VAE, require_prior
from pyro_vae.models.base import check_finite_weights, check_unconditional, evaluating_on

LOG_JOINT = "log p(x, z)"


@dataclass(frozen=True)
class Coverage:
    """How often the central interval of q at `level` holds the truth: each of `observed` beside it, with its SE.

    `level` is what the ranks can express, (ranks inside) / (L + 1); `se` is that of a calibrated q.
    """

    level: float
    observed: dict[str, float]
    se: float


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""Ranks of n true codes among L draws from q(z|x), for each quantity: `z_1`, ..., `z_d` and `log p(x, z)`.

    - `ranks`: int64, `(n, d + 1)`, 0 to L: how many of the draws lie below the truth. Uniform where q is the posterior.
    - `counts`: of the ranks in `bins` equal bins, `(bins, d + 1)`.
    - `p_values`: of Pearson's chi-square test that the counts are uniform, by quantity; `p_value` is for all of them,
      by Bonferroni's correction.
    - `location_z`: mean of the ranks, less its expectation, in its standard errors. Positive: q lies too low (the
      histogram rises).
    - `dispersion_z`: mean square of the ranks around their middle, likewise. Positive: q is too narrow (the histogram
      is a U); negative: too wide.
    - `coverage`: of the central intervals at about 50, 80 and 95 %.
    """

    n: int
    draws: int
    names: tuple[str, ...]
    ranks: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    p_values: dict[str, float]
    location_z: dict[str, float]
    dispersion_z: dict[str, float]
    coverage: tuple[Coverage, ...]

    @property
    def p_value(self) -> float:
        """Of the hypothesis that all ranks are uniform: the smallest of `p_values` times their number, at most 1."""
        return min(1.0, min(self.p_values.values()) * len(self.p_values))

    def band(self, probability: float = 0.99) -> tuple[float, float]:
        """Between which counts one bin of a calibrated q lies with this probability, by the binomial distribution."""
        if not 0 < checks.positive("probability", probability) < 1:
            raise checks.fail("probability", probability, "a number between 0 and 1")
        low, high = binom.interval(probability, self.n, 1 / len(self.counts))
        return float(low), float(high)


def simulation_based_calibration(
    model: VAE,
    n: int = 1000,
    *,
    draws: int = 199,
    bins: int = 20,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    r"""Simulation-based calibration of the guide of `model`.

    .. math:: \tilde z \sim p(z), \quad \tilde x \sim p(x|\tilde z), \quad z_1, \dots, z_L \sim q(z|\tilde x), \qquad
              r_i = \#\{l : z_{l,i} < \tilde z_i\}

    Were q the posterior, true code and draws would be exchangeable, and each rank r uniform on 0, ..., L. The test is
    of the guide on images that the model makes; it says nothing about whether the model fits any data. Uniform ranks of
    each coordinate do not make q the posterior (a prior that ignores x has them, too); those of log p(x, z) are
    another necessary condition, which sees more of z at once.

    Args:
        model: a `VAE`, of any posterior that can be drawn from.
        n: simulated images, at least 5 for each bin.
        draws: L, from each q; L + 1 must be a multiple of `bins`.
        bins: of the histograms.
        decoded_at_once: codes in one pass of the decoder; it bounds the memory; results change by rounding only.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: an autoencoder, which has no posterior; weights that are not finite; numbers that do not fit
            together.

    Source: Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018,
    https://arxiv.org/abs/1804.06788

    >>> from pyro_vae import Spec, build
    >>> calibration = simulation_based_calibration(build(Spec(latent_dim=2)), 200)
    >>> calibration.names, calibration.ranks.shape
    (('z_1', 'z_2', 'log p(x, z)'), torch.Size([200, 3]))
    """
    vae = require_prior(model)
    n, draws, bins = (
        checks.positive_integer(name, value) for name, value in (("n", n), ("draws", draws), ("bins", bins))
    )
    at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed = checks.seed("seed", seed)
    if bins < 2 or (draws + 1) % bins:
        raise checks.fail("draws", draws, f"one less than a multiple of bins, {bins}, which are at least 2")
    if n < 5 * bins:
        raise checks.fail("n", n, f"at least {5 * bins}, 5 for each of {bins} bins")
    check_unconditional(vae, "simulation_based_calibration")
    check_finite_weights(vae)
    blocks: list[Tensor] = []
    with evaluating_on(vae, device) as target:
        starts = range(0, n, NOISE_BLOCK)
        for start in track(starts, len(starts), "batch", "calibration", visible=progress):
            with seeded_rng(target, stream_seed(seed, f"calibration {start // NOISE_BLOCK}")):
                truth = vae.prior().sample((min(NOISE_BLOCK, n - start),))
                x = vae.decode(truth).sample()
                if not start:
                    check_programs(vae, x[:2])
                blocks.append(_ranks(vae, truth, x, draws, at_once))
    ranks = torch.cat(blocks)
    names = (*(f"z_{i + 1}" for i in range(ranks.shape[1] - 1)), LOG_JOINT)
    return _summary(ranks, draws, bins, names)


def _ranks(model: VAE, truth: Tensor, x: Tensor, draws: int, at_once: int) -> Tensor:
    """Of each coordinate and of log p(x, z), `(N, d + 1)`, on the CPU."""
    z = model.encode(x).sample((draws,))
    chunks = z.split(max(1, at_once // len(x)))
    drawn = torch.cat([z, torch.cat([_log_joint(model, chunk, x) for chunk in chunks])], -1)
    at_truth = torch.cat([truth, _log_joint(model, truth, x)], -1)
    if not bool(drawn.isfinite().all() & at_truth.isfinite().all()):
        raise checks.fail("model", "codes or densities that are not finite", "weights with which they are")
    below, equal = (drawn < at_truth).sum(0), (drawn == at_truth).sum(0)
    return (below + (torch.rand(equal.shape, device=x.device) * (equal + 1)).long()).cpu()  # ties in random order


def _log_joint(model: VAE, z: Tensor, x: Tensor) -> Tensor:
    return (model.decode(z).log_prob(x) + model.prior().log_prob(z)).unsqueeze(-1)


def _summary(ranks: Tensor, draws: int, bins: int, names: tuple[str, ...]) -> Calibration:
    n, length = len(ranks), draws + 1
    of_bin = ranks * bins // length
    counts = torch.stack([(of_bin == index).sum(0) for index in range(bins)])
    expected = n / bins
    statistic = ((counts.double() - expected).square() / expected).sum(0)
    centred = (ranks.double() + 0.5) / length - 0.5
    variance = (1 - 1 / length**2) / 12  # of a uniform rank, / (L + 1)
    of_square = (length**4 - 5 * length**2 + 4) / (180 * length**4)  # the variance of its square around the middle
    location = centred.mean(0) / math.sqrt(variance / n)
    dispersion = (centred.square().mean(0) - variance) / math.sqrt(of_square / n)

    def by_name(values: Tensor) -> dict[str, float]:
        return dict(zip(names, map(float, values), strict=True))

    return Calibration(
        n=n,
        draws=draws,
        names=names,
        ranks=ranks,
        counts=counts,
        p_values=by_name(torch.from_numpy(chi2.sf(statistic.numpy(), bins - 1))),
        location_z=by_name(location),
        dispersion_z=by_name(dispersion),
        coverage=tuple(_coverage(ranks, draws, level, by_name) for level in (0.5, 0.8, 0.95)),
    )


def _coverage(ranks: Tensor, draws: int, level: float, by_name: Callable[[Tensor], dict[str, float]]) -> Coverage:
    outside = round((1 - level) / 2 * (draws + 1))  # ranks on either side
    level = 1 - 2 * outside / (draws + 1)
    inside = (ranks >= outside) & (ranks <= draws - outside)
    observed = by_name(inside.double().mean(0))
    return Coverage(level, observed, math.sqrt(level * (1 - level) / len(ranks)))
