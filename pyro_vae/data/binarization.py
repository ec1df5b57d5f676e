"""Grey levels -> pixels that are black or white."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.batches import to_unit
from pyro_vae.data.images import Images
from pyro_vae.data.noise import uniform_noise
from pyro_vae.spec import BINARIZATIONS


def fixed_binarization(how: str) -> str:
    """The binarization for evaluation: `static`, one draw per image for all models, in place of `dynamic`."""
    return "static" if how == "dynamic" else how


def binarize(images: Images, how: str, seed: int = 0) -> Images:
    """The images with black and white pixels, 0 or 255, binarized once.

    `static` draws each pixel as Bernoulli(grey level / 255), once (Larochelle and Murray, 2011). The draw depends on
    the image itself and on `seed` (:func:`~pyro_vae.data.noise.uniform_noise`), not on its position: a subset, another
    order or another split has the same pixels of the same image, and copies of an image are drawn alike. Training and
    evaluation leave `seed` at 0, so that all runs are of the same data; these are not the pixels of the binarized MNIST
    that others distribute. `threshold` takes 1 from a grey level of 1/2. `none` and `dynamic` (redrawn in each batch,
    see :func:`pyro_vae.data.batches.batches`) leave the images as they are.

    Log-likelihoods under different binarizations are of different data, and not comparable. There is a warning where
    pixels hold only 0 and 1, which as grey levels are nearly black.

    >>> grey = Images(torch.full((3, 1, 8, 8), 64, dtype=torch.uint8))
    >>> binarize(grey, "static").pixels.unique()
    tensor([  0, 255], dtype=torch.uint8)
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
        drawn = [_drawn(part, seed) for part in images.pixels.split(1024)]
        return replace(images, pixels=torch.cat(drawn).to(images.pixels.device))
    return images


def _drawn(pixels: Tensor, seed: int) -> Tensor:
    """255 with probability grey level / 255: where a uniform draw lies below it; never at 0, always at 255."""
    return (uniform_noise(pixels, seed) < to_unit(pixels.cpu())).to(torch.uint8) * 255
