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
    - `kl_lower_nats`: a lower bound on KL(codes || draws), in expectation, by the classifier's log-odds. It can be
      below 0, by the noise of the held-out points, and hardly exceeds the logarithm of their number.
    - `kl_lower_se`: its standard error, by the delta method.
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
    the held-out points (Donsker and Varadhan, 1983),

    .. math:: \mathrm{KL}(q \,\|\, p) \ge \mathbb E_q[T(z)] - \log \mathbb E_p[e^{T(z)}]

    with equality at the logarithm of the ratio. This needs no density of either, and so serves where q(z|x) is a point,
    or the prior is only sampled; unlike a nearest-neighbour estimate it does not grow biased with the dimension, but
    errs on one side.

    Args:
        codes: a sample of q, `(N, d)`.
        draws: a sample of p, `(M, d)`; of the larger sample a part is used, so that both have the same size.
        seed: of the split, and of the classifier's training.

    Raises:
        InputError: samples of different dimensions, or of fewer than 20 points.

    Source: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017, https://arxiv.org/abs/1610.06545

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
    log_odds = _log_odds((train - mean) / deviation, (test - mean) / deviation, seed)
    of_q, of_p = log_odds.chunk(2)
    n = len(log_odds)
    correct = int((of_q > 0).sum() + (of_p <= 0).sum())
    accuracy = correct / n
    log_mean = of_p.logsumexp(0) - math.log(len(of_p))
    ratios = (of_p - log_mean).exp()  # of mean 1
    return TwoSampleTest(
        accuracy=accuracy,
        accuracy_se=math.sqrt(accuracy * (1 - accuracy) / n),
        p_value=float(binom.sf(correct - 1, n, 0.5)),
        kl_lower_nats=(of_q.mean() - log_mean).item(),  # (eq. 15.8)
        kl_lower_se=((of_q.var() + ratios.var()) / len(of_q)).sqrt().item(),
        n=n,
    )


def _log_odds(train: Tensor, test: Tensor, seed: int) -> Tensor:
    """log P(code) / P(draw) of the test points; of either sample the first half are codes."""
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
    probabilities = torch.from_numpy(classifier.predict_proba(test.numpy())).double()
    return probabilities[:, 1].logit(1e-15)
