"""Standard errors by leaving images out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae._utils import checks


def jackknife_se(statistic: Callable[..., float], *samples: Tensor, groups: int = 20, seed: int = 0) -> float:
    r"""The standard error of a statistic of one or several independent samples, by the delete-a-group jackknife.

    .. math:: \mathrm{SE}^2 = \frac{G - 1}{G} \sum_{g=1}^G (t_{-g} - \bar t_{-})^2

    Each sample is cut at random into G = `groups` groups; :math:`t_{-g}` is the statistic without the g-th group of any
    sample. Nothing is drawn twice, so a statistic of nearest neighbours or of covariances is not disturbed by copies,
    as in a bootstrap. The standard error has a relative error of about :math:`1/\sqrt{2(G - 1)}`, and is up to
    :math:`\sqrt 2` too large for a squared distance of samples of one distribution.

    Args:
        statistic: takes as many tensors as `samples` has, with fewer rows.
        samples: tensors whose rows are independent draws.
        groups: at least 2 and at most the rows of the smallest sample.
        seed: of the groups.

    Source: Efron and Stein, "The jackknife estimate of variance", 1981, https://doi.org/10.1214/aos/1176345462

    >>> x = torch.arange(20.0)
    >>> se = jackknife_se(lambda x: x.mean().item(), x)
    >>> round(se, 4) == round(x.std().item() / 20**0.5, 4)
    True
    """
    groups = checks.positive_integer("groups", groups)
    samples = tuple(checks.tensor("samples", sample) for sample in samples)
    if not samples or min(sample.dim() for sample in samples) == 0:
        raise checks.fail("samples", samples, "at least one tensor with a row per image")
    rows = min(len(sample) for sample in samples)
    if not 2 <= groups <= rows:
        raise checks.fail("groups", groups, f"a whole number from 2 to {rows}, the rows of the smallest sample")
    generator = torch.Generator().manual_seed(checks.seed("seed", seed))
    group_of = [torch.randperm(len(sample), generator=generator) % groups for sample in samples]
    values = [
        statistic(*(sample[group != left_out] for sample, group in zip(samples, group_of, strict=True)))
        for left_out in range(groups)
    ]
    deviations = torch.tensor(values, dtype=torch.float64)
    deviations -= deviations.mean()
    return ((groups - 1) / groups * deviations.square().sum()).sqrt().item()
