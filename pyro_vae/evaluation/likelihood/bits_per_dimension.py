"""Bits per dimension, which are defined for probabilities only."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.data.images import is_binary

Nats = TypeVar("Nats", float, Tensor)


def bits_per_dimension(nll_nats: Nats, dimensions: int, levels_per_unit: int = 1) -> Nats:
    r"""The average code length of one of the `dimensions` = C H W values of an image, in bits.

    .. math:: -\frac{\log p(x)}{D \log 2} + \log_2 L

    For a probability of the image L is 1. For a density of dequantized pixels, `x = (level + u) / 256` with uniform
    noise u, L is 256: the density in units of a level, of which the mean log is a lower bound on the log-probability of
    the levels (Theis et al., 2016, section 3.1, https://arxiv.org/abs/1511.01844). Of a density of pixels that are not
    dequantized the number means nothing: it can be made as small as one likes by a density that is high at the levels.

    >>> bits_per_dimension(0.0, 784, levels_per_unit=256)  # the uniform density: 8 bits for one of 256 levels
    8.0
    """
    dimensions = checks.positive_integer("dimensions", dimensions)
    levels = checks.positive_integer("levels_per_unit", levels_per_unit)
    return nll_nats / (dimensions * math.log(2)) + math.log2(levels)


def why_not_a_probability(data_range: str | None, images: Images, dequantized: bool = False) -> str | None:
    """Why log p(x) of these images is no log-probability, and so has no bits per dimension; None where it is one.

    Args:
        data_range: that of the likelihood.
        images: as they are evaluated, after binarization.
        dequantized: whether uniform noise is added to them.
    """
    if data_range == "256 levels" or (data_range == "unit interval" and dequantized):
        return None
    if data_range == "binary":
        grey = "cross-entropy of grey pixels, not a log-probability: binarize the images"
        return None if is_binary(images.pixels) else grey
    if data_range == "unit interval":
        return (
            "density of pixels with 256 levels, not a probability: dequantize them (--dequantize), or take a "
            "discretized likelihood (--likelihood discretized-logistic)"
        )
    return "the likelihood does not say in `data_range` what its data are"
