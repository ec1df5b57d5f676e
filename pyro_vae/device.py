"""Pixels on the training device, and batches of them: uint8 until the batch, shuffled where they lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.parallel import ALONE, Peers

AsFloats = Callable[[Tensor, torch.dtype], Tensor]  # what a model sees of uint8 grey levels


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else Apple's MPS, else the CPU; anything else is taken by its word."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise checks.fail("device", str(device), "auto, cpu, or a device of this machine") from error
    if chosen.type == "meta":  # which has shapes and no numbers
        raise checks.fail("device", str(device), "auto, cpu, or a device that computes")
    return chosen


def resident(pixels: Tensor, device: torch.device, free_bytes: int | None = None) -> Tensor:
    """The uint8 pixels on `device`; where they would take over half of its free memory, on the host, with a warning.

    `free_bytes` is asked of the device where it is not given.
    """
    if device.type == "cpu" or pixels.device == device:
        return pixels.to(device)
    if free_bytes is None and device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(device)[0]
    if free_bytes is not None and pixels.nbytes > free_bytes / 2:
        warnings.warn(
            f"{pixels.nbytes / 2**20:.0f} MiB of pixels stay on the host and stream to {device}, "
            f"which has {free_bytes / 2**20:.0f} MiB free",
            stacklevel=3,
        )
        return pixels.cpu()
    return pixels.to(device)


def batches(
    pixels: Tensor,
    batch_size: int,
    device: torch.device,
    *,
    shuffle: bool = False,
    as_floats: AsFloats | None = None,
    peers: Peers = ALONE,
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
        yield gather(pixels, places if shuffle else peers.part(places), device, as_floats=as_floats, dtype=dtype)


def shuffled(pixels: Tensor, batch_size: int, peers: Peers = ALONE) -> Iterator[Tensor]:
    """The places of all images, batch by batch in a random order, where the pixels are; of each this process's part."""
    order = torch.randperm(len(pixels), device=pixels.device)
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
