"""The kernel distance of generated images to real ones, from features of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True)
class KernelDistance:
    """`mean` over subsets, possibly below 0, with its standard error `se`, and the `std` of the subsets (ddof = 0)."""

    mean: float
    se: float
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
    The standard error is that of the estimate from all images, by Hoeffding's decomposition, and of the choice of
    subsets.

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
    estimates = torch.stack(values)
    se = (_variance(x, y, generator) + (estimates.var().item() / subsets if subsets > 1 else 0.0)) ** 0.5
    return KernelDistance(estimates.mean().item(), se, estimates.std(correction=0).item(), subsets, size)


# Rows of a kernel matrix at a time: a block of 100 x 1000 float64 stays in the cache of a core.
_ROWS = 100
_MOST = 5000  # images of a sample, from which a standard error is estimated


def _unbiased_mmd(x: Tensor, y: Tensor) -> Tensor:
    m, d = x.shape
    # With a column of ones, x^T y / d + 1 is one product.
    x, y = (torch.cat([part / d**0.5, part.new_ones(m, 1)], 1) for part in (x, y))
    between = _sum_of_cubes(x.split(_ROWS), y)
    return (_sum_over_pairs(x) + _sum_over_pairs(y)) / (m * (m - 1)) - 2 * between / m**2


def _variance(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    """The variance of the unbiased estimate from all of x and y, by Hoeffding's decomposition.

    What each image adds by itself (the variances of the projections, less the noise with which they are estimated), and
    what pairs of images add beyond that, which is all that there is where the distributions are equal.
    """
    all_x, all_y = len(x), len(y)
    # At random: sets from folders are sorted by class.
    x, y = (part[torch.randperm(len(part), generator=generator)[:_MOST]] for part in (x, y))
    n, m = len(x), len(y)
    x_rows, _, xx = _means(x, x, itself=True)
    y_rows, _, yy = _means(y, y, itself=True)
    x_to_y, y_to_x, xy = _means(x, y)
    singles = 4 * ((x_rows - x_to_y).var() / all_x + (y_rows - y_to_x).var() / all_y).item()
    noise = 4 * ((xx / n + xy / m) / all_x + (yy / m + xy / n) / all_y)
    pairs = 2 * xx / all_x**2 + 2 * yy / all_y**2 + 4 * xy / (all_x * all_y)
    return max(singles - noise, 0.0) + max(pairs, 0.0)


def _means(x: Tensor, y: Tensor, itself: bool = False) -> tuple[Tensor, Tensor, float]:
    """Means of k(x_i, y_j) of each row and of each column, and the variance that these leave; without i = j."""
    a, b = (torch.cat([part / part.shape[1] ** 0.5, part.new_ones(len(part), 1)], 1) for part in (x, y))
    rows, columns, squares = [], torch.zeros(len(b), dtype=torch.float64), 0.0
    for start in range(0, len(a), _ROWS):
        kernel = a[start : start + _ROWS] @ b.T
        kernel *= kernel * kernel
        if itself:
            kernel.diagonal(start).zero_()
        rows.append(kernel.sum(1).double())
        columns += kernel.sum(0).double()
        squares += torch.linalg.vecdot(kernel, kernel).double().sum().item()
    row_means = torch.cat(rows) / (len(b) - itself)
    column_means = columns / (len(a) - itself)
    total = squares / (len(a) * (len(b) - itself)) - row_means.mean().item() ** 2
    return row_means, column_means, total - (row_means.var() + column_means.var()).item()


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
