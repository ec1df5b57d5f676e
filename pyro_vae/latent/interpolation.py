"""The images on the line between two codes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.latent.encode import decode_codes, location_of
from pyro_vae.models import Model, check_evaluable
from pyro_vae.models.base import device_of, dtype_of, evaluating
from pyro_vae.programs.densities import Densities


def interpolate(model: Model, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
    """Decoded points on the line between the codes of two images `(C, H, W)`, ends included: `(steps, C, H, W)`."""
    steps = checks.positive_integer("steps", steps)
    check_evaluable(model)
    images = [checks.tensor(name, image) for name, image in (("start", start), ("end", end))]
    for name, image in zip(("start", "end"), images, strict=True):
        if image.dim() != 3 or not image.is_floating_point() or image.shape != images[0].shape:
            raise checks.fail(name, image, "an image of floats in [0, 1], of shape (C, H, W), the same for both")
    with evaluating(model):
        try:
            ends = location_of(Densities(model), torch.stack(images).to(device_of(model), dtype_of(model))).cpu()
        except RuntimeError as error:
            raise checks.fail("start", images[0], f"images that the model's encoder takes ({error})") from error
    weight = torch.linspace(0, 1, steps, dtype=ends.dtype)[:, None]
    return decode_codes(model, (1 - weight) * ends[0] + weight * ends[1])
