"""Precision, recall, density and coverage: how two samples of features lie in each other's neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.evaluation.generation import check_features


@dataclass(frozen=True)
class Neighbourhoods:
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


def neighbourhoods_from_features(real: Tensor, generated: Tensor, k: int = 5, chunk: int = 1000) -> Neighbourhoods:
    """Precision, recall, density and coverage of features `(n, d)` and `(m, d)`.

    The neighbourhood of an image is the open ball that reaches to its k-th nearest other image of the same sample.
    Distances are Euclidean, in float64, `chunk` rows at a time.

    Source: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019,
    https://arxiv.org/abs/1904.06991; Naeem et al., "Reliable fidelity and diversity metrics for generative models",
    2020, https://arxiv.org/abs/2002.09797, whose conventions (k = 5, open balls) these are.

    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> neighbourhoods_from_features(x, x + 100).precision
    0.0
    """
    checks.positive_integer("k", k)
    real, generated = check_features("real", real, k + 1), check_features("generated", generated, k + 1)
    if real.shape[1] != generated.shape[1]:
        raise checks.fail(
            "generated", f"{generated.shape[1]} features", f"as many as the real images have, {real.shape[1]}"
        )
    real_radius, generated_radius = _radii(real, k, chunk), _radii(generated, k, chunk)
    in_real = torch.zeros(
        len(generated), dtype=torch.int64
    )  # in how many real neighbourhoods each generated image lies
    recalled = covered = 0
    for rows, radius in zip(real.split(chunk), real_radius.split(chunk), strict=True):
        distance = torch.cdist(rows, generated)
        inside = distance < radius[:, None]
        in_real += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distance < generated_radius).any(1).sum())
    return Neighbourhoods(
        precision=(in_real > 0).double().mean().item(),
        recall=recalled / len(real),
        density=in_real.double().mean().item() / k,
        coverage=covered / len(real),
        k=k,
        n=len(real),
        m=len(generated),
    )


def _radii(x: Tensor, k: int, chunk: int) -> Tensor:
    """Distance of each row to its k-th nearest other row; the nearest of all is the row itself."""
    return torch.cat([torch.cdist(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(chunk)])
