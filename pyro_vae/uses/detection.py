"""How well a score tells outliers from inliers: ROC and precision-recall areas, thresholds, false-positive rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.uses.outliers import scores

Interval = tuple[float, float]


@dataclass(frozen=True)
class Detection:
    """How well a score detects outliers, which are the positive class in all three numbers.

    - `auroc`: the probability that an outlier has the higher score than an inlier, ties halved; 0.5 by chance.
    - `auprc`: average precision; by chance the share of outliers, which it depends on: `n_outliers` of both.
    - `fpr_at_95`: the share of inliers flagged at the highest threshold that flags at least 95 % of the outliers.
    - `..._interval`: 95 % percentile interval of the bootstrap over images, of each set by itself. It is of these
      models and sets: another seed of the training may differ more.
    """

    n_inliers: int
    n_outliers: int
    auroc: float
    auroc_interval: Interval
    auprc: float
    auprc_interval: Interval
    fpr_at_95: float
    fpr_at_95_interval: Interval


def detection(inlier_scores: Tensor, outlier_scores: Tensor, *, resamples: int = 1000, seed: int = 0) -> Detection:
    """Areas under the ROC and the precision-recall curve, as scikit-learn's, and the FPR at 95 % TPR, with intervals.

    Args:
        inlier_scores: `(N,)`, higher means more outlying.
        outlier_scores: `(M,)`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> result = detection(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.5, 3.0, 4.0]))
    >>> round(result.auroc, 3), round(result.fpr_at_95, 3)  # 8 of 9 pairs in order
    (0.889, 0.333)
    """
    inliers, outliers = scores("inlier_scores", inlier_scores), scores("outlier_scores", outlier_scores)
    resamples = checks.positive_integer("resamples", resamples)
    values = torch.cat([inliers, outliers]).numpy()
    is_outlier = np.repeat([False, True], [len(inliers), len(outliers)])
    group_of = np.unique(-values, return_inverse=True)[1].ravel()  # equal scores together, the highest first
    generator = np.random.default_rng(checks.seed("seed", seed))

    def counts(of_set: np.ndarray, resample: bool) -> np.ndarray:
        chosen = generator.integers(len(of_set), size=len(of_set)) if resample else slice(None)
        return np.bincount(of_set[chosen], minlength=group_of.max() + 1)

    def rates(resample: bool) -> tuple[float, float, float]:
        return _areas(counts(group_of[~is_outlier], resample), counts(group_of[is_outlier], resample))

    auroc, auprc, fpr_at_95 = rates(False)
    drawn = np.array([rates(True) for _ in range(resamples)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0).tolist()
    return Detection(
        n_inliers=len(inliers),
        n_outliers=len(outliers),
        auroc=auroc,
        auroc_interval=(low[0], high[0]),
        auprc=auprc,
        auprc_interval=(low[1], high[1]),
        fpr_at_95=fpr_at_95,
        fpr_at_95_interval=(low[2], high[2]),
    )


def _areas(inliers: np.ndarray, outliers: np.ndarray) -> tuple[float, float, float]:
    """AUROC, average precision and FPR at 95 % TPR, from counts by score, the highest first.

    scikit-learn's take the same counts as weights, and sort the scores anew each time; they add rounded terms.
    """
    false, true = (np.concatenate([[0], counts.cumsum()]) for counts in (inliers, outliers))
    fpr = false / false[-1]
    # Sums of counts are exact, and so are areas of 1.
    auroc = float(np.sum(np.diff(false) * (true[1:] + true[:-1])) / (2 * false[-1] * true[-1]))
    precision = true[1:] / np.maximum(true[1:] + false[1:], 1)
    auprc = float(np.sum(np.diff(true) * precision) / true[-1])
    return auroc, auprc, float(fpr[true >= 0.95 * true[-1]][0])


def roc(inlier_scores: Tensor, outlier_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The ROC curve: false-positive and true-positive rate at each threshold, from (0, 0) to (1, 1).

    >>> roc(torch.tensor([0.0, 1.0]), torch.tensor([2.0]))
    (tensor([0.0000, 0.0000, 0.5000, 1.0000], dtype=torch.float64), tensor([0., 1., 1., 1.], dtype=torch.float64))
    """
    inliers, outliers = scores("inlier_scores", inlier_scores), scores("outlier_scores", outlier_scores)
    thresholds = torch.cat([inliers, outliers]).unique().flip(0)
    rates = []
    for values in (inliers, outliers):
        below = torch.searchsorted(values.sort().values, thresholds, right=False)
        rates.append(torch.cat([torch.zeros(1, dtype=torch.float64), 1 - below.double() / len(values)]))
    return rates[0], rates[1]


@dataclass(frozen=True)
class Threshold:
    """Images with a score above `value` are flagged as outliers.

    - `false_positive_rate`: at most this share of further inliers is flagged, on average over held-out sets.
    - `n`: held-out images that it was set by.
    """

    value: float
    false_positive_rate: float
    n: int

    def flags(self, image_scores: Tensor) -> Tensor:
        """Whether each image is flagged, `(N,)`."""
        return scores("image_scores", image_scores) > self.value


def threshold(held_out_scores: Tensor, false_positive_rate: float = 0.05) -> Threshold:
    r"""The threshold that flags a share of inliers, from held-out ones: a split-conformal quantile.

    .. math:: t = s_{(\lceil (n + 1)(1 - \alpha) \rceil)}, \qquad P(s > t) \le \alpha

    for a further inlier, which is exchangeable with the n held-out ones, whatever the distribution of scores. No
    outlier is needed. The training images must not be among them, whose scores are lower.

    Args:
        held_out_scores: of inliers, `(n,)`.
        false_positive_rate: :math:`\alpha`.

    Source: Vovk et al., "Algorithmic learning in a random world", 2005; for outliers Bates et al., "Testing for
    outliers with conformal p-values", 2023, https://arxiv.org/abs/2104.08279

    >>> threshold(torch.arange(99.0), 0.05).value
    94.0
    """
    values = scores("held_out_scores", held_out_scores)
    rate = checks.positive("false_positive_rate", false_positive_rate)
    rank = math.ceil((len(values) + 1) * (1 - rate) - 1e-9)  # the product may round up beyond a whole number
    if rate >= 1 or rank > len(values):
        least = math.ceil(1 / rate - 1e-9) - 1
        expected = f"a share below 1, and at least {least} held-out images for it ({len(values)} here)"
        raise checks.fail("false_positive_rate", false_positive_rate, expected)
    return Threshold(values.sort().values[max(rank, 1) - 1].item(), rate, len(values))


@dataclass(frozen=True)
class FlaggedShare:
    """The share of images that are flagged, and its 95 % interval (Clopper and Pearson)."""

    n: int
    share: float
    interval: Interval


def flagged_share(flags: Tensor) -> FlaggedShare:
    """The share of flagged images: of inliers the false-positive rate, of outliers the true-positive rate.

    >>> flagged_share(torch.tensor([True, False, False, False])).share
    0.25
    """
    from scipy.stats import binomtest

    values = checks.tensor("flags", flags).cpu()
    if values.dtype != torch.bool or values.dim() != 1 or not len(values):
        raise checks.fail("flags", flags, "a boolean for each image, shape (N,)")
    low, high = binomtest(int(values.sum()), len(values)).proportion_ci()
    return FlaggedShare(len(values), values.double().mean().item(), (float(low), float(high)))
