"""The Frechet distance of two samples of features: with its standard error and its limit for infinite samples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.stats import linregress
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.resampling import jackknife_se
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter matrix (sum of outer products of deviations) of features, in float64.

    Streamed and merged by the update of Chan et al. (1982), which does not cancel as a raw second moment does.

    >>> x = torch.randn(100, 3, dtype=torch.float64)
    >>> merged = Moments.of([x[:30], x[30:]])
    >>> torch.allclose(merged.covariance, x.T.cov())
    True
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Moments:
        """The moments of features `(n, d)` that come in any number of batches."""
        count, mean, scatter = 0, torch.empty(0), torch.empty(0)
        for features in batches:
            x = check_features("features", features, least=1)
            if count == 0:
                mean, scatter = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
            if x.shape[1] != len(mean):
                raise checks.fail("features", f"{x.shape[1]} features", f"{len(mean)}, as in the batches before")
            delta = x.mean(0) - mean
            centred = x - x.mean(0)
            # In place: for 2048 features the matrix takes most of the memory.
            scatter.addmm_(centred.T, centred).addr_(delta, delta, alpha=count * len(x) / (count + len(x)))
            count += len(x)
            mean = mean + delta * (len(x) / count)
        if count == 0:
            raise checks.fail("features", "no batches", "at least one batch of features of shape (n, d)")
        return cls(count, mean, scatter)

    def merge(self, other: Moments) -> Moments:
        """The moments of both samples together."""
        if self.mean.shape != other.mean.shape:
            raise checks.fail("other", f"{len(other.mean)} features", f"{len(self.mean)}, as here")
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, `(d, d)`; it takes at least two images."""
        if self.count < 2:
            raise checks.fail("features", f"{self.count} image", "at least 2 images, for a covariance")
        return self.scatter / (self.count - 1)


def frechet_distance(x: Moments, y: Moments) -> float:
    r"""The squared Frechet (2-Wasserstein) distance of two normal distributions with these moments.

    .. math:: \lVert \mu_x - \mu_y \rVert^2 + \mathrm{Tr}\, S_x + \mathrm{Tr}\, S_y - 2\, \mathrm{Tr}\, (S_x S_y)^{1/2}

    It is called FID only where the features come from the 2015-12-05 Inception network. From finite samples it is
    biased upwards, by about :math:`2d/N + d(d+1)/(2N)` for two samples of one standard normal: always compare at one N.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017, https://arxiv.org/abs/1706.08500

    >>> a = Moments(2, torch.zeros(1), torch.ones(1, 1))
    >>> b = Moments(2, torch.ones(1) * 2, torch.ones(1, 1) * 9)
    >>> round(frechet_distance(a, b), 6)  # 2^2 + (3 - 1)^2
    8.0
    """
    return frechet_from_stats(x.mean, x.covariance, y.mean, y.covariance)


def frechet_from_stats(mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor) -> float:
    """:func:`frechet_distance` from means `(d,)` and covariances `(d, d)`."""
    mean_x, mean_y, covariance_x, covariance_y = (
        checks.tensor(name, value).cpu().double()
        for name, value in (
            *(("mean_x", mean_x), ("mean_y", mean_y)),
            *(("covariance_x", covariance_x), ("covariance_y", covariance_y)),
        )
    )
    for name, covariance in (("covariance_x", covariance_x), ("covariance_y", covariance_y)):
        if mean_x.dim() != 1 or mean_x.shape != mean_y.shape or covariance.shape != (len(mean_x), len(mean_x)):
            raise checks.fail(
                name, tuple(covariance.shape), f"(d, d) for means of shape (d,), here {tuple(mean_x.shape)}"
            )
        if not bool(covariance.isfinite().all()) or not torch.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9):
            raise checks.fail(name, "NaN, infinity or no symmetry", "a finite symmetric matrix")
    if not bool((mean_x + mean_y).isfinite().all()):
        raise checks.fail("mean_x", "NaN or infinity in a mean", "finite numbers")
    # Tr (S_x S_y)^(1/2) is the nuclear norm of L_x^T L_y for S = L L^T: no matrix square root, no complex numbers, no
    # jitter.
    nuclear = torch.linalg.svdvals(_factor(covariance_x).T @ _factor(covariance_y)).sum()
    return _combine(mean_x - mean_y, covariance_x.trace(), covariance_y.trace(), nuclear)


def frechet_from_features(x: Tensor, y: Tensor) -> float:
    """:func:`frechet_distance` from features `(n, d)` and `(m, d)`.

    With fewer images than features, the trace comes from the `n x m` matrix of the centred features, and no covariance
    is formed.
    """
    x, y = check_features("x", x, least=2), check_features("y", y, least=2)
    if x.shape[1] != y.shape[1]:
        raise checks.fail("y", f"{y.shape[1]} features", f"as many as x has, {x.shape[1]}")
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(Moments.of([x]), Moments.of([y]))
    mean_x, mean_y = x.mean(0), y.mean(0)
    # S_x = X^T X with X centred and scaled, likewise Y: the nuclear norm of X Y^T is the same.
    x, y = (x - mean_x) / (len(x) - 1) ** 0.5, (y - mean_y) / (len(y) - 1) ** 0.5
    return _combine(mean_x - mean_y, x.square().sum(), y.square().sum(), torch.linalg.svdvals(x @ y.T).sum())


def _combine(difference: Tensor, trace_x: Tensor, trace_y: Tensor, nuclear: Tensor) -> float:
    distance = (difference.square().sum() + trace_x + trace_y - 2 * nuclear).item()
    # Equal inputs cancel to rounding error, of either sign; a distance is not negative.
    tolerance = 1e-9 * (trace_x + trace_y).item()
    return 0.0 if -tolerance <= distance < 0 else distance


def _factor(covariance: Tensor) -> Tensor:
    """L with L L^T = covariance: Cholesky's, else by eigenvalues, of which those below 0 are rounding errors."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] < -1e-6 * values[-1].clamp(min=0) - 1e-12:
        raise checks.fail("covariance", f"an eigenvalue of {values[0]:.3g}", "a matrix without negative eigenvalues")
    return vectors * values.clamp(min=0).sqrt()


def frechet_se(real: Moments | Tensor, generated: Tensor, *, seed: int = 0) -> float:
    """The standard error of the Frechet distance of two samples of features, `(n, d)` and `(m, d)`.

    By :func:`~pyro_vae.evaluation.jackknife_se`, over the images of both; where `real` is moments, which are taken as
    exact, over the generated ones. With 20 groups, of more than 512 features with 10. It does not hold the bias.
    With one to four images per feature it was 1.2 to 1.7 times the spread over samples, so rather too large.
    """
    generated = check_features("generated", generated, least=3)
    samples = (generated,) if isinstance(real, Moments) else (check_features("real", real, least=3), generated)
    groups = min(20 if generated.shape[1] <= 512 else 10, *map(len, samples))
    if isinstance(real, Moments):
        return jackknife_se(lambda part: _distance(real, part), *samples, groups=groups, seed=seed)
    return jackknife_se(_distance, *samples, groups=groups, seed=seed)


def _distance(real: Moments | Tensor, generated: Tensor) -> float:
    if isinstance(real, Moments):
        return frechet_distance(real, Moments.of([generated]))
    return frechet_from_features(real, generated)


IMAGES_PER_FEATURE = 10  # in the smallest subset that the line is fitted to


@dataclass(frozen=True)
class FrechetAtInfinity:
    """The line of Frechet distances over 1/n: its `value` at 1/n = 0 and the error of that, its slope, and the points.

    `value_se` is the root of the sum of two squares: `sampling_se`, by :func:`frechet_se`, is what other images would
    change; `fit_se` what other subsets of these would. `sizes` are those of the generated subsets, of `real_sizes` the
    real ones, or None where only the generated side is extrapolated: then half of the bias stays.
    """

    value: float
    value_se: float
    fit_se: float
    sampling_se: float
    slope: float
    r_squared: float
    sizes: tuple[int, ...]
    real_sizes: tuple[int, ...] | None
    distances: tuple[float, ...]
    num_features: int

    @property
    def informative(self) -> bool:
        """Whether the value is more informative than the distance itself.

        The bias is a series in d/n for d features, of which the line is the first term: the smallest subset must hold
        10 images per feature, so that the second is small. And the points must show the line, which rises with 1/n: it
        explains at least half of their variance, else what is taken away is noise.
        """
        smallest = min(*self.sizes, *(self.real_sizes or self.sizes))
        return smallest >= IMAGES_PER_FEATURE * self.num_features and self.slope > 0 and self.r_squared >= 0.5


def frechet_at_infinity(
    real: Moments | Tensor, generated: Tensor, *, points: int = 15, smallest: int | None = None, seed: int = 0
) -> FrechetAtInfinity:
    r"""The Frechet distance extrapolated to infinitely many images, real and generated.

    .. math:: \mathbb E[d_n^2] = d_\infty^2 + \text{slope} / n + O(1/n^2)

    The distances of subsets of `points` sizes, evenly from `smallest` to all, are regressed on 1/n. Real images are
    taken in the same proportion as generated ones. The subsets are drawn anew for each size, but all from the same
    images, so the standard error of the intercept is not that of the value: see :class:`FrechetAtInfinity`.

    Args:
        real: features `(m, d)`; or their moments, of which no subsets can be drawn, so that the bias from the number of
            real images stays (none where the moments are exact).
        generated: features `(n, d)`.
        points: sizes, at least 3.
        smallest: the smallest size; by default half of the images.
        seed: of the subsets.

    Source: Chong and Forsyth, "Effectively unbiased FID and inception score", 2020, https://arxiv.org/abs/1911.07023,
    who extrapolate the generated side.

    >>> x, y = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))  # of one distribution
    >>> line = frechet_at_infinity(x, y)
    >>> line.distances[-1] > 3 * abs(line.value), abs(line.value) < 2 * line.value_se
    (True, True)
    """
    x = check_features("generated", generated, least=4)
    if not isinstance(real, Moments):
        real = check_features("real", real, least=4)
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise checks.fail("points", points, "a whole number of at least 3")
    smallest = len(x) // 2 if smallest is None else smallest
    if not 2 <= smallest < len(x):
        raise checks.fail("smallest", smallest, f"a size from 2 to below {len(x)}, the number of images")
    sizes = torch.linspace(smallest, len(x), points).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distances, real_sizes = [], []
    for size in sizes:
        if not isinstance(real, Moments):
            real_sizes.append(max(2, round(size * len(real) / len(x))))
        some_real = real if isinstance(real, Moments) else _subset(real, real_sizes[-1], generator)
        distances.append(_distance(some_real, _subset(x, size, generator)))
    fit = linregress([1 / size for size in sizes], distances)
    fit_se, sampling_se = float(fit.intercept_stderr), frechet_se(real, x, seed=seed)
    return FrechetAtInfinity(
        value=float(fit.intercept),
        value_se=math.hypot(fit_se, sampling_se),
        fit_se=fit_se,
        sampling_se=sampling_se,
        slope=float(fit.slope),
        r_squared=float(fit.rvalue**2),
        sizes=tuple(sizes),
        real_sizes=tuple(real_sizes) or None,
        distances=tuple(distances),
        num_features=x.shape[1],
    )


def _subset(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size]]
