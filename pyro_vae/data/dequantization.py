"""Grey levels -> real numbers: with uniform noise, a density gives a bound on the probability of the levels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.data.batches import dequantized
from pyro_vae.data.images import Images
from pyro_vae.data.noise import uniform_noise

SEED = 256  # of the noise that evaluation adds; the same for all models


def dequantize(images: Images) -> Tensor:
    r"""All images with uniform noise, as evaluation sees them under `dequantize`: float32 in [0, 1), `(N, C, H, W)`.

    .. math:: x = \frac{k + u}{256}, \qquad u \sim U[0, 1)

    Each pixel of level k gets one draw u, which depends on the image itself and not on its position
    (:func:`~pyro_vae.data.noise.uniform_noise`). The mean log-density of x, minus log 256 for each pixel, is a lower
    bound on the log-probability of the levels.

    Source: Theis et al., "A note on the evaluation of generative models", 2016, section 3.1,
    https://arxiv.org/abs/1511.01844

    >>> x = dequantize(Images(torch.full((3, 1, 8, 8), 255, dtype=torch.uint8)))
    >>> bool(((x >= 255 / 256) & (x < 1)).all())
    True
    """
    return dequantized_once(images.pixels)


def dequantized_once(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 grey levels with the noise that evaluation adds, on the device of the pixels."""
    return dequantized(pixels, dtype, uniform_noise(pixels, SEED).to(pixels.device))
