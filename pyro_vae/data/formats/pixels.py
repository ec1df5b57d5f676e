"""Stored numbers -> grey levels from 0 to 255 of shape `(N, C, H, W)`."""

from __future__ import annotations

import numpy as np

from pyro_vae._utils import checks

_DARK = 64  # of 256 grey levels: images whose brightest pixel is below it are probably on another scale


def channels_first(shape: tuple[int, ...], what: str) -> tuple[tuple[int, int, int, int], tuple[int, ...]]:
    """`(N, C, H, W)`, and the axes of it that a stored shape has, in stored order.

    Stored shapes are `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`.
    """
    sizes: tuple[int, ...] = shape
    axes: tuple[int, ...] = (0, 1, 2, 3)
    if len(shape) == 3:
        sizes, axes = (shape[0], 1, *shape[1:]), (0, 2, 3)
    elif len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        sizes, axes = (shape[0], shape[3], *shape[1:3]), (0, 2, 3, 1)
    if len(sizes) != 4 or sizes[1] not in (1, 3):
        raise checks.fail(what, shape, "shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3")
    if 0 in sizes:
        raise checks.fail(what, shape, "at least one image of at least one pixel")
    return sizes, axes


def check_dtype(dtype: np.dtype, what: str) -> None:
    """Pixels are booleans, uint8, uint16 or floats."""
    if dtype.kind not in "bf" and not (dtype.kind == "u" and dtype.itemsize <= 2):
        raise checks.fail(what, dtype.name, "uint8, or floats in [0, 1] (or uint16, or bool)")


def evident_bits(highest: int, notes: list[str]) -> int:
    """The bit depth of 16-bit pixels, of which cameras and scanners use 8, 10, 12, 14 or 16; noted if below 16."""
    bits = next(bits for bits in (8, 10, 12, 14, 16) if highest < 2**bits)
    if bits < 16:
        notes.append(f"pixels of 16 bits reach {highest:,} and are taken as {bits}-bit values, up to {2**bits - 1:,}")
    return bits


def to_levels(block: np.ndarray, bits: int, what: str) -> np.ndarray:
    """A block of pixels as uint8: the upper 8 of more bits, and for floats the nearest of 256 levels."""
    if block.dtype.kind == "b":
        return block.astype(np.uint8) * np.uint8(255)
    if block.dtype.kind == "f":
        return _rounded(block, what)
    return block if block.dtype == np.uint8 else (block >> (bits - 8)).astype(np.uint8)


def _rounded(block: np.ndarray, what: str) -> np.ndarray:
    lowest, highest = float(block.min()), float(block.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise checks.fail(what, "NaN or infinity among the pixels", "floats in [0, 1]")
    rounding = max(1e-6, float(np.finfo(block.dtype).eps))
    if lowest < -rounding or highest > 1 + rounding:
        raise checks.fail(what, f"pixels from {lowest:g} to {highest:g}", "floats in [0, 1], or uint8")
    scaled = block * block.dtype.type(255)
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def stretch_binary(pixels: np.ndarray, whole_numbers: bool, notes: list[str]) -> None:
    """In place: pixels that are only 0 and 1 become black and white; a set that is dark otherwise is noted."""
    highest = int(pixels.max())
    if highest == 1 and whole_numbers:
        pixels *= 255
        notes.append("the pixels hold only 0 and 1, which are taken as black and white")
    elif highest < _DARK:
        notes.append(f"the images are dark: their brightest pixel is {highest} of 255")
