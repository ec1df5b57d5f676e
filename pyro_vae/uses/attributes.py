"""Attributes of images measured by moments, and images along a direction of code space, with the prior's density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.latent import decode_codes
from pyro_vae.models import Model, require_prior
from pyro_vae.models.base import device_of, dtype_of, evaluating

MEASURED = ("intensity", "thickness", "slant", "width", "height")


def measured_attributes(images: Tensor) -> dict[str, Tensor]:
    r"""Attributes of strokes on black ground, float64 `(N,)` each, in pixels; NaN where an image is black.

    With m the sum of the pixels, and variances and covariance of their positions, each weighted by its pixel:

    - `intensity`: m.
    - `thickness`: :math:`2 m / \sum |\nabla x|`, twice the area over the length of the edges: of a bar w wide and h
      high it is :math:`w h / (w + h)`, which is near w where the stroke is long.
    - `slant`: :math:`-\mathrm{Cov}(\text{column}, \text{row}) / \mathrm{Var}(\text{row})`, the columns to the right per
      row upwards.
    - `height`: :math:`4\, \mathrm{sd}(\text{row})`; `width`: four times the sd of the columns about the slanted axis.

    Args:
        images: in [0, 1], `(N, C, H, W)`; the channels are averaged.

    Source: after Castro et al., "Morpho-MNIST", 2019, https://arxiv.org/abs/1809.08823, who measure thickness, width
    and height along a skeleton and a box.

    >>> bar = torch.zeros(1, 1, 20, 20)
    >>> bar[..., 2:18, 8:12] = 1.0  # upright, 4 wide and 16 high
    >>> {name: round(value.item(), 1) for name, value in measured_attributes(bar).items() if name != "intensity"}
    {'thickness': 3.2, 'slant': 0.0, 'width': 4.5, 'height': 18.4}
    """
    x = checks.tensor("images", images).cpu()
    if x.dim() != 4 or not x.is_floating_point() or 0 in x.shape:
        raise checks.fail("images", images, "floats in [0, 1] of shape (N, C, H, W)")
    x = x.double().mean(1)
    mass = x.sum((1, 2))
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in x.shape[1:])

    def mean(values: Tensor) -> Tensor:
        return (x * values).sum((1, 2)) / mass

    row, column = rows[:, None] - mean(rows[:, None])[:, None, None], columns - mean(columns)[:, None, None]
    var_row, var_column, covariance = mean(row.square()), mean(column.square()), mean(row * column)
    # A single row has no slant.
    slope = torch.where(var_row > 0, covariance / var_row.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    down, across = padded.diff(dim=1)[:, :, :-1], padded.diff(dim=2)[:, :-1]
    edges = (down.square() + across.square()).sqrt().sum((1, 2))
    return {
        "intensity": mass,
        "thickness": 2 * mass / edges,
        "slant": torch.where(mass > 0, 0.0 - slope, torch.nan),
        "width": 4 * (var_column - slope * covariance).clamp(min=0).sqrt(),
        "height": 4 * var_row.sqrt(),
    }


@dataclass(frozen=True, eq=False)
class Traversal:
    """Codes moved along a direction.

    - `amounts`: by how much, `(A,)`; `codes`: `(N, A, d)`; `images`: the means of p(x|z), `(N, A, C, H, W)`.
    - `log_prior`: log p(z) of each code, nats, `(N, A)`: where it is far below that of other codes, the decoder has
      seen next to none there.
    """

    amounts: Tensor
    codes: Tensor
    images: Tensor
    log_prior: Tensor


def traverse(model: Model, codes: Tensor, direction: Tensor, amounts: Tensor) -> Traversal:
    """Decodes codes `(N, d)`, each moved by every amount `(A,)` times a direction `(d,)`.

    Raises:
        InputError: a model without a density of its prior, or shapes that do not go together.

    >>> from pyro_vae import Spec, build
    >>> codes, direction = torch.zeros(3, 2), torch.tensor([1.0, 0.0])
    >>> moved = traverse(build(Spec(latent_dim=2)), codes, direction, torch.linspace(-2, 2, 5))
    >>> moved.images.shape, moved.log_prior.shape
    (torch.Size([3, 5, 1, 8, 8]), torch.Size([3, 5]))
    """
    vae = require_prior(model)
    start = checks.matrix("codes", codes)
    v, by = checks.tensor("direction", direction).cpu(), checks.tensor("amounts", amounts).cpu()
    if v.shape != start.shape[1:]:
        raise checks.fail("direction", direction, f"a direction of shape ({start.shape[1]},), as codes have")
    if by.dim() != 1 or not len(by):
        raise checks.fail("amounts", amounts, "numbers of shape (A,)")
    moved = start.double()[:, None] + by.double()[:, None] * v.double()
    flat = moved.flatten(0, 1).to(dtype_of(vae))
    images = decode_codes(vae, flat)
    with evaluating(vae):
        log_prior = vae.prior().log_prob(flat.to(device_of(vae))).cpu().double()
    shape = moved.shape[:2]
    return Traversal(by, moved, images.unflatten(0, shape), log_prior.unflatten(0, shape))
