"""Scores of generated images against real ones, from features of both. Plain tensors in, numbers out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae import checks


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
