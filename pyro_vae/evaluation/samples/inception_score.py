"""Scores of a classifier's predictions on generated images: inception score, and confidence relative to real ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True)
class InceptionScore:
    """`mean` and its standard error `se`, `std` over splits (ddof = 0), and `overall`, from all images as one split."""

    mean: float
    se: float
    std: float
    overall: float
    splits: int
    n: int


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> InceptionScore:
    r"""How sure a classifier is of each image, and how varied its answers are.

    .. math:: \exp\, \mathbb E_x\, \mathrm{KL}(p(y|x) \,\|\, p(y)), \qquad 1 \le \text{score} \le C

    The images are shuffled first (sorted ones would make each split one class), then cut into `splits` parts. It is the
    Inception Score only where the logits are those of the 2015-12-05 Inception network; with another classifier it is a
    classifier score. The standard error over images is that of the mean divergence, by the delta method: score x
    sd(KL) / sqrt(n). What a change of p(y) adds is of second order. It does not hold the bias: p(y) of a split is that
    of its own images, so that the score of m images is too low by a factor of about :math:`1 - (C - 1) / (2 m)` or
    less. Compare at one n and one number of splits; `overall`, whose m is n, has the least.

    Source: Salimans et al., "Improved techniques for training GANs", 2016, https://arxiv.org/abs/1606.03498; Barratt
    and Sharma, "A note on the inception score", 2018, https://arxiv.org/abs/1801.01973

    >>> round(inception_score(torch.eye(10).repeat(10, 1) * 100, splits=1).mean, 6)  # sure and balanced
    10.0
    """
    x = check_features("logits", logits, least=1)
    checks.positive_integer("splits", splits)
    if splits > len(x):
        raise checks.fail("splits", splits, f"at most one split per image, of which there are {len(x)}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    log_p = x[order].log_softmax(1)
    edges = [index * len(x) // splits for index in range(splits + 1)]
    scores = torch.tensor([_score(log_p[start:stop]) for start, stop in itertools.pairwise(edges)], dtype=torch.float64)
    mean, overall = scores.mean().item(), _divergences(log_p).mean().exp().item()
    se = mean * _divergences(log_p).std().item() / len(x) ** 0.5 if len(x) > 1 else float("nan")
    return InceptionScore(mean, se, scores.std(correction=0).item(), overall, splits, len(x))


def _score(log_p: Tensor) -> float:
    return _divergences(log_p).mean().exp().item()


def _divergences(log_p: Tensor) -> Tensor:
    """KL(p(y|x) || p(y)) of each image."""
    log_marginal = log_p.logsumexp(0) - torch.tensor(len(log_p), dtype=log_p.dtype).log()
    p = log_p.exp()
    # 0 log 0 = 0, also where the marginal is 0.
    return torch.where(p > 0, p * (log_p - log_marginal), 0.0).sum(1)


def confidence(generated_logits: Tensor, real_logits: Tensor) -> float:
    """Mean top-class probability of a classifier on generated images, over that on real ones; logits `(n, classes)`.

    >>> round(confidence(torch.zeros(3, 2), torch.tensor([[100.0, 0.0]])), 6)  # a coin's toss against certainty
    0.5
    """
    generated, real = _top_probabilities(generated_logits, real_logits, least=1)
    return (generated.mean() / real.mean()).item()


def confidence_se(generated_logits: Tensor, real_logits: Tensor) -> float:
    """The standard error of :func:`confidence` over the images of both, by the delta method for a ratio of means."""
    generated, real = _top_probabilities(generated_logits, real_logits, least=2)
    relative = sum(top.var().item() / len(top) / top.mean().item() ** 2 for top in (generated, real))
    return (generated.mean() / real.mean()).item() * relative**0.5


def _top_probabilities(generated_logits: Tensor, real_logits: Tensor, least: int) -> list[Tensor]:
    named = (("generated_logits", generated_logits), ("real_logits", real_logits))
    return [check_features(name, logits, least).softmax(1).amax(1) for name, logits in named]
