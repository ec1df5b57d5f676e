"""Images with known factors of variation, generated: shape, scale, rotation, x and y."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.images import Images

FACTORS = ("shape", "scale", "rotation", "x", "y")
SHAPES = ("square", "ellipse", "triangle")
_LEVELS = (3, 6, 8, 16, 16)  # how many values each factor takes


class Sprites(NamedTuple):
    """The images, labelled by shape, and the index of each factor's value: int64 `(N, 5)`, as in `FACTORS`."""

    images: Images
    factors: Tensor


def sprites(n: int, size: int = 32, seed: int = 0) -> Sprites:
    """White shapes on black, each factor drawn uniformly and independently, after dSprites (Matthey et al., 2017).

    Rotations go up to a quarter turn, below which no shape looks the same twice.

    Args:
        n: images.
        size: height and width in pixels, at least 16.
        seed: of the factors.

    >>> images, factors = sprites(10)
    >>> images.shape, factors.shape
    ((1, 32, 32), torch.Size([10, 5]))
    """
    checks.positive_integer("n", n)
    if isinstance(size, bool) or not isinstance(size, int) or size < 16:
        raise checks.fail("size", size, "a whole number of at least 16")
    generator = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.randint(0, levels, (n,), generator=generator) for levels in _LEVELS], 1)
    pixels = torch.cat([_draw(part, size) for part in factors.split(max(1, 512 * 32**2 // size**2))])
    return Sprites(Images(pixels, factors[:, 0].clone(), "sprites", SHAPES), factors)


def _draw(factors: Tensor, size: int, oversampling: int = 4) -> Tensor:
    kind, scale, rotation, x, y = factors.double()[:, :, None, None].unbind(1)
    radius = 0.12 + 0.08 * scale / (_LEVELS[1] - 1)
    angle = rotation / _LEVELS[2] * math.pi / 2
    # Centres keep the largest shape within the picture.
    centre_x, centre_y = (0.28 + 0.44 * value / (levels - 1) for value, levels in ((x, _LEVELS[3]), (y, _LEVELS[4])))
    axis = (torch.arange(size * oversampling, dtype=torch.float64) + 0.5) / (size * oversampling)
    right, down = axis[None, None, :] - centre_x, axis[None, :, None] - centre_y
    u = (angle.cos() * right + angle.sin() * down) / radius
    v = (angle.cos() * down - angle.sin() * right) / radius
    inside = torch.stack(
        [
            (u.abs() < 0.9) & (v.abs() < 0.9),
            u.square() + (v / 0.5).square() < 1,
            (v < 0.7) & (v > 2 * u.abs() - 1.2),
        ],
        1,
    )
    chosen = inside.gather(1, kind.long()[:, None].expand(-1, 1, *inside.shape[2:]))
    return (torch.nn.functional.avg_pool2d(chosen.float(), oversampling) * 255).round().to(torch.uint8)
