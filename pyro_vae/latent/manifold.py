"""A two-dimensional latent space, decoded on a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.latent.encode import decode_codes
from pyro_vae.models import Model
from pyro_vae.models.base import check_model
from pyro_vae.programs.densities import has_parts


def manifold(model: Model, size: int = 20, *, spacing: str = "even", limit: float = 3.0) -> Tensor:
    """A 2-d latent space decoded on a `size x size` grid: `(size, size, C, H, W)`, first axis z_2 from high to low.

    Args:
        model: a model with a 2-d latent space.
        size: points along each axis.
        spacing: `even` from -`limit` to `limit`; `quantiles` through the inverse normal CDF, so that each picture
            stands for an equal share of a standard normal prior.
        limit: half the width of the even grid.
    """
    check_model(model, "decode" if has_parts(model) else "model")
    size = checks.positive_integer("size", size)
    limit = checks.positive("limit", limit)
    checks.one_of("spacing", spacing, ("even", "quantiles"))
    if spacing == "even":
        axis = torch.linspace(-limit, limit, size)
    else:
        axis = torch.special.ndtri((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    try:
        images = decode_codes(model, torch.stack([first, second], dim=-1).reshape(-1, 2))
    except checks.InputError as error:
        raise checks.fail("model", type(model).__name__, f"a model with a 2-d latent space ({error})") from error
    return images.reshape(size, size, *images.shape[1:])
