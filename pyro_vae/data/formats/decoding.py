"""Picture files -> arrays. Imports no torch, so that worker processes start quickly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pyro_vae._utils import checks

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")  # MPO, of cameras, is opened as JPEG
FEW = 2_000  # pictures: fewer are decoded sooner than worker processes start
_SMALL = 2**24  # bytes of files, likewise
_IDLE_SECONDS = 10  # after which worker processes end
_AT_ONCE = 256  # pictures sent to a worker process at a time, or fewer large ones


class Decoded(NamedTuple):
    """The first frame of a picture file, upright."""

    levels: np.ndarray  # (H, W) or (H, W, 3); uint8, or uint16 where the file has one channel of 16 bits
    frames: int = 1
    transparent: bool = False


def decode(path: str) -> Decoded:
    """Reads a picture file: transparent parts are laid on black; colours of more than 8 bits are cut to the upper 8."""
    try:
        # Opened by name, Pillow would map uncompressed pixels into memory, and then rotates TIFF files wrongly.
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as picture:
            frames = getattr(picture, "n_frames", 1)
            upright = ImageOps.exif_transpose(picture)
            levels, transparent = _levels(upright, path)
            return Decoded(levels, frames, transparent)
    except checks.InputError:
        raise
    except Exception as error:  # whatever a damaged file raises: OSError, SyntaxError, struct.error, ...
        raise checks.fail("dataset", path, f"a readable image ({error})") from error


def _levels(picture: Image.Image, path: str) -> tuple[np.ndarray, bool]:
    if picture.mode == "F":
        raise checks.fail("dataset", f"{path} of mode F", "8 or 16 bits per channel")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() >= 2**16:
            raise checks.fail("dataset", f"{path} of mode {picture.mode}", "8 or 16 bits per channel")
        return deep.astype(np.uint16), False
    grey = picture.mode in ("1", "L", "LA", "La")
    transparent = False
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        transparent = whole.getchannel("A").getextrema() != (255, 255)
        picture = Image.alpha_composite(Image.new("RGBA", whole.size, "black"), whole)
    return np.asarray(picture.convert("L" if grey else "RGB")), transparent


def decode_all(paths: Sequence[str], num_bytes: int) -> Iterator[Decoded]:
    """The pictures in order; many, or large ones, are decoded in parallel on all cores.

    Processes rather than threads, because decoding small pictures is mostly Python code, which holds the interpreter
    lock. They are joblib's, which needs no `if __name__ == "__main__"` in the calling program.
    """
    if len(paths) < FEW and num_bytes < _SMALL:
        yield from map(decode, paths)
        return
    from joblib import Parallel, delayed

    at_once = max(1, min(_AT_ONCE, len(paths) * 2**22 // max(1, num_bytes)))
    parts = [paths[start : start + at_once] for start in range(0, len(paths), at_once)]
    pool = Parallel(n_jobs=-1, return_as="generator", idle_worker_timeout=_IDLE_SECONDS)
    for pictures in pool(delayed(_decode_some)(part) for part in parts):
        yield from pictures


def _decode_some(paths: Sequence[str]) -> list[Decoded]:
    return [decode(path) for path in paths]


def stack(pictures: Iterator[Decoded], paths: Sequence[str], rows: np.ndarray, notes: list[str]) -> np.ndarray:
    """uint8 pixels `(N, C, H, W)`, the i-th picture in row `rows[i]`; one channel if all pictures are grey."""
    from pyro_vae.data.formats.pixels import evident_bits

    pixels = np.empty((0, 1, 0, 0), np.uint8)
    deep: dict[int, np.ndarray] = {}
    frames, animated, transparent = 0, 0, 0
    for path, row, picture in zip(paths, rows, pictures, strict=True):
        height, width = picture.levels.shape[:2]
        channels = 3 if picture.levels.ndim == 3 else 1
        if not len(pixels):
            pixels = np.empty((len(paths), channels, height, width), np.uint8)
        if (height, width) != pixels.shape[2:]:
            first = f"{os.path.basename(paths[0])} has {pixels.shape[3]}x{pixels.shape[2]}"
            raise checks.fail("dataset", f"{path} of {width}x{height} pixels", f"images of one size; {first}")
        if channels > pixels.shape[1]:
            pixels = np.repeat(pixels, 3, axis=1)
        if picture.levels.dtype == np.uint16:
            deep[row] = picture.levels
        else:
            pixels[row] = picture.levels.transpose(2, 0, 1) if channels == 3 else picture.levels
        frames, animated = frames + picture.frames - 1, animated + (picture.frames > 1)
        transparent += picture.transparent
    if deep:
        shift = evident_bits(max(int(levels.max()) for levels in deep.values()), notes) - 8
        for row, levels in deep.items():
            pixels[row] = levels >> shift
    if frames:
        notes.append(f"frames left out: {frames:,}, all but the first of {animated:,} files")
    if transparent:
        notes.append(f"images with transparent parts, taken as black: {transparent:,}")
    return pixels
