"""Batches: shuffled and gathered on the device of the uint8 pixels; only the batch becomes floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_vae.training.distributed import Peers

AsFloats = Callable[[Tensor, torch.dtype], Tensor]  # uint8 grey levels -> the floats that a model sees


def batches(
    pixels: Tensor,
    batch_size: int,
    device: torch.device,
    *,
    shuffle: bool = False,
    as_floats: AsFloats | None = None,
    peers: Peers | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """Batches of floats in [0, 1] of shape `(B, C, H, W)` on `device`; the last one may be shorter.

    `as_floats` converts the pixels, by default :func:`to_unit`. The order of the images, and the noise of
    :func:`binarized` and :func:`dequantized`, come from torch's default generators, which the caller seeds.
    With several processes, each takes its part of every batch, in the order that the first process drew; a part may be
    empty.
    """
    every = torch.arange(len(pixels), device=pixels.device)
    for indices in shuffled(pixels, batch_size, peers) if shuffle else every.split(batch_size):
        part = indices if shuffle or peers is None else peers.part(indices)
        yield gather(pixels, part, device, as_floats=as_floats, dtype=dtype)


def shuffled(
    pixels: Tensor, batch_size: int, peers: Peers | None = None, weights: Tensor | None = None
) -> Iterator[Tensor]:
    """Indices of all images in random order, on the device of the pixels: this process's part of each batch.

    With weights `(N,)` they are N draws with replacement, of each image with a probability proportional to its weight;
    they are drawn on the CPU, as weights are float64, which not every device has.
    """
    if weights is None:
        order = torch.randperm(len(pixels), device=pixels.device)
    else:
        order = weights.cpu().multinomial(len(pixels), replacement=True).to(pixels.device)
    if peers is None:
        return iter(order.split(batch_size))
    peers.broadcast([order])
    return map(peers.part, order.split(batch_size))


def gather(
    pixels: Tensor,
    indices: Tensor,
    device: torch.device,
    *,
    as_floats: AsFloats | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The images at these indices, as a batch of floats."""
    return (as_floats or to_unit)(pixels[indices].to(device), dtype)


def to_unit(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 grey levels as floats in [0, 1]."""
    return pixels.to(dtype) / 255


def binarized(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Each pixel drawn anew: 1 with probability grey level / 255, else 0."""
    return to_unit(pixels, dtype).bernoulli()


def dequantized(pixels: Tensor, dtype: torch.dtype = torch.float32, noise: Tensor | None = None) -> Tensor:
    """(level + u) / 256 in [0, 1), of uint8 grey levels; u is `noise` from U[0, 1), or drawn anew."""
    if noise is None:
        noise = torch.rand(pixels.shape, dtype=dtype, device=pixels.device)
    # u is cut to 16 bits, so that float32 holds level + u exactly and rounding never lifts a pixel to the next level.
    return (pixels.to(dtype) + (noise.to(dtype) * 2**16).floor() / 2**16) / 256
