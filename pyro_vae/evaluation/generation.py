"""Scores of generated images against real ones, from features of both. Plain tensors in, numbers out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.stats import linregress
from torch import Tensor

from pyro_vae import checks


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
            # In place: for 2048 features the matrix is what costs.
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


@dataclass(frozen=True)
class InceptionScore:
    """`mean` and `std` (over splits, ddof = 0), and `overall`, from all images as one split."""

    mean: float
    std: float
    overall: float
    splits: int
    n: int


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> InceptionScore:
    r"""How sure a classifier is of each image, and how varied its answers are.

    .. math:: \exp\, \mathbb E_x\, \mathrm{KL}(p(y|x) \,\|\, p(y)), \qquad 1 \le \text{score} \le C

    The images are shuffled first (sorted ones would make each split one class), then cut into `splits` parts. It is the
    Inception Score only where the logits are those of the 2015-12-05 Inception network; with another classifier it is a
    classifier score.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, https://arxiv.org/abs/1606.03498; Barratt
    and Sharma, "A note on the inception score", 2018, https://arxiv.org/abs/1801.01973

    >>> round(inception_score(torch.eye(10).repeat(10, 1) * 100, splits=1).mean, 6)  # sure and balanced
    10.0
    """
    x = check_features("logits", logits, least=1)
    checks.positive_integer("splits", splits)
    if splits > len(x):
        raise checks.fail("splits", splits, f"at most one split an image, of which there are {len(x)}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    log_p = x[order].log_softmax(1)
    edges = [index * len(x) // splits for index in range(splits + 1)]
    scores = torch.tensor([_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)], dtype=torch.float64)
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item(), _score(log_p), splits, len(x))


def _score(log_p: Tensor) -> float:
    log_marginal = log_p.logsumexp(0) - torch.tensor(len(log_p), dtype=log_p.dtype).log()
    p = log_p.exp()
    # 0 log 0 = 0, also where the marginal is 0.
    kl = torch.where(p > 0, p * (log_p - log_marginal), 0.0).sum(1)
    return kl.mean().exp().item()


def confidence(generated_logits: Tensor, real_logits: Tensor) -> float:
    """Mean top-class probability of a classifier on generated images, over that on real ones; logits `(n, classes)`.

    >>> round(confidence(torch.zeros(3, 2), torch.tensor([[100.0, 0.0]])), 6)  # a coin's toss against certainty
    0.5
    """
    generated, real = (
        check_features(name, logits, least=1).softmax(1).amax(1).mean().item()
        for name, logits in (("generated_logits", generated_logits), ("real_logits", real_logits))
    )
    return generated / real


@dataclass(frozen=True)
class FrechetAtInfinity:
    """The line of Frechet distances over 1/N: its `value` at 1/N = 0, the error of that, its slope, and the points."""

    value: float
    value_se: float
    slope: float
    r_squared: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_at_infinity(
    real: Moments, generated: Tensor, *, points: int = 15, smallest: int | None = None, seed: int = 0
) -> FrechetAtInfinity:
    """The Frechet distance extrapolated to infinitely many generated images.

    The bias goes as 1/N, so the distances of subsets of `points` sizes, evenly from `smallest` to all, are regressed on
    1/N. The images of each subset are drawn anew, but from one sample, so the standard error of the intercept is that
    of the fit and too small as one of the value.

    Args:
        real: moments of the real features.
        generated: features `(n, d)`.
        points: sizes, at least 3.
        smallest: the smallest size; 5,000 where there are 10,000 images or more, else half of them.
        seed: of the subsets.

    Source: Chong and Forsyth, "Effectively unbiased FID and inception score", 2020, https://arxiv.org/abs/1911.07023
    """
    x = check_features("generated", generated, least=4)
    if smallest is None:
        smallest = 5000 if len(x) >= 10_000 else len(x) // 2
    if isinstance(points, bool) or not isinstance(points, int) or points < 3:
        raise checks.fail("points", points, "a whole number of at least 3")
    if not 2 <= smallest < len(x):
        raise checks.fail("smallest", smallest, f"a size from 2 to below {len(x)}, the number of images")
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(smallest, len(x), points).round().long().tolist()
    distances = []
    for size in sizes:
        subset = x[torch.randperm(len(x), generator=generator)[:size]]
        distances.append(frechet_distance(real, Moments.of([subset])))
    fit = linregress([1 / size for size in sizes], distances)
    return FrechetAtInfinity(
        float(fit.intercept),
        float(fit.intercept_stderr),
        float(fit.slope),
        float(fit.rvalue**2),
        tuple(sizes),
        tuple(distances),
    )


@dataclass(frozen=True)
class KernelDistance:
    """`mean` over subsets, possibly below 0, and their `std` (ddof = 0), which is not a standard error of the mean."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def kernel_distance_from_features(
    x: Tensor, y: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    r"""The squared maximum mean discrepancy with the kernel :math:`(x^\top y / d + 1)^3`, unbiased at any sample size.

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{m^2} \sum_{i,j} k(x_i, y_j)

    averaged over `subsets` pairs of subsets of m = `subset_size` images (half of them where there are fewer), drawn
    without replacement. Products, and sums of a row, are in float32 where the features are, sums of rows in float64.
    It is called KID only where the features come from the 2015-12-05 Inception network.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, https://arxiv.org/abs/1801.01401
    """
    checks.positive_integer("subsets", subsets)
    x, y = checks.tensor("x", x), checks.tensor("y", y)
    # Features of an extractor are in float32, whose own rounding is larger than that of the products.
    precision = torch.float32 if x.dtype == y.dtype == torch.float32 else torch.float64
    x, y = check_features("x", x, least=2), check_features("y", y, least=2)
    if x.shape[1] != y.shape[1]:
        raise checks.fail("y", f"{y.shape[1]} features", f"as many as x has, {x.shape[1]}")
    if isinstance(subset_size, bool) or not isinstance(subset_size, int) or subset_size < 2:
        raise checks.fail("subset_size", subset_size, "a whole number of at least 2")
    fewest = min(len(x), len(y))
    size = subset_size if subset_size <= fewest else max(2, fewest // 2)
    generator = torch.Generator().manual_seed(seed)
    x, y = x.to(precision), y.to(precision)
    values = []
    for _ in range(subsets):
        a, b = (part[torch.randperm(len(part), generator=generator)[:size]] for part in (x, y))
        values.append(_unbiased_mmd(a, b))
    found = torch.stack(values)
    return KernelDistance(found.mean().item(), found.std(correction=0).item(), subsets, size)


# Rows of a kernel matrix at a time: a block of 100 x 1000 float64 stays in the cache of a core.
_ROWS = 100


def _unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    m, d = x.shape
    # With a column of ones, x^T y / d + 1 is one product.
    x, y = (torch.cat([part / d**0.5, part.new_ones(m, 1)], 1) for part in (x, y))
    between = _sum_of_cubes(x.split(_ROWS), y)
    return (_sum_over_pairs(x) + _sum_over_pairs(y)) / (m * (m - 1)) - 2 * between / m**2


def _sum_over_pairs(x: Tensor) -> Tensor:
    """The sum of k(x_i, x_j) over i != j; the kernel is symmetric, so what lies below the diagonal is not computed."""
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        itself = rows.square().sum(1).double().pow(3).sum()
        total += _sum_of_cubes([rows], rows) - itself + 2 * _sum_of_cubes([rows], x[start + _ROWS :])
    return total


def _sum_of_cubes(blocks: Iterable[Tensor], y: Tensor) -> Tensor:
    """The sum of (x_i^T y_j)^3 over all rows, in float64 from the rows of each block on."""
    total = torch.zeros((), dtype=torch.float64)
    for rows in blocks:
        products = rows @ y.T
        total += torch.linalg.vecdot(products, products * products).double().sum()
    return total


def check_features(name: str, features: Tensor, least: int) -> Tensor:
    """Float64 on the CPU, `(n, d)`, finite."""
    x = checks.tensor(name, features)
    if x.dim() != 2 or len(x) < least:
        raise checks.fail(name, f"shape {tuple(x.shape)}", f"shape (n, d) with n of at least {least}")
    x = x.cpu().double()
    if not bool(x.isfinite().all()):
        raise checks.fail(name, "NaN or infinity", "finite numbers")
    return x
