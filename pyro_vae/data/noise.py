"""Uniform noise for each pixel that depends on the image itself and on a seed, not on the image's position in a set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks

_STEP = np.uint64(0x9E3779B97F4A7C15)  # of splitmix64: 2^64 over the golden ratio
_CHUNK = 1024  # images at a time, which bounds the memory


def image_keys(pixels: Tensor) -> Tensor:
    """A 64-bit hash of each uint8 image `(N, ...)`, as int64 `(N,)` on the CPU: equal images have equal keys.

    The bytes are read as 64-bit words; each word, offset by its position, goes through splitmix64's mixing function,
    and so does their sum. It isn't a cryptographic hash; among N different images two share a key with a probability
    of about N^2 / 2^65 (1e-10 for 60,000).

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014,
    https://doi.org/10.1145/2714064.2660195

    >>> keys = image_keys(torch.tensor([[0, 1], [1, 0], [0, 1]], dtype=torch.uint8))
    >>> (keys[0] == keys[2]).item(), (keys[0] == keys[1]).item()
    (True, False)
    """
    return torch.cat([torch.from_numpy(_hash(part).view(np.int64)) for part in _rows(pixels)])


def uniform_noise(pixels: Tensor, seed: int = 0) -> Tensor:
    """Independent draws from U[0, 1), one for each pixel, of the shape of `pixels`, float32, on the CPU.

    The draws of an image are a function of its bytes and of `seed`: in a subset, in another order or in another split
    the same image gets the same draws, and so do copies of an image within a set. They are multiples of 2^-24: the
    outputs of splitmix64, one per pixel, from a state made of the image's hash and the seed.

    Args:
        pixels: uint8, shape `(N, ...)`.
        seed: different seeds give independent draws.

    >>> pixels = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    >>> torch.equal(uniform_noise(pixels)[[2, 0]], uniform_noise(pixels[[2, 0]]))
    True
    """
    offset = _mix(np.array([checks.seed("seed", seed)], np.uint64) + _STEP)
    rows = _rows(pixels)
    count = np.arange(1, 1 + rows[0].shape[1], dtype=np.uint64) * _STEP
    noise = torch.empty(len(pixels), len(count))
    for part, out in zip(rows, noise.split(_CHUNK), strict=True):
        bits = _mix((_hash(part) ^ offset)[:, None] + count) >> np.uint64(40)
        out.copy_(torch.from_numpy(bits.astype(np.float32))).mul_(2**-24)
    return noise.reshape(pixels.shape)


def _rows(pixels: Tensor) -> list[np.ndarray]:
    """The bytes of each image, a chunk of images at a time."""
    if pixels.dtype != torch.uint8 or pixels.dim() < 2 or 0 in pixels.shape:
        raise checks.fail("pixels", pixels, "torch.uint8 of shape (N, ...)")
    return [part.flatten(1).cpu().contiguous().numpy() for part in pixels.split(_CHUNK)]


def _hash(rows: np.ndarray) -> np.ndarray:
    """64 bits of each row of bytes."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    words = padded.view("<u8").astype(np.uint64)
    position = np.arange(1, 1 + words.shape[1], dtype=np.uint64) * _STEP
    return _mix(_mix(words + position).sum(1, dtype=np.uint64) + np.uint64(rows.shape[1]))


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's mixing function, a bijection of 64-bit words; multiplication wraps around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
