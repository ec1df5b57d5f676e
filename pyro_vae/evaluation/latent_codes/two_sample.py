"""A classifier two-sample test: can the codes of images be told from draws of the prior?"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True)
class TwoSampleTest:
    r"""How well a classifier tells two samples apart, on `n` held-out points, half of them of each.

    - `accuracy`: share of them that it is right about; 1/2 where the distributions are the same.
    - `accuracy_se`: its standard error, :math:`\sqrt{a (1 - a) / n}`.
    - `p_value`: that of an accuracy as high or higher, by guessing.
    - `kl_lower_nats`: a lower bound on KL(codes || draws), in expectation over the held-out points, by the
      classifier's log-odds. It can be below 0, by their noise or a poor classifier, and does not exceed the logarithm
      of the number of training draws by more than 1: of a larger KL it says no more than that.
    - `kl_lower_se`: its standard error, over the held-out points.
    """

    accuracy: float
    accuracy_se: float
    p_value: float
    kl_lower_nats: float
    kl_lower_se: float
    n: int


def two_sample_test(codes: Tensor, draws: Tensor, *, seed: int = 0) -> TwoSampleTest:
    r"""Trains a classifier on half of two samples, and tests on the other half whether it does better than guessing.

    The classifier is a network of two hidden layers of 64 units, of standardized codes; its training stops when it no
    longer gets better on a tenth of its half. A point's class is drawn with
    probability 1/2, so its log-odds T(z) estimate :math:`\log q(z) / p(z)`. For any function T that does not depend on
    the held-out points (Nguyen, Wainwright and Jordan, 2010),

    .. math:: \mathrm{KL}(q \,\|\, p) \ge 1 + \mathbb E_q[T(z)] - \mathbb E_p[e^{T(z)}]

    with equality at the logarithm of the ratio. Both expectations are means over the held-out points, without bias. Of
    the training half are the constant that is taken off the log-odds, so that the mean of :math:`e^T` over its draws is
    1, and the logarithm of the number of its draws, at which T is cut off: so many draws tell nothing of larger ratios.
    This needs no density of either, and so serves where q(z|x) is a point, or the prior is only sampled; unlike a
    nearest-neighbour estimate it does not grow biased with the dimension, but errs on one side.

    Args:
        codes: a sample of q, `(N, d)`.
        draws: a sample of p, `(M, d)`; of the larger sample a part is used, so that both have the same size.
        seed: of the split, and of the classifier's training.

    Raises:
        InputError: samples of different dimensions, or of fewer than 20 points.

    Source: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017, https://arxiv.org/abs/1610.06545;
    Nguyen, Wainwright and Jordan, "Estimating divergence functionals and the likelihood ratio by convex risk
    minimization", 2010, https://arxiv.org/abs/0809.0853; for the cut-off, McAllester and Stratos, "Formal limitations
    on the measurement of mutual information", 2020, https://arxiv.org/abs/1811.04251

    >>> codes, draws = torch.randn(2, 2000, 2, generator=torch.Generator().manual_seed(0))
    >>> two_sample_test(codes, draws).p_value > 0.01, two_sample_test(codes + 1, draws).accuracy > 0.7
    (True, True)
    """
    q, p = (check_features(name, values, least=20) for name, values in (("codes", codes), ("draws", draws)))
    if q.shape[1] != p.shape[1]:
        raise checks.fail("draws", f"{p.shape[1]} dimensions", f"{q.shape[1]}, as codes have")
    generator = torch.Generator().manual_seed(checks.seed("seed", seed))
    size = min(len(q), len(p))
    q, p = (sample[torch.randperm(len(sample), generator=generator)[:size]] for sample in (q, p))
    half = size // 2
    train, test = ((torch.cat([q[rows], p[rows]])) for rows in (slice(0, half), slice(half, None)))
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-12)
    of_train, of_test = _log_odds((train - mean) / deviation, (test - mean) / deviation, seed)
    of_q, of_p = of_test.chunk(2)
    n = len(of_test)
    correct = int((of_q > 0).sum() + (of_p <= 0).sum())
    accuracy = correct / n
    kl_lower, kl_lower_se = kl_lower_bound(of_q, of_p, training_draws=of_train[half:])
    return TwoSampleTest(
        accuracy=accuracy,
        accuracy_se=math.sqrt(accuracy * (1 - accuracy) / n),
        p_value=float(binom.sf(correct - 1, n, 0.5)),
        kl_lower_nats=kl_lower,
        kl_lower_se=kl_lower_se,
        n=n,
    )


def kl_lower_bound(of_q: Tensor, of_p: Tensor, training_draws: Tensor) -> tuple[float, float]:
    """The lower bound on KL(q || p) in nats, and its standard error, by log-odds `(n,)` of held-out codes and draws.

    `training_draws` are the log-odds of draws of p that are none of the held-out ones.
    """
    largest = math.log(len(training_draws))
    shift = training_draws.logsumexp(0) - largest  # log mean e^T
    t_of_q, t_of_p = ((log_odds - shift).clamp(max=largest) for log_odds in (of_q, of_p))
    ratios = t_of_p.exp()
    bound = 1 + t_of_q.mean() - ratios.mean()  # (eq. 15.8)
    return bound.item(), (t_of_q.var() / len(t_of_q) + ratios.var() / len(ratios)).sqrt().item()


def _log_odds(train: Tensor, test: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """log P(code) / P(draw) of the training and of the test points; of either the first half are codes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    labels = torch.arange(len(train)) < len(train) // 2
    batch_size = min(200, max(16, len(train) // 20))
    classifier = MLPClassifier(
        (64, 64), batch_size=batch_size, early_stopping=True, max_iter=100, random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 passes are enough of a training
        classifier.fit(train.numpy(), labels.numpy())
    of_train, of_test = (
        torch.from_numpy(classifier.predict_proba(points.numpy())[:, 1]).double().logit(1e-15)
        for points in (train, test)
    )
    return of_train, of_test
