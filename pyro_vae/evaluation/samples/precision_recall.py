"""Precision, recall, density and coverage: how two samples of features overlap, by nearest neighbours."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True)
class PrecisionRecall:
    """Of n real and m generated images, by `k` neighbours; all between 0 and 1, but for `density`.

    - `precision`: share of generated images within a real one's neighbourhood (fidelity).
    - `recall`: share of real images within a generated one's neighbourhood (variety).
    - `density`: in how many real neighbourhoods a generated image lies, over k; about 1 for equal distributions.
    - `coverage`: share of real images with a generated one in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    n: int
    m: int


def precision_recall_from_features(real: Tensor, generated: Tensor, k: int = 5, chunk: int = 200) -> PrecisionRecall:
    """Precision, recall, density and coverage of features `(n, d)` and `(m, d)`.

    The neighbourhood of an image is the ball that reaches to its k-th nearest other image of the same sample. It is
    closed for precision and recall, and open for density and coverage, as in the papers that define them: where
    images are copies, the k-th nearest is at distance 0, and the open ball is empty. Distances are Euclidean, in
    float64, `chunk` rows at a time; two that differ by less than their rounding errors count as equal.

    Source: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019,
    https://arxiv.org/abs/1904.06991 (closed, k = 3); Naeem et al., "Reliable fidelity and diversity metrics for
    generative models", 2020, https://arxiv.org/abs/2002.09797 (open, k = 5).

    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> precision_recall_from_features(x, x + 100).precision
    0.0
    """
    checks.positive_integer("k", k)
    real, generated = check_features("real", real, k + 1), check_features("generated", generated, k + 1)
    if real.shape[1] != generated.shape[1]:
        raise checks.fail(
            "generated", f"{generated.shape[1]} features", f"as many as the real images have, {real.shape[1]}"
        )
    real_norms, norms = real.square().sum(1), generated.square().sum(1)
    reach, generated_reach = _reach(real, k, chunk), _reach(generated, k, chunk)
    margin = _rounding(reach, real_norms)
    radius = generated_reach + _rounding(generated_reach, norms) + norms  # closed
    # In how many open real neighbourhoods each generated image lies, and whether in a closed one.
    in_real = torch.zeros(len(generated), dtype=torch.int64)
    in_closed = torch.zeros(len(generated), dtype=torch.bool)
    recalled = covered = 0
    for rows, limits, squares, closer in zip(
        *(part.split(chunk) for part in (real, reach, real_norms, margin)), strict=True
    ):
        distance = torch.addmm(norms, rows, generated.T, alpha=-2)  # without |x|^2, as the reach
        in_real += (distance < (limits - closer)[:, None]).sum(0, dtype=torch.int32)
        in_closed |= (distance <= (limits + closer)[:, None]).any(0)
        covered += int((distance.amin(1) < limits - closer).sum())
        recalled += int((distance.sub_(radius).amin(1) <= -squares).sum())
    return PrecisionRecall(
        precision=in_closed.double().mean().item(),
        recall=recalled / len(real),
        density=in_real.double().mean().item() / k,
        coverage=covered / len(real),
        k=k,
        n=len(real),
        m=len(generated),
    )


def precision_recall_se(
    real: Tensor, generated: Tensor, k: int = 5, *, halves: int = 20, seed: int = 0
) -> dict[str, float]:
    r"""Standard errors of `precision`, `recall`, `density` and `coverage`, over the images of both samples.

    The standard deviation of the scores of random halves of both samples, drawn without replacement: of n/2 of n draws
    it is that of n draws (the delete-d jackknife with d = n/2, Shao and Wu, 1989, https://doi.org/10.1214/aos/1176347263).
    Of more than 2,000 images of a sample it is that of so many, times :math:`\sqrt{2000 / n}`.

    On normal samples it is within a factor of 1.5 of the spread over samples, but too large where a score is within 1%
    of 1, and too small by half for a density far above 1 in many dimensions. The standard error of the share alone,
    :math:`\sqrt{p (1 - p) / n}`, is too small by up to 2: the neighbourhoods, too, are of a sample. A bootstrap makes
    copies, which are each other's nearest neighbours.
    """
    halves, generator = checks.positive_integer("halves", halves), torch.Generator().manual_seed(seed)
    if halves < 2:
        raise checks.fail("halves", halves, "a whole number of at least 2")
    real, generated = check_features("real", real, 2 * (k + 1)), check_features("generated", generated, 2 * (k + 1))
    samples = [part[torch.randperm(len(part), generator=generator)[:_MOST]] for part in (real, generated)]
    scale = max(len(samples[0]) / len(real), len(samples[1]) / len(generated)) ** 0.5
    estimates = []
    for _ in range(halves):
        a, b = (part[torch.randperm(len(part), generator=generator)[: len(part) // 2]] for part in samples)
        estimates.append(precision_recall_from_features(a, b, k))
    return {
        name: scale * statistics.stdev(getattr(estimate, name) for estimate in estimates)
        for name in ("precision", "recall", "density", "coverage")
    }


def _reach(x: Tensor, k: int, chunk: int) -> Tensor:
    """|x_j|^2 - 2 x_i^T x_j of each row's k-th nearest other row: the squared distance without |x_i|^2.

    The nearest of all is the row itself.
    """
    norms = x.square().sum(1)
    return torch.cat([_smallest(torch.addmm(norms, rows, x.T, alpha=-2), k + 1) for rows in x.split(chunk)])


def _rounding(reach: Tensor, norms: Tensor) -> Tensor:
    """An upper limit of the rounding errors in the distances of images near the edge of each ball.

    Of the numbers that a squared distance is the difference of, none is larger than a few times |x|^2 + radius^2.
    """
    return 1e-12 * (2 * norms + reach).clamp(min=0)  # radius^2 = |x|^2 + reach


def _smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row.

    The k smallest values lie in the k groups with the smallest minima, so only these are sorted: the rest is a minimum,
    which is several times faster than a selection from the whole row.
    """
    groups = values.shape[1] // _GROUP
    if groups <= k:
        return values.kthvalue(k, dim=1).values
    grouped = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
    nearest = grouped.amin(1).topk(k, dim=1, largest=False, sorted=False).indices
    few = grouped.gather(2, nearest[:, None].expand(-1, _GROUP, -1)).flatten(1)
    return torch.cat([few, values[:, groups * _GROUP :]], 1).kthvalue(k, dim=1).values


_GROUP = 20
_MOST = 2000  # images of a sample, from which a standard error is estimated
