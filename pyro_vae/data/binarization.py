"""Grey levels -> pixels that are black or white."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from pyro_vae import checks
from pyro_vae.data.images import Images
from pyro_vae.device import to_unit
from pyro_vae.spec import BINARIZATIONS


def fixed_binarization(how: str) -> str:
    """What evaluation makes of `dynamic`: one draw of each image, the same for all models, which is `static`."""
    return "static" if how == "dynamic" else how


def binarize(images: Images, how: str, seed: int = 0) -> Images:
    """Pixels that are 0 or 255, once and for all.

    `static` draws each pixel as Bernoulli(grey level / 255), once, from `seed` (Larochelle and Murray, 2011); training
    and evaluation leave `seed` at 0, so that all runs are of the same data. `threshold` takes 1 from a grey level of
    1/2. `none` and `dynamic` (redrawn in each batch, see :func:`pyro_vae.device.batches`) change nothing here.

    Log-likelihoods under different binarizations are of different data, and not comparable. Pixels that hold only 0 and
    1, which are nearly black, are warned of.
    """
    checks.one_of("binarization", how, BINARIZATIONS)
    if how != "none" and int(images.pixels.max()) == 1:
        warnings.warn(
            f"{images.name}: the pixels hold only 0 and 1, of grey levels up to 255, so {how!r} leaves next to nothing "
            "of them; multiply them by 255",
            stacklevel=2,
        )
    if how == "threshold":
        return replace(images, pixels=(images.pixels >= 128).to(torch.uint8) * 255)
    if how == "static":
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            to_unit(part).bernoulli(generator=generator).to(torch.uint8) for part in images.pixels.cpu().split(1024)
        ]
        return replace(images, pixels=torch.cat(drawn).to(images.pixels.device) * 255)
    return images
