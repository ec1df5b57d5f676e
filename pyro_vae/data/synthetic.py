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
LEVELS = (3, 6, 8, 16, 16)  #: how many values each factor takes


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
    _check_size(size)
    generator = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.randint(0, levels, (n,), generator=generator) for levels in LEVELS], 1)
    return sprites_of(factors, size)


def all_factors() -> Tensor:
    """The factors of each sprite that there is, int64 `(36864, 5)`.

    >>> all_factors()[-1].tolist()
    [2, 5, 7, 15, 15]
    """
    return torch.cartesian_prod(*map(torch.arange, LEVELS))


def sprites_of(factors: Tensor, size: int = 32) -> Sprites:
    """The sprites with these factors, whole numbers `(N, 5)` from 0 to below `LEVELS`.

    >>> sprites_of(torch.tensor([[0, 5, 0, 8, 8]])).images.pixels.max().item()
    255
    """
    factors = checks.matrix("factors", factors)
    expected = f"whole numbers of shape (N, {len(LEVELS)}), from 0 to below {LEVELS}"
    if factors.is_floating_point() or factors.shape[1] != len(LEVELS):
        raise checks.fail("factors", factors, expected)
    if bool(((factors < 0) | (factors >= torch.tensor(LEVELS))).any()):
        raise checks.fail("factors", factors, expected)
    _check_size(size)
    factors = factors.long()
    pixels = torch.cat([_draw(part, size) for part in factors.split(max(1, 512 * 32**2 // size**2))])
    return Sprites(Images(pixels, factors[:, 0].clone(), "sprites", SHAPES), factors)


def _check_size(size: object) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 16:
        raise checks.fail("size", size, "a whole number of at least 16")


def _draw(factors: Tensor, size: int, oversampling: int = 4) -> Tensor:
    kind, scale, rotation, x, y = factors.double()[:, :, None, None].unbind(1)
    radius = 0.12 + 0.08 * scale / (LEVELS[1] - 1)
    angle = rotation / LEVELS[2] * math.pi / 2
    # Centres keep the largest shape within the picture.
    centre_x, centre_y = (0.28 + 0.44 * value / (levels - 1) for value, levels in ((x, LEVELS[3]), (y, LEVELS[4])))
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
