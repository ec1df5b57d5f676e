"""The device to compute on, and moving pixels there if they fit."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyro_vae._utils import checks


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA if it is available, else Apple's MPS, else the CPU; other names are torch's."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise checks.fail("device", str(device), "auto, cpu, or a device of this machine") from error
    if chosen.type == "meta":  # whose tensors have shapes but no values
        raise checks.fail("device", str(device), "auto, cpu, or a device that computes")
    return chosen


def resident(pixels: Tensor, device: torch.device, free_bytes: int | None = None) -> Tensor:
    """The uint8 pixels on `device`; if they would take over half of its free memory, on the host, with a warning.

    `free_bytes` is by default what the device reports.
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
