"""Batches: shuffled where the uint8 pixels lie, gathered, and made floats only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_vae.training.distributed import Peers

AsFloats = Callable[[Tensor, torch.dtype], Tensor]  # what a model sees of uint8 grey levels


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

    `as_floats` makes the floats; by default :func:`to_unit`. The order and the noise of :func:`binarized` and
    :func:`dequantized` come from the default generators, so a caller who seeds those owns them.
    The pixels stay uint8 until here; they are gathered where they lie. Among several processes, each takes its part of
    each batch, in the order of the first; a part may be empty.
    """
    every = torch.arange(len(pixels), device=pixels.device)
    for places in shuffled(pixels, batch_size, peers) if shuffle else every.split(batch_size):
        part = places if shuffle or peers is None else peers.part(places)
        yield gather(pixels, part, device, as_floats=as_floats, dtype=dtype)


def shuffled(pixels: Tensor, batch_size: int, peers: Peers | None = None) -> Iterator[Tensor]:
    """The places of all images, batch by batch in a random order, where the pixels are; of each this process's part."""
    order = torch.randperm(len(pixels), device=pixels.device)
    if peers is None:
        return iter(order.split(batch_size))
    peers.broadcast([order])
    return map(peers.part, order.split(batch_size))


def gather(
    pixels: Tensor,
    places: Tensor,
    device: torch.device,
    *,
    as_floats: AsFloats | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The batch of the images at these places, in floats."""
    return (as_floats or to_unit)(pixels[places].to(device), dtype)


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
    # Of u 16 bits: so float32 holds level + u exactly, and rounding makes no pixel one of the next level.
    return (pixels.to(dtype) + (noise.to(dtype) * 2**16).floor() / 2**16) / 256
